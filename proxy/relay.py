"""The story of a request: authenticate, admit, route, translate, send, meter, settle. Start reading here.

Each verb is a module. The relay tries another route only before the first byte has gone to the client, and whatever happens afterwards, it
settles exactly once.
"""

import asyncio
import re
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog
from django.conf import settings

from billing import charging, holds
from billing.settlement import Settled
from catalog import money, pricing
from catalog.snapshot import ModelEntry, ModelNotFound
from catalog.usage import TokenUsage
from keys.authentication import KeyGrant, read_key
from proxy import admission, errors, failures, preferences, routing, translation
from proxy.admission import Ask, Outcome, Ticket
from proxy.body import fill_in, parse_body
from proxy.formats.base import BYTES_PER_TOKEN, Facts, InvalidRequest, NotAnAnswer, Whole
from proxy.formats.conversation import CannotRender
from proxy.metering import Meter
from proxy.passages import Passage, Surface
from proxy.preferences import Wishes
from proxy.rate_limits import FreeLimitReached, Reading
from proxy.response_store import ResponseNotStored
from proxy.routing import Candidate
from proxy.sse import EventTooLarge
from proxy.streams import OpenStream
from proxy.translation import SURFACES, Trip
from proxy.turns import Turn
from proxy.upstream import Answer

if TYPE_CHECKING:
    from proxy.asgi import Watch
    from proxy.engine import Engine

log = structlog.get_logger(__name__)

LOOK_AHEAD = 1024 * 1024  # how much a provider may send before its first event with data
LARGE_EVENT = re.compile(rb"(?:^|[\r\n])data:")  # that event may be larger: a picture
LEAST_SECONDS = 1.0  # of the total deadline: with less left no other route is tried


@dataclass(slots=True)
class Call:
    """One request as the edge hands it over. `clock` is monotonic seconds at its arrival."""

    request_id: uuid.UUID
    headers: list[tuple[bytes, bytes]]
    client_address: str
    raw: bytes
    endpoint: str
    clock: float
    watch: "Watch"  # the client: from `begin` on, its hanging up cancels the request
    model_is_optional: bool = False  # without one, the catalog's default is meant
    facts: Facts | None = None  # where the address says what the body does not (Gemini)
    surface: Surface | None = None  # where the endpoint has more than one (Gemini's methods)
    grant: KeyGrant | None = None  # whose it is, once the relay knows
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    shown: list[tuple[str, str]] = field(default_factory=list)  # headers that an error has too: the rate limits, once they are read


@dataclass(slots=True)
class WholeAnswer:
    """An answer in one piece."""

    raw: bytes
    headers: list[tuple[str, str]]


@dataclass(slots=True)
class Attempts:
    """What was tried for one request."""

    made: list[dict[str, Any]] = field(default_factory=list)
    upstream_seconds: float = 0.0

    def note(self, candidate: Candidate, result: str, began: float) -> None:
        """Remember one attempt and how it ended."""
        spent = time.monotonic() - began
        self.upstream_seconds += spent
        self.made.append({"provider": candidate.route.provider.slug, "result": result, "ms": round(spent * 1000)})


@dataclass(slots=True)
class Exchange:
    """An answer to a request: from which candidate, after which attempts. It is `whole`, or a stream: `first` was read of it so far."""

    candidate: Candidate
    answer: Answer
    first: bytes
    passage: Passage
    whole: Whole | None
    attempts: Attempts


