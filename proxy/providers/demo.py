"""The built-in demo provider: what an OpenAI-compatible server would answer, computed from the request alone.

There is no network, no key, no clock and no chance in here. `answer` is a function from a parsed body to a script of bytes and
pauses, and the relay plays that script through the same path as a provider's response. The same body always gives the same
answer, so that examples, retries and bills can be checked by hand.

Tokens are counted by rule. A text has one token for every four bytes of its UTF-8 form, rounded up. A message of the prompt has the
tokens of its text and tool calls, four more, and `MEDIA_TOKENS` for every image, sound or file; a legacy prompt and an embedding
input have no such four, and a token already given as a number counts as one. An answer has the tokens of its reasoning, its text and
the names and arguments of its tool calls, each counted alone. Cached tokens are zero unless the body has a `prompt_cache_key`: then
the first `CACHED_TOKENS` of every message longer than that were read from the cache.
"""

import array
import base64
import hashlib
import itertools
import json
import math
import re
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final, Literal

Endpoint = Literal["chat", "completions", "embeddings", "images"]

CONTEXT_TOKENS: Final = 128_000  # these two are what the catalog says of the demo models
MAX_OUTPUT_TOKENS: Final = 4_096
LOREM_TOKENS: Final = 120
CACHED_TOKENS: Final = 1_024
MESSAGE_TOKENS: Final = 4
MEDIA_TOKENS: Final = 85
IMAGE_TOKENS: Final = 256  # of every picture made

MAX_CHOICES: Final = 16
MAX_IMAGES: Final = 10
MAX_INPUTS: Final = 2_048
EMBEDDING_DIMENSIONS: Final = 256
MAX_DIMENSIONS: Final = 3_072
MAX_NUMBERS: Final = 2**18  # of one embeddings answer: 1,024 inputs of 256 dimensions; more would hold up the event loop

SLOW_SECONDS: Final = 2.0
MAX_SLOW_SECONDS: Final = 300.0
SLOW_GAP: Final = 1 / 40  # of the first pause, between the words that follow


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of the body, sent when `after_seconds` have passed since the piece before."""

    after_seconds: float
    data: bytes


@dataclass(frozen=True, slots=True)
class DemoAnswer:
    """The script of one response. `pieces` of a stream are made as they are asked for and can be read once.

    With `breaks`, the connection is torn after the last piece instead of ending the body.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    pieces: Iterable[Piece]
    breaks: bool = False


def answer(upstream_model: str, body: Mapping[str, Any], *, endpoint: Endpoint, created: int) -> DemoAnswer:
    """Answer `body` as an OpenAI-compatible server would.

    `upstream_model` is the name without `demo/`; `created` is in Unix seconds. A request that a provider would refuse gives the
    refusal as the answer: nothing is raised for what a client may send.
    """
    ident = "unread"
    try:
        ident = _ident(body)
        if failure := _FAILURES.get(upstream_model):
            return _whole(failure.status, failure.body(upstream_model), ident, failure.headers)
        _check_model(upstream_model, endpoint)
        if endpoint == "embeddings":
            return _whole(200, _embeddings(upstream_model, body), ident)
        if endpoint == "images":
            return _whole(200, _images(body, created), ident)
        return _generation(upstream_model, body, endpoint, ident, created)
    except _Refused as refusal:
        return _whole(refusal.status, refusal.body(), ident)
    except RecursionError:
        return _whole(400, _Refused("The request body is nested too deeply.").body(), ident)


