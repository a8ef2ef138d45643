"""The blocks of the Messages format as items of the hub, the names and ids it allows, and the JSON they are made of. Pure."""

import json
import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

import orjson

from proxy.formats.conversation import (
    AnyItem,
    CannotParse,
    File,
    Image,
    Reasoning,
    Role,
    Seal,
    ServerTool,
    Text,
    ToolCall,
    ToolResult,
    Unknown,
)

NAME: Final = "messages"
JSON_TOOL = "json"
_NAME = re.compile(r"[a-zA-Z0-9_-]+\Z")
_DATA_URL = re.compile(r"data:([^;,]*)(?:;[^;,]*)*;base64,(.*)\Z", re.DOTALL)
_MAGIC = {"/9j/": "image/jpeg", "iVBOR": "image/png", "R0lGOD": "image/gif", "UklGR": "image/webp", "JVBERi0": "application/pdf"}
_SERVER_TOOLS = ("server_tool_use", "mcp_tool_use", "container_upload")


def tool_id(text: str) -> str:
    """The id of a tool call as this format takes it: the same where it fits, else always the same for the same text."""
    return text if _NAME.match(text) else "toolu_" + blake2b(text.encode(errors="surrogatepass"), digest_size=12).hexdigest()


def read_block(block: dict[str, Any], role: Role) -> AnyItem:
    """The item a block tells. Raises: CannotParse."""
    common: dict[str, Any] = {"raw": block, "origin": NAME, "cache": cache_mark_of(block)}
    kind = block.get("type")
    match kind:
        case "text":
            citations = block.get("citations")
            return Text(role, text=string_of(block, "text"), citations=citations if isinstance(citations, list) else [], **common)
        case "image":
            source = _source(block)
            if source is None:
                return Unknown(role, **common)
            return Image(
                role,
                media_type=string_of(source, "media_type"),
                data=string_of(source, "data"),
                url=string_of(source, "url"),
                file_id=string_of(source, "file_id"),
                **common,
            )
        case "document":
            return _read_document(block, role, common)
        case "search_result":
            return Text(role, text=_search_result_text(block), **common)
        case "thinking":
            signature = string_of(block, "signature")
            return Reasoning(
                role, text=string_of(block, "thinking"), seals=[Seal("signature", signature, NAME)] if signature else [], **common
            )
        case "redacted_thinking":
            return Reasoning(role, seals=[Seal("redacted", string_of(block, "data"), NAME)], **common)
        case "tool_use":
            given = block.get("input")
            if given is not None and not isinstance(given, dict):
                raise CannotParse("tool_use.input: an object is expected.", param="messages")
            return ToolCall(
                role, call_id=string_of(block, "id"), name=string_of(block, "name"), arguments=write_json(given or {}), **common
            )
        case "tool_result":
            return ToolResult(
                "user",
                call_id=string_of(block, "tool_use_id"),
                parts=_read_result(block.get("content")),
                is_error=block.get("is_error") is True,
                **common,
            )
        case str() if kind in _SERVER_TOOLS or kind.endswith("_tool_result"):
            return ServerTool(role, kind=kind, **common)
        case _:
            return Unknown(role, **common)


def _read_document(block: dict[str, Any], role: Role, common: dict[str, Any]) -> AnyItem:
    source = _source(block)
    if source is None:
        return Unknown(role, **common)
    name = string_of(block, "title")
    media_type = string_of(source, "media_type")
    match source.get("type"):
        case "text":
            return File(role, media_type=media_type or "text/plain", text=string_of(source, "data"), name=name, **common)
        case "content":
            content = source.get("content")
            parts = content if isinstance(content, list) else []
            text = content if isinstance(content, str) else "\n".join(string_of(part, "text") for part in parts if isinstance(part, dict))
            return File(role, media_type="text/plain", text=text, name=name, **common)
        case _:
            return File(
                role,
                media_type=media_type or ("application/pdf" if source.get("url") else ""),
                data=string_of(source, "data"),
                url=string_of(source, "url"),
                file_id=string_of(source, "file_id"),
                name=name,
                **common,
            )


def _source(block: Mapping[str, Any]) -> dict[str, Any] | None:
    source = block.get("source")
    return source if isinstance(source, dict) else None


def _search_result_text(block: Mapping[str, Any]) -> str:
    content = block.get("content")
    texts = [string_of(part, "text") for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    title, source = block.get("title"), block.get("source")
    return "\n".join(line for line in (title, source, *texts) if isinstance(line, str) and line)


def _read_result(content: Any) -> list[Text | Image | File]:
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [Text("user", text=content, raw=content, origin=NAME)]
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise CannotParse("tool_result.content: a string or a list of blocks is expected.", param="messages")
    parts: list[Text | Image | File] = []
    for block in content:
        item = read_block(block, "user")
        parts.append(item if isinstance(item, Text | Image | File) else Text("user", text=write_json(block), raw=block, origin=NAME))
    return parts


def unfold_url(media_type: str, data: str, url: str) -> tuple[str, str, str]:
    """The media type, data and address, where either may be a data URL."""
    if found := _DATA_URL.match(data or url):
        return media_type or found[1], found[2], ""
    return media_type, data, url


def media_type_of(media_type: str, data: str, otherwise: str) -> str:
    """The media type; where none or a vague one is given, what the data's first bytes say."""
    if media_type and media_type not in ("application/octet-stream", "image/*", "image/jpg"):
        return media_type
    return next((kind for start, kind in _MAGIC.items() if data.startswith(start)), media_type or otherwise)


def arguments_of(text: str) -> dict[str, Any]:
    """A call's arguments as an object; what is not one is as good as none."""
    if not text.strip():
        return {}
    try:
        value = orjson.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def frame(name: str, value: Any) -> bytes:
    """One event of a stream."""
    return b"event: " + name.encode() + b"\ndata: " + encode_json(value) + b"\n\n"


def encode_json(value: Any) -> bytes:
    """The value as JSON, also where it holds numbers of more than 64 bits or halves of surrogate pairs."""
    try:
        return orjson.dumps(value)
    except TypeError:  # lone surrogates, whole numbers beyond 64 bits, very deep nesting
        try:
            return json.dumps(value, separators=(",", ":")).encode()
        except (RecursionError, TypeError, ValueError):
            return b"{}"


def write_json(value: Any) -> str:
    """The value as JSON text."""
    return encode_json(value).decode()


def parse_object(data: bytes) -> dict[str, Any] | None:
    """The object that the bytes are as JSON; None for anything else."""
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return fields if isinstance(fields, dict) else None


def printable(text: str) -> str:
    """Text from strangers without what PostgreSQL (U+0000) and logs (line ends) cannot take."""
    return "".join(filter(str.isprintable, text[:100]))


def string_of(fields: Mapping[str, Any], name: str) -> str:
    """The field where it is a string, else an empty one."""
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def cache_mark_of(block: Mapping[str, Any]) -> str | None:
    """How long the block asks to be cached: "5m", "1h" or not at all."""
    mark = block.get("cache_control")
    if not isinstance(mark, dict):
        return None
    return "1h" if mark.get("ttl") == "1h" else "5m"
