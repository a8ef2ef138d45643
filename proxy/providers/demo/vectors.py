"""The demo's embeddings: unit vectors that depend on the text alone."""

import array
import base64
import hashlib
import math
import sys
from collections.abc import Mapping
from typing import Any, Final

from proxy.providers.demo import reading, refusals, script

MAX_INPUTS: Final = 2_048
EMBEDDING_DIMENSIONS: Final = 256
MAX_DIMENSIONS: Final = 3_072
MAX_NUMBERS: Final = 2**18  # of one embeddings answer: 1,024 inputs of 256 dimensions; more would hold up the event loop


def embed(model: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Answer an embeddings request. Raises: refusals.Refused."""
    inputs = reading.read_inputs(body, "input", MAX_INPUTS)
    for place, (text, _) in enumerate(inputs):
        if not text:
            raise refusals.Refused(f"Invalid 'input[{place}]': input cannot be an empty string.", "input", "invalid_value")
    dimensions = reading.number(body, "dimensions", 1, MAX_DIMENSIONS, whole=True) or EMBEDDING_DIMENSIONS
    encoding = reading.chosen(body, "encoding_format", ("float", "base64"), "float")
    if len(inputs) * dimensions > MAX_NUMBERS:
        message = f"Invalid 'input': {len(inputs)} inputs of {dimensions} dimensions are more than {MAX_NUMBERS} numbers."
        raise refusals.Refused(message, "input", "array_above_max_length")
    tokens = sum(count for _, count in inputs)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _vector(text, dimensions, encoding)}
            for index, (text, _) in enumerate(inputs)
        ],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _vector(text: str, dimensions: int, encoding: str) -> list[float] | str:
    """Make the unit vector of a text; equal texts have equal vectors, and nothing else is known of them."""
    noise = array.array("h", hashlib.shake_256(script.utf8(text)).digest(dimensions * 2))
    if sys.byteorder == "big":
        noise.byteswap()
    centred = [number + 0.5 for number in noise]  # never zero, so that one dimension has a direction as well
    norm = math.hypot(*centred)
    vector = array.array("f", [number / norm for number in centred])  # single precision in both encodings: they say the same
    if encoding == "float":
        return vector.tolist()
    if sys.byteorder == "big":
        vector.byteswap()
    return base64.b64encode(vector.tobytes()).decode()