def count_tokens(text: str) -> int:
    """Count the tokens of `text` by the rule of this module."""
    return -(-len(_utf8(text)) // 4)


# ---- refusals and failures --------------------------------------------------------------------------------------------------------


class _Refused(Exception):
    """The body is one that a provider turns down."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message, self.param, self.code, self.status = message, param, code, status

    def body(self) -> dict[str, Any]:
        return _error(self.message, "invalid_request_error", self.param, self.code)


@dataclass(frozen=True, slots=True)
class _Failure:
    """A model that always fails, so that clients can try their retries."""

    status: int
    type: str
    code: str | None
    message: str
    headers: tuple[tuple[str, str], ...] = ()

    def body(self, model: str) -> dict[str, Any]:
        return _error(self.message.format(model=model), self.type, None, self.code)


_FAILURES: Final = {
    "error-429": _Failure(
        429,
        "requests",
        "rate_limit_exceeded",
        "Rate limit reached for {model} on requests per min (RPM): Limit 1, Used 1, Requested 1. Please try again in 1s.",
        (("retry-after", "1"),),
    ),
    "error-500": _Failure(
        500,
        "server_error",
        None,
        "The server had an error while processing your request. Sorry about that!",
    ),
}


def _error(message: str, kind: str, param: str | None, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _check_model(model: str, endpoint: Endpoint) -> None:
    served = {"embeddings": {"embedding"}, "images": {"image"}}.get(endpoint, _MODELS.keys())
    if model in served:
        return
    if model in _MODELS or model in {"embedding", "image"}:
        raise _Refused(f"The model `{model}` is not supported by the {endpoint} endpoint.", "model", None, 404)
    raise _Refused(f"The model `{model}` does not exist or you do not have access to it.", None, "model_not_found", 404)


# ---- bytes ------------------------------------------------------------------------------------------------------------------------

_compact: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # JSON can spell half a surrogate pair, which UTF-8 cannot


def _dump(value: Any) -> bytes:
    return _utf8(_compact(value))


def _event(value: Any) -> bytes:
    return b"data: " + _dump(value) + b"\n\n"


def _ident(body: Mapping[str, Any]) -> str:
    """Name the request; with and without streaming it has the same name, since it has the same answer."""
    asked = {key: value for key, value in body.items() if key not in {"stream", "stream_options"}}
    return hashlib.sha256(_utf8(json.dumps(asked, sort_keys=True))).hexdigest()[:24]


def _headers(ident: str, content_type: str) -> tuple[tuple[str, str], ...]:
    return ("content-type", content_type), ("x-request-id", f"req_demo{ident}")


def _whole(
    status: int,
    body: dict[str, Any],
    ident: str,
    headers: tuple[tuple[str, str], ...] = (),
    after_seconds: float = 0.0,
) -> DemoAnswer:
    data = _dump(body)
    described = (*_headers(ident, "application/json"), ("content-length", str(len(data))), *headers)
    return DemoAnswer(status, described, (Piece(after_seconds, data),))


# ---- reading the request ----------------------------------------------------------------------------------------------------------


def _kind(value: Any) -> str:
    """Name a JSON type in the words of an OpenAI error."""
    if value is None:
        return "null"
    names = ((bool, "a boolean"), (int, "an integer"), (float, "a decimal"), (str, "a string"), (Mapping, "an object"))
    return next((name for kind, name in names if isinstance(value, kind)), "an array")


def _missing(param: str) -> _Refused:
    return _Refused(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def _wrong_type(param: str, expected: str, value: Any) -> _Refused:
    return _Refused(f"Invalid type for '{param}': expected {expected}, but got {_kind(value)} instead.", param, "invalid_type")


def _wrong_value(param: str, value: Any, supported: Iterable[str]) -> _Refused:
    names = ", ".join(f"'{name}'" for name in supported)
    shown = value[:64] if isinstance(value, str) else _compact(value)[:64]
    return _Refused(f"Invalid value: '{shown}'. Supported values are: {names}.", param, "invalid_value")


def _number(body: Mapping[str, Any], name: str, low: float, high: float | None = None, *, whole: bool = False) -> Any:
    """Read an optional number within its bounds.

    Raises: _Refused.
    """
    value = body.get(name)
    if value is None:
        return None
    kind = "integer" if whole else "decimal"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise _wrong_type(name, f"a {kind}" if kind == "decimal" else f"an {kind}", value)
    if value < low:
        message = f"Invalid '{name}': {kind} below minimum value. Expected a value >= {low}, but got {value} instead."
        raise _Refused(message, name, f"{kind}_below_min_value")
    if high is not None and value > high:
        message = f"Invalid '{name}': {kind} above maximum value. Expected a value <= {high}, but got {value} instead."
        raise _Refused(message, name, f"{kind}_above_max_value")
    return value


def _flag(body: Mapping[str, Any], name: str, param: str | None = None) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise _wrong_type(param or name, "a boolean", value)
    return bool(value)


def _chosen(body: Mapping[str, Any], name: str, supported: Sequence[str], default: str) -> str:
    value = body.get(name)
    if value is None:
        return default
    if value not in supported:
        raise _wrong_value(name, value, supported)
    return str(value)


def _objects(value: Any, param: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list):
        raise _wrong_type(param, "an array of objects", value)
    for place, item in enumerate(value):
        if not isinstance(item, Mapping):
            raise _wrong_type(f"{param}[{place}]", "an object", item)
    return value


@dataclass(frozen=True, slots=True)
class _Message:
    role: str
    text: str  # as it can be repeated: other parts than text are described
    tokens: int


@dataclass(frozen=True, slots=True)
class _Ask:
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


def _messages(body: Mapping[str, Any]) -> tuple[_Message, ...]:
    if body.get("messages") is None:
        raise _missing("messages")
    given = _objects(body["messages"], "messages")
    if not given:
        message = "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead."
        raise _Refused(message, "messages", "empty_array")
    return tuple(_message(each, f"messages[{place}]") for place, each in enumerate(given))


def _message(given: Mapping[str, Any], param: str) -> _Message:
    role = given.get("role")
    if role is None:
        raise _missing(f"{param}.role")
    if role not in _ROLES:
        raise _wrong_value(f"{param}.role", role, _ROLES)
    if role == "tool" and not isinstance(given.get("tool_call_id"), str):
        raise _missing(f"{param}.tool_call_id")
    counted, shown, media = _content(given.get("content"), f"{param}.content", optional=role == "assistant")
    for place, call in enumerate(_objects(given.get("tool_calls") or [], f"{param}.tool_calls")):
        function = call.get("function")
        if not isinstance(function, Mapping):
            raise _missing(f"{param}.tool_calls[{place}].function")
        counted += str(function.get("name", "")) + str(function.get("arguments", ""))
    return _Message(role, shown, MESSAGE_TOKENS + count_tokens(counted) + MEDIA_TOKENS * media)


def _content(content: Any, param: str, *, optional: bool) -> tuple[str, str, int]:
    """Read a message's content: the text that is counted, the text that can be repeated, and how many parts are no text."""
    if isinstance(content, str):
        return content, content, 0
    if content is None and optional:
        return "", "", 0
    if not isinstance(content, list):
        raise _wrong_type(param, "one of a string or an array of objects", content)
    texts: list[str] = []
    shown: list[str] = []
    for place, part in enumerate(_objects(content, param)):
        kind = part.get("type")
        if kind not in _PARTS:
            raise _wrong_value(f"{param}[{place}].type", kind, _PARTS)
        value = part.get(kind)
        if kind in {"text", "refusal"}:
            if not isinstance(value, str):
                raise _missing(f"{param}[{place}].{kind}")
            texts.append(value)
            shown.append(value)
        elif not isinstance(value, Mapping):
            raise _missing(f"{param}[{place}].{kind}")
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


def _stops(body: Mapping[str, Any]) -> tuple[str, ...]:
    stop = body.get("stop")
    if stop is None:
        return ()
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(each, str) for each in stops):
        raise _wrong_type("stop", "one of a string or an array of strings", stop)
    if len(stops) > 4:
        message = (
            f"Invalid 'stop': array too long. Expected an array with maximum length 4, but got an array with length {len(stops)} instead."
        )
        raise _Refused(message, "stop", "array_above_max_length")
    return tuple(each for each in stops if each)


def _prompts(body: Mapping[str, Any]) -> list[_Message]:
    """Read the prompts of a legacy completion: one or many, as text or as token numbers."""
    return [_Message("user", text, tokens) for text, tokens in _inputs(body, "prompt", MAX_CHOICES)]


