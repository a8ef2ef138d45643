"""A tenant's desk: calls the SQL functions as the gateway does, on a connection of its own, and reads back what they did."""

import itertools
import json
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from django.db import connection
from django.utils import timezone

from accounts.models import Account
from billing import ledger, opening, reconciliation
from billing.models import Hold, HoldOwner, Plan, PlanAssignment, SpendWindow, Transfer, UsageRecord, Wallet
from gateway_site.identifiers import uuid7
from keys.models import ApiKey

NOW = timezone.now()
MONTH = NOW.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
NEXT_MONTH = (MONTH + timedelta(days=32)).replace(day=1)
FOREVER = datetime(9000, 1, 1, tzinfo=UTC)
ABOUT = {
    "model": "demo/echo",
    "provider": "demo",
    "upstream_model": "echo",
    "endpoint": "chat",
    "format": "chat",
    "streamed": True,
    "price": None,
}
numbers = itertools.count(1)


def connect() -> psycopg.Connection[tuple[Any, ...]]:
    """A plain connection to the tests' database, each statement a transaction of its own."""
    place = connection.settings_dict
    options = {"host": place["HOST"], "port": place["PORT"], "user": place["USER"], "password": place["PASSWORD"], "dbname": place["NAME"]}
    options |= place.get("OPTIONS", {})
    return psycopg.connect(**{name: value for name, value in options.items() if value and name != "pool"}, autocommit=True)


def day(number: int) -> datetime:
    """The start of a day of this month (1 is its first)."""
    return MONTH + timedelta(days=number - 1)


def month_of(moment: datetime) -> tuple[datetime, datetime]:
    """The calendar month that `moment` lies in (UTC)."""
    start = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return start, (start + timedelta(days=32)).replace(day=1)


def window(kind: str, moment: datetime) -> tuple[datetime, datetime]:
    """The budget window of `kind` that `moment` lies in (UTC)."""
    if kind == "total":
        return datetime(2000, 1, 1, tzinfo=UTC), FOREVER
    if kind == "month":
        return month_of(moment)
    start = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return start, start + timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Answer:
    """What `billing_place` said of one request."""

    id: uuid.UUID
    outcome: str
    granted: int
    available: int | None
    resets_at: datetime | None


@dataclass(frozen=True, slots=True)
class Booked:
    """What `billing_settle` said of one record."""

    outcome: str
    charged: int
    written_off: int


