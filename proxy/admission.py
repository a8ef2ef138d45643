"""Lets a request in: takes the gates cheapest first and gives a ticket, which is settled or released exactly once."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings

from billing import charging, holds
from billing.quotas import PlanTerms
from billing.settlement import Settled
from catalog import pricing
from catalog.snapshot import ModelEntry
from catalog.usage import TokenUsage
from gateway_site import metrics
from keys import budgets
from keys.authentication import KeyGrant, WrongKeyKind
from proxy.errors import CostAboveMaximum, EndpointNotAllowed, ModelNotAllowed
from proxy.formats.searches import TOKENS_EACH
from proxy.limit_checks import DAY_SECONDS
from proxy.rate_limits import Allowance, FreeLimitReached, Limit, RateLimited, Reading

if TYPE_CHECKING:
    from proxy.engine import Engine

SMALLEST_ANSWER_TOKENS = 16
SLACK_SECONDS = 60.0


@dataclass(slots=True)
class Ask:
    """What a request asks to be let in for. Tokens: `output_limit` is the client's own, of one choice; input is within the model's context."""

    request_id: uuid.UUID
    endpoint: str
    format: str
    stream: bool
    input_bound: int
    input_estimate: int
    output_limit: int | None
    choices: int
    images: int
    web_searches: int
    user_tag: str
    max_cost: int | None
    started_at: datetime
    clock: float
    show: Callable[[Reading], None] = lambda _: None  # is told what the limits leave, whether the request is let in or not

    def input_after(self, searches: int) -> int:
        """The most tokens of input when the provider has searched so often: what it finds is read too."""
        return max(self.input_bound, self.input_estimate + TOKENS_EACH * searches) if searches else self.input_bound


class Ticket:
    """An admitted request: its hold, its place in the rate limits, and the one way to end both.

    `free` is the allowance it asked of, if its model has free requests; whether it is one of them, the reading says.
    """

    __slots__ = (
        "_engine",
        "_over",
        "ask",
        "clamped",
        "free",
        "grant",
        "held",
        "limits",
        "model",
        "output_limit",
        "price",
        "reading",
        "terms",
    )

    def __init__(
        self,
        engine: "Engine",
        ask: Ask,
        grant: KeyGrant,
        terms: PlanTerms,
        model: ModelEntry,
        price: pricing.Price,
        limits: list[Limit],
        reading: Reading,
        free: Allowance | None = None,
    ) -> None:
        self._engine = engine
        self._over = False
        self.ask = ask
        self.grant = grant
        self.terms = terms
        self.model = model
        self.price = price
        self.limits = limits
        self.reading = reading
        self.free = free
        self.held = 0
        self.output_limit = 0  # the most tokens of one choice that may go upstream
        self.clamped = False  # whether that is less than the client asked for (or, asking for none, the model allows)

    @property
    def costs_nothing(self) -> bool:
        """Whether nothing is held or charged for it: a test key's request, or one of a model's free ones."""
        return self.grant.is_test or self.reading.is_free

    def grow(self, *, amount: int, usage: TokenUsage, tokens_out: int = 0) -> "asyncio.Future[int]":
        """Ask to hold `amount` nano-USD in all and `tokens_out` of the plan's tokens, and note what was delivered so far."""
        return self._engine.desk.grow(
            holds.Growth(
                self.ask.request_id,
                self.grant.account_id,
                amount,
                0 if self.costs_nothing else pricing.cost(self.price, usage),
                usage.total_input_tokens,
                usage.total_output_tokens,
                usage.web_searches,
                tokens_out,
            )
        )

    def settle(self, happened: charging.Happened, about: "Outcome") -> "tuple[charging.Charge, asyncio.Future[Settled]]":
        """Book the request. Never blocks and never awaits, so it is safe while being cancelled; call it once."""
        self._end()
        charge = charging.decide(happened, self.price, hold_amount=self.held, is_free=self.reading.is_free)
        future = self._engine.settlement.submit(self._record(charge, happened, about))
        self._engine.limiter.finish(
            account=self.grant.account_id,
            request_id=str(self.ask.request_id),
            limits=self.limits,
            tokens=charge.usage.total_input_tokens + charge.usage.total_output_tokens,
        )
        if charge.rule == "no_output" and happened.status != "aborted":  # whoever hangs up early has had the provider work all the same
            self.give_back()
        _count(self.model.slug, charge, about)
        return charge, future

    def release(self) -> None:
        """End a request of which there is nothing to book: one let in by `admit_free`, or one that was not sent. Never awaits; call it once."""
        self._end()
        self.give_back()
        self._engine.limiter.finish(account=self.grant.account_id, request_id=str(self.ask.request_id), limits=self.limits, tokens=0)

    def give_back(self) -> None:
        """Be no free request (any more): nothing came of it, or it pays for another model now."""
        if self.free is not None and self.reading.is_free:
            self._engine.limiter.give_back(account=self.grant.account_id, free=self.free, reading=self.reading)
            self.reading = replace(self.reading, free_day=0)

    def _end(self) -> None:
        if self._over:
            raise RuntimeError(f"request {self.ask.request_id} was ended twice")
        self._over = True

    @property
    def is_over(self) -> bool:
        """Whether the ticket was settled or released."""
        return self._over

    def _record(self, charge: charging.Charge, happened: charging.Happened, about: "Outcome") -> dict[str, Any]:
        usage = charge.usage
        ask = self.ask
        return {
            **describe_request(ask, self.model, self.price),
            "id": ask.request_id,
            "account": self.grant.account_id,
            "key": self.grant.id,
            "provider": about.provider,
            "upstream_model": about.upstream_model,
            "input_tokens": usage.input_tokens,
            "cached_input_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
            "cache_write_1h_tokens": usage.cache_write_1h_tokens,
            "audio_input_tokens": usage.audio_input_tokens,
            "output_tokens": usage.output_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_output_tokens": usage.audio_output_tokens,
            "images": usage.images,
            "web_searches": usage.web_searches,
            "cost": charge.cost,
            "list_cost": charge.list_cost,
            "upstream_cost": charge.upstream_cost,
            "reported_cost": about.reported_cost,
            "usage_source": charge.usage_source,
            "status": happened.status,
            "rule": charge.rule,
            "finish_reason": happened.finish_reason[:40],
            "error_code": about.error_code[:40],
            "status_code": about.status_code,
            "attempts": about.attempts,
            "flags": list(charge.flags),
            "latency_ms": about.latency_ms,
            "first_token_ms": about.first_token_ms,
            "started": ask.started_at,
            "ended": about.ended_at,
        }


