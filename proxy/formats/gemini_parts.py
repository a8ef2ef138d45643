"""Gemini's parts and the hub's items, and reading the JSON around them. Pure.

Google reads field names in both spellings (`functionCall`, `function_call`); here they are camel case once parsed.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import orjson

from proxy.formats.conversation import (
    AnyItem,
    Audio,
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

NAME: Final = "gemini"

METADATA = ("groundingMetadata", "citationMetadata", "urlContextMetadata")
SERVER_PARTS = ("executableCode", "codeExecutionResult", "toolCall", "toolResponse")


def _camel_name(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(word[:1].upper() + word[1:] for word in tail) if head else name


def camel_case(fields: Mapping[str, Any], *inner: str) -> dict[str, Any]:
    """The object with its own names, and those of these inner objects, in camel case; what else is inside stays as it is."""
    named = {(_camel_name(name) if "_" in name else name): value for name, value in fields.items() if isinstance(name, str)}
    for name in inner:
        value = named.get(name)
        if isinstance(value, dict) and any(isinstance(key, str) and "_" in key for key in value):
            named[name] = camel_case(value)
    return named


def camel_part(part: Mapping[str, Any]) -> dict[str, Any]:
    """The part with its own field names, and those inside, in camel case."""
    return camel_case(
        part, "inlineData", "fileData", "functionCall", "functionResponse", "videoMetadata", "executableCode", "codeExecutionResult"
    )


def dump_json(value: Any) -> str:
    """The value as JSON text. Raises: CannotParse."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # numbers of more than 64 bits
        try:
            return json.dumps(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise CannotParse("A value cannot be written as JSON.") from error


def string_of(fields: Mapping[str, Any], name: str, place: str) -> str:
    """The field as a string; empty where it is not given. Raises: CannotParse."""
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CannotParse(f"The field '{place}{name}' must be a string.", param=place + name)
    return value


def object_of(fields: Mapping[str, Any], name: str, place: str) -> dict[str, Any]:
    """The field as an object; empty where it is not given. Raises: CannotParse."""
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CannotParse(f"The field '{place}{name}' must be an object.", param=place + name)
    return value


def objects_of(value: Any, place: str) -> list[dict[str, Any]]:
    """A list of objects; Google takes a single one in place of a list of one."""
    if value is None:
        return []
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise CannotParse(f"The field '{place}' must be a list of objects.", param=place)
    return value


def strings_of(fields: Mapping[str, Any], name: str, place: str) -> list[str]:
    """The field as a list of strings; empty where it is not given. Raises: CannotParse."""
    value = fields.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise CannotParse(f"The field '{place}{name}' must be a list of strings.", param=place + name)
    return value


def flag_of(fields: Mapping[str, Any], name: str, place: str) -> bool | None:
    """The field as true or false; None where it is not given. Raises: CannotParse."""
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise CannotParse(f"The field '{place}{name}' must be true or false.", param=place + name)
    return value


def number_of(fields: Mapping[str, Any], name: str, place: str) -> float | None:
    """The field as a number; None where it is not given. Raises: CannotParse."""
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or not -1e9 <= value <= 1e9:
        raise CannotParse(f"The field '{place}{name}' must be a number.", param=place + name)
    return value


def whole_of(fields: Mapping[str, Any], name: str, place: str, *, least: int = 0, most: int = 10_000_000) -> int | None:
    """The field as a whole number within its bounds; None where it is not given. Raises: CannotParse."""
    value = number_of(fields, name, place)
    if value is None:
        return None
    if value != int(value) or not least <= value <= most:
        raise CannotParse(f"The field '{place}{name}' must be a whole number from {least} to {most}.", param=place + name)
    return int(value)


class Calls:
    """Gives calls without an id one that is the same whenever the same JSON is read, and finds the call that a result answers."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._count = 0
        self._open: list[tuple[str, str]] = []

    def name(self, given: str, name: str) -> str:
        """The id of the next call."""
        self._count += 1
        call_id = given or "call_" + hashlib.blake2s(f"{self._seed}/{self._count}/{name}".encode(errors="replace")).hexdigest()[:24]
        self._open.append((call_id, name))
        return call_id

    def answered(self, given: str, name: str) -> str:
        """The id of the call that this result belongs to: the given one, else that of the first open call of the name."""
        found = next((one for one in self._open if (one[0] == given if given else one[1] == name)), None)
        if found is not None:
            self._open.remove(found)
            return found[0]
        return given or "call_" + hashlib.blake2s(f"{self._seed}/result/{name}".encode(errors="replace")).hexdigest()[:24]


def _signature_of(part: Mapping[str, Any], place: str) -> str:
    return string_of(part, "thoughtSignature", place)


def parse_part(given: Mapping[str, Any], role: Role, calls: Calls, place: str) -> AnyItem:
    """The item that a part is. Raises: CannotParse."""
    part = camel_part(given)
    kept: dict[str, Any] = {"raw": part, "origin": NAME}
    if "functionCall" in part:
        call = object_of(part, "functionCall", place)
        name = string_of(call, "name", place + "functionCall.")
        arguments = object_of(call, "args", place + "functionCall.")
        seal = _signature_of(part, place)
        return ToolCall(
            "assistant",
            call_id=calls.name(string_of(call, "id", place + "functionCall."), name),
            name=name,
            arguments=dump_json(arguments) if arguments else "",
            seals=[Seal("signature", seal, NAME)] if seal else [],
            **kept,
        )
    if "functionResponse" in part:
        return _parse_result(object_of(part, "functionResponse", place), calls, place + "functionResponse.", kept)
    if isinstance(part.get("text"), str):
        signature = _signature_of(part, place)
        if part.get("thought") is True:
            return Reasoning(role, text=part["text"], seals=[Seal("signature", signature, NAME)] if signature else [], **kept)
        return Text(role, text=part["text"], signature=signature, **kept)
    if "inlineData" in part or "fileData" in part:
        return _parse_media(part, role, place, kept)
    for name in SERVER_PARTS:
        if name in part:
            return ServerTool(role, kind=name, **kept)
    return Unknown(role, **kept)


def _parse_media(part: Mapping[str, Any], role: Role, place: str, kept: dict[str, Any]) -> Image | File | Audio:
    if "inlineData" in part:
        blob = object_of(part, "inlineData", place)
        media_type = string_of(blob, "mimeType", place + "inlineData.")
        data = string_of(blob, "data", place + "inlineData.")
        if media_type.startswith("image/"):
            return Image(role, media_type=media_type, data=data, **kept)
        if media_type.startswith("audio/"):
            return Audio(role, format=_audio_format(media_type), data=data, **kept)
        return File(role, media_type=media_type, data=data, name=string_of(blob, "displayName", place + "inlineData."), **kept)
    named = object_of(part, "fileData", place)
    media_type = string_of(named, "mimeType", place + "fileData.")
    address = string_of(named, "fileUri", place + "fileData.")
    if media_type.startswith("image/"):
        return Image(role, media_type=media_type, url=address, **kept)
    return File(role, media_type=media_type, url=address, name=string_of(named, "displayName", place + "fileData."), **kept)


def _parse_result(response: Mapping[str, Any], calls: Calls, place: str, kept: dict[str, Any]) -> ToolResult:
    name = string_of(response, "name", place)
    said = object_of(response, "response", place)
    is_error = list(said) == ["error"]
    only = next(iter(said.values())) if list(said) in (["output"], ["result"], ["error"]) else said
    parts: list[Text | Image | File] = [Text("user", text=only if isinstance(only, str) else dump_json(only))]
    for index, given in enumerate(objects_of(response.get("parts"), place + "parts")):
        part = camel_part(given)
        if "inlineData" not in part and "fileData" not in part:
            continue
        media = _parse_media(part, "user", f"{place}parts[{index}].", {"raw": part, "origin": NAME})
        parts.append(File("user", media_type=audio_type(media.format), data=media.data) if isinstance(media, Audio) else media)
    return ToolResult(
        "user", call_id=calls.answered(string_of(response, "id", place), name), name=name, parts=parts, is_error=is_error, **kept
    )


_AUDIO_FORMATS = {"mpeg": "mp3", "mp3": "mp3", "x-wav": "wav", "wave": "wav", "x-aac": "aac"}


def _audio_format(media_type: str) -> str:
    kind = media_type[6:].split(";", maxsplit=1)[0].strip().lower()
    return "pcm16" if kind == "l16" else _AUDIO_FORMATS.get(kind, kind)


def audio_type(name: str) -> str:
    """The media type of a sound's format."""
    return "audio/L16;codec=pcm;rate=24000" if name == "pcm16" else "audio/mp3" if name == "mp3" else "audio/" + (name or "wav")


def mapping_of(value: Any) -> Mapping[str, Any]:
    """The value where it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def list_of(value: Any) -> list[Any]:
    """The value where it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def epoch_of(value: Any) -> int:
    """The moment in seconds since 1970; 0 for what is none."""
    if not isinstance(value, str):
        return 0
    try:
        return max(0, int(datetime.fromisoformat(value).timestamp()))
    except (ValueError, OverflowError, OSError):
        return 0


def write_json(value: Any) -> bytes:
    """The value as JSON."""
    try:
        return orjson.dumps(value)
    except TypeError:  # numbers of more than 64 bits, halves of surrogate pairs
        return json.dumps(value).encode()