async def relay(engine: "Engine", call: Call) -> WholeAnswer | OpenStream:
    """Serve one request.

    Raises: every condition of `proxy.errors.TABLE`.
    """
    surface = call.surface or SURFACES[call.endpoint]
    grant = call.grant = await authenticate(engine, call)
    body = parse_body(call.raw)
    wishes = preferences.NONE
    if call.facts is None and call.surface is None:  # the request names its model in the body
        body, wishes = preferences.read(body)
    if call.model_is_optional and not wishes.models:
        body = fill_in(body, "model", engine.catalog.current.default_model)
    turn = None
    if surface.name == "responses":
        turn = await engine.turns.begin(body, account_id=grant.account_id, key_id=grant.id, now=call.started_at)
        body = turn.body
    facts = call.facts or surface.read(body)
    facts.client_headers = call.headers
    if facts.stream:
        call.watch.begin()  # anything else is served to its end: the provider bills it whether the client waits or not
    others = list(wishes.models[1:])
    ticket = await _admit_to_one_of(engine, call, facts, surface, grant, wishes, others)
    if ticket.grant.content_days:  # what is asked and answered is stored, because the account wants it
        call.watch.record(engine.keeper.begin(ticket.ask, grant.account_id, call.raw))
    attempts = Attempts()
    trip = Trip(
        request_id=call.request_id,
        account_id=grant.account_id,
        created=int(call.started_at.timestamp()),
        surface=surface,
        body=body,
        facts=facts,
        output_limit=ticket.output_limit,
        clamped=ticket.clamped,
        capabilities=ticket.model.capabilities,
        preferences=wishes.preferences,
    )
    try:
        exchange = await _send_to_one_of(engine, ticket, trip, attempts, others)
    except BaseException as error:
        _settle_unanswered(ticket, attempts, error)
        if isinstance(error, failures.Unanswered):
            error.attempts = len(attempts.made)
        raise
    if exchange.whole is None:
        return _stream(engine, ticket, surface, exchange, turn)
    return await _answer_whole(ticket, exchange, exchange.whole, turn)


async def authenticate(engine: "Engine", call: Call) -> KeyGrant:
    """Who calls. Raises: NoKey, TwoKeys, InvalidKey, KeyDisabled, AddressNotAllowed."""
    grant = await engine.authenticator.find(read_key(call.headers), now=call.started_at, clock=call.clock)
    if grant.networks:
        grant.check_address(call.client_address)
    return grant


def find_model(engine: "Engine", name: str, now: datetime, surface: Surface) -> tuple[ModelEntry, pricing.Price]:
    """The model a client means, and its price now. Raises: ModelNotFound, WrongEndpoint."""
    model = routing.find_model(engine.catalog.current, name, now)
    if model.kind != surface.model_kind:
        raise errors.WrongEndpoint(model.slug, kind=model.kind)
    if not surface.bridges and (routes := routing.routes_of(engine.catalog.current, model)) and not routing.is_served(routes, surface.name):
        raise errors.WrongEndpoint(model.slug, kind=model.kind)
    price = model.price_at(now)
    if price is None:
        raise ModelNotFound(name)
    return model, price


# Why one of several models cannot be had: the next may be.
_NOT_TO_BE_HAD = (
    ModelNotFound,
    errors.WrongEndpoint,
    errors.ModelTooDear,
    errors.ModelNotAllowed,
    errors.CostAboveMaximum,
    holds.InsufficientBalance,
    FreeLimitReached,
)


async def _admit_to_one_of(
    engine: "Engine", call: Call, facts: Facts, surface: Surface, grant: KeyGrant, wishes: Wishes, others: list[str]
) -> Ticket:
    """Admit to the first of the models that the client would take which can be had; it and those before it leave `others`.

    Raises: what `find_model` and `admit` raise, and ModelTooDear: of the only one, or the last.
    """
    while True:
        try:
            model, price = find_model(engine, facts.model, call.started_at, surface)
            if not wishes.preferences.affords(price):
                raise errors.ModelTooDear(model.slug)
            return await admit(engine, call, facts, grant, model, price)
        except _NOT_TO_BE_HAD:
            if not others:
                raise
            facts.model = others.pop(0)


async def _send_to_one_of(engine: "Engine", ticket: Ticket, trip: Trip, attempts: Attempts, others: list[str]) -> Exchange:
    """Send to the ticket's model, and while no provider of a model answers, to the next of the `others` that can be had.

    Raises: what `send` raises for the last.
    """
    while True:
        try:
            return await send(engine, ticket, trip, attempts)
        except (failures.Unanswered, failures.NoRoute, CannotRender):
            if not await _turn_to_next(engine, ticket, trip, others):
                raise


