"""How large a request is, whatever its format: the text in it and the media it refers to. Pure."""

from typing import Any

TOKENS_PER_MEDIUM = 3000  # an image or file given by reference costs tokens that its few bytes do not show
TOKENS_PER_MESSAGE = 8  # roles and separators, and a little more
# What is not text for the model: encoded media and opaque signatures.
_OPAQUE = frozenset(
    {
        "data",
        "url",
        "image_url",
        "file_data",
        "file_id",
        "signature",
        "encrypted_content",
        "thoughtSignature",
        "fileUri",
        "id",
        "call_id",
        "tool_use_id",
    }
)
_MEDIA_TYPES = frozenset({"image", "image_url", "input_image", "document", "file", "input_file", "input_audio", "video_url"})
_MEDIA_KEYS = ("inlineData", "inline_data", "fileData", "file_data")


def measure(*values: Any) -> tuple[int, int]:
    """The characters of text and the number of media in parsed JSON, walked without recursion."""
    text = media = 0
    pending = list(values)
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            text += len(value)
        elif isinstance(value, list):
            pending.extend(value)
        elif isinstance(value, dict):
            kind = value.get("type")
            if (isinstance(kind, str) and kind in _MEDIA_TYPES) or any(key in value for key in _MEDIA_KEYS):
                media += 1
            for name, part in value.items():
                if name not in _OPAQUE or not isinstance(part, str):
                    pending.append(part)
    return text, media
