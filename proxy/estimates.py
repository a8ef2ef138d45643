"""Says what a request would cost before it is made (`POST /v1/estimate`). Free, but let in and limited like any request; nothing goes upstream."""

from typing import TYPE_CHECKING, Any

import orjson

from catalog import money, pricing
from catalog.snapshot import ModelEntry
from catalog.usage import TokenUsage
from proxy import preferences, relay
from proxy.admission import Ask
from proxy.body import fill_in, parse_body
from proxy.formats.base import InvalidRequest
from proxy.relay import Call, WholeAnswer
from proxy.translation import SURFACES

if TYPE_CHECKING:
    from proxy.engine import Engine

ENDPOINTS = tuple(name for name in SURFACES if name != "gemini")  # Gemini's requests name their model in the address


async def estimate(engine: "Engine", call: Call) -> WholeAnswer:
    """Estimate the request in `call`, which is one of `call.endpoint`'s.

    Raises: what `relay.authenticate`, `relay.find_model` and `admission.admit_free` raise; InvalidRequest.
    """
    if call.endpoint not in ENDPOINTS:
        raise InvalidRequest(f"'endpoint' must be one of {', '.join(ENDPOINTS)}.", param="endpoint")
    grant = await relay.authenticate(engine, call)
    body, wishes = preferences.read(parse_body(call.raw))
    if not wishes.models:
        body = fill_in(body, "model", engine.catalog.current.default_model)
    surface = SURFACES[call.endpoint]
    facts = surface.read(body)
    model, price = relay.find_model(engine, facts.model, call.started_at, surface)
    ticket = await relay.admit(engine, call, facts, grant, model, price, is_free=True)
    ticket.release()
    shown = _show(ticket.ask, model, price)
    return WholeAnswer(orjson.dumps(shown), relay.reading_headers(ticket.reading))


def _show(ask: Ask, model: ModelEntry, price: pricing.Price) -> dict[str, Any]:
    """The figures, as exact decimal dollars. `typical` is for an answer as long as this model's usual one."""
    limit = min(model.max_output if ask.output_limit is None else ask.output_limit, model.max_output) * ask.choices
    usual = min(limit, model.usual_output * ask.choices)
    output = 0 if model.kind in ("embedding", "image") else 1
    asked = {"input_tokens": ask.input_after(ask.web_searches), "images": ask.images, "web_searches": ask.web_searches}
    worst = pricing.worst_case(price, output_tokens=limit * output, **asked)
    first = pricing.worst_case(price, output_tokens=usual * output, **asked)
    typical = TokenUsage(input_tokens=ask.input_estimate, output_tokens=usual * output, images=ask.images)
    return {
        "object": "estimate",
        "model": model.slug,
        "endpoint": ask.endpoint,
        "price_version": price.id,
        "tokens": {
            "input": ask.input_estimate,
            "input_at_most": ask.input_after(ask.web_searches),
            "output": usual * output,
            "output_at_most": limit * output,
        },
        "cost_usd": {
            "input": money.usd(pricing.cost(price, TokenUsage(input_tokens=ask.input_estimate))),
            "typical": money.usd(pricing.cost(price, typical)),
            "at_most": money.usd(worst),
        },
        "held_usd": money.usd(first if ask.stream else worst),
    }
