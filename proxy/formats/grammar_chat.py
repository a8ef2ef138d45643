"""Owns the grammar of streams that we send to chat clients: what every SDK's accumulator needs, stricter than any provider keeps to it."""

from typing import Any

import orjson

_IDENTITY = ("id", "object", "created", "model")


def check(stream: bytes, *, wants_usage: bool | None = None) -> list[str]:
    """Return what is wrong with a whole stream; empty when nothing is. `wants_usage` says whether the client asked for the usage chunk."""
    problems: list[str] = []
    chunks, ended = _read_frames(stream, problems)
    if not ended:
        problems.append("the stream does not end with [DONE]")
    state = _State(problems)
    for place, chunk in enumerate(chunks):
        state.place = place
        state.read(chunk)
    state.finish(wants_usage=wants_usage)
    return problems


def _read_frames(stream: bytes, problems: list[str]) -> tuple[list[dict[str, Any]], bool]:
    chunks: list[dict[str, Any]] = []
    ended = False
    if stream and not stream.endswith(b"\n\n"):
        problems.append("the last frame is not closed")
    for frame in stream.split(b"\n\n"):
        if not frame:
            continue
        if ended:
            problems.append("something comes after [DONE]")
        if frame.startswith(b":") and b"\n" not in frame:
            continue
        if not frame.startswith(b"data: ") or b"\n" in frame:
            problems.append(f"a frame is not one data line: {frame[:60]!r}")
            continue
        data = frame[6:]
        if data == b"[DONE]":
            ended = True
            continue
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            problems.append(f"a frame is not JSON: {data[:60]!r}")
            continue
        if isinstance(chunk, dict):
            chunks.append(chunk)
        else:
            problems.append("a chunk is not an object")
    return chunks, ended


class _State:
    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        self.place = 0
        self.identity: tuple[Any, ...] | None = None
        self.role_seen = False
        self.calls: list[str] = []
        self.said_once: set[tuple[str, Any, str]] = set()
        self.finish_reason = ""
        self.usage_seen = False
        self.error_seen = False

    def complain(self, what: str) -> None:
        self.problems.append(f"chunk {self.place}: {what}")

    def read(self, chunk: dict[str, Any]) -> None:
        if self.error_seen:
            self.complain("something comes after the error")
        if "error" in chunk:
            self.error_seen = True
            if not isinstance(chunk["error"], dict) or not isinstance(chunk["error"].get("message"), str):
                self.complain("the error has no message")
            return
        identity = tuple(chunk.get(name) for name in _IDENTITY)
        if self.identity is None:
            self.identity = identity
            if not isinstance(identity[0], str) or identity[1] != "chat.completion.chunk" or not isinstance(identity[2], int):
                self.complain(f"the chunk's identity is wrong: {identity}")
        elif identity != self.identity:
            self.complain("the chunk's identity changed")
        choices = chunk.get("choices")
        if not isinstance(choices, list) or len(choices) > 1:
            self.complain("choices is not a list of one or none")
        elif choices:
            if chunk.get("usage") is not None:
                self.complain("usage comes in a chunk with choices")
            self.read_choice(choices[0])
        else:
            self.read_usage(chunk)

    def read_usage(self, chunk: dict[str, Any]) -> None:
        usage = chunk.get("usage")
        if not isinstance(usage, dict):
            self.complain("a chunk without choices has no usage")
            return
        if self.usage_seen:
            self.complain("a second usage chunk")
        self.usage_seen = True
        if not self.finish_reason:
            self.complain("the usage comes before the finish reason")
        counts = [count for name in ("prompt_tokens", "completion_tokens", "total_tokens") if isinstance(count := usage.get(name), int)]
        if len(counts) < 3 or min(counts) < 0:
            self.complain("the usage is not made of counts")
        elif counts[0] + counts[1] != counts[2]:
            self.complain("the usage does not add up")

    def read_choice(self, choice: dict[str, Any]) -> None:
        if choice.get("index") != 0:
            self.complain("the choice's index is not 0")
        if self.finish_reason:
            self.complain("a choice after the finish reason")
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            self.complain("no delta")
            return
        if "role" in delta:
            if self.role_seen or delta["role"] != "assistant":
                self.complain("the role is wrong or said twice")
            self.role_seen = True
        elif not self.role_seen:
            self.complain("the first delta has no role")
        for name in ("content", "refusal", "reasoning_content"):
            if delta.get(name) is not None and not isinstance(delta[name], str):
                self.complain(f"{name} is not a string")
        for name in ("reasoning_details", "annotations", "images"):
            for entry in delta.get(name) or []:
                if not isinstance(entry.get("index"), int):
                    self.complain(f"an entry of {name} has no index")
                repeated = {
                    (name, entry.get("index"), field) for field in ("id", "format", "data", "url_citation", "image_url") if entry.get(field)
                }
                if repeated & self.said_once:
                    self.complain(f"an entry of {name} repeats what the SDKs add up")
                self.said_once |= repeated
        for detail in delta.get("reasoning_details") or []:
            if not str(detail.get("type", "")).startswith("reasoning.") or not isinstance(detail.get("index"), int):
                self.complain("a reasoning detail lacks type or index")
        for call in delta.get("tool_calls") or []:
            self.read_call(call)
        reason = choice.get("finish_reason")
        if reason is not None:
            self.finish_reason = reason
            if delta:
                self.complain("the chunk with the finish reason says more")
            if reason not in ("stop", "length", "tool_calls", "content_filter", "function_call"):
                self.complain(f"unknown finish reason {reason!r}")
            if self.calls and reason == "stop":
                self.complain("the finish reason hides the calls")

    def read_call(self, call: dict[str, Any]) -> None:
        index = call.get("index")
        said = call.get("function", call.get("custom"))
        if not isinstance(index, int) or not isinstance(said, dict):
            self.complain("a call has no index or says nothing")
        elif index == len(self.calls):
            if not call.get("id") or call.get("type") not in ("function", "custom") or not said.get("name"):
                self.complain("a call begins without id, type or name")
            self.calls.append(str(call.get("id")))
        elif index == len(self.calls) - 1:
            if {"id", "type"} & call.keys() or "name" in said:
                self.complain("a call repeats its id, type or name")
        else:
            self.complain(f"the call's index {index} is out of order")

    def finish(self, *, wants_usage: bool | None) -> None:
        if len(set(self.calls)) != len(self.calls):
            self.problems.append("two calls have one id")
        if self.error_seen:
            return
        if not self.finish_reason:
            self.problems.append("no finish reason")
        if wants_usage is False and self.usage_seen:
            self.problems.append("a usage chunk that nobody asked for")
        if wants_usage and not self.usage_seen:
            self.problems.append("the usage chunk is missing")
