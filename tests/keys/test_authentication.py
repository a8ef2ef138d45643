"""The grants in memory: who is remembered, and for how long."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from django.conf import settings

from gateway_site.clients import Lane
from keys import authentication, secret
from keys.authentication import Authenticator, InvalidKey
from tests.conftest import Customer


class CountedLane(Lane):
    """The way to the database, with a count of the questions."""

    asked = 0

    async def fetch(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        self.asked += 1
        return await super().fetch(query, parameters)


async def make_up(authenticator: Authenticator, count: int, *, clock: float) -> None:
    """Ask with so many keys that nobody has."""
    found = (authenticator.find(secret.generate(), now=datetime.now(UTC), clock=clock) for _ in range(count))
    answers = await asyncio.gather(*found, return_exceptions=True)
    assert {type(answer) for answer in answers} == {InvalidKey}


@pytest.mark.parametrize("size", [50_000, 100])
async def test_keys_that_nobody_has_do_not_fill_the_memory(size: int, customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authentication, "STALE_FROM", 50)
    monkeypatch.setattr(authentication, "CACHE_SIZE", size)
    lane = CountedLane(settings.DATABASE_URL, deadline_seconds=30)
    authenticator = Authenticator(lane, secret.read_peppers(settings.KEY_PEPPERS))
    for moment in range(20):
        clock = moment * (authentication.UNKNOWN_FRESH_SECONDS + 1)
        await make_up(authenticator, 40, clock=clock)
        assert len(authenticator._cache) <= 100
        assert (await authenticator.find(customer.secret, now=datetime.now(UTC), clock=clock)).id == customer.key.pk
    await lane.close()


async def test_a_key_in_use_is_still_known_when_room_is_made(customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authentication, "STALE_FROM", 50)
    lane = CountedLane(settings.DATABASE_URL, deadline_seconds=30)
    authenticator = Authenticator(lane, secret.read_peppers(settings.KEY_PEPPERS))
    await make_up(authenticator, 45, clock=0)
    await authenticator.find(customer.secret, now=datetime.now(UTC), clock=8)
    await make_up(authenticator, 30, clock=9)  # room is made for the last of them
    asked = lane.asked
    await authenticator.find(customer.secret, now=datetime.now(UTC), clock=10)
    assert lane.asked == asked
    assert len(authenticator._cache) == 31
    authenticator.forget(customer.key.pk)
    await authenticator.find(customer.secret, now=datetime.now(UTC), clock=10)
    assert lane.asked == asked + 1
    await lane.close()
