"""Owns the grammar of streams that we send to Messages clients, from what the official SDKs demand, independent of the code that emits it."""

import json
import re
from typing import Any

_STARTS: dict[str, tuple[str, ...]] = {
    "text": ("text",),
    "thinking": ("thinking", "signature"),
    "redacted_thinking": ("data",),
    "tool_use": ("id", "name", "input"),
    "server_tool_use": ("id", "name", "input"),
}
_DELTAS = {
    "text_delta": ("text", ("text",)),
    "citations_delta": ("citation", ("text",)),
    "thinking_delta": ("thinking", ("thinking",)),
    "signature_delta": ("signature", ("thinking",)),
    "input_json_delta": ("partial_json", ("tool_use", "server_tool_use", "mcp_tool_use")),
}
_ID = re.compile(r"[a-zA-Z0-9_-]+\Z")


def check(stream: bytes) -> list[str]:
    """Say what is wrong with a stream; nothing when a client can read it to its end or to an error frame."""
    problems: list[str] = []
    if not stream.endswith(b"\n\n"):
        problems.append("the stream does not end with a whole event")
    started = ended = failed = said_end = False
    open_at: int | None = None
    kind = ""
    pieces: list[str] = []
    following = 0
    for position, (name, fields) in enumerate(_events(stream, problems)):
        where = f"event {position} ({name})"
        if fields is None:
            continue
        if fields.get("type") != name:
            problems.append(f"{where}: the name is not the type {fields.get('type')!r}")
        if ended or failed:
            problems.append(f"{where}: comes after the end")
        if name == "ping":
            continue
        if name == "error":
            failed = True
            error = fields.get("error")
            if not isinstance(error, dict) or not isinstance(error.get("type"), str) or not isinstance(error.get("message"), str):
                problems.append(f"{where}: an error needs its type and message")
            continue
        if not started and name != "message_start":
            problems.append(f"{where}: comes before message_start")
        match name:
            case "message_start":
                if started:
                    problems.append(f"{where}: a second message_start")
                started = True
                problems += [f"{where}: {what}" for what in _check_start(fields.get("message"))]
            case "content_block_start":
                block = fields.get("content_block")
                if open_at is not None:
                    problems.append(f"{where}: block {open_at} is still open")
                if fields.get("index") != following:
                    problems.append(f"{where}: index {fields.get('index')} instead of {following}")
                open_at, pieces = fields.get("index"), []
                following += 1
                kind = block.get("type", "") if isinstance(block, dict) else ""
                if not isinstance(block, dict) or not kind:
                    problems.append(f"{where}: no content_block")
                    continue
                problems += [f"{where}: a {kind} block without {field}" for field in _STARTS.get(kind, ()) if field not in block]
                if kind == "tool_use" and not (_ID.match(str(block.get("id"))) and block.get("name") and block.get("input") == {}):
                    problems.append(f"{where}: a tool_use block needs a plain id, a name and an empty input")
            case "content_block_delta":
                if fields.get("index") != open_at:
                    problems.append(f"{where}: block {fields.get('index')} is not open")
                delta = fields.get("delta") or {}
                if delta.get("type") in _DELTAS:
                    field, kinds = _DELTAS[delta["type"]]
                    if field not in delta or kind not in kinds:
                        problems.append(f"{where}: {delta.get('type')} in a {kind} block")
                    if delta["type"] == "input_json_delta":
                        pieces.append(delta.get("partial_json", ""))
            case "content_block_stop":
                if fields.get("index") != open_at:
                    problems.append(f"{where}: block {fields.get('index')} is not open")
                open_at = None
            case "message_delta":
                if open_at is not None:
                    problems.append(f"{where}: block {open_at} is still open")
                said_end = True
                problems += [f"{where}: {what}" for what in _check_end(fields)]
            case "message_stop":
                if not said_end:
                    problems.append(f"{where}: no message_delta before it")
                ended = True
            case _:
                problems.append(f"{where}: no such event")
    if not ended and not failed:
        problems.append("neither message_stop nor an error ends the stream")
    return problems


def _events(stream: bytes, problems: list[str]) -> list[tuple[str, dict[str, Any] | None]]:
    found: list[tuple[str, dict[str, Any] | None]] = []
    for block in stream.decode().replace("\r\n", "\n").split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if not lines:
            continue
        names = [line[6:].strip() for line in lines if line.startswith("event:")]
        data = "\n".join(line[5:].removeprefix(" ") for line in lines if line.startswith("data:"))
        if len(names) != 1:
            problems.append(f"an event needs one name: {block[:80]!r}")
            continue
        try:
            fields = json.loads(data)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            problems.append(f"the data of {names[0]} is not a JSON object")
            fields = None
        found.append((names[0], fields))
    return found


def _check_start(message: Any) -> list[str]:
    if not isinstance(message, dict):
        return ["no message"]
    problems = [f"the message lacks {name}" for name in ("id", "model") if not isinstance(message.get(name), str)]
    if message.get("type") != "message" or message.get("role") != "assistant" or message.get("content") != []:
        problems.append("the message must be an empty one of the assistant")
    usage = message.get("usage")
    if not isinstance(usage, dict) or not all(type(usage.get(name)) is int for name in ("input_tokens", "output_tokens")):
        problems.append("the message lacks its usage")
    return problems


def _check_end(fields: dict[str, Any]) -> list[str]:
    delta, usage = fields.get("delta"), fields.get("usage")
    problems = []
    if not isinstance(delta, dict) or "stop_reason" not in delta or "stop_sequence" not in delta:
        problems.append("delta lacks stop_reason or stop_sequence")
    if not isinstance(usage, dict) or type(usage.get("output_tokens")) is not int:
        problems.append("usage.output_tokens is missing")
    elif any(type(value) is int and value < 0 for value in usage.values()):
        problems.append("a negative count")
    return problems