async def _turn_to_next(engine: "Engine", ticket: Ticket, trip: Trip, others: list[str]) -> bool:
    facts = trip.facts
    while others:
        name = others.pop(0)
        try:
            model, price = find_model(engine, name, ticket.ask.started_at, trip.surface)
            if not trip.preferences.affords(price):
                continue
            check_test_key(engine, ticket.grant, model)
            await admission.switch(engine, ticket, model, price, input_bound=min(facts.input_bound, model.context * facts.prompts))
        except _NOT_TO_BE_HAD:
            continue
        facts.model = name
        trip.output_limit, trip.clamped, trip.capabilities = ticket.output_limit, ticket.clamped, model.capabilities
        return True
    return False


def check_test_key(engine: "Engine", grant: KeyGrant, model: ModelEntry) -> None:
    """A test key reaches the demo provider only. Raises: ModelNotAllowed."""
    if grant.is_test and all(route.provider.kind != "demo" for route in routing.routes_of(engine.catalog.current, model)):
        raise errors.ModelNotAllowed(model.slug, scope="test key")


async def admit(
    engine: "Engine", call: Call, facts: Facts, grant: KeyGrant, model: ModelEntry, price: pricing.Price, *, is_free: bool = False
) -> Ticket:
    """Take the gates (`is_free`: but for those of money); a key whose budget changed since it was read is read again, once.

    Raises: what `admission.admit` raises.
    """
    check_test_key(engine, grant, model)
    readable = model.context * facts.prompts  # each prompt is read alone
    ask = Ask(
        request_id=call.request_id,
        endpoint=call.endpoint,
        format=call.endpoint,
        stream=facts.stream,
        input_bound=min(facts.input_bound, readable),
        input_estimate=min(facts.input_estimate, readable),
        output_limit=facts.output_limit,
        choices=facts.choices,
        images=facts.images,
        web_searches=facts.web_searches,
        user_tag=facts.user_tag,
        max_cost=_read_maximum(call),
        started_at=call.started_at,
        clock=call.clock,
        show=lambda reading: call.shown.extend(reading.headers()),
    )
    terms = await engine.plans.terms_of(grant.account_id, clock=call.clock)
    if is_free:
        return await admission.admit_free(engine, ask, grant, terms, model, price)
    try:
        return await admission.admit(engine, ask, grant, terms, model, price)
    except holds.StaleKey:
        engine.authenticator.forget(grant.id)
        grant = await authenticate(engine, call)
        return await admission.admit(engine, ask, grant, terms, model, price)


async def send(engine: "Engine", ticket: Ticket, trip: Trip, attempts: Attempts) -> Exchange:
    """Try the routes until one answers: until the first event of a stream, or the whole of anything else, has arrived.

    Raises: RequestRefused, CannotParse, CannotRender, the last UpstreamFailure, ProviderBusy when every route asked to wait, NoRoute when there
    is none to try.
    """
    surface, facts = trip.surface, trip.facts
    routes = routing.routes_of(engine.catalog.current, ticket.model)
    tries = routing.candidates(
        routes,
        health=engine.health,
        now=time.monotonic(),
        client=surface.name,
        bridges=surface.bridges,
        demo_only=ticket.grant.is_test,
        preferences=trip.preferences,
    )
    last: failures.UpstreamFailure | CannotRender | None = None
    for candidate in tries:
        began = time.monotonic()
        if last is not None and _seconds_left(ticket) < LEAST_SECONDS:
            break
        key = candidate.key.id if candidate.key else None
        first, whole = b"", None
        try:
            passage = await translation.plan(trip, candidate, sealing=engine.envelopes, carryover=engine.carryover)
            patience = min(
                settings.FIRST_BYTE_TIMEOUT_SECONDS if facts.stream else settings.WHOLE_ANSWER_TIMEOUT_SECONDS, _seconds_left(ticket)
            )
            answer = await engine.upstream.send(
                candidate, path=passage.path, body=passage.raw, headers=passage.headers, patience=max(patience, 0.001)
            )
            if facts.stream:
                first = await _first_events(answer, passage)
            else:
                whole = await _read_whole(answer, passage, ticket)
        except failures.UpstreamFailure as failure:
            engine.health.note_failure(candidate.route.id, key, failure, time.monotonic())
            attempts.note(candidate, failure.code, began)
            log.info(
                "attempt_failed",
                provider=candidate.route.provider.slug,
                model=ticket.model.slug,
                result=failure.code,
                request_id=str(ticket.ask.request_id),
            )
            last = failure
            continue
        except CannotRender as error:
            attempts.note(candidate, "cannot_carry", began)
            last = last or error  # a route of another format may carry it
            continue
        except failures.RequestRefused as refusal:
            engine.health.note_success(candidate.route.id, key)
            attempts.note(candidate, f"refused_{refusal.status}", began)
            raise
        except BaseException:
            attempts.note(candidate, "abandoned", began)
            raise
        engine.health.note_success(candidate.route.id, key)
        attempts.note(candidate, "ok", began)
        return Exchange(candidate, answer, first, passage, whole, attempts)
    if last is not None:
        raise last
    wait = routing.shortest_wait(routes, health=engine.health, now=time.monotonic())
    raise failures.NoRoute(ticket.model.slug) if wait is None else failures.ProviderBusy(429, wait)