@dataclass(slots=True)
class Outcome:
    """What the usage record tells of a request besides its money."""

    provider: str = ""
    upstream_model: str = ""
    attempts: list[dict[str, Any]] | None = None
    status_code: int = 200
    error_code: str = ""
    reported_cost: int | None = None
    latency_ms: int = 0
    first_token_ms: int | None = None
    ended_at: datetime | None = None


def _count(model: str, charge: charging.Charge, about: Outcome) -> None:
    metrics.TOKENS.add(charge.usage.total_input_tokens, model, "input")
    metrics.TOKENS.add(charge.usage.total_output_tokens, model, "output")
    for attempt in about.attempts or ():
        metrics.ATTEMPTS.add(1, attempt["provider"], attempt["result"])
    for flag in charge.flags:
        metrics.USAGE_FLAGS.add(1, about.provider, flag)
    if about.first_token_ms is not None:
        metrics.FIRST_TOKEN_SECONDS.add(about.first_token_ms / 1000, about.provider)


def describe_request(ask: Ask, model: ModelEntry, price: pricing.Price) -> dict[str, Any]:
    """What is known of a request before it is sent: the part of its usage record that the hold carries, in case this process dies."""
    return {
        "model": model.slug,
        "provider": "",
        "upstream_model": "",
        "endpoint": ask.endpoint,
        "format": ask.format,
        "streamed": ask.stream,
        "price": price.id,
        "user_tag": ask.user_tag,
    }


