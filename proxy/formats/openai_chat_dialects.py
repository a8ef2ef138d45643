"""Which provider of this format takes which fields, and how media are named in it. Pure."""

import re
from collections.abc import Mapping
from typing import Any, Final

OPENAI_KINDS = frozenset({"openai", "azure"})
"""Who knows the newest fields, and refuses what it does not know."""
NEW_LIMIT_KINDS = frozenset({"openai", "azure", "groq"})
TOP_K_KINDS = frozenset({"openrouter", "custom", "alibaba", "lmstudio", "anthropic"})
LIST_KINDS = frozenset({"openai", "azure", "openrouter", "groq", "mistral", "xai", "google"})
"""Who takes a list of text parts where a string would do; elsewhere several texts are joined."""
USER_KINDS = frozenset({"openai", "azure", "openrouter", "groq", "custom"})
NO_STREAM_OPTIONS = frozenset({"mistral"})

_MEDIA_TYPES: Final[Mapping[str, str]] = {
    "pdf": "application/pdf",
    "json": "application/json",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "txt": "text/plain",
    "md": "text/markdown",
    "csv": "text/csv",
    "html": "text/html",
    "xml": "text/xml",
    "png": "image/png",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "mp3": "audio/mpeg",
    "wav": "audio/wav",
    "ogg": "audio/ogg",
    "flac": "audio/flac",
    "m4a": "audio/mp4",
    "mp4": "video/mp4",
    "mpeg": "video/mpeg",
    "mov": "video/quicktime",
    "webm": "video/webm",
}
EXTENSIONS: Final[Mapping[str, str]] = {media_type: extension for extension, media_type in _MEDIA_TYPES.items()}
_DATA_URL = re.compile(r"data:([a-zA-Z0-9.+-]+/[a-zA-Z0-9.+-]+)?((?:;[a-zA-Z0-9_.-]+=[^;,]*)*);base64,")


def guess_type(name: str) -> str:
    """The media type that the end of a file's name or address tells; empty for none."""
    return _MEDIA_TYPES.get(name.partition("?")[0].rpartition(".")[2].lower(), "")


def split_data_url(url: str) -> tuple[str, str]:
    """The media type and base64 data of a data URL; two empty strings for any other."""
    match = _DATA_URL.match(url)
    return (match.group(1) or "text/plain", url[match.end() :]) if match else ("", "")


def cache_mark(cache: str) -> dict[str, Any]:
    """A cache mark as providers that speak of Anthropic's models take it."""
    return {"type": "ephemeral", "ttl": "1h"} if cache == "1h" else {"type": "ephemeral"}
