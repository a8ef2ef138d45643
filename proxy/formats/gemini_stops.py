"""Why an answer ends: Gemini's finish reasons and the hub's. Pure."""

import re
from typing import Any

from proxy.formats.conversation import Stop

_STOPS: dict[str, Stop] = {
    "STOP": Stop.END,
    "FINISH_REASON_UNSPECIFIED": Stop.END,
    "MAX_TOKENS": Stop.LENGTH,
    **dict.fromkeys(
        (
            "SAFETY RECITATION BLOCKLIST PROHIBITED_CONTENT SPII MODEL_ARMOR IMAGE_SAFETY IMAGE_PROHIBITED_CONTENT IMAGE_RECITATION "
            "JAILBREAK BLOCK_REASON_UNSPECIFIED"
        ).split(),
        Stop.FILTER,
    ),
    **dict.fromkeys(
        (
            "OTHER LANGUAGE MALFORMED_FUNCTION_CALL UNEXPECTED_TOOL_CALL TOO_MANY_TOOL_CALLS MISSING_THOUGHT_SIGNATURE NO_IMAGE IMAGE_OTHER "
            "MALFORMED_RESPONSE"
        ).split(),
        Stop.FAULT,
    ),
}
_NUMBERED_STOPS = (  # with `enum-encoding=int`
    "FINISH_REASON_UNSPECIFIED STOP MAX_TOKENS SAFETY RECITATION OTHER LANGUAGE BLOCKLIST PROHIBITED_CONTENT SPII MALFORMED_FUNCTION_CALL "
    "IMAGE_SAFETY"
).split()
_REASONS = {Stop.END: "STOP", Stop.LENGTH: "MAX_TOKENS", Stop.TOOL: "STOP", Stop.FILTER: "SAFETY", Stop.PAUSE: "STOP", Stop.FAULT: "OTHER"}
ONLY_PROMPT = {"MODEL_ARMOR", "JAILBREAK", "BLOCK_REASON_UNSPECIFIED"}  # never a candidate's finish reason
_A_REASON = re.compile(r"[A-Z][A-Z_]+")


def read_reason(value: Any) -> str:
    """A finish reason by its name, also where it came as a number."""
    if type(value) is int:
        return _NUMBERED_STOPS[value] if 0 <= value < len(_NUMBERED_STOPS) else "OTHER"
    return value[:60] if isinstance(value, str) and value.isprintable() else ""


def read_stop(reason: str, *, has_calls: bool) -> Stop:
    """A finish reason in the hub's words."""
    stop = _STOPS.get(reason, Stop.FAULT)
    return Stop.TOOL if stop is Stop.END and has_calls else stop


def render_reason(stop: Stop, raw: str) -> str:
    """The finish reason for a client: the provider's own where it means the same."""
    known = read_stop(raw, has_calls=stop is Stop.TOOL)
    return raw if raw and _A_REASON.fullmatch(raw) and known is stop and raw not in ONLY_PROMPT else _REASONS[stop]
