"""The hub's events to a stream for Gemini's clients. Pure."""

from collections.abc import Mapping
from typing import Any

import orjson

from catalog.usage import TokenUsage
from proxy.formats.conversation import (
    AnyItem,
    Closed,
    Delta,
    Echo,
    Ended,
    Event,
    Failed,
    Metered,
    Reasoning,
    Refusal,
    Started,
    Stop,
    Stopped,
    Text,
)
from proxy.formats.gemini_answers import answer_parts, feedback_of, own_metadata, sealed_thought
from proxy.formats.gemini_errors import code_of, render_error
from proxy.formats.gemini_parts import write_json
from proxy.formats.gemini_stops import ONLY_PROMPT, render_reason
from proxy.formats.gemini_usage import render_usage
from proxy.formats.tool_names import renamed_tools


class StreamRenderer:
    """Tells events as Gemini's SSE: only `data:` lines (its SDKs give up on any other), the finish reason and the usage in the last.

    A call is told whole, when it is closed. The last chunk waits for `Ended`, because some providers tell the usage after the stop.
    """

    keep_alive: bytes = b""  # there is none that the SDKs survive

    __slots__ = ("_after", "_before", "_echo", "_has_output", "_metadata", "_renamed", "_stopped", "_usage")

    def __init__(self, echo: Echo) -> None:
        self._echo = echo
        self._before = b'data: {"candidates":[{"content":{"parts":['
        self._after = b""
        self._metadata: dict[str, Any] = {}
        self._usage: TokenUsage | None = None
        self._stopped: Stopped | None = None
        self._has_output = False
        self._renamed = renamed_tools(echo.conversation)
        self._name(echo.model, echo.id)

    def feed(self, event: Event) -> bytes:
        """The bytes to send for one event."""
        match event:
            case Delta():
                return self._delta(event)
            case Closed():
                return self._closed(event.item)
            case Started():
                self._usage = event.usage or self._usage
                self._name(self._echo.model or event.model, self._echo.id or event.id)
            case Metered():
                self._usage = event.usage
            case Stopped():
                self._stopped = event
            case Failed():
                return self.fail({"error": event.raw} if isinstance(event.raw, dict) else {})
            case Ended():
                return self._last()
        return b""

    def fail(self, error: Mapping[str, Any]) -> bytes:
        """The frame that tells of an error, which Google's SDKs raise; from the gateway's own error object."""
        return self._last() + b"data: " + write_json(render_error(error, code_of(error), "")) + b"\r\n\r\n"

    def _name(self, model: str, answer_id: str) -> None:
        said = orjson.dumps({"modelVersion": model, "responseId": answer_id})
        self._after = b'],"role":"model"},"index":0}],' + said[1:] + b"\r\n\r\n"

    def _part(self, part: dict[str, Any]) -> bytes:
        self._has_output = True
        return self._before + write_json(part) + self._after

    def _delta(self, event: Delta) -> bytes:
        match event.what:
            case "text" | "refusal":
                return self._part({"text": event.text}) if event.text else b""
            case "reasoning" | "summary":
                return self._part({"text": event.text, "thought": True}) if event.text else b""
            case "citation":
                self._metadata.update(own_metadata(event.raw))
        return b""  # arguments and signatures are told when the item is closed

    def _closed(self, item: AnyItem) -> bytes:
        match item:
            case Text():
                # Its text has been told, its signature has not.
                return self._part({"text": "", "thoughtSignature": item.signature}) if item.signature else b""
            case Reasoning():
                return b"".join(self._part(sealed_thought(seal.data)) for seal in item.seals if seal.data)
            case Refusal():
                return b""
        return b"".join(self._part(part) for part in answer_parts(item, self._renamed))

    def _last(self) -> bytes:
        stopped, self._stopped = self._stopped, None
        if stopped is None:
            return b""
        chunk: dict[str, Any] = {}
        if stopped.stop is Stop.FILTER and not self._has_output and stopped.raw_stop in ONLY_PROMPT:
            chunk["promptFeedback"] = feedback_of(stopped.raw_stop, stopped.refusal)
        else:
            candidate: dict[str, Any] = {
                "content": {"parts": [{"text": ""}], "role": "model"},
                "finishReason": render_reason(stopped.stop, stopped.raw_stop),
                "index": 0,
                **self._metadata,
            }
            if stopped.refusal:
                candidate["finishMessage"] = stopped.refusal
            chunk["candidates"] = [candidate]
        if self._usage is not None:
            chunk["usageMetadata"] = render_usage(self._usage)
        # What names the answer stands at the end of every chunk alike.
        return b"data: " + write_json(chunk)[:-1] + b"," + self._after[self._after.index(b'"modelVersion"') :]
