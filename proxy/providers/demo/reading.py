"""Reading a request to the demo provider: each parameter checked as a provider would, and the prompt as text with its tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from proxy.providers.demo import refusals, script

MESSAGE_TOKENS: Final = 4
MEDIA_TOKENS: Final = 85
MAX_CHOICES: Final = 16


def number(body: Mapping[str, Any], name: str, low: float, high: float | None = None, *, whole: bool = False) -> Any:
    """Read an optional number within its bounds.

    Raises: refusals.Refused.
    """
    value = body.get(name)
    if value is None:
        return None
    kind = "integer" if whole else "decimal"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise refusals.wrong_type(name, f"a {kind}" if kind == "decimal" else f"an {kind}", value)
    if value < low:
        message = f"Invalid '{name}': {kind} below minimum value. Expected a value >= {low}, but got {value} instead."
        raise refusals.Refused(message, name, f"{kind}_below_min_value")
    if high is not None and value > high:
        message = f"Invalid '{name}': {kind} above maximum value. Expected a value <= {high}, but got {value} instead."
        raise refusals.Refused(message, name, f"{kind}_above_max_value")
    return value


def flag(body: Mapping[str, Any], name: str, param: str | None = None) -> bool:
    """Read an optional boolean; `param` names it when it lies deeper in the body. Raises: refusals.Refused."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise refusals.wrong_type(param or name, "a boolean", value)
    return bool(value)


def chosen(body: Mapping[str, Any], name: str, supported: Sequence[str], default: str) -> str:
    """Read an optional choice. Raises: refusals.Refused."""
    value = body.get(name)
    if value is None:
        return default
    if value not in supported:
        raise refusals.wrong_value(name, value, supported)
    return str(value)


def objects(value: Any, param: str) -> list[Mapping[str, Any]]:
    """Check that `value` is a list of objects. Raises: refusals.Refused."""
    if not isinstance(value, list):
        raise refusals.wrong_type(param, "an array of objects", value)
    for place, item in enumerate(value):
        if not isinstance(item, Mapping):
            raise refusals.wrong_type(f"{param}[{place}]", "an object", item)
    return value


@dataclass(frozen=True, slots=True)
class _Message:
    role: str
    text: str  # as it can be repeated: other parts than text are described
    tokens: int


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of a text model, checked."""

    messages: tuple[_Message, ...]
    body: Mapping[str, Any]
    ident: str
    limit: int | None
    stop: tuple[str, ...]
    seed: int | None

    @property
    def user_text(self) -> str:
        """The last message of the user, or the last message where the user has said nothing."""
        spoken = [message.text for message in self.messages if message.role == "user"]
        return spoken[-1] if spoken else self.messages[-1].text


_ROLES: Final = ("system", "developer", "user", "assistant", "tool", "function")
_PARTS: Final = ("text", "refusal", "image_url", "input_audio", "file")


def read_messages(body: Mapping[str, Any]) -> tuple[_Message, ...]:
    """Read the messages of a chat. Raises: refusals.Refused."""
    if body.get("messages") is None:
        raise refusals.missing("messages")
    given = objects(body["messages"], "messages")
    if not given:
        message = "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead."
        raise refusals.Refused(message, "messages", "empty_array")
    return tuple(_message(each, f"messages[{place}]") for place, each in enumerate(given))


def _message(given: Mapping[str, Any], param: str) -> _Message:
    role = given.get("role")
    if role is None:
        raise refusals.missing(f"{param}.role")
    if role not in _ROLES:
        raise refusals.wrong_value(f"{param}.role", role, _ROLES)
    if role == "tool" and not isinstance(given.get("tool_call_id"), str):
        raise refusals.missing(f"{param}.tool_call_id")
    counted, shown, media = _content(given.get("content"), f"{param}.content", optional=role == "assistant")
    for place, call in enumerate(objects(given.get("tool_calls") or [], f"{param}.tool_calls")):
        function = call.get("function")
        if not isinstance(function, Mapping):
            raise refusals.missing(f"{param}.tool_calls[{place}].function")
        counted += str(function.get("name", "")) + str(function.get("arguments", ""))
    return _Message(role, shown, MESSAGE_TOKENS + script.count_tokens(counted) + MEDIA_TOKENS * media)


def _content(content: Any, param: str, *, optional: bool) -> tuple[str, str, int]:
    """Read a message's content: the text that is counted, the text that can be repeated, and how many parts are no text."""
    if isinstance(content, str):
        return content, content, 0
    if content is None and optional:
        return "", "", 0
    if not isinstance(content, list):
        raise refusals.wrong_type(param, "one of a string or an array of objects", content)
    texts: list[str] = []
    shown: list[str] = []
    for place, part in enumerate(objects(content, param)):
        kind = part.get("type")
        if kind not in _PARTS:
            raise refusals.wrong_value(f"{param}[{place}].type", kind, _PARTS)
        value = part.get(kind)
        if kind in {"text", "refusal"}:
            if not isinstance(value, str):
                raise refusals.missing(f"{param}[{place}].{kind}")
            texts.append(value)
            shown.append(value)
        elif not isinstance(value, Mapping):
            raise refusals.missing(f"{param}[{place}].{kind}")
        else:
            shown.append(_description(kind, value))
    return "".join(texts), "\n".join(shown), len(shown) - len(texts)


