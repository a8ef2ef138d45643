"""Places and grows holds for one process, in self-clocking batches, and renews the lease that keeps them alive."""

import asyncio
import os
import socket
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
import psycopg
import structlog

from gateway_site.batches import Batcher
from gateway_site.clients import DatabaseUnavailable, Lane
from keys.budgets import Window

log = structlog.get_logger(__name__)

PLACE = "SELECT ord, outcome, granted, available, resets_at FROM billing_place(%s::jsonb)"
GROW = "SELECT ord, granted FROM billing_grow(%s::jsonb)"
RENEW = """INSERT INTO billing_holdowner (boot_id, host, pid, started_at, lease_until) VALUES (%s, %s, %s, now(), now() + %s)
    ON CONFLICT (boot_id) DO UPDATE SET lease_until = EXCLUDED.lease_until RETURNING boot_id"""


class BillingUnavailable(Exception):
    """PostgreSQL cannot be asked right now, so nothing may be admitted."""


class KeyInactive(Exception):
    """The key was revoked, disabled or expired, whatever a cache said."""


class WalletInactive(Exception):
    """The wallet is frozen or closed, or the account is switched off."""


class RequestIdTaken(Exception):
    """The request's id is that of another request that is under way: nothing was placed."""


class StaleKey(Exception):
    """The key's budget changed since it was read: read it again."""


class InsufficientBalance(Exception):
    """The wallet's free amount does not cover even a small answer (nano-USD)."""

    def __init__(self, *, available: int, needed: int) -> None:
        super().__init__(available, needed)
        self.available = available
        self.needed = needed


class BudgetSpent(Exception):
    """The key's budget for this window is spent (nano-USD left, and when the next window begins)."""

    def __init__(self, *, available: int, resets_at: datetime) -> None:
        super().__init__(available, resets_at)
        self.available = available
        self.resets_at = resets_at


class QuotaSpent(Exception):
    """The plan's tokens for this month are used up (tokens left, and when the next month begins)."""

    def __init__(self, *, available: int, resets_at: datetime) -> None:
        super().__init__(available, resets_at)
        self.available = available
        self.resets_at = resets_at


@dataclass(slots=True)
class Wanted:
    """What a request asks to set aside: `amount` nano-USD, or whatever is free as long as it is at least `least`."""

    request_id: uuid.UUID
    account_id: int
    key_id: int
    amount: int
    least: int
    budget: Window | None
    quota: Window
    tokens_in: int
    tokens_out: int
    started_at: datetime
    lifetime: timedelta
    about: dict[str, Any]


@dataclass(slots=True)
class Placed:
    """A hold of `granted` nano-USD; `available` was free afterwards."""

    granted: int
    available: int


@dataclass(slots=True)
class Growth:
    """A stream's wish: hold `amount` nano-USD in all; so far `accrued` nano-USD for these tokens and searches were delivered.

    `tokens_out` of the plan's output tokens are held with it, as far as the quota has them.
    """

    request_id: uuid.UUID
    account_id: int
    amount: int
    accrued: int
    input_tokens: int
    output_tokens: int
    web_searches: int = 0
    tokens_out: int = 0