def _inputs(body: Mapping[str, Any], name: str, most: int) -> list[tuple[str, int]]:
    """Read a string, an array of strings, of tokens or of token arrays: each as its text and its tokens.

    Raises: _Refused.
    """
    given = body.get(name)
    if given is None:
        raise _missing(name)
    if isinstance(given, str) or (isinstance(given, list) and given and all(_is_token(each) for each in given)):
        given = [given]
    if not isinstance(given, list):
        raise _wrong_type(name, "one of a string or an array", given)
    if not given or len(given) > most:
        wrong, code = ("empty array", "empty_array") if not given else ("array too long", "array_above_max_length")
        message = f"Invalid '{name}': {wrong}. Expected an array with a length from 1 to {most}, but got one of {len(given)} instead."
        raise _Refused(message, name, code)
    read: list[tuple[str, int]] = []
    for place, each in enumerate(given):
        if isinstance(each, str):
            read.append((each, count_tokens(each)))
        elif isinstance(each, list) and each and all(_is_token(token) for token in each):
            read.append((" ".join(map(str, each)), len(each)))
        else:
            raise _wrong_type(f"{name}[{place}]", "a string or an array of tokens", each)
    return read


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


# ---- the text models --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Call:
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class _Draft:
    """What a model would say if it had room for everything."""

    text: str | None
    reasoning: str = ""
    calls: tuple[_Call, ...] = ()
    first_seconds: float = 0.0


def _echo(ask: _Ask, choice: int) -> _Draft:
    del choice
    return _Draft(ask.user_text)


_OPENING: Final = "Lorem ipsum dolor sit amet, consectetur adipiscing elit."
_WORDS: Final = re.findall(
    r"\w+",
    "sed do eiusmod tempor incididunt ut labore et dolore magna aliqua enim ad minim veniam quis nostrud exercitation ullamco laboris nisi "
    "aliquip ex ea commodo consequat duis aute irure in reprehenderit voluptate velit esse cillum eu fugiat nulla pariatur excepteur sint "
    "occaecat cupidatat non proident sunt culpa qui officia deserunt mollit anim id est laborum",
)


def _lorem(ask: _Ask, choice: int) -> _Draft:
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
    return _Draft(" ".join(words).rstrip(".") + ".")


_EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh")
_THOUGHTS: Final = (
    "The user wrote: {text}",
    "I should answer that and nothing else.",
    "I have checked whether anything contradicts it, and nothing does.",
    "A second look leads to the same place.",
    "So the answer can be short.",
)


def _reasoning(ask: _Ask, choice: int) -> _Draft:
    del choice
    effort = _EFFORTS.index(_chosen(ask.body, "reasoning_effort", _EFFORTS, "medium"))
    shown = ask.user_text[:200]
    return _Draft(f"Having thought about it: {ask.user_text}", " ".join(_THOUGHTS[:effort]).replace("{text}", shown))


def _json(ask: _Ask, choice: int) -> _Draft:
    """Answer in JSON: a value of the asked schema, else an object with the user's text."""
    del choice
    value: Any = {"answer": ask.user_text}
    wanted = ask.body.get("response_format")
    if wanted is not None:
        if not isinstance(wanted, Mapping):
            raise _wrong_type("response_format", "an object", wanted)
        kinds = ("text", "json_object", "json_schema")
        if wanted.get("type") not in kinds:
            raise _wrong_value("response_format.type", wanted.get("type"), kinds)
        if wanted["type"] == "json_schema":
            named = wanted.get("json_schema")
            if not isinstance(named, Mapping):
                raise _missing("response_format.json_schema")
            if not isinstance(named.get("name"), str):
                raise _missing("response_format.json_schema.name")
            schema = named.get("schema")
            value = _sample({} if schema is None else schema, ask.user_text, f"response_format '{named['name']}'", "response_format")
    return _Draft(json.dumps(value, ensure_ascii=False))


_WAIT: Final = re.compile(r"\bwait\s{1,9}(\d{1,9}(?:\.\d{1,9})?)", re.IGNORECASE)


def _slow(ask: _Ask, choice: int) -> _Draft:
    """Take `SLOW_SECONDS` to the first word, or what the user's text says: "wait 0.2"."""
    del choice
    said = _WAIT.search(ask.user_text)
    seconds = min(float(said[1]), MAX_SLOW_SECONDS) if said else SLOW_SECONDS
    return _Draft(f"This answer took {seconds:g} seconds to its first word and came word by word after that.", first_seconds=seconds)


def _tools(ask: _Ask, choice: int) -> _Draft:
    """Call the named tool, or the first one (two when that is allowed); speak when a tool has answered or none may be called."""
    results = [each.text for each in itertools.takewhile(lambda each: each.role in {"tool", "function"}, reversed(ask.messages))]
    if results:
        return _Draft(f"The tool answered: {' / '.join(reversed(results))}")
    offered = _callable_tools(ask.body)
    if not offered:
        return _Draft("There is no tool that I may call.")
    calls = []
    for place, function in enumerate(offered):
        name = str(function["name"])
        parameters = function.get("parameters") or {}
        if not isinstance(parameters, Mapping):
            raise _wrong_type("tools.function.parameters", "an object", parameters)
        value = _sample({"type": "object", **parameters}, ask.user_text, f"function '{name}'", "tools")
        digest = hashlib.sha256(f"{ask.ident}/{choice}/{place}".encode()).hexdigest()[:24]
        calls.append(_Call(f"call_demo{digest}", name, _compact(value)))
    return _Draft(None, calls=tuple(calls))


