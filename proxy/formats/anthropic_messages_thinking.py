"""Thinking in the words of each Claude. Pure."""

from typing import Any

from proxy.formats.anthropic_messages_blocks import NAME
from proxy.formats.anthropic_messages_models import Traits
from proxy.formats.anthropic_messages_turns import Turn
from proxy.formats.conversation import Conversation, Target, Thinking

SMALLEST_BUDGET = 1024

_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 24576, "max": 32768}


def render_thinking(
    conversation: Conversation, target: Target, traits: Traits, config: dict[str, Any], *, forced: bool, turns: list[Turn]
) -> dict[str, Any] | None:
    """The fields that ask for thinking; `config` gets the effort. What cannot be had is named in `target.dropped`."""
    asked = conversation.thinking
    if asked is None or asked == Thinking():
        return None
    raw = conversation.extra.get("thinking") if conversation.origin == NAME else None
    if conversation.origin == NAME and (not traits.known or _takes(traits, asked)):
        if asked.effort:
            config["effort"] = asked.effort
        return _within_limit(raw, target) if isinstance(raw, dict) else None
    if asked.enabled is False or asked.effort == "none" or asked.budget == 0:
        if traits.thinks_unasked and traits.can_stop_thinking:
            return {"type": "disabled"}
        if traits.thinks_unasked:
            config["effort"] = "low"
            _note_effort(target)
        return None
    budget = asked.budget if asked.budget is not None and asked.budget > 0 else None
    effort = asked.effort or _effort_of(budget)
    if traits.efforts and (asked.effort or traits.thinking == "adaptive") and effort:
        config["effort"] = _nearest(effort, traits.efforts)
    if forced and traits.thinking != "none":
        # A tool that must be called and thinking exclude each other; the tool is what the client cannot do without.
        _note_effort(target)
        if traits.thinks_unasked and traits.can_stop_thinking:
            if config.get("effort") in ("xhigh", "max"):
                config["effort"] = "high"
            return {"type": "disabled"}
        return None
    if traits.thinking == "adaptive" or (traits.thinking == "both" and budget is None):
        return {"type": "adaptive"} | ({"display": "summarized"} if asked.summary or conversation.origin == "chat" else {})
    if traits.thinking == "none" or target.max_output <= SMALLEST_BUDGET or _lacks_thinking(turns):
        _note_effort(target)
        return None
    wanted = budget if budget is not None else _BUDGETS.get(effort, _BUDGETS["medium"])
    # What is thought counts against the limit: leave a part of it for the answer.
    most = target.max_output - 1 if budget is not None and budget < target.max_output else max(target.max_output // 2, SMALLEST_BUDGET)
    return {"type": "enabled", "budget_tokens": max(min(wanted, most), SMALLEST_BUDGET)}


def _takes(traits: Traits, asked: Thinking) -> bool:
    """Whether a model takes thinking as this format's client asked for it."""
    if asked.effort and asked.effort not in traits.efforts:
        return False
    if asked.enabled is False:
        return traits.can_stop_thinking
    if asked.adaptive:
        return traits.thinking in ("both", "adaptive")
    return asked.enabled is None or traits.thinking in ("budget", "both")


def _within_limit(thinking: dict[str, Any], target: Target) -> dict[str, Any] | None:
    """The client's own wish, its budget below the limit of the answer."""
    budget = thinking.get("budget_tokens")
    if not isinstance(budget, int) or budget < target.max_output:
        return thinking
    _note_effort(target)
    return {**thinking, "budget_tokens": target.max_output - 1} if target.max_output > SMALLEST_BUDGET else None


def _lacks_thinking(turns: list[Turn]) -> bool:
    """Whether the tool loop under way began without a thinking block that could be sent: the provider refuses to think in it."""
    if len(turns) < 2 or turns[-1].role != "user" or turns[-1].blocks[0]["type"] != "tool_result":
        return False
    return turns[-2].blocks[0]["type"] not in ("thinking", "redacted_thinking")


def _effort_of(budget: int | None) -> str:
    if budget is None:
        return ""
    return "low" if budget <= 2048 else "medium" if budget <= 8192 else "high" if budget <= 24576 else "xhigh"


def _nearest(effort: str, efforts: tuple[str, ...]) -> str:
    if effort in efforts:
        return effort
    return "low" if effort in ("minimal", "low") else "medium" if effort == "medium" else "high"


def _note_effort(target: Target) -> None:
    if "reasoning_effort" not in target.dropped:
        target.dropped.append("reasoning_effort")