class Desk:
    """An account with a wallet, a key and a serving process, and the calls made for it."""

    def __init__(self, *, usd: int = 0, nano: int = 0, budget: int | None = None, budget_window: str = "month") -> None:
        self.sql = connect()
        self.slug = f"t-{uuid.uuid4().hex[:20]}"
        self.account: Account = opening.open_account(slug=self.slug, name="Alice's", now=MONTH)
        PlanAssignment.objects.filter(account=self.account).delete()
        self.wallet_id: int = Wallet.objects.get(account=self.account).pk
        self.key = self.make_key(budget=budget, budget_window=budget_window)
        self.owner = self.make_owner()
        if usd or nano:
            self.credit(usd * 10**9 + nano)

    def close(self) -> None:
        """Give back what is still held, so that no sweep of another test meets it."""
        left = [
            {"id": str(pk), "account": self.account.pk, "release": True}
            for pk in Hold.objects.filter(wallet_id=self.wallet_id).values_list("pk", flat=True)
        ]
        self.settle(*left)
        self.sql.close()

    # -- the cast

    def make_key(self, *, budget: int | None = None, budget_window: str = "month") -> ApiKey:
        return ApiKey.objects.create(
            account=self.account,
            name="key",
            digest=os.urandom(32),
            pepper_version=1,
            start="sk-gw-test",
            last_four="test",
            budget_nano=budget,
            budget_window=budget_window,
        )

    def make_owner(self) -> uuid.UUID:
        owner = HoldOwner.objects.create(boot_id=uuid.uuid4(), host="test", pid=1, lease_until=NOW + timedelta(days=1))
        return owner.boot_id

    def make_plan(self, *, input_tokens: int | None, output_tokens: int | None, starts_at: datetime = MONTH) -> Plan:
        plan = Plan.objects.create(
            slug=f"p-{uuid.uuid4().hex[:20]}", monthly_input_tokens=input_tokens, monthly_output_tokens=output_tokens
        )
        PlanAssignment.objects.create(account=self.account, plan=plan, starts_at=starts_at)
        return plan

    def credit(self, amount: int, **details: Any) -> Transfer:
        call = {
            "kind": "paid",
            "debit_account": "manual",
            "source_type": "test",
            "source_id": str(uuid.uuid4()),
            "actor": "alice",
            "note": "",
            "now": NOW,
            **details,
        }
        return ledger.credit(wallet_id=self.wallet_id, amount=amount, **call)

    def debit(self, amount: int, **details: Any) -> Transfer:
        call = {
            "kind": "clawback",
            "credit_account": "manual",
            "source_type": "test",
            "source_id": str(uuid.uuid4()),
            "actor": "alice",
            "note": "",
            "now": NOW,
            **details,
        }
        return ledger.debit(wallet_id=self.wallet_id, amount=amount, **call)

    # -- the SQL functions

    def request(self, amount: int, *, key: ApiKey | None = None, started: datetime | None = None, **fields: Any) -> dict[str, Any]:
        key = key or self.key
        started = started or MONTH + timedelta(milliseconds=next(numbers))  # however many tests came before, within the first slot
        kind = key.budget_window if key.budget_nano is not None else None
        start, end = window(kind, started) if kind else (None, None)
        quota_start, quota_end = month_of(started)
        return {
            "id": uuid7(int(started.timestamp() * 1000)),
            "account": self.account.pk,
            "key": key.pk,
            "owner": self.owner,
            "amount": amount,
            "least": min(amount, 1),
            "budget_kind": kind,
            "budget_start": start,
            "budget_end": end,
            "quota_start": quota_start,
            "quota_end": quota_end,
            "tokens_in": 0,
            "tokens_out": 0,
            "started": started,
            "expires": NOW + timedelta(hours=1),
            "about": ABOUT,
            **fields,
        }

    def place(self, *requests: dict[str, Any], sql: psycopg.Connection[tuple[Any, ...]] | None = None) -> list[Answer]:
        rows = (
            (sql or self.sql)
            .execute("SELECT ord, outcome, granted, available, resets_at FROM billing_place(%s::jsonb)", [_json(requests)])
            .fetchall()
        )
        answers = {row[0]: row[1:] for row in rows}
        return [Answer(request["id"], *answers[n]) for n, request in enumerate(requests, start=1)]

    def hold(self, amount: int, **fields: Any) -> dict[str, Any]:
        """Place one request and insist that it is admitted; returns the request."""
        request = self.request(amount, **fields)
        (answer,) = self.place(request)
        assert answer.outcome == "placed", answer
        return request

    def grow(self, *requests: dict[str, Any]) -> list[int]:
        filled = [{"account": self.account.pk, "accrued": 0, "input_tokens": 0, "output_tokens": 0, **request} for request in requests]
        rows = self.sql.execute("SELECT ord, granted FROM billing_grow(%s::jsonb)", [_json(filled)]).fetchall()
        granted = dict(rows)
        return [granted[n] for n in range(1, len(requests) + 1)]

    def record(self, request: Mapping[str, Any], cost: int, **fields: Any) -> dict[str, Any]:
        """What is booked of `request` when it is over."""
        tokens = dict.fromkeys(
            (
                "input_tokens",
                "cached_input_tokens",
                "cache_write_tokens",
                "cache_write_1h_tokens",
                "audio_input_tokens",
                "output_tokens",
                "reasoning_tokens",
                "audio_output_tokens",
                "images",
            ),
            0,
        )
        return {
            "id": request["id"],
            "account": request["account"],
            "key": request["key"],
            **ABOUT,
            **tokens,
            "cost": cost,
            "list_cost": cost,
            "upstream_cost": cost,
            "reported_cost": None,
            "usage_source": "provider",
            "status": "ok",
            "rule": "metered",
            "finish_reason": "stop",
            "error_code": "",
            "status_code": 200,
            "attempts": [],
            "flags": [],
            "user_tag": "",
            "latency_ms": 10,
            "first_token_ms": 5,
            "started": request["started"],
            "ended": NOW,
            **fields,
        }

    def settle(self, *records: dict[str, Any], sql: psycopg.Connection[tuple[Any, ...]] | None = None) -> list[Booked]:
        rows = (
            (sql or self.sql)
            .execute(
                "SELECT ord, outcome, charged, written_off FROM billing_settle(%s::jsonb, %s, %s)", [_json(records), uuid.uuid4(), NOW]
            )
            .fetchall()
        )
        answers = {row[0]: row[1:] for row in rows}
        return [Booked(*answers[n]) for n in range(1, len(records) + 1)]

    def release(self, request: Mapping[str, Any]) -> Booked:
        return self.settle({"id": request["id"], "account": self.account.pk, "release": True})[0]

    def spend(self, cost: int, **fields: Any) -> dict[str, Any]:
        """Place and settle one request that costs `cost`; returns the request."""
        request = self.hold(cost, **{name: value for name, value in fields.items() if name in {"key", "started"}})
        (booked,) = self.settle(self.record(request, cost, **{n: v for n, v in fields.items() if n not in {"key", "started"}}))
        assert booked == Booked("settled", cost, 0)
        return request

    def sweep(self, moment: datetime = NOW) -> None:
        while self.sql.execute(
            "SELECT charged_count + voided_count FROM billing_sweep(%s, %s, 500)", [moment, uuid.uuid4()]
        ).fetchone() != (0,):
            pass

    def kill_owner(self, owner: uuid.UUID | None = None) -> None:
        """Let the lease of the serving process run out."""
        HoldOwner.objects.filter(boot_id=owner or self.owner).update(lease_until=NOW - timedelta(seconds=1))

    # -- what is so

    @property
    def wallet(self) -> Wallet:
        return Wallet.objects.get(pk=self.wallet_id)

    @property
    def balance(self) -> int:
        return int(self.wallet.balance)

    def usage(self, request: Mapping[str, Any]) -> UsageRecord:
        return UsageRecord.objects.get(pk=request["id"])

    def transfers(self, kind: str) -> list[Transfer]:
        return list(Transfer.objects.filter(wallet_id=self.wallet_id, kind=kind).order_by("created_at", "wallet_version"))

    def window_of(self, subject: ApiKey | Account) -> SpendWindow:
        kind = "key" if isinstance(subject, ApiKey) else "account"
        return SpendWindow.objects.get(subject_kind=kind, subject_id=subject.pk)

    def audit(self) -> list[str]:
        return [str(drift) for drift in reconciliation.audit(now=NOW, accounts=[self.account.pk])]


OpenDesk = Callable[..., Desk]


def _json(rows: Any) -> str:
    return json.dumps(rows, default=str)
