"""How a cost is put into an answer that passes as bytes: beside the counts of its `usage`, every other byte as it came. Pure."""

import json
import re
from collections.abc import Mapping
from typing import Any

import orjson

from catalog import money
from proxy.body import Body

_USAGE = re.compile(rb'"usage"\s*:\s*(?=\{)')
_DECODER = json.JSONDecoder()


def cost_fields(*, cost: int, upstream_cost: int) -> dict[str, Any]:
    """`cost` and `cost_details` of a usage object, as OpenRouter has them (dollars, from nano-USD)."""
    return {"cost": cost / money.NANO_PER_USD, "cost_details": {"upstream_inference_cost": upstream_cost / money.NANO_PER_USD}}


def splice_cost(raw: bytes, usage: Mapping[str, Any], *, cost: int, upstream_cost: int) -> bytes:
    """The JSON `raw`, of which `usage` is a part (the last that is equal to it), with the cost (nano-USD) in it.

    Looked for from the end, where usages stand: an answer may be long, and to read it all once more would cost more than to relay it.
    """
    for match in reversed(list(_USAGE.finditer(raw))):
        text = raw[match.end() :].decode(errors="surrogateescape")
        try:
            found, end = _DECODER.raw_decode(text)
        except ValueError:
            continue
        if found != usage:
            continue
        counts = text[:end].encode(errors="surrogateescape")
        said = cost_fields(cost=cost, upstream_cost=upstream_cost)
        told = Body(counts, found).splice({name: orjson.dumps(value) for name, value in said.items()})
        return raw[: match.end()] + told + raw[match.end() + len(counts) :]
    return raw