async def _first_events(answer: Answer, passage: Passage) -> bytes:
    """Read a stream until its first event with data; an error there is a failure that another route may mend.

    A provider that only sends comments for a while is thinking: after the keep-alive interval the stream begins with what there is.
    Raises: UpstreamFailure.
    """
    data = b""
    try:
        async with asyncio.timeout(settings.KEEPALIVE_SECONDS):
            while not passage.begins.search(data):
                more = await answer.read_any()
                if not more:
                    break
                data += more
                if len(data) > LOOK_AHEAD:
                    if LARGE_EVENT.search(data):
                        return data
                    raise failures.BrokenAnswer("a stream that does not begin")
            else:
                return _without_error(data, passage)
    except TimeoutError:
        return data
    except BaseException:  # a client who hangs up now leaves nobody else to close it
        answer.close()
        raise
    answer.close()
    raise failures.BrokenAnswer("not a stream of events" if data else "an empty answer")


def _without_error(data: bytes, passage: Passage) -> bytes:
    if b'"error"' not in data:
        return data
    tap = passage.make_tap()
    try:
        tap.feed(data)
    except EventTooLarge as error:
        raise failures.BrokenAnswer(str(error)) from error
    if tap.error is not None and not tap.has_output:
        raise failures.ProviderFault(200)
    return data


