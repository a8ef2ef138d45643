"""The requests of the sample account: thirty days that a small company might have had, invented from prices of the catalog. Pure: no I/O.

The same days, prices and moment give the same requests, so that figures in screenshots and guides stay what they are.
"""

import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from catalog import pricing
from catalog.usage import TokenUsage

DAYS = 30
BUSIEST = 74  # requests of the busiest kind of day
NEWEST = timedelta(minutes=3)  # how long ago the last one ended
# How busy the hours of a day (UTC) and the days of a week are.
_HOURS = (1, 1, 1, 1, 1, 2, 4, 8, 12, 14, 14, 12, 11, 13, 14, 13, 11, 9, 6, 4, 3, 2, 2, 1)
_WEEKDAYS = (10, 11, 11, 10, 9, 3, 2)
_ENDINGS = ("ok",) * 188 + ("error",) * 4 + ("cut",) * 2 + ("aborted",) * 6


@dataclass(frozen=True, slots=True)
class Offer:
    """A model that the company uses: its route, its price now, and how quick it is (milliseconds to the first token, per output token)."""

    model: str
    provider: str
    upstream_model: str
    format: str
    price: pricing.Price
    weight: int
    first_ms: int
    token_ms: int
    thinks: bool


@dataclass(frozen=True, slots=True)
class Caller:
    """A key of the company and what it asks for: sizes in tokens, and the people it names."""

    key: str
    weight: int
    input_tokens: tuple[int, int]
    output_tokens: tuple[int, int]
    cached: float
    streamed: bool
    people: tuple[str, ...] = ()
    offers: tuple[int, ...] = ()  # places in the list of offers; empty: all of them


@dataclass(frozen=True, slots=True)
class Request:
    """One request as its record will tell it. `cost` and `upstream_cost` are nano-USD."""

    id: uuid.UUID
    offer: Offer
    caller: Caller
    usage: TokenUsage
    status: str
    cost: int
    list_cost: int
    upstream_cost: int
    user_tag: str
    latency_ms: int
    first_token_ms: int | None
    started_at: datetime
    ended_at: datetime


CALLERS = (
    Caller(
        "Help desk", 52, (900, 5200), (120, 620), 0.55, streamed=True, people=("visitor-204", "visitor-318", "visitor-77"), offers=(0, 1)
    ),
    Caller("Nightly summaries", 21, (5200, 19000), (350, 1100), 0.1, streamed=False, offers=(2, 0)),
    Caller("Code review", 17, (7000, 26000), (500, 2400), 0.7, streamed=True, people=("ada", "grace", "edsger"), offers=(1, 3)),
    Caller("Experiments", 10, (120, 2600), (80, 1500), 0.0, streamed=True, people=("ada",)),
)


def invent(offers: Sequence[Offer], *, now: datetime) -> list[Request]:
    """The requests of the days before `now`, in the order in which they began."""
    chance = random.Random(20_260_101)  # noqa: S311 - the same figures every time are wanted
    last = now - NEWEST
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    found = []
    for back in range(DAYS, -1, -1):
        day = today - timedelta(days=back)
        growth = 0.6 + 0.4 * (DAYS - back) / DAYS
        for _ in range(round(BUSIEST * growth * _WEEKDAYS[day.weekday()] / max(_WEEKDAYS) * chance.uniform(0.8, 1.15))):
            hour = chance.choices(range(24), _HOURS)[0]
            found.append(_request(offers, chance, day + timedelta(hours=hour, seconds=chance.uniform(0, 3599))))
    # However early in the day it is, something has just happened.
    found += [_request(offers, chance, last - timedelta(minutes=4 * number, seconds=30)) for number in range(12)]
    return sorted((each for each in found if now - timedelta(days=DAYS) <= each.started_at and each.ended_at <= last), key=_began)


def _began(request: Request) -> datetime:
    return request.started_at


def _request(offers: Sequence[Offer], chance: random.Random, started_at: datetime) -> Request:
    caller = chance.choices(CALLERS, [each.weight for each in CALLERS])[0]
    usable = [offers[place % len(offers)] for place in caller.offers] or list(offers)
    offer = chance.choices(usable, [each.weight for each in usable])[0]
    status = chance.choice(_ENDINGS)
    read, written = chance.randint(*caller.input_tokens), chance.randint(*caller.output_tokens)
    cached = round(read * caller.cached * chance.uniform(0.6, 1.2)) if chance.random() < 0.7 else 0
    if status in ("cut", "aborted"):
        written //= 3
    thought = written * chance.randint(1, 5) // 4 if offer.thinks else 0
    first = round(offer.first_ms * chance.lognormvariate(0, 0.3))
    usage = TokenUsage(input_tokens=read - cached, cached_input_tokens=cached, output_tokens=written, reasoning_tokens=thought)
    latency = first + round((written + thought) * offer.token_ms * chance.uniform(0.8, 1.25))
    if status == "error":
        usage, latency = TokenUsage(), first
    cost = pricing.cost(offer.price, usage) if status != "error" else 0
    return Request(
        id=_id(started_at, chance),
        offer=offer,
        caller=caller,
        usage=usage,
        status=status,
        cost=cost,
        list_cost=cost,
        upstream_cost=pricing.upstream_cost(offer.price, usage) if status != "error" else 0,
        user_tag=chance.choice(caller.people) if caller.people else "",
        latency_ms=latency,
        first_token_ms=first if caller.streamed and status != "error" else None,
        started_at=started_at,
        ended_at=started_at + timedelta(milliseconds=latency),
    )


def _id(moment: datetime, chance: random.Random) -> uuid.UUID:
    """A UUIDv7 (as `gateway_site.identifiers` makes them) of this moment."""
    milliseconds = int(moment.timestamp() * 1000)
    return uuid.UUID(int=(milliseconds << 80) | (0x7 << 76) | (chance.getrandbits(12) << 64) | (0b10 << 62) | chance.getrandbits(62))