async def admit(engine: "Engine", ask: Ask, grant: KeyGrant, terms: PlanTerms, model: ModelEntry, price: pricing.Price) -> Ticket:
    """Take every gate.

    A model's free requests come first. Where they are used up, a request of a model that has a price is paid by the wallet, if that covers it.

    Raises: WrongKeyKind, EndpointNotAllowed, ModelNotAllowed, CostAboveMaximum, RateLimited, FreeLimitReached, and what `HoldDesk.place` raises.
    """
    ticket = await _admit(engine, ask, grant, terms, model, price, allowance_of(ask, grant, model, price))
    try:
        await _place(engine, ticket)
    except (holds.InsufficientBalance, CostAboveMaximum) as error:
        ticket.release()
        if ticket.free is None:
            raise
        raise _free_limit_reached(ticket, ticket.free) from error
    except BaseException:
        ticket.release()
        raise
    return ticket


async def admit_free(engine: "Engine", ask: Ask, grant: KeyGrant, terms: PlanTerms, model: ModelEntry, price: pricing.Price) -> Ticket:
    """Take the gates that have nothing to do with money: for what is free. Such a ticket ends with `release`.

    Raises: WrongKeyKind, EndpointNotAllowed, ModelNotAllowed, RateLimited.
    """
    return await _admit(engine, ask, grant, terms, model, price, None)


def allowance_of(ask: Ask, grant: KeyGrant, model: ModelEntry, price: pricing.Price) -> Allowance | None:
    """The model's free requests as this key may use them; None where it has none. A test key uses none of them: it pays nothing anyway.

    A request that may run searches which have a price is none of them: what is free is what the model itself does.
    """
    cap = model.free_daily_requests
    if cap is None or grant.is_test or (ask.web_searches and price.rates.web_search):
        return None
    share = min(cap, max(1, int(cap * settings.FREE_SHARE_PER_ACCOUNT)))
    has_price = pricing.worst_case(price, input_tokens=1, output_tokens=1, images=1, web_searches=1) > 0
    return Allowance(model.id, model.slug, cap, share, or_pays=has_price)


async def _admit(
    engine: "Engine",
    ask: Ask,
    grant: KeyGrant,
    terms: PlanTerms,
    model: ModelEntry,
    price: pricing.Price,
    free: Allowance | None,
) -> Ticket:
    check_scopes(ask.endpoint, grant, terms, model)
    limits = _limits(grant, terms)
    try:
        reading = await engine.limiter.admit(
            account=grant.account_id,
            request_id=str(ask.request_id),
            limits=limits,
            now=ask.started_at.timestamp(),
            max_seconds=int(settings.TOTAL_TIMEOUT_SECONDS + SLACK_SECONDS),
            free=free,
        )
    except RateLimited as refusal:
        ask.show(refusal.reading)
        raise
    ask.show(reading)
    return Ticket(engine, ask, grant, terms, model, price, limits, reading, free)


def _free_limit_reached(ticket: Ticket, free: Allowance) -> FreeLimitReached:
    """The free requests are used up, and the wallet does not cover the price."""
    now = ticket.ask.started_at.timestamp()
    return FreeLimitReached(
        model=free.slug,
        limit=free.share,
        retry_after_seconds=DAY_SECONDS - now % DAY_SECONDS,
        reading=ticket.reading,
        now=now,
        may_pay=True,
    )


