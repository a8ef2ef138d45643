"""Watches Gemini's answers pass through: usage, finish reason and how much was said. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from catalog.usage import TokenUsage
from proxy.formats.base import BYTES_PER_TOKEN, NotAnAnswer
from proxy.formats.gemini_errors import code_of, render_error
from proxy.formats.gemini_frames import Frames, data_of, load_object
from proxy.formats.gemini_parts import SERVER_PARTS, mapping_of, write_json
from proxy.formats.gemini_stops import read_reason
from proxy.formats.gemini_usage import read_usage
from proxy.formats.searches import charged_by_google, queries_of

TOKENS_PER_PICTURE = 1290  # made by a model, up to 1024 by 1024 pixels
BASE64_PER_AUDIO_TOKEN = 2560  # 24 kHz, 16 bits, 25 tokens a second

_SIZED = ("functionCall", *SERVER_PARTS)


@dataclass(slots=True)
class GeminiAnswer:
    """What a whole answer used and how it ended. `usage_json` is the provider's own object."""

    fields: Mapping[str, Any]
    usage: TokenUsage | None
    usage_json: Mapping[str, Any] | None
    finish_reason: str
    output_bytes: int
    web_searches: int


def read_answer(raw: bytes) -> GeminiAnswer:
    """Read a whole generateContent answer.

    Raises: NotAnAnswer.
    """
    try:
        loaded = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise NotAnAnswer("not JSON") from error
    chunks = loaded if isinstance(loaded, list) else [loaded]
    watched = GeminiTap()
    fields: Mapping[str, Any] = {}
    for chunk in chunks:
        if not isinstance(chunk, dict) or chunk.get("error"):
            raise NotAnAnswer("not an answer")
        watched.watch(chunk)
        fields = chunk
    if not isinstance(fields.get("candidates"), list) and not fields.get("promptFeedback") and watched.usage_json is None:
        raise NotAnAnswer("no candidates")
    return GeminiAnswer(fields, watched.usage, watched.usage_json, watched.finish_reason, watched.output_bytes, watched.web_searches)