def _callable_tools(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Choose the functions to call now.

    Raises: _Refused: for tools or a choice of tools that no provider takes.
    """
    functions: dict[str, Mapping[str, Any]] = {}
    for place, tool in enumerate(_objects(body.get("tools") or [], "tools")):
        if tool.get("type") != "function":
            raise _wrong_value(f"tools[{place}].type", tool.get("type"), ("function",))
        function = tool.get("function")
        if not isinstance(function, Mapping):
            raise _missing(f"tools[{place}].function")
        if not isinstance(function.get("name"), str) or not function["name"]:
            raise _missing(f"tools[{place}].function.name")
        functions[function["name"]] = function
    choice = body.get("tool_choice")
    most = 1 if body.get("parallel_tool_calls") is not None and not _flag(body, "parallel_tool_calls") else 2
    if isinstance(choice, Mapping) and choice.get("type") == "function":
        named = choice.get("function")
        name = named.get("name") if isinstance(named, Mapping) else None
        if not isinstance(name, str) or name not in functions:
            raise _Refused(f"Tool choice '{name}' not found in 'tools' parameter.", "tool_choice", "invalid_value")
        return [functions[name]]
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools" and isinstance(choice.get("allowed_tools"), Mapping):
        allowed = [tool.get("function") for tool in _objects(choice["allowed_tools"].get("tools"), "tool_choice.allowed_tools.tools")]
        names = {each.get("name") for each in allowed if isinstance(each, Mapping)}
        return [function for name, function in functions.items() if name in names][:most]
    if choice is not None and choice not in ("none", "auto", "required"):
        raise _wrong_value("tool_choice", choice, ("none", "auto", "required"))
    return [] if choice == "none" else list(functions.values())[:most]


def _drop(ask: _Ask, choice: int) -> _Draft:
    del ask, choice
    return _Draft("This answer will not come to its end, because the connection breaks in the middle of it.")


_MODELS: Final[Mapping[str, Callable[[_Ask, int], _Draft]]] = {
    "echo": _echo,
    "lorem": _lorem,
    "reasoning": _reasoning,
    "tools": _tools,
    "json": _json,
    "slow": _slow,
    "drop-midstream": _drop,
}


# ---- from a draft to an answer ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Choice:
    """A draft after `stop` and the limit have done their work."""

    text: str | None
    reasoning: str
    calls: tuple[_Call, ...]
    finish: str
    tokens: int
    reasoning_tokens: int
    first_seconds: float


def _finish(draft: _Draft, ask: _Ask) -> _Choice:
    left = MAX_OUTPUT_TOKENS if ask.limit is None else ask.limit
    reasoning, reasoning_tokens, cut = _cut(draft.reasoning, left)
    tokens = reasoning_tokens
    text = draft.text
    if text is not None:
        text = text[: min((place for stop in ask.stop if (place := text.find(stop)) >= 0), default=len(text))]
        text, used, text_cut = _cut(text, left - tokens)
        tokens += used
        cut = cut or text_cut
    calls: list[_Call] = []
    for call in draft.calls:
        used = count_tokens(call.name)
        if cut or (tokens + used > left and calls):
            cut = True
            break
        tokens = min(tokens + used, left)  # the first name is given whole: a call without a name is none
        arguments, used, cut = _cut(call.arguments, left - tokens)
        tokens += used
        calls.append(_Call(call.id, call.name, arguments))
    finish = "length" if cut else "tool_calls" if calls else "stop"
    return _Choice(text, reasoning, tuple(calls), finish, tokens, reasoning_tokens, draft.first_seconds)


def _cut(text: str, limit: int) -> tuple[str, int, bool]:
    """Cut `text` to `limit` tokens between two characters: the text, its tokens, whether anything is gone."""
    data = _utf8(text)
    if len(data) <= limit * 4:
        return text, -(-len(data) // 4), False
    kept = data[: limit * 4].decode("utf-8", "ignore")
    return kept, count_tokens(kept), True


def _generation(model: str, body: Mapping[str, Any], endpoint: Endpoint, ident: str, created: int) -> DemoAnswer:
    """Answer with text, in the shape of chat completions or of the legacy completions."""
    prompts = [_messages(body)] if endpoint == "chat" else [(message,) for message in _prompts(body)]
    count = _number(body, "n", 1, MAX_CHOICES, whole=True) or 1
    limits = [_number(body, name, 1, whole=True) for name in ("max_completion_tokens", "max_tokens")]
    limit = next((each for each in limits if each is not None), None)
    for name, low, high in (("temperature", 0, 2), ("top_p", 0, 1), ("presence_penalty", -2, 2), ("frequency_penalty", -2, 2)):
        _number(body, name, low, high)
    asks = [
        _Ask(
            messages=messages,
            body=body if endpoint == "chat" else {},  # tools, response formats and efforts belong to chats
            ident=ident,
            limit=None if limit is None else min(limit, MAX_OUTPUT_TOKENS),
            stop=_stops(body),
            seed=_number(body, "seed", -(2**63), 2**63 - 1, whole=True),
        )
        for messages in prompts
    ]
    stream, include_usage = _streaming(body)
    asked = [message.tokens for ask in asks for message in ask.messages]
    longest = max(sum(message.tokens for message in ask.messages) for ask in asks)
    if longest > CONTEXT_TOKENS:
        message = (
            f"This model's maximum context length is {CONTEXT_TOKENS} tokens. However, your messages resulted in {longest} tokens. "
            "Please reduce the length of the messages."
        )
        raise _Refused(message, "messages" if endpoint == "chat" else "prompt", "context_length_exceeded")
    choices = [_finish(_MODELS[model](ask, choice), ask) for ask in asks for choice in range(count)]
    usage = _usage(asked, choices, cached=body.get("prompt_cache_key") is not None)
    shape = _CHAT if endpoint == "chat" else _COMPLETIONS
    frame = {"id": f"{shape.prefix}{ident}", "created": created, "model": model, "system_fingerprint": "fp_demo"}
    breaks = model == "drop-midstream"
    if stream:
        pieces = _stream(shape, frame, choices, usage, include_usage=include_usage, breaks=breaks)
        return DemoAnswer(200, _headers(ident, "text/event-stream; charset=utf-8"), pieces, breaks)
    whole = {
        "object": shape.whole_object,
        **frame,
        "choices": [shape.whole(index, choice) for index, choice in enumerate(choices)],
        "usage": usage,
    }
    finished = _whole(200, whole, ident, after_seconds=sum(_pauses(shape, choices)))
    if breaks:  # content-length still promises all of it, as it would on a real wire
        halves = tuple(Piece(piece.after_seconds, piece.data[: len(piece.data) // 2]) for piece in finished.pieces)
        return DemoAnswer(200, finished.headers, halves, breaks)
    return finished


def _streaming(body: Mapping[str, Any]) -> tuple[bool, bool]:
    stream = _flag(body, "stream")
    options = body.get("stream_options")
    if options is None:
        return stream, False
    if not isinstance(options, Mapping):
        raise _wrong_type("stream_options", "an object", options)
    if not stream:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise _Refused(message, "stream_options", "invalid_value")
    return stream, _flag(options, "include_usage", "stream_options.include_usage")


def _usage(asked: list[int], choices: list[_Choice], *, cached: bool) -> dict[str, Any]:
    prompt = sum(asked)
    completion = sum(choice.tokens for choice in choices)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {
            "cached_tokens": CACHED_TOKENS * sum(tokens > CACHED_TOKENS for tokens in asked) if cached else 0,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": sum(choice.reasoning_tokens for choice in choices),
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+", text)


def _chat_whole(index: int, choice: _Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if choice.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in choice.calls
        ]
    return {"index": index, "message": message, "logprobs": None, "finish_reason": choice.finish}


def _chat_deltas(index: int, choice: _Choice) -> Iterator[dict[str, Any]]:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}

    yield chunk({"role": "assistant", "content": None if choice.text is None else "", "refusal": None})
    for word in _words(choice.reasoning):
        yield chunk({"reasoning_content": word})
    for word in _words(choice.text or ""):
        yield chunk({"content": word})
    for place, call in enumerate(choice.calls):
        opening = {"index": place, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        yield chunk({"tool_calls": [opening]})
        for start in range(0, len(call.arguments), 16):
            yield chunk({"tool_calls": [{"index": place, "function": {"arguments": call.arguments[start : start + 16]}}]})
    yield chunk({}, choice.finish)


def _completion(index: int, text: str, finish: str | None) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish}


def _completion_whole(index: int, choice: _Choice) -> dict[str, Any]:
    return _completion(index, choice.text or "", choice.finish)


def _completion_deltas(index: int, choice: _Choice) -> Iterator[dict[str, Any]]:
    for word in _words(choice.text or ""):
        yield _completion(index, word, None)
    yield _completion(index, "", choice.finish)


@dataclass(frozen=True, slots=True)
class _Shape:
    prefix: str
    whole_object: str
    chunk_object: str
    whole: Callable[[int, _Choice], dict[str, Any]]
    deltas: Callable[[int, _Choice], Iterator[dict[str, Any]]]


_CHAT: Final = _Shape("chatcmpl-demo", "chat.completion", "chat.completion.chunk", _chat_whole, _chat_deltas)
_COMPLETIONS: Final = _Shape("cmpl-demo", "text_completion", "text_completion", _completion_whole, _completion_deltas)


def _rounds(shape: _Shape, choices: list[_Choice]) -> Iterator[list[dict[str, Any]]]:
    """Give the chunks of all choices as they would come: one of each choice in turn."""
    for chunks in itertools.zip_longest(*(shape.deltas(index, choice) for index, choice in enumerate(choices))):
        yield [chunk for chunk in chunks if chunk is not None]


def _pauses(shape: _Shape, choices: list[_Choice]) -> Iterator[float]:
    """Give the pause before each round, in seconds: without streaming, the answer takes as long as the stream would."""
    first = max(choice.first_seconds for choice in choices)
    if first:
        yield first
        yield from (first * SLOW_GAP for _ in itertools.islice(_rounds(shape, choices), 1, None))


_CHUNKS_BEFORE_BREAK: Final = 4


def _stream(
    shape: _Shape,
    frame: dict[str, Any],
    choices: list[_Choice],
    usage: dict[str, Any],
    *,
    include_usage: bool,
    breaks: bool,
) -> Iterator[Piece]:
    base = {"object": shape.chunk_object, **frame}
    unused = {"usage": None} if include_usage else {}  # as OpenAI does: every chunk then has the field, one of them the value
    pauses = _pauses(shape, choices)
    sent = 0
    for chunks in _rounds(shape, choices):
        pause = next(pauses, 0.0)
        for chunk in chunks:
            if breaks and (sent == _CHUNKS_BEFORE_BREAK or chunk["finish_reason"]):
                return
            sent += 1
            yield Piece(pause, _event({**base, "choices": [chunk], **unused}))
            pause = 0.0
    if include_usage:
        yield Piece(0.0, _event({**base, "choices": [], "usage": usage}))
    yield Piece(0.0, b"data: [DONE]\n\n")


# ---- embeddings and images --------------------------------------------------------------------------------------------------------


def _embeddings(model: str, body: Mapping[str, Any]) -> dict[str, Any]:
    inputs = _inputs(body, "input", MAX_INPUTS)
    for place, (text, _) in enumerate(inputs):
        if not text:
            raise _Refused(f"Invalid 'input[{place}]': input cannot be an empty string.", "input", "invalid_value")
    dimensions = _number(body, "dimensions", 1, MAX_DIMENSIONS, whole=True) or EMBEDDING_DIMENSIONS
    encoding = _chosen(body, "encoding_format", ("float", "base64"), "float")
    if len(inputs) * dimensions > MAX_NUMBERS:
        message = f"Invalid 'input': {len(inputs)} inputs of {dimensions} dimensions are more than {MAX_NUMBERS} numbers."
        raise _Refused(message, "input", "array_above_max_length")
    tokens = sum(count for _, count in inputs)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _vector(text, dimensions, encoding)}
            for index, (text, _) in enumerate(inputs)
        ],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _vector(text: str, dimensions: int, encoding: str) -> list[float] | str:
    """Make the unit vector of a text; equal texts have equal vectors, and nothing else is known of them."""
    noise = array.array("h", hashlib.shake_256(_utf8(text)).digest(dimensions * 2))
    if sys.byteorder == "big":
        noise.byteswap()
    centred = [number + 0.5 for number in noise]  # never zero, so that one dimension has a direction as well
    norm = math.hypot(*centred)
    vector = array.array("f", [number / norm for number in centred])  # single precision in both encodings: they say the same
    if encoding == "float":
        return vector.tolist()
    if sys.byteorder == "big":
        vector.byteswap()
    return base64.b64encode(vector.tobytes()).decode()


def _images(body: Mapping[str, Any], created: int) -> dict[str, Any]:
    prompt = body.get("prompt")
    if prompt is None:
        raise _missing("prompt")
    if not isinstance(prompt, str):
        raise _wrong_type("prompt", "a string", prompt)
    if not prompt:
        raise _Refused("Invalid 'prompt': empty string. Expected a string with minimum length 1.", "prompt", "empty_string")
    if _flag(body, "stream"):
        raise _Refused("This model does not stream images.", "stream", "unsupported_value")
    count = _number(body, "n", 1, MAX_IMAGES, whole=True) or 1
    form = _chosen(body, "response_format", ("b64_json", "url"), "b64_json")
    _chosen(body, "output_format", ("png",), "png")
    width, height = _size(body.get("size"))
    data = []
    for index in range(count):
        picture = base64.b64encode(_picture(f"{index}/{prompt}", width, height)).decode()
        data.append({"b64_json": picture} if form == "b64_json" else {"url": f"data:image/png;base64,{picture}"})
    text_tokens, image_tokens = count_tokens(prompt), IMAGE_TOKENS * count
    return {
        "created": created,
        "data": data,
        "background": "opaque",
        "output_format": "png",
        "size": f"{width}x{height}",
        "usage": {
            "input_tokens": text_tokens,
            "input_tokens_details": {"text_tokens": text_tokens, "image_tokens": 0},
            "output_tokens": image_tokens,
            "total_tokens": text_tokens + image_tokens,
        },
    }


def _size(size: Any) -> tuple[int, int]:
    if size is None or size == "auto":
        return 256, 256
    sides = re.fullmatch(r"(\d{2,4})x(\d{2,4})", size) if isinstance(size, str) else None
    if sides is None or not (16 <= int(sides[1]) <= 2048 and 16 <= int(sides[2]) <= 2048):
        raise _wrong_value("size", size, ("auto", "16x16 to 2048x2048"))
    return int(sides[1]), int(sides[2])


_GRID: Final = 8


def _picture(subject: str, width: int, height: int) -> bytes:
    """Draw a PNG of two colours whose pattern of 8 x 8 fields, mirrored left to right, belongs to `subject`.

    One bit a pixel (PNG third edition, colour type 3) keeps a large picture as cheap as a small one.
    """
    noise = hashlib.sha256(_utf8(subject)).digest()
    ground = bytes(200 + byte % 56 for byte in noise[:3])
    ink = bytes(byte % 128 for byte in noise[3:6])
    rows = []
    for row in range(_GRID):
        half = [noise[8 + row] >> column & 1 for column in range(_GRID // 2)]
        fields = half + half[::-1]
        bits = "".join(str(fields[x * _GRID // width]) for x in range(width)).ljust(-(-width // 8) * 8, "0")
        rows.append(b"\x00" + int(bits, 2).to_bytes(len(bits) // 8, "big"))
    pixels = b"".join(rows[y * _GRID // height] for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 1, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", ground + ink), (b"IDAT", zlib.compress(pixels, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


# ---- a value for a JSON schema ----------------------------------------------------------------------------------------------------
#
# JSON Schema 2020-12 without `pattern`, `not`, `if`, `contains`, `patternProperties` and `propertyNames`: these are passed over. A pattern
# is never run, since it is the client's and could run for ever; a string with one is taken from its `examples` or `default`.

_VALUES: Final = 4_000  # of one schema, all branches tried together, and one more for every 16 things that must be looked through
_DEPTH: Final = 48
_OPTIONAL_DEPTH: Final = 5  # below it, only what is required is filled in, so that a schema that contains itself comes to an end

_NOTHING: Final = "nothing is allowed where something is required."

_PLAUSIBLE: Final = {
    "city": "Paris",
    "location": "Paris",
    "place": "Paris",
    "country": "France",
    "currency": "EUR",
    "language": "en",
    "name": "Alice",
    "first_name": "Alice",
    "last_name": "Martin",
    "email": "alice@example.com",
    "url": "https://example.com/",
    "date": "2026-01-15",
    "time": "12:00:00",
    "timezone": "Europe/Paris",
    "path": "README.md",
    "unit": "celsius",
}
_FORMATS: Final = {
    "date": "2026-01-{:02d}",
    "date-time": "2026-01-{:02d}T12:00:00Z",
    "time": "12:00:{:02d}Z",
    "duration": "PT{}M",
    "email": "alice{}@example.com",
    "hostname": "host{}.example.com",
    "ipv4": "192.0.2.{}",
    "ipv6": "2001:db8::{}",
    "uri": "https://example.com/{}",
    "uuid": "00000000-0000-4000-8000-{:012d}",
}
_USER_SAYS: Final = {"query", "question", "prompt", "text", "message", "input", "q"}
_TIGHTER: Final[dict[str, Callable[[Any, Any], Any]]] = {
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
}


class _TooLarge(Exception):
    """The schema has, or asks for, more values than a demo looks at."""


class _Unsatisfiable(Exception):
    """No value satisfies this branch of the schema, as far as this module looks."""


def _sample(schema: Any, user_text: str, owner: str, param: str) -> Any:
    """Make a value that satisfies `schema`.

    Raises: _Refused: the schema is broken, contradicts itself or asks for more than a demo gives.
    """
    try:
        return _Sampler(schema, user_text).value(schema)
    except _TooLarge:
        raise _Refused(f"Invalid schema for {owner}: it asks for a larger value than this model makes.", param, "invalid_schema") from None
    except _Unsatisfiable as refusal:
        raise _Refused(f"Invalid schema for {owner}: {refusal}", param, "invalid_schema") from None
    except (TypeError, ValueError, AttributeError, OverflowError):  # a keyword whose value has the wrong type
        raise _Refused(f"Invalid schema for {owner}: it is not valid under the JSON Schema meta-schema.", param, "invalid_schema") from None


@dataclass(slots=True)
class _Sampler:
    root: Any
    user_text: str
    left: int = field(default=_VALUES)

    def value(self, schema: Any, name: str = "", depth: int = 0, variant: int = 0) -> Any:
        """Make a value of `schema`. `variant` tells the items of an array apart.

        Raises: _Unsatisfiable.
        """
        self.spend(1 + _breadth(schema))
        if depth > _DEPTH:
            raise _Unsatisfiable("it has no end.")
        schema = self.flat(_merge(schema, {}))
        for combinator in ("anyOf", "oneOf"):
            if combinator in schema:
                rest = {key: value for key, value in schema.items() if key != combinator}
                return self.first_of(rest, schema[combinator], name, depth, variant)
        if "const" in schema or "enum" in schema:
            values = schema.get("enum")
            if "const" in schema:
                values = [schema["const"]] if values is None or schema["const"] in values else []
            values = [value for value in values if _has_type(value, schema.get("type"))]
            if not values:
                raise _Unsatisfiable("no value is allowed.")
            return values[variant % len(values)]
        kind = _type(schema)
        if kind == "object":
            return self.object(schema, depth, variant)
        if kind == "array":
            return self.array(schema, name, depth)
        if kind == "string":
            return self.string(schema, name, variant)
        if kind in {"number", "integer"}:
            return _a_number(schema, variant, whole=kind == "integer")
        return variant % 2 == 0 if kind == "boolean" else None

    def spend(self, values: int) -> None:
        self.left -= values
        if self.left < 0:
            raise _TooLarge

    def flat(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Resolve `$ref` and `allOf` into one object of keywords."""
        merged = dict(schema)
        while "$ref" in merged or "allOf" in merged:
            self.spend(1)
            parts = [self.pointed(merged.pop("$ref"))] if "$ref" in merged else merged.pop("allOf")
            for part in parts:
                self.spend(_breadth(part))
                merged = _merge(part, merged)
        return merged

    def pointed(self, reference: str) -> Any:
        """Follow a reference within the document (RFC 6901)."""
        if not reference.startswith("#"):
            raise _Unsatisfiable("a $ref may only point into the schema itself.")
        target = self.root
        for step in reference[1:].split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(target, list) and key.isdecimal() and len(key) < 6 and int(key) < len(target):
                target = target[int(key)]
            elif isinstance(target, Mapping) and key in target:
                target = target[key]
            else:
                raise _Unsatisfiable("a $ref points to nothing.")
        return target

    def first_of(self, rest: dict[str, Any], options: Iterable[Any], name: str, depth: int, variant: int) -> Any:
        found = _Unsatisfiable("there is nothing to choose from.")
        for option in sorted(options, key=_may_nest) if depth >= _OPTIONAL_DEPTH else options:
            try:
                return self.value(_merge(option, rest), name, depth + 1, variant)
            except _Unsatisfiable as refusal:
                found = refusal
        raise found

    def object(self, schema: dict[str, Any], depth: int, variant: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        required = dict.fromkeys(schema.get("required", ()))
        others = schema.get("additionalProperties", True)
        most = schema.get("maxProperties", math.inf)
        room = max(most, schema.get("minProperties", 0)) - len(required)
        made: dict[str, Any] = {}
        for key, wanted in properties.items():
            if key in required:
                made[key] = self.value(wanted, key, depth + 1, variant)
            elif room > 0 and depth < _OPTIONAL_DEPTH and self.left > _VALUES // 2:
                try:
                    made[key] = self.value(wanted, key, depth + 1, variant)
                    room -= 1
                except _Unsatisfiable:
                    continue
        extra = (f"field{number}" for number in itertools.count(1))
        unknown = [key for key in required if key not in properties]
        for key in itertools.chain(unknown, (key for key in extra if key not in properties and key not in required)):
            if key not in required and len(made) >= schema.get("minProperties", 0):
                break
            made[key] = self.value(others, key, depth + 1, variant)
        if len(made) > most:
            raise _Unsatisfiable("more properties are required than allowed.")
        return made

    def array(self, schema: dict[str, Any], name: str, depth: int) -> list[Any]:
        least, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        if least > most:
            raise _Unsatisfiable("more items are required than allowed.")
        if least > self.left:
            self.spend(least)
        first = schema.get("prefixItems", [])
        wanted = least if depth >= _OPTIONAL_DEPTH else min(max(least, len(first), 1), most)
        made: list[Any] = []
        seen: set[str] = set()
        variants = itertools.count()
        while len(made) < wanted:
            items = first[len(made)] if len(made) < len(first) else schema.get("items", True)
            variant = next(variants)
            try:
                item = self.value(items, name.removesuffix("s"), depth + 1, variant)
            except _Unsatisfiable:
                if len(made) >= least:
                    break
                raise
            if schema.get("uniqueItems"):
                spelled = json.dumps(item, sort_keys=True)
                if spelled in seen:
                    if variant > 2 * wanted + 16:
                        raise _Unsatisfiable("there are not enough different items.")
                    continue
                seen.add(spelled)
            made.append(item)
        return made

    def string(self, schema: dict[str, Any], name: str, variant: int) -> str:
        if "pattern" in schema:
            given = [*schema.get("examples", ()), schema.get("default")]
            for example in given[variant:] + given[:variant]:
                if isinstance(example, str):
                    return example
        least, most = schema.get("minLength", 0), schema.get("maxLength", math.inf)
        if least > most:
            raise _Unsatisfiable("a string is to be longer than it may be.")
        self.spend(least // 16)
        form = _FORMATS.get(schema.get("format", ""))
        if form:
            return form.format(variant % 28 + 1)
        key = name.lower()
        text = (self.user_text[:200] if key in _USER_SAYS else _PLAUSIBLE.get(key)) or "example"
        text = text.ljust(least, "x")
        suffix = f" {variant + 1}" if variant else ""
        if len(text) + len(suffix) > most:
            suffix = suffix.strip()
            text = text[: max(0, most - len(suffix))]
        return (text + suffix)[: min(most, len(text) + len(suffix))]


def _breadth(schema: Any) -> int:
    """Say how much there is to look through at this level, in sixteens."""
    if not isinstance(schema, Mapping):
        return 0
    return sum(len(value) for value in schema.values() if isinstance(value, list | dict)) // 16


def _may_nest(option: Any) -> bool:
    return isinstance(option, Mapping) and ("$ref" in option or _type({"type": "null", **option}) in {"object", "array"})


def _type(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, str):
        kinds = [kind]
    elif kind is not None:
        kinds = [each for each in kind if each != "null"] or list(kind)
        if not kinds:
            raise _Unsatisfiable("no type is left.")
    else:
        signs = (
            ("object", ("properties", "required", "additionalProperties", "minProperties")),
            ("array", ("items", "prefixItems", "minItems", "maxItems", "uniqueItems")),
            ("number", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
        )
        kinds = [each for each, keywords in signs if any(keyword in schema for keyword in keywords)] or ["string"]
    if kinds[0] not in {"object", "array", "string", "number", "integer", "boolean", "null"}:
        raise ValueError("unknown type")
    return kinds[0]


def _has_type(value: Any, kind: Any) -> bool:
    if kind is None:
        return True
    names = {
        bool: {"boolean"},
        int: {"integer", "number"},
        float: {"number", "integer"} if isinstance(value, float) and value.is_integer() else {"number"},
        str: {"string"},
        list: {"array"},
        type(None): {"null"},
    }.get(type(value), {"object"})
    return not names.isdisjoint([kind] if isinstance(kind, str) else kind)


def _merge(one: Any, other: dict[str, Any]) -> dict[str, Any]:
    """Join two schemas that must both hold.

    Raises: _Unsatisfiable: they plainly cannot.
    """
    if one is True:
        return other
    if one is False:
        raise _Unsatisfiable(_NOTHING)
    if not isinstance(one, Mapping):
        raise TypeError("a schema is an object or a boolean")
    merged = dict(one)
    for key, value in other.items():
        if key not in merged or merged[key] == value:
            merged[key] = value
        elif key in _TIGHTER:
            merged[key] = _TIGHTER[key](merged[key], value)
        elif key == "properties":
            both = dict(merged[key])
            both.update({name: {"allOf": [both[name], wanted]} if name in both else wanted for name, wanted in value.items()})
            merged[key] = both
        elif key in {"items", "additionalProperties"}:
            merged[key] = False if False in (merged[key], value) else {"allOf": [merged[key], value]}
        elif key in {"required", "allOf"}:
            merged[key] = [*merged[key], *value]
        elif key in {"anyOf", "oneOf"}:
            merged[key] = [{"allOf": [option, {key: value}]} for option in merged[key]]
        elif key == "$ref":
            merged["allOf"] = [*merged.get("allOf", []), {key: value}]
        elif key == "enum":
            kept = {json.dumps(each, sort_keys=True) for each in value}
            merged[key] = [each for each in merged[key] if json.dumps(each, sort_keys=True) in kept]
        elif key == "const":
            raise _Unsatisfiable("two constants contradict each other.")
        elif key == "type":
            merged[key] = _common_types(merged[key], value)
        else:
            merged[key] = value
    return merged


def _common_types(one: Any, other: Any) -> list[str]:
    ones, others = ([kind] if isinstance(kind, str) else list(kind) for kind in (one, other))
    shared = [kind for kind in ones if kind in others]
    if "integer" not in shared and (("integer" in ones and "number" in others) or ("number" in ones and "integer" in others)):
        shared.append("integer")
    return shared


def _a_number(schema: dict[str, Any], variant: int, *, whole: bool) -> float:
    """Find a number within the bounds, the first of its step above the lower one. Exact: 0.1 is a tenth here."""
    low, above = _bound(schema, "minimum", "exclusiveMinimum", max)
    high, below = _bound(schema, "maximum", "exclusiveMaximum", min)
    step = _exact(schema.get("multipleOf"))
    if whole:
        step = Fraction(step.numerator) if step else Fraction(1)
    if not step:
        found = _between(low, high, variant)
    elif low is not None:
        found = step * (math.ceil(low / step) + variant)
        found += step if above and found <= low else 0
    elif high is not None and step * (variant + 1) >= high:
        found = step * (math.floor(high / step) - variant)
        found -= step if below and found >= high else 0
    else:
        found = step * (variant + 1)
    too_low = low is not None and (found <= low if above else found < low)
    too_high = high is not None and (found >= high if below else found > high)
    if too_low or too_high:
        if variant:  # there are no more of them: begin again
            return _a_number(schema, 0, whole=whole)
        raise _Unsatisfiable("no number is within the bounds.")
    return int(found) if found.denominator == 1 else float(found)


def _between(low: Fraction | None, high: Fraction | None, variant: int) -> Fraction:
    if low is not None and high is not None:
        return low + (high - low) * Fraction(variant + 1, variant + 2)
    if low is not None:
        return low + variant + 1
    return Fraction(3, 2) + variant if high is None else high - variant - 1


def _bound(schema: dict[str, Any], inclusive: str, exclusive: str, tighter: Callable[..., Fraction]) -> tuple[Fraction | None, bool]:
    """Read a lower or upper bound and whether it is itself excluded; draft 4 wrote that as a boolean."""
    at, strict = _exact(schema.get(inclusive)), schema.get(exclusive)
    if strict is True:
        return at, True
    beyond = _exact(strict)
    if at is None or beyond is None:
        return (beyond, True) if at is None else (at, False)
    tightest = tighter(at, beyond)
    return tightest, tightest == beyond


def _exact(number: Any) -> Fraction | None:
    if number is None or isinstance(number, bool):
        return None
    if isinstance(number, float):
        return Fraction(str(number)) if math.isfinite(number) else None
    return Fraction(number)