class HoldDesk:
    """One process's way to place and grow holds. `release` is called with a request whose placement may or may not have happened."""

    def __init__(self, lane: Lane, *, lease: timedelta, release: Callable[[uuid.UUID, int], None], owner_lane: Lane) -> None:
        self.boot_id = uuid.uuid4()
        self._lane = lane
        self._owner_lane = owner_lane
        self._lease = lease
        self._release = release
        self._placing: Batcher[Wanted, Placed] = Batcher(self._place)
        self._growing: Batcher[Growth, int] = Batcher(self._grow)
        self._owner = str(self.boot_id)

    def place(self, wanted: Wanted) -> "asyncio.Future[Placed]":
        """Set money aside, all limits in one step. The hold may be placed even when nobody awaits the future any more.

        Raises (in the future): InsufficientBalance, BudgetSpent, QuotaSpent, KeyInactive, WalletInactive, StaleKey, RequestIdTaken,
        BillingUnavailable.
        """
        return self._placing.submit(wanted)

    def grow(self, growth: Growth) -> "asyncio.Future[int]":
        """Raise a hold and note what was delivered; the future holds the new total, -1 when the hold is gone."""
        return self._growing.submit(growth)

    async def keep_lease(self) -> None:
        """Renew the lease until cancelled, at a quarter of its length."""
        while True:
            try:
                await self.renew_lease()
            except (DatabaseUnavailable, psycopg.Error) as error:
                log.warning("lease_not_renewed", error=str(error))
            await asyncio.sleep(self._lease.total_seconds() / 4)

    async def renew_lease(self) -> None:
        """Say that this process lives. Raises: DatabaseUnavailable."""
        await self._owner_lane.fetch(RENEW, [self.boot_id, socket.gethostname()[:200], os.getpid(), self._lease])

    async def _place(self, batch: Sequence[Wanted]) -> list[Placed | Exception]:
        try:
            rows = await self._lane.fetch(PLACE, [orjson.dumps([self._row(wanted) for wanted in batch]).decode()])
        except (DatabaseUnavailable, psycopg.Error) as error:
            if len(batch) > 1 and not isinstance(error, DatabaseUnavailable | psycopg.OperationalError):
                # One request PostgreSQL cannot take must not refuse everybody's: nothing of the batch was placed, so each goes alone.
                return [answer for wanted in batch for answer in await self._place_alone(wanted)]
            for wanted in batch:
                self._release(wanted.request_id, wanted.account_id)
            raise BillingUnavailable(str(error)) from error
        answers: list[Placed | Exception] = [BillingUnavailable("no answer")] * len(batch)
        for position, outcome, granted, available, resets_at in rows:
            answers[position - 1] = _answer(batch[position - 1], outcome, granted, available, resets_at)
        return answers

    async def _place_alone(self, wanted: Wanted) -> list[Placed | Exception]:
        try:
            return await self._place([wanted])
        except BillingUnavailable as error:
            return [error]

    def _row(self, wanted: Wanted) -> dict[str, Any]:
        budget = wanted.budget
        return {
            "id": wanted.request_id,
            "account": wanted.account_id,
            "key": wanted.key_id,
            "owner": self._owner,
            "amount": wanted.amount,
            "least": wanted.least,
            "budget_kind": budget.kind if budget else None,
            "budget_start": budget.starts_text if budget else None,
            "budget_end": budget.ends_text if budget else None,
            "quota_start": wanted.quota.starts_text,
            "quota_end": wanted.quota.ends_text,
            "tokens_in": wanted.tokens_in,
            "tokens_out": wanted.tokens_out,
            "started": wanted.started_at,
            "expires": wanted.started_at + wanted.lifetime,
            "about": wanted.about,
        }

    async def _grow(self, batch: Sequence[Growth]) -> list[int | Exception]:
        rows = await self._lane.fetch(
            GROW,
            [
                orjson.dumps(
                    [
                        {
                            "id": growth.request_id,
                            "account": growth.account_id,
                            "amount": growth.amount,
                            "accrued": growth.accrued,
                            "input_tokens": growth.input_tokens,
                            "output_tokens": growth.output_tokens,
                            "web_searches": growth.web_searches,
                            "tokens_out": growth.tokens_out,
                        }
                        for growth in batch
                    ]
                ).decode()
            ],
        )
        answers: list[int | Exception] = [-1] * len(batch)
        for position, granted in rows:
            answers[position - 1] = granted
        return answers


def _answer(wanted: Wanted, outcome: str, granted: int, available: int | None, resets_at: datetime | None) -> Placed | Exception:
    left = available or 0
    match outcome:
        case "placed":
            return Placed(granted, left)
        case "insufficient_balance" | "no_wallet":
            return InsufficientBalance(available=left, needed=wanted.least)
        case "budget_spent" if resets_at is not None:
            return BudgetSpent(available=left, resets_at=resets_at)
        case "quota_spent" if resets_at is not None:
            return QuotaSpent(available=left, resets_at=resets_at)
        case "key_inactive":
            return KeyInactive()
        case "wallet_inactive":
            return WalletInactive()
        case "stale_key":
            return StaleKey()
        case "duplicate":
            return RequestIdTaken(str(wanted.request_id))
    return BillingUnavailable(f"unknown outcome {outcome!r}")
