"""Counts tokens for clients: the provider's own count where it gives one, else our estimate. Free, but let in and limited like any request.

Nothing is charged, so there is neither a hold nor a usage record.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from billing.charging import NOTHING
from catalog import money
from catalog.usage import TokenUsage
from proxy import envelopes, failures, relay, routing
from proxy.admission import Ticket
from proxy.body import Body, parse_body
from proxy.formats.base import Facts, FormatName, NotAnAnswer
from proxy.gemini_methods import CountTokens, MethodWhole
from proxy.passages import Passage, Surface
from proxy.relay import Attempts, Call, WholeAnswer
from proxy.routing import Candidate
from proxy.surfaces import MessagesSurface
from proxy.translation import SURFACES, Trip

if TYPE_CHECKING:
    from proxy.engine import Engine

FREE = ("x-gateway-cost-usd", money.usd(0))


class MessageCount:
    """Anthropic's `count_tokens`: the request of a message that is not to be answered."""

    name: FormatName = "messages"
    keep_alive = b""
    bridges = False
    is_conversation = False
    model_kind = "text"
    _messages = MessagesSurface()

    def read(self, body: Body) -> Facts:
        """Raises: InvalidRequest."""
        # `max_tokens` is required for an answer, not for counting.
        facts = self._messages.read(Body(body.raw, {"max_tokens": 1, **body.fields}))
        facts.stream = False
        return facts

    def pass_through(self, body: Body, facts: Facts, candidate: Candidate, *, output_limit: int | None) -> Passage:
        """The bytes with the model's name spliced in; the client's version and betas go along."""
        passage = self._messages.pass_through(body, facts, candidate, output_limit=output_limit)
        return replace(passage, path=f"{passage.path}/count_tokens", read_whole=_read_message_count)


def _read_message_count(raw: bytes) -> MethodWhole:
    """Raises: NotAnAnswer."""
    try:
        answer: Any = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise NotAnAnswer("not JSON") from error
    if not isinstance(answer, dict) or type(answer.get("input_tokens")) is not int:
        raise NotAnAnswer("no count")
    return MethodWhole(raw, TokenUsage(), "stop")


async def count_message(engine: "Engine", call: Call) -> WholeAnswer:
    """Count for `POST /v1/messages/count_tokens`: asks the provider when the route that would be tried first speaks Anthropic's format.

    Where it does not, or gives no count, the answer is our estimate.
    Raises: what `relay.authenticate`, `relay.find_model` and `admission.admit_free` raise; InvalidRequest; RequestRefused.
    """
    grant = await relay.authenticate(engine, call)
    body = parse_body(call.raw)
    surface = MessageCount()
    facts = surface.read(body)
    facts.client_headers = call.headers
    model, price = relay.find_model(engine, facts.model, call.started_at, SURFACES["messages"])
    ticket = await relay.admit(engine, call, facts, grant, model, price, is_free=True)
    try:
        if _begins_with_messages(engine, ticket, call) and not envelopes.mentions_envelope(body.raw):
            try:
                return await _ask_provider(engine, ticket, call, surface, body, facts)
            except (failures.UpstreamFailure, failures.NoRoute):
                pass
            except failures.RequestRefused as refusal:
                if refusal.status != 404:  # it does not know the address: it speaks the format but counts nothing
                    raise
        return WholeAnswer(orjson.dumps({"input_tokens": facts.input_estimate}), [*relay.reading_headers(ticket.reading), FREE])
    finally:
        ticket.release()


async def count_gemini(engine: "Engine", call: Call, model_name: str) -> WholeAnswer:
    """Count for Gemini's `countTokens`, by asking the provider.

    Raises: what `relay.authenticate`, `relay.find_model`, `admission.admit_free` and `relay.send` raise.
    """
    grant = await relay.authenticate(engine, call)
    body = parse_body(call.raw)
    kind = routing.find_model(engine.catalog.current, model_name, call.started_at).kind
    surface = CountTokens(model_name, model_kind="embedding" if kind == "embedding" else "text")
    facts = surface.read(body)
    model, price = relay.find_model(engine, facts.model, call.started_at, surface)
    ticket = await relay.admit(engine, call, facts, grant, model, price, is_free=True)
    try:
        return await _ask_provider(engine, ticket, call, surface, body, facts)
    finally:
        ticket.release()


def _begins_with_messages(engine: "Engine", ticket: Ticket, call: Call) -> bool:
    """Whether the route that would be tried first is called in Anthropic's format."""
    tries = routing.candidates(
        routing.routes_of(engine.catalog.current, ticket.model),
        health=engine.health,
        now=call.clock,
        client="messages",
        demo_only=ticket.grant.is_test,
    )
    return bool(tries) and tries[0].format == "messages"


async def _ask_provider(engine: "Engine", ticket: Ticket, call: Call, surface: Surface, body: Body, facts: Facts) -> WholeAnswer:
    attempts = Attempts()
    trip = Trip(
        request_id=call.request_id,
        account_id=ticket.grant.account_id,
        created=int(call.started_at.timestamp()),
        surface=surface,
        body=body,
        facts=facts,
        output_limit=ticket.output_limit,
        clamped=False,
        capabilities=ticket.model.capabilities,
    )
    try:
        exchange = await relay.send(engine, ticket, trip, attempts)
    except failures.Unanswered as error:
        error.attempts = len(attempts.made)
        raise
    if exchange.whole is None:
        raise RuntimeError("a count is never streamed")
    raw = exchange.whole.render(estimate=NOTHING, cost=0, upstream_cost=0)
    return WholeAnswer(raw, [*relay.answer_headers(ticket, exchange), FREE])