class GeminiTap:
    """Watches a stream go by: forwards whole frames as received, remembers usage, finish reason and how much text there was.

    Nothing is added or changed: what the client gets is what the provider sent, to the byte. The end is the end of the connection.
    """

    keep_alive: bytes = b""

    __slots__ = (
        "_forwarded",
        "_frames",
        "_model",
        "_queries",
        "_response_id",
        "done",
        "error",
        "finish_reason",
        "output_bytes",
        "reported_cost",
        "usage",
        "usage_json",
        "web_searches",
    )

    def __init__(self) -> None:
        self._frames = Frames()
        self._forwarded = False
        self._model = ""
        self._response_id = ""
        self._queries: set[str] = set()
        self.usage: TokenUsage | None = None
        self.usage_json: Mapping[str, Any] | None = None
        self.reported_cost: int | None = None
        self.finish_reason = ""
        self.output_bytes = 0
        self.web_searches = 0
        self.done = False
        self.error: Any = None

    @property
    def has_output(self) -> bool:
        """Whether anything was delivered that a client would call an answer."""
        return self.output_bytes > 0 or bool(self.finish_reason)

    def feed(self, data: bytes) -> bytes:
        """Take what one read returned; returns what to forward now.

        Raises: proxy.sse.EventTooLarge.
        """
        frames = self._frames.feed(data)
        if len(frames) == 1:
            frame, body = frames[0]
            return frame if self._passes(body) else b""
        forward = []
        for frame, body in frames:
            if not self._passes(body):
                break
            forward.append(frame)
        return b"".join(forward)

    def flush(self) -> bytes:
        """Take the provider's end: an event that only lacks its last boundary counts; half an event does not."""
        if self.error is not None:
            return b""
        rest = self._frames.rest
        tail = b""
        if self._frames.array:
            tail = rest if self._frames.ended else b""
        elif load_object(data_of(rest)) is not None:
            if not self._passes(data_of(rest)):
                return b""
            tail = rest.rstrip(b"\r\n") + b"\r\n\r\n"
        self.done = bool(self.finish_reason) and (not self._frames.array or self._frames.ended)
        return tail

    def finish(self, *, estimate: TokenUsage, cost: int, upstream_cost: int) -> bytes:  # noqa: ARG002 - a pass-through adds nothing
        """Nothing: the provider has said all of it."""
        return b""

    def fail(self, error: Mapping[str, Any], *, ran_out: bool) -> bytes:
        """What to send last when the stream failed after it began: the error, which Google's SDKs raise.

        With `ran_out` (nothing more could be held) a chunk before it says that the answer ends for its length.
        """
        said = [render_error(error, code_of(error), "")]
        if ran_out:
            cut = {"content": {"parts": [{"text": ""}], "role": "model"}, "finishReason": "MAX_TOKENS", "index": 0}
            said.insert(0, {"candidates": [cut], "modelVersion": self._model, "responseId": self._response_id})
        if self._frames.array:
            return (b",\r\n" if self._forwarded else b"[") + b",\r\n".join(map(orjson.dumps, said)) + b"]\n"
        return b"".join(b"data: " + orjson.dumps(one) + b"\r\n\r\n" for one in said)

    def watch(self, chunk: dict[str, Any]) -> None:
        """Take note of one chunk's JSON."""
        if not self._response_id or not self._model:
            name, model = chunk.get("responseId"), chunk.get("modelVersion")
            self._response_id = name if isinstance(name, str) else self._response_id
            self._model = model if isinstance(model, str) else self._model
        candidates = chunk.get("candidates")
        if type(candidates) is list:
            for candidate in candidates:
                if type(candidate) is not dict:
                    continue
                content = candidate.get("content")
                parts = content.get("parts") if type(content) is dict else None
                if type(parts) is list:
                    for part in parts:
                        if type(part) is dict:
                            self.output_bytes += _size(part)
                if "finishReason" in candidate:
                    self.finish_reason = read_reason(candidate["finishReason"]) or self.finish_reason
                if "groundingMetadata" in candidate:
                    self._note_searches(candidate)
        usage = chunk.get("usageMetadata")
        if type(usage) is dict:
            counted = read_usage(usage, web_searches=self.web_searches)
            if counted is not None:
                self.usage, self.usage_json = counted, usage
        if "promptFeedback" in chunk:
            blocked = mapping_of(chunk["promptFeedback"]).get("blockReason")
            if blocked:
                self.finish_reason = blocked[:60] if isinstance(blocked, str) and blocked.isprintable() else "BLOCK_REASON_UNSPECIFIED"

    def _note_searches(self, candidate: Mapping[str, Any]) -> None:
        """Some tell of them only after the usage."""
        self._queries |= queries_of(candidate)
        self.web_searches = charged_by_google(self._queries, model=self._model)
        if self.usage is not None:
            self.usage = replace(self.usage, web_searches=self.web_searches)

    def _passes(self, body: bytes) -> bool:
        if self.error is not None:
            return False
        fields = load_object(body) if body else None
        if fields is not None:
            if fields.get("error"):
                self.error = fields["error"]
                return False
            self.watch(fields)
        self._forwarded = True
        return True


def _size(part: Mapping[str, Any]) -> int:
    """How many bytes of text would be as many tokens as the part: text, arguments and code as they are, media by what they cost."""
    text = part.get("text")
    if type(text) is str:
        return len(text) if text.isascii() else len(text.encode(errors="replace"))
    media = part.get("inlineData")
    if type(media) is dict:
        kind, data = media.get("mimeType"), media.get("data")
        if isinstance(kind, str) and kind.startswith("audio/"):
            return 1 + (len(data) // BASE64_PER_AUDIO_TOKEN * BYTES_PER_TOKEN if isinstance(data, str) else 0)
        return TOKENS_PER_PICTURE * BYTES_PER_TOKEN
    return len(write_json(part)) if any(name in part for name in _SIZED) else 0
