"""Takes what the gateway declares to add out of an answer that passed as bytes: the cost in its usage."""

import re

ADDED = re.compile(rb',"cost":[0-9.e-]+,"cost_details":\{"upstream_inference_cost":[0-9.e-]+\}')
COST = re.compile(rb'("cost"\s*:\s*)[0-9.e-]+')
DETAILS = re.compile(rb'("cost_details"\s*:\s*)(?:\{[^{}]*\}|null)')
ADDED_DETAILS = re.compile(rb',"cost_details":\{"upstream_inference_cost":[0-9.e-]+\}')


def count(body: bytes) -> int:
    """How many costs an answer says."""
    return len(COST.findall(body))


def without(body: bytes, *, recorded: bytes) -> bytes:
    """An answer without the cost; where the `recorded` one has a cost of the provider's own, ours is in its place, and both read 0."""
    if not COST.search(recorded):
        return ADDED.sub(b"", body)
    body = COST.sub(rb"\g<1>0", body)
    return DETAILS.sub(rb"\g<1>{}", body) if DETAILS.search(recorded) else ADDED_DETAILS.sub(b"", body)