async def _answer_whole(ticket: Ticket, exchange: Exchange, whole: Whole, turn: Turn | None) -> WholeAnswer:
    """Settle, and hand the answer over with its cost. The client may have left: the provider bills all the same."""
    estimate = TokenUsage(
        input_tokens=ticket.ask.input_estimate,
        output_tokens=-(-whole.output_bytes // BYTES_PER_TOKEN),
        web_searches=whole.web_searches,
    )
    if exchange.passage.write_down is not None:
        await exchange.passage.write_down()
    happened = charging.Happened(whole.usage, estimate, whole.finish_reason, "ok", is_test=ticket.grant.is_test)
    outcome = _outcome(ticket, exchange.candidate, exchange.attempts, reported_cost=whole.reported_cost)
    charge, settled = ticket.settle(happened, outcome)
    cost = charge.cost
    if cost > ticket.held or exchange.passage.booked_first:
        cost = _charged(await settled, cost)  # with the hold above it, less cannot have been charged than it cost
    exchange.passage.finished()
    raw = whole.render(estimate=charge.usage, cost=cost, upstream_cost=charge.upstream_cost)
    if turn is not None:
        raw = await turn.keep_whole(raw, model=ticket.model.slug, now=datetime.now(UTC))
    return WholeAnswer(raw, [*answer_headers(ticket, exchange), ("x-gateway-cost-usd", money.usd(cost))])


async def _read_whole(answer: Answer, passage: Passage, ticket: Ticket) -> Whole:
    """Read an answer in one piece; the client has seen none of it, so another route may mend a broken one. Raises: UpstreamFailure."""
    try:
        async with asyncio.timeout(max(_seconds_left(ticket), 0.001)):
            return passage.read_whole(await answer.read_all(passage.largest))
    except TimeoutError as error:
        raise failures.TimedOut("the answer was not complete within the total deadline") from error
    except NotAnAnswer as error:
        raise failures.BrokenAnswer(str(error)) from error
    finally:
        answer.close()


def _charged(settled: Settled, cost: int) -> int:
    return cost if settled.outcome == "spooled" else settled.charged


def _seconds_left(ticket: Ticket) -> float:
    return float(settings.TOTAL_TIMEOUT_SECONDS) - (time.monotonic() - ticket.ask.clock)


def _stream(engine: "Engine", ticket: Ticket, surface: Surface, exchange: Exchange, turn: Turn | None) -> OpenStream:
    stream = OpenStream(
        headers=answer_headers(ticket, exchange), keep_alive=surface.keep_alive, deadline=ticket.ask.clock + settings.TOTAL_TIMEOUT_SECONDS
    )
    stream.hang_up = exchange.answer.close
    stream.frames = _frames(engine, ticket, exchange, stream, turn)

    def abandon() -> None:
        """Settle a stream whose client left before the first frame: its frames never ran, so nothing else would."""
        if not ticket.is_over:
            exchange.answer.close()
            _settle_unanswered(ticket, exchange.attempts, asyncio.CancelledError(), exchange.candidate)

    stream.abandon = abandon
    return stream


async def _frames(
    engine: "Engine", ticket: Ticket, exchange: Exchange, stream: OpenStream, turn: Turn | None
) -> AsyncGenerator[bytes, None]:
    """The stream as the client sees it: the provider's bytes, then the end that fits what happened; settled whatever happens."""
    answer, tap = exchange.answer, exchange.passage.make_tap()
    meter = Meter(ticket, tap)
    first_token_ms = round((time.monotonic() - ticket.ask.clock) * 1000)
    status = "aborted"  # what it is unless the provider ends it: the client hung up
    problem: Exception | None = None
    try:
        data = exchange.first or await _read_next(answer, stream)
        while data:
            forward = tap.feed(data)
            if forward:
                yield forward
            if tap.done or tap.error is not None:
                break
            if meter.needs_attention and not await meter.keep_ahead():
                problem = errors.WalletRanOut()
                break
            meter.note(stream.last_sent)
            data = await _read_next(answer, stream)
        if not data and (rest := tap.flush()):
            yield rest
        if problem is None and tap.error is not None:
            problem = failures.ProviderFault(200)
        if problem is None and not tap.done and not tap.finish_reason:
            problem = stream.reason or failures.BrokenAnswer("the stream ended without its end")
        status = "ok" if problem is None else "stopped" if isinstance(problem, errors.WalletRanOut) else "cut"
    except (failures.UpstreamFailure, EventTooLarge) as failure:
        problem = stream.reason or (failures.BrokenAnswer(str(failure)) if isinstance(failure, EventTooLarge) else failure)
        status = "cut"
        if tap.finish_reason and not isinstance(problem, errors.ServerRestarting):
            problem, status = None, "ok"  # everything was said; only the goodbye is missing
    except Exception as defect:
        log.exception("internal_error", request_id=str(ticket.ask.request_id))
        problem, status = defect, "cut"
    finally:
        if status != "ok" or not tap.done:
            answer.close()
        outcome = _outcome(ticket, exchange.candidate, exchange.attempts, reported_cost=tap.reported_cost)
        outcome.first_token_ms = first_token_ms
        if problem is not None:
            outcome.error_code = errors.describe(problem).code
        elif status == "aborted":
            outcome.status_code = 499
            outcome.error_code = "client_gone"
        charge, settled = ticket.settle(meter.happened(status), outcome)
    if problem is not None:
        yield tap.fail(
            errors.render(errors.describe(problem), str(ticket.ask.request_id)), ran_out=isinstance(problem, errors.WalletRanOut)
        )
        return
    cost = charge.cost if charge.cost <= ticket.held else _charged(await settled, charge.cost)
    if tap.done:
        engine.spawn(_read_goodbye(answer))
    exchange.passage.finished()
    last = tap.finish(estimate=charge.usage, cost=cost, upstream_cost=charge.upstream_cost)
    if turn is not None:
        try:
            last = await turn.keep_stream(last, model=ticket.model.slug, now=datetime.now(UTC))
        except ResponseNotStored as error:  # what was promised to be stored is not: the client must not believe it was
            last = tap.fail(errors.render(errors.describe(error), str(ticket.ask.request_id)), ran_out=False)
    yield last


async def _read_next(answer: Answer, stream: OpenStream) -> bytes:
    stream.waiting()
    data = await answer.read_any()
    stream.arrived()
    return data


async def _read_goodbye(answer: Answer) -> None:
    """Read the few bytes that end the provider's answer, so that the connection can be used again; not for long."""
    try:
        async with asyncio.timeout(0.25):
            while await answer.read_any():
                pass
    except (TimeoutError, failures.UpstreamFailure):
        pass
    finally:
        answer.close()


def _settle_unanswered(ticket: Ticket, attempts: Attempts, error: BaseException, candidate: Candidate | None = None) -> None:
    """Settle a request of which nothing was delivered: nothing is charged, and the record says why."""
    status = "aborted" if isinstance(error, asyncio.CancelledError) else "error"
    outcome = _outcome(ticket, candidate, attempts, reported_cost=None)
    if status == "aborted":
        outcome.status_code, outcome.error_code = 499, "client_gone"
    else:
        problem = errors.describe(error)
        outcome.status_code, outcome.error_code = problem.status, problem.code
    ticket.settle(charging.Happened(None, charging.NOTHING, "", status, is_test=ticket.grant.is_test), outcome)


def _outcome(ticket: Ticket, candidate: Candidate | None, attempts: Attempts, *, reported_cost: int | None) -> Outcome:
    return Outcome(
        provider=candidate.route.provider.slug if candidate else (attempts.made[-1]["provider"] if attempts.made else ""),
        upstream_model=candidate.route.upstream_model if candidate else "",
        attempts=attempts.made,
        reported_cost=reported_cost,
        latency_ms=round((time.monotonic() - ticket.ask.clock) * 1000),
        ended_at=datetime.now(UTC),
    )


def answer_headers(ticket: Ticket, exchange: Exchange) -> list[tuple[str, str]]:
    """What the gateway says of an answer beside it."""
    overhead = (time.monotonic() - ticket.ask.clock - exchange.attempts.upstream_seconds) * 1000
    dropped = exchange.passage.dropped
    return [
        *reading_headers(ticket.reading),
        *([("x-gateway-dropped", ", ".join(dropped))] if dropped else []),
        ("x-gateway-provider", exchange.candidate.route.provider.slug),
        ("x-gateway-attempts", str(len(exchange.attempts.made))),
        ("x-gateway-overhead-ms", f"{overhead:.2f}"),
    ]


def reading_headers(reading: Reading) -> list[tuple[str, str]]:
    """The rate limits as OpenAI's headers show them."""
    return reading.headers()


def _read_maximum(call: Call) -> int | None:
    """The client's own bound on the cost (`x-max-cost`, dollars) in nano-USD. Raises: InvalidRequest."""
    for name, value in call.headers:
        if name == b"x-max-cost":
            try:
                maximum = money.nano_from_usd(value.decode("latin-1").strip())
            except money.NotAnAmount as error:
                raise InvalidRequest("The header 'x-max-cost' must be an amount in dollars.", param="x-max-cost") from error
            if maximum <= 0:
                raise InvalidRequest("The header 'x-max-cost' must be more than zero.", param="x-max-cost")
            return maximum
    return None
