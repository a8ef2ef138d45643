"""How models and providers have been doing, from the traffic of all accounts together: shares and times, and nothing of whose they are.

Read from the usage slots. The demo provider, which fails on purpose, and the sample account, whose traffic is invented, are left out, and what
had too little traffic is not judged.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, LiteralString

from django.db import connection

from accounts.models import Account
from catalog.models import Provider

ENOUGH = 5  # requests: fewer say nothing, and might say who made them
GOOD, FAIR = 990_000, 900_000  # millionths of requests that ended well
State = Literal["good", "warn", "bad", "none"]

_ORIGIN = datetime(2020, 1, 1, tzinfo=UTC)
_COLUMNS: Mapping[str, LiteralString] = {"model": "s.model", "provider": "s.provider"}


@dataclass(frozen=True, slots=True)
class Window:
    """How far is looked back, and in how many steps of whole slots."""

    label: str
    steps: int
    step: timedelta

    def begins(self, now: datetime) -> datetime:
        """The start of the first step; the last one holds `now`."""
        return now - (now - _ORIGIN) % self.step - (self.steps - 1) * self.step


WINDOWS: Mapping[str, Window] = {
    "hour": Window("Last hour", 4, timedelta(minutes=15)),
    "day": Window("24 hours", 24, timedelta(hours=1)),
    "week": Window("7 days", 28, timedelta(hours=6)),
}


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a window: when it began, and how its requests ended."""

    starts_at: datetime
    requests: int = 0
    errors: int = 0

    @property
    def state(self) -> State:
        """What its colour is."""
        return judge(self.requests, self.errors, least=1)


@dataclass(frozen=True, slots=True)
class Health:
    """How one model or provider did over a window. Times are means, in milliseconds."""

    name: str
    requests: int
    errors: int
    latency_ms: int | None
    first_token_ms: int | None
    steps: tuple[Step, ...]

    @property
    def state(self) -> State:
        """What it comes to."""
        return judge(self.requests, self.errors, least=ENOUGH)

    @property
    def success_percent(self) -> str:
        """The share of requests that ended well, rounded down to a tenth; nothing when there were too few."""
        if self.state == "none":
            return ""
        tenths = (self.requests - self.errors) * 1000 // self.requests
        return f"{tenths // 10}.{tenths % 10}"


def judge(requests: int, errors: int, *, least: int) -> State:
    """What so many errors of so many requests mean; fewer than `least` requests mean nothing."""
    if requests < least:
        return "none"
    share = (requests - errors) * 1_000_000 // requests
    return "good" if share >= GOOD else "warn" if share >= FAIR else "bad"


def by(dimension: str, window: Window, *, now: datetime) -> dict[str, Health]:
    """How each model or provider (`dimension`) with any traffic in the window did, by name."""
    column, begins = _COLUMNS[dimension], window.begins(now)
    demo = list(Provider.objects.filter(kind=Provider.Kind.DEMO).values_list("slug", flat=True))
    samples = list(Account.objects.filter(is_sample=True).values_list("pk", flat=True))
    query = f"""SELECT {column}, date_bin(make_interval(secs => %(step)s), s.starts_at, %(origin)s), SUM(s.requests), SUM(s.errors),
            SUM(s.latency_ms), SUM(s.timed), SUM(s.first_token_ms), SUM(s.first_timed)
        FROM billing_usageslot s
        WHERE s.starts_at >= %(begins)s AND s.starts_at <= %(now)s AND s.provider <> '' AND s.provider <> ALL(%(demo)s::text[])
            AND s.account_id <> ALL(%(samples)s::bigint[])
        GROUP BY 1, 2 ORDER BY 1, 2"""  # noqa: S608 - constants
    with connection.cursor() as cursor:
        bounds: dict[str, Any] = {"step": window.step.total_seconds(), "origin": _ORIGIN, "begins": begins, "now": now}
        cursor.execute(query, {**bounds, "demo": demo, "samples": samples})
        rows = cursor.fetchall()
    found: dict[str, list[tuple[datetime, list[int]]]] = {}
    for name, starts_at, *sums in rows:
        found.setdefault(name, []).append((starts_at, [int(each) for each in sums]))
    quiet = [Step(begins + number * window.step) for number in range(window.steps)]
    return {name: _health(name, steps, quiet) for name, steps in found.items()}


def _health(name: str, rows: list[tuple[datetime, list[int]]], quiet: list[Step]) -> Health:
    """`quiet` are the steps of the window without a request: all share them, because web processes keep this for every model."""
    by_start = dict(rows)
    requests, errors, latency, timed, first, first_timed = (sum(sums[place] for _, sums in rows) for place in range(6))
    return Health(
        name=name,
        requests=requests,
        errors=errors,
        latency_ms=latency // timed if timed else None,
        first_token_ms=first // first_timed if first_timed else None,
        steps=tuple(Step(step.starts_at, *by_start[step.starts_at][:2]) if step.starts_at in by_start else step for step in quiet),
    )
