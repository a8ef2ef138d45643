"""Owns what a synthesised answer says (words, thoughts, tool calls, counts) before any shape is given to it."""

import re
from dataclasses import dataclass
from typing import Any

from tests.fakes.provider.asking import Ask
from tests.fakes.provider.behaviours import Knobs, UnknownBehaviour

USAGE_MODES = ("none", "inline", "final", "always")
TOOL_WORDS = 5
ANSWER_KNOBS = (
    "text", "say", "think", "reasoning", "prompt_tokens", "completion_tokens", "cached", "cache_write", "finish", "usage",
    "delay_ms", "gap_ms", "tools", "searches", "n", "model", "chunks",
)  # fmt: skip


@dataclass(frozen=True)
class Usage:
    """Counts as the answer states them; anything at all may be stated, so that impossible counts can be served."""

    prompt: Any
    completion: Any
    cached: Any = 0
    cache_write: Any = 0
    reasoning: Any = 0

    @property
    def total(self) -> Any:
        """The sum, or the completion's own oddity where the counts cannot be added."""
        numbers = [count for count in (self.prompt, self.completion) if isinstance(count, int | float)]
        return sum(numbers) if len(numbers) == 2 else self.completion


@dataclass(frozen=True)
class ToolUse:
    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """A whole answer without a shape. Delays are seconds."""

    number: int
    model: str
    text: str
    thinking: str
    tools: tuple[ToolUse, ...]
    searches: tuple[str, ...]
    finish: str
    usage: Usage | None
    usage_mode: str
    choices: int
    delay: float
    gap: float

    @property
    def pieces(self) -> list[str]:
        """The text cut as a stream brings it: word by word, nothing lost."""
        return re.findall(r"\S+\s*|^\s+", self.text)


def compose(ask: Ask, knobs: Knobs, number: int, *, text: str | None = None, usage: Usage | None = None) -> Answer:
    """Make the answer the knobs describe; `text` and `usage` override them. Raises: UnknownBehaviour for a bad knob.

    Without knobs it repeats the last user message. Counts are words unless stated: the prompt's words in, the answer's words out
    (`TOOL_WORDS` for a tool call). An answer longer than the request's max_tokens is cut there and finishes with `length`.
    """
    for known in ANSWER_KNOBS:
        knobs.given(known)
    said = _text(ask, knobs) if text is None else text
    tools = _tools(ask, knobs, number)
    thinking = _words(knobs.number("think", 0), "thought")
    hidden = knobs.number("reasoning", 0)
    finish = knobs.text("finish") or ("tool_calls" if tools else "stop")
    if ask.max_tokens is not None and not knobs.given("finish") and not knobs.given("completion_tokens") and not tools:
        words = re.findall(r"\S+\s*", said)
        if len(words) > ask.max_tokens:
            said, finish = "".join(words[: ask.max_tokens]).rstrip(), "length"
    choices = knobs.number("n", ask.choices)
    out = (len(said.split()) + len(thinking.split()) + TOOL_WORDS * len(tools)) * choices + hidden
    mode = knobs.text("usage", "final")
    if mode not in USAGE_MODES:
        raise UnknownBehaviour(f"usage={mode!r} is none of {', '.join(USAGE_MODES)}")
    stated = usage or Usage(
        prompt=knobs.number("prompt_tokens", max(1, ask.prompt_words)),
        completion=knobs.number("completion_tokens", out),
        cached=knobs.number("cached", 0),
        cache_write=knobs.number("cache_write", 0),
        reasoning=hidden,
    )
    return Answer(
        number=number,
        model=knobs.text("model") or ask.model,
        text=said,
        thinking=thinking,
        tools=tools,
        searches=tuple(f"query {position}" for position in range(1, knobs.number("searches", 0) + 1)),
        finish=finish,
        usage=None if mode == "none" else stated,
        usage_mode=mode,
        choices=choices,
        delay=knobs.seconds("delay_ms"),
        gap=knobs.seconds("gap_ms"),
    )


def _text(ask: Ask, knobs: Knobs) -> str:
    if knobs.given("say"):
        return knobs.text("say")
    if knobs.given("text"):
        return _words(knobs.number("text", 0), "word")
    if knobs.given("tools"):
        return ""
    return f"You said: {ask.last_user_text}" if ask.last_user_text else "You said nothing."


def _words(count: int, word: str) -> str:
    return " ".join(f"{word}{position}" for position in range(1, count + 1))


def _tools(ask: Ask, knobs: Knobs, number: int) -> tuple[ToolUse, ...]:
    wanted = knobs.text("tools")
    if not wanted:
        return ()
    if wanted.isdigit():
        known = ask.tool_names or ("lookup",)
        names = [known[position % len(known)] for position in range(int(wanted))]
    else:
        names = wanted.split(",")
    return tuple(ToolUse(f"call_fake{number}_{position}", name, {"query": f"item {position}"}) for position, name in enumerate(names))
