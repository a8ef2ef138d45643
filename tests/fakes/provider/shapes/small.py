"""Owns answers that are not conversations: embeddings, images, token counts, the list of models."""

import base64
import hashlib
import secrets
import struct
import time
import zlib
from typing import Any

from tests.fakes.provider.answers import Answer
from tests.fakes.provider.asking import Ask

MODELS = ("echo-small", "echo-large", "embed-small", "image-small")
DIMENSIONS = 8


def embeddings(answer: Answer, ask: Ask) -> dict[str, Any]:
    """Return one vector per input, the same for the same text."""
    inputs = ask.inputs or (ask.last_user_text,)
    data = [
        {"object": "embedding", "index": index, "embedding": vector(text, ask.dimensions or DIMENSIONS)}
        for index, text in enumerate(inputs)
    ]
    body: dict[str, Any] = {"object": "list", "data": data, "model": answer.model}
    if answer.usage:
        body["usage"] = {"prompt_tokens": answer.usage.prompt, "total_tokens": answer.usage.prompt}
    return body


def images(answer: Answer, ask: Ask) -> dict[str, Any]:
    """Return as many small pictures as were asked for."""
    return {"created": int(time.time()), "data": [{"b64_json": _picture(index)} for index in range(answer.choices)]}


def count_tokens(answer: Answer) -> dict[str, Any]:
    return {"input_tokens": answer.usage.prompt if answer.usage else 0}


def gemini_count(answer: Answer) -> dict[str, Any]:
    return {"totalTokens": answer.usage.prompt if answer.usage else 0}


def gemini_embedding(ask: Ask) -> dict[str, Any]:
    return {"embedding": {"values": vector(ask.last_user_text, DIMENSIONS)}}


def gemini_embeddings(ask: Ask) -> dict[str, Any]:
    return {"embeddings": [{"values": vector(text, DIMENSIONS)} for text in ask.inputs]}


def gemini_prediction(answer: Answer) -> dict[str, Any]:
    """Return pictures as Imagen does."""
    return {"predictions": [{"mimeType": "image/png", "bytesBase64Encoded": _picture(index)} for index in range(answer.choices)]}


def gemini_operation(model: str) -> dict[str, Any]:
    """Accept a video, as Veo does; how it goes is `tests.fakes.provider.operations`' to say."""
    return {"name": f"models/veo/operations/{secrets.token_hex(8)}-{model.encode().hex()}"}


def models() -> dict[str, Any]:
    return {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "fake-provider"} for name in MODELS],
    }


def vector(text: str, dimensions: int) -> list[float]:
    digest = hashlib.shake_256(text.encode()).digest(dimensions)
    return [round(byte / 127.5 - 1, 6) for byte in digest]


def _picture(shade: int) -> str:
    """Draw a PNG of one grey pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    pixel = zlib.compress(bytes([0, shade % 256]))
    picture = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")
    return base64.b64encode(picture).decode()
