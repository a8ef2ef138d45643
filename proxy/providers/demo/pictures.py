"""The demo's images: PNG patterns that depend on the prompt alone."""

import base64
import hashlib
import re
import struct
import zlib
from collections.abc import Mapping
from typing import Any, Final

from proxy.providers.demo import reading, refusals, script

IMAGE_TOKENS: Final = 256  # of every picture made
MAX_IMAGES: Final = 10


def draw(body: Mapping[str, Any], created: int) -> dict[str, Any]:
    """Answer an image request. Raises: refusals.Refused."""
    prompt = body.get("prompt")
    if prompt is None:
        raise refusals.missing("prompt")
    if not isinstance(prompt, str):
        raise refusals.wrong_type("prompt", "a string", prompt)
    if not prompt:
        raise refusals.Refused("Invalid 'prompt': empty string. Expected a string with minimum length 1.", "prompt", "empty_string")
    if reading.flag(body, "stream"):
        raise refusals.Refused("This model does not stream images.", "stream", "unsupported_value")
    count = reading.number(body, "n", 1, MAX_IMAGES, whole=True) or 1
    form = reading.chosen(body, "response_format", ("b64_json", "url"), "b64_json")
    reading.chosen(body, "output_format", ("png",), "png")
    width, height = _size(body.get("size"))
    data = []
    for index in range(count):
        picture = base64.b64encode(_picture(f"{index}/{prompt}", width, height)).decode()
        data.append({"b64_json": picture} if form == "b64_json" else {"url": f"data:image/png;base64,{picture}"})
    text_tokens, image_tokens = script.count_tokens(prompt), IMAGE_TOKENS * count
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
        raise refusals.wrong_value("size", size, ("auto", "16x16 to 2048x2048"))
    return int(sides[1]), int(sides[2])


_GRID: Final = 8


def _picture(subject: str, width: int, height: int) -> bytes:
    """Draw a PNG of two colours whose pattern of 8 x 8 fields, mirrored left to right, belongs to `subject`.

    One bit a pixel (PNG third edition, colour type 3) keeps a large picture as cheap as a small one.
    """
    noise = hashlib.sha256(script.utf8(subject)).digest()
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