def check_scopes(endpoint: str, grant: KeyGrant, terms: PlanTerms, model: ModelEntry) -> None:
    """The gates that cost nothing. Raises: WrongKeyKind, EndpointNotAllowed, ModelNotAllowed."""
    check_key(endpoint, grant)
    if not grant.models.allows(model.slug):
        raise ModelNotAllowed(model.slug, scope="key")
    if not terms.models.allows(model.slug):
        raise ModelNotAllowed(model.slug, scope="plan")


def check_key(endpoint: str, grant: KeyGrant) -> None:
    """Whether a key does inference, and at this endpoint. Raises: WrongKeyKind, EndpointNotAllowed."""
    if grant.kind == "management":
        raise WrongKeyKind(grant.kind)
    if grant.endpoints and endpoint not in grant.endpoints:
        raise EndpointNotAllowed


@asynccontextmanager
async def limited(engine: "Engine", request_id: uuid.UUID, grant: KeyGrant, terms: PlanTerms, *, now: datetime) -> AsyncIterator[Reading]:
    """Count a request that is for no model, and so has no ticket, in the rate limits while the block runs. Raises: RateLimited."""
    limits = _limits(grant, terms)
    ident = str(request_id)
    reading = await engine.limiter.admit(
        account=grant.account_id,
        request_id=ident,
        limits=limits,
        now=now.timestamp(),
        max_seconds=int(settings.TOTAL_TIMEOUT_SECONDS + SLACK_SECONDS),
    )
    try:
        yield reading
    finally:
        engine.limiter.finish(account=grant.account_id, request_id=ident, limits=limits, tokens=0)


async def switch(engine: "Engine", ticket: Ticket, model: ModelEntry, price: pricing.Price, *, input_bound: int) -> None:
    """Turn to another model with the same request: its hold grows where the other model may cost more, and never shrinks.

    Its free requests come first there too; a request that was a free one of the model before is given back.

    Raises: EndpointNotAllowed, ModelNotAllowed, CostAboveMaximum, FreeLimitReached, billing.holds.InsufficientBalance, BillingUnavailable. The
    ticket stays good.
    """
    check_scopes(ticket.ask.endpoint, ticket.grant, ticket.terms, model)
    ask = replace(ticket.ask, input_bound=input_bound)
    free, free_day = allowance_of(ask, ticket.grant, model, price), 0
    if free is not None:
        account, now = ticket.grant.account_id, ask.started_at.timestamp()
        reading = await engine.limiter.admit(account=account, request_id=str(ask.request_id), limits=[], now=now, max_seconds=0, free=free)
        free_day = reading.free_day
    need = _need(ask, model, price, costs_nothing=ticket.grant.is_test or free_day != 0)
    held = ticket.held
    if need.amount > held:
        held = await engine.desk.grow(holds.Growth(ask.request_id, ticket.grant.account_id, need.amount, 0, 0, 0))
        if held < need.least:
            ticket.held = max(ticket.held, held)
            raise holds.InsufficientBalance(available=max(held, 0), needed=need.least)
    ticket.give_back()
    ticket.ask, ticket.model, ticket.price, ticket.held = ask, model, price, held
    ticket.free, ticket.reading = free, replace(ticket.reading, free_day=free_day)
    _set_output_limit(ticket, need)


@dataclass(slots=True)
class _Need:
    """What a request needs of a model: nano-USD to hold, the least it can begin with, and tokens of one choice."""

    amount: int
    least: int
    asked_each: int
    wanted_each: int


