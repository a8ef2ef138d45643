"""The demo's text models: from what is asked to a draft of what would be said."""

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from proxy.providers.demo import reading, refusals, schema_values, script

LOREM_TOKENS: Final = 120
SLOW_SECONDS: Final = 2.0
MAX_SLOW_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Draft:
    """What a model would say if it had room for everything."""

    text: str | None
    reasoning: str = ""
    calls: tuple[Call, ...] = ()
    first_seconds: float = 0.0


def _echo(ask: reading.Ask, choice: int) -> Draft:
    del choice
    return Draft(ask.user_text)


_OPENING: Final = "Lorem ipsum dolor sit amet, consectetur adipiscing elit."
_WORDS: Final = re.findall(
    r"\w+",
    "sed do eiusmod tempor incididunt ut labore et dolore magna aliqua enim ad minim veniam quis nostrud exercitation ullamco laboris nisi "
    "aliquip ex ea commodo consequat duis aute irure in reprehenderit voluptate velit esse cillum eu fugiat nulla pariatur excepteur sint "
    "occaecat cupidatat non proident sunt culpa qui officia deserunt mollit anim id est laborum",
)


def _lorem(ask: reading.Ask, choice: int) -> Draft:
    """Write Latin: about `LOREM_TOKENS` of it, or as much as the request allows."""
    wanted = LOREM_TOKENS if ask.limit is None else ask.limit + 1  # one too many, so that the answer ends by length
    noise = hashlib.shake_256(f"{ask.seed}/{choice}".encode()).digest(wanted * 2 + 16)  # no word is shorter than two letters
    words = _OPENING.split()
    length = len(_OPENING)
    start = True
    for place, byte in enumerate(noise):
        if length >= wanted * 4:
            break
        word = _WORDS[byte % len(_WORDS)]
        word = word.capitalize() if start else word
        start = place % 8 == 7
        words.append(f"{word}." if start else word)
        length += len(words[-1]) + 1
    return Draft(" ".join(words).rstrip(".") + ".")


_EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh")
_THOUGHTS: Final = (
    "The user wrote: {text}",
    "I should answer that and nothing else.",
    "I have checked whether anything contradicts it, and nothing does.",
    "A second look leads to the same place.",
    "So the answer can be short.",
)


def _reasoning(ask: reading.Ask, choice: int) -> Draft:
    del choice
    effort = _EFFORTS.index(reading.chosen(ask.body, "reasoning_effort", _EFFORTS, "medium"))
    shown = ask.user_text[:200]
    return Draft(f"Having thought about it: {ask.user_text}", " ".join(_THOUGHTS[:effort]).replace("{text}", shown))


def _json(ask: reading.Ask, choice: int) -> Draft:
    """Answer in JSON: a value of the asked schema, else an object with the user's text."""
    del choice
    value: Any = {"answer": ask.user_text}
    wanted = ask.body.get("response_format")
    if wanted is not None:
        if not isinstance(wanted, Mapping):
            raise refusals.wrong_type("response_format", "an object", wanted)
        kinds = ("text", "json_object", "json_schema")
        if wanted.get("type") not in kinds:
            raise refusals.wrong_value("response_format.type", wanted.get("type"), kinds)
        if wanted["type"] == "json_schema":
            named = wanted.get("json_schema")
            if not isinstance(named, Mapping):
                raise refusals.missing("response_format.json_schema")
            if not isinstance(named.get("name"), str):
                raise refusals.missing("response_format.json_schema.name")
            schema = named.get("schema")
            value = schema_values.sample(
                {} if schema is None else schema, ask.user_text, f"response_format '{named['name']}'", "response_format"
            )
    return Draft(json.dumps(value, ensure_ascii=False))


_WAIT: Final = re.compile(r"\bwait\s{1,9}(\d{1,9}(?:\.\d{1,9})?)", re.IGNORECASE)


def _slow(ask: reading.Ask, choice: int) -> Draft:
    """Take `SLOW_SECONDS` to the first word, or what the user's text says: "wait 0.2"."""
    del choice
    said = _WAIT.search(ask.user_text)
    seconds = min(float(said[1]), MAX_SLOW_SECONDS) if said else SLOW_SECONDS
    return Draft(f"This answer took {seconds:g} seconds to its first word and came word by word after that.", first_seconds=seconds)


def _tools(ask: reading.Ask, choice: int) -> Draft:
    """Call the named tool, or the first one (two when that is allowed); speak when a tool has answered or none may be called."""
    results = [each.text for each in itertools.takewhile(lambda each: each.role in {"tool", "function"}, reversed(ask.messages))]
    if results:
        return Draft(f"The tool answered: {' / '.join(reversed(results))}")
    offered = _callable_tools(ask.body)
    if not offered:
        return Draft("There is no tool that I may call.")
    calls = []
    for place, function in enumerate(offered):
        name = str(function["name"])
        parameters = function.get("parameters") or {}
        if not isinstance(parameters, Mapping):
            raise refusals.wrong_type("tools.function.parameters", "an object", parameters)
        value = schema_values.sample({"type": "object", **parameters}, ask.user_text, f"function '{name}'", "tools")
        digest = hashlib.sha256(f"{ask.ident}/{choice}/{place}".encode()).hexdigest()[:24]
        calls.append(Call(f"call_demo{digest}", name, script.compact(value)))
    return Draft(None, calls=tuple(calls))


def _callable_tools(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Choose the functions to call now.

    Raises: refusals.Refused: for tools or a choice of tools that no provider takes.
    """
    functions: dict[str, Mapping[str, Any]] = {}
    for place, tool in enumerate(reading.objects(body.get("tools") or [], "tools")):
        if tool.get("type") != "function":
            raise refusals.wrong_value(f"tools[{place}].type", tool.get("type"), ("function",))
        function = tool.get("function")
        if not isinstance(function, Mapping):
            raise refusals.missing(f"tools[{place}].function")
        if not isinstance(function.get("name"), str) or not function["name"]:
            raise refusals.missing(f"tools[{place}].function.name")
        functions[function["name"]] = function
    choice = body.get("tool_choice")
    most = 1 if body.get("parallel_tool_calls") is not None and not reading.flag(body, "parallel_tool_calls") else 2
    if isinstance(choice, Mapping) and choice.get("type") == "function":
        named = choice.get("function")
        name = named.get("name") if isinstance(named, Mapping) else None
        if not isinstance(name, str) or name not in functions:
            raise refusals.Refused(f"Tool choice '{name}' not found in 'tools' parameter.", "tool_choice", "invalid_value")
        return [functions[name]]
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools" and isinstance(choice.get("allowed_tools"), Mapping):
        allowed = [
            tool.get("function") for tool in reading.objects(choice["allowed_tools"].get("tools"), "tool_choice.allowed_tools.tools")
        ]
        names = {each.get("name") for each in allowed if isinstance(each, Mapping)}
        return [function for name, function in functions.items() if name in names][:most]
    if choice is not None and choice not in ("none", "auto", "required"):
        raise refusals.wrong_value("tool_choice", choice, ("none", "auto", "required"))
    return [] if choice == "none" else list(functions.values())[:most]


def _drop(ask: reading.Ask, choice: int) -> Draft:
    del ask, choice
    return Draft("This answer will not come to its end, because the connection breaks in the middle of it.")


MODELS: Final[Mapping[str, Callable[[reading.Ask, int], Draft]]] = {
    "echo": _echo,
    "lorem": _lorem,
    "reasoning": _reasoning,
    "tools": _tools,
    "json": _json,
    "slow": _slow,
    "drop-midstream": _drop,
}
