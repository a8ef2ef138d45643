"""Lets a request in: takes the gates cheapest first and gives a ticket, which is settled or released exactly once."""

import asyncio
import uuid
from dataclasses import dataclass
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
from proxy.rate_limits import Limit, Reading

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
    user_tag: str
    max_cost: int | None
    started_at: datetime
    clock: float


class Ticket:
    """An admitted request: its hold, its place in the rate limits, and the one way to end both."""

    __slots__ = ("_engine", "_over", "ask", "clamped", "grant", "held", "limits", "model", "output_limit", "price", "reading", "terms")

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
        self.held = 0
        self.output_limit = 0  # the most tokens of one choice that may go upstream
        self.clamped = False  # whether that is less than the client asked for (or, asking for none, the model allows)

    def grow(self, *, amount: int, usage: TokenUsage) -> "asyncio.Future[int]":
        """Ask to hold `amount` nano-USD in all, and note what was delivered so far."""
        return self._engine.desk.grow(
            holds.Growth(
                self.ask.request_id,
                self.grant.account_id,
                amount,
                0 if self.grant.is_test else pricing.cost(self.price, usage),
                usage.total_input_tokens,
                usage.total_output_tokens,
            )
        )

    def settle(self, happened: charging.Happened, about: "Outcome") -> "tuple[charging.Charge, asyncio.Future[Settled]]":
        """Book the request. Never blocks and never awaits, so it is safe while being cancelled; call it once."""
        self._end()
        charge = charging.decide(happened, self.price, hold_amount=self.held)
        future = self._engine.settlement.submit(self._record(charge, happened, about))
        self._engine.limiter.finish(
            account=self.grant.account_id,
            request_id=str(self.ask.request_id),
            limits=self.limits,
            tokens=charge.usage.total_input_tokens + charge.usage.total_output_tokens,
        )
        _count(self.model.slug, charge, about)
        return charge, future

    def release(self) -> None:
        """End a request that was let in by `admit_free`: there is nothing to book. Never awaits; call it once."""
        self._end()
        self._engine.limiter.finish(account=self.grant.account_id, request_id=str(self.ask.request_id), limits=self.limits, tokens=0)

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

    Raises: WrongKeyKind, EndpointNotAllowed, ModelNotAllowed, CostAboveMaximum, RateLimited, and what `HoldDesk.place` raises.
    """
    ticket = await admit_free(engine, ask, grant, terms, model, price)
    try:
        await _place(engine, ticket)
    except BaseException:
        ticket.release()
        raise
    return ticket


async def admit_free(engine: "Engine", ask: Ask, grant: KeyGrant, terms: PlanTerms, model: ModelEntry, price: pricing.Price) -> Ticket:
    """Take the gates that have nothing to do with money: for what is free. Such a ticket ends with `release`.

    Raises: WrongKeyKind, EndpointNotAllowed, ModelNotAllowed, RateLimited.
    """
    check_scopes(ask.endpoint, grant, terms, model)
    limits = _limits(grant, terms)
    reading = await engine.limiter.admit(
        account=grant.account_id,
        request_id=str(ask.request_id),
        limits=limits,
        now=ask.started_at.timestamp(),
        max_seconds=int(settings.TOTAL_TIMEOUT_SECONDS + SLACK_SECONDS),
    )
    return Ticket(engine, ask, grant, terms, model, price, limits, reading)


def check_scopes(endpoint: str, grant: KeyGrant, terms: PlanTerms, model: ModelEntry) -> None:
    """The gates that cost nothing. Raises: WrongKeyKind, EndpointNotAllowed, ModelNotAllowed."""
    if grant.kind == "management":
        raise WrongKeyKind(grant.kind)
    if grant.endpoints and endpoint not in grant.endpoints:
        raise EndpointNotAllowed
    if not grant.models.allows(model.slug):
        raise ModelNotAllowed(model.slug, scope="key")
    if not terms.models.allows(model.slug):
        raise ModelNotAllowed(model.slug, scope="plan")


async def _place(engine: "Engine", ticket: Ticket) -> None:
    """Set aside what the request may cost, and derive from it how long the answer may get.

    A stream's first hold covers the input and a first stretch of output, and grows as it is delivered; anything else holds its worst case.
    """
    ask, grant, model, price = ticket.ask, ticket.grant, ticket.model, ticket.price
    input_bound = ask.input_bound
    ceiling = min(model.max_output, max(1, model.context - 1))
    asked_each = ceiling if ask.output_limit is None else ask.output_limit
    wanted_each = min(asked_each, ceiling)
    least_each = wanted_each if ask.images else min(wanted_each, SMALLEST_ANSWER_TOKENS)  # there is no such thing as a shorter picture
    first_each = min(wanted_each, model.usual_output) if ask.stream else wanted_each
    amount = least = 0
    if not grant.is_test:
        amount = pricing.worst_case(price, input_tokens=input_bound, output_tokens=first_each * ask.choices, images=ask.images)
        least = pricing.worst_case(price, input_tokens=input_bound, output_tokens=least_each * ask.choices, images=ask.images)
        if ask.max_cost is not None:
            worst = pricing.worst_case(price, input_tokens=input_bound, output_tokens=wanted_each * ask.choices, images=ask.images)
            if worst > ask.max_cost:
                raise CostAboveMaximum(needed=max(worst, least), maximum=ask.max_cost)
    budget = (
        budgets.window_at(grant.budget_window, ask.started_at, timezone=grant.timezone)
        if grant.budget_nano is not None and not grant.is_test
        else None
    )
    wanted = holds.Wanted(
        request_id=ask.request_id,
        account_id=grant.account_id,
        key_id=grant.id,
        amount=amount,
        least=least,
        budget=budget,
        quota=ticket.terms.month_at(ask.started_at, grant.timezone),
        tokens_in=ask.input_estimate,
        tokens_out=min(wanted_each, model.usual_output) * ask.choices,
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
    ticket.output_limit = wanted_each
    if not ask.stream and placed.granted < amount:
        affordable = pricing.affordable_output(price, input_tokens=input_bound, budget=placed.granted) // ask.choices
        ticket.output_limit = min(wanted_each, max(1, affordable))
    ticket.clamped = ticket.output_limit < asked_each


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