def _need(ask: Ask, model: ModelEntry, price: pricing.Price, *, costs_nothing: bool) -> _Need:
    """A stream's first hold covers the input and a first stretch of output, and grows as it is delivered; anything else holds its worst case.

    Raises: CostAboveMaximum.
    """
    ceiling = min(model.max_output, max(1, model.context - 1))
    asked_each = ceiling if ask.output_limit is None else ask.output_limit
    wanted_each = min(asked_each, ceiling)
    if costs_nothing:
        return _Need(0, 0, asked_each, wanted_each)
    least_each = wanted_each if ask.images else min(wanted_each, SMALLEST_ANSWER_TOKENS)  # there is no such thing as a shorter picture
    first_each = min(wanted_each, model.usual_output) if ask.stream else wanted_each

    def worst_case(output_each: int, searches: int) -> int:
        return pricing.worst_case(
            price,
            input_tokens=ask.input_after(searches),
            output_tokens=output_each * ask.choices,
            images=ask.images,
            web_searches=searches,
        )

    # Of a stream the searches are seen as they go by, and it is ended where nothing more can be held. Of anything else they are seen afterwards.
    least = worst_case(least_each, min(ask.web_searches, 1) if ask.stream else ask.web_searches)
    need = _Need(worst_case(first_each, ask.web_searches), least, asked_each, wanted_each)
    if ask.max_cost is not None and (worst := worst_case(wanted_each, ask.web_searches)) > ask.max_cost:
        raise CostAboveMaximum(needed=max(worst, need.least), maximum=ask.max_cost)
    return need


async def _place(engine: "Engine", ticket: Ticket) -> None:
    """Set aside what the request may cost, and derive from it how long the answer may get."""
    ask, grant, model, price = ticket.ask, ticket.grant, ticket.model, ticket.price
    need = _need(ask, model, price, costs_nothing=ticket.costs_nothing)
    budget = budgets.window_at(grant.budget_window, ask.started_at, timezone=grant.timezone) if grant.budget_nano is not None else None
    wanted = holds.Wanted(
        request_id=ask.request_id,
        account_id=grant.account_id,
        key_id=grant.id,
        amount=need.amount,
        least=need.least,
        budget=budget,
        quota=ticket.terms.month_at(ask.started_at, grant.timezone),
        tokens_in=ask.input_estimate,
        tokens_out=min(need.wanted_each, model.usual_output) * ask.choices,
        started_at=ask.started_at,
        lifetime=timedelta(seconds=settings.TOTAL_TIMEOUT_SECONDS + SLACK_SECONDS),
        about=describe_request(ask, model, price),
    )
    placement = engine.desk.place(wanted)
    try:
        placed = await asyncio.shield(placement)
    except asyncio.CancelledError:
        # The client left while the hold was on its way: it may be placed yet, and nobody else would give it back.
        placement.add_done_callback(lambda done: engine.settlement.release(ask.request_id, grant.account_id) if _was_placed(done) else None)
        raise
    ticket.held = placed.granted
    _set_output_limit(ticket, need)


def _set_output_limit(ticket: Ticket, need: _Need) -> None:
    """How long one choice may get: as wanted, or what the hold pays for where the wallet had less to give and nothing can grow it."""
    ask = ticket.ask
    ticket.output_limit = need.wanted_each
    if not ask.stream and ticket.held < need.amount:
        searches = ask.web_searches
        left = pricing.affordable_output(ticket.price, input_tokens=ask.input_after(searches), budget=ticket.held, web_searches=searches)
        affordable = left // ask.choices
        ticket.output_limit = min(need.wanted_each, max(1, affordable))
    ticket.clamped = ticket.output_limit < need.asked_each


def _was_placed(done: "asyncio.Future[holds.Placed]") -> bool:
    return not done.cancelled() and done.exception() is None


def _limits(grant: KeyGrant, terms: PlanTerms) -> list[Limit]:
    limits = []
    rpm = grant.rpm
    if rpm is None and terms.rpm is None and settings.DEFAULT_RPM:
        rpm = settings.DEFAULT_RPM
    if rpm is not None or grant.tpm is not None or grant.concurrency is not None:
        limits.append(Limit(f"key:{grant.id}", rpm, grant.tpm, grant.concurrency))
    if terms.rpm is not None or terms.tpm is not None or terms.concurrency is not None:
        limits.append(Limit(f"account:{grant.account_id}", terms.rpm, terms.tpm, terms.concurrency))
    return limits