def _description(kind: str, value: Mapping[str, Any]) -> str:
    if kind == "image_url":
        return f"[image: {_source(str(value.get('url', '')))}]"
    if kind == "input_audio":
        return f"[audio: {value.get('format', 'unknown')}, {_decoded_length(str(value.get('data', '')))} bytes]"
    return f"[file: {value.get('filename') or value.get('file_id') or _source(str(value.get('file_data', '')))}]"


def _source(url: str) -> str:
    if not url.startswith("data:"):
        return url
    media_type, _, data = url.removeprefix("data:").partition(",")
    return f"{media_type.removesuffix(';base64')}, {_decoded_length(data)} bytes"


def _decoded_length(data: str) -> int:
    return len(data.rstrip("=")) * 3 // 4


def read_stops(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Read the stop sequences. Raises: refusals.Refused."""
    stop = body.get("stop")
    if stop is None:
        return ()
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(each, str) for each in stops):
        raise refusals.wrong_type("stop", "one of a string or an array of strings", stop)
    if len(stops) > 4:
        message = (
            f"Invalid 'stop': array too long. Expected an array with maximum length 4, but got an array with length {len(stops)} instead."
        )
        raise refusals.Refused(message, "stop", "array_above_max_length")
    return tuple(each for each in stops if each)


def read_prompts(body: Mapping[str, Any]) -> list[_Message]:
    """Read the prompts of a legacy completion: one or many, as text or as token numbers."""
    return [_Message("user", text, tokens) for text, tokens in read_inputs(body, "prompt", MAX_CHOICES)]


def read_inputs(body: Mapping[str, Any], name: str, most: int) -> list[tuple[str, int]]:
    """Read a string, an array of strings, of tokens or of token arrays: each as its text and its tokens.

    Raises: refusals.Refused.
    """
    given = body.get(name)
    if given is None:
        raise refusals.missing(name)
    if isinstance(given, str) or (isinstance(given, list) and given and all(_is_token(each) for each in given)):
        given = [given]
    if not isinstance(given, list):
        raise refusals.wrong_type(name, "one of a string or an array", given)
    if not given or len(given) > most:
        wrong, code = ("empty array", "empty_array") if not given else ("array too long", "array_above_max_length")
        message = f"Invalid '{name}': {wrong}. Expected an array with a length from 1 to {most}, but got one of {len(given)} instead."
        raise refusals.Refused(message, name, code)
    read: list[tuple[str, int]] = []
    for place, each in enumerate(given):
        if isinstance(each, str):
            read.append((each, script.count_tokens(each)))
        elif isinstance(each, list) and each and all(_is_token(token) for token in each):
            read.append((" ".join(map(str, each)), len(each)))
        else:
            raise refusals.wrong_type(f"{name}[{place}]", "a string or an array of tokens", each)
    return read


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def read_streaming(body: Mapping[str, Any]) -> tuple[bool, bool]:
    """Read whether to stream, and whether the stream tells the usage. Raises: refusals.Refused."""
    stream = flag(body, "stream")
    options = body.get("stream_options")
    if options is None:
        return stream, False
    if not isinstance(options, Mapping):
        raise refusals.wrong_type("stream_options", "an object", options)
    if not stream:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise refusals.Refused(message, "stream_options", "invalid_value")
    return stream, flag(options, "include_usage", "stream_options.include_usage")
