"""Breakers: what opens them, for how long, and what closes them."""

import pytest

from proxy import failures
from proxy.health import (
    COOL_DOWN_SECONDS,
    FAILURES_TO_OPEN,
    LONGEST_COOL_DOWN_SECONDS,
    LONGEST_WAIT_SECONDS,
    REFUSED_KEY_SECONDS,
    Health,
    State,
)

ROUTE, KEY = ("route", 1), ("key", "k")
FAULT = failures.ProviderFault(500)


def fail(health: Health, times: int, now: float, failure: failures.UpstreamFailure = FAULT) -> None:
    for _ in range(times):
        health.note_failure(1, "k", failure, now)


def test_nothing_known_is_healthy() -> None:
    assert Health().state(ROUTE, 0) is State.HEALTHY


def test_a_route_cools_after_three_failures_in_a_row_and_not_before() -> None:
    health = Health()
    fail(health, FAILURES_TO_OPEN - 1, 0)
    assert health.state(ROUTE, 0) is State.HEALTHY
    fail(health, 1, 0)
    assert health.state(ROUTE, 0) is State.COOLING
    assert health.state(ROUTE, COOL_DOWN_SECONDS - 0.01) is State.COOLING
    assert health.state(ROUTE, COOL_DOWN_SECONDS) is State.HEALTHY
    assert health.state(KEY, 0) is State.HEALTHY


def test_a_success_in_between_starts_the_count_anew() -> None:
    health = Health()
    for _ in range(5):
        fail(health, FAILURES_TO_OPEN - 1, 0)
        health.note_success(1, "k")
    assert health.state(ROUTE, 0) is State.HEALTHY


def test_a_failed_probe_doubles_the_cool_down_up_to_a_bound() -> None:
    health, now = Health(), 0.0
    fail(health, FAILURES_TO_OPEN, now)
    waits = []
    for _ in range(8):
        waits.append(health.seconds_left(ROUTE, now))
        now += waits[-1]
        fail(health, 1, now)
    assert waits[:4] == [10, 20, 40, 80]
    assert waits[-1] == LONGEST_COOL_DOWN_SECONDS


def test_a_route_may_fail_for_weeks() -> None:
    health = Health()
    fail(health, 5000, 0.0)
    assert health.seconds_left(ROUTE, 0.0) == LONGEST_COOL_DOWN_SECONDS


def test_a_success_forgets_the_doubling() -> None:
    health = Health()
    fail(health, FAILURES_TO_OPEN + 4, 0)
    health.note_success(1, "k")
    fail(health, FAILURES_TO_OPEN, 0)
    assert health.seconds_left(ROUTE, 0) == COOL_DOWN_SECONDS


@pytest.mark.parametrize("failure", [failures.ProviderBusy(429, 7.0), failures.ProviderOverloaded(503, 7.0)])
def test_a_wait_that_was_asked_for_is_kept_at_once(failure: failures.ProviderBusy) -> None:
    health = Health()
    fail(health, 1, 0, failure)
    assert health.state(ROUTE, 6.9) is State.ASKED_TO_WAIT
    assert health.state(ROUTE, 7) is State.HEALTHY


def test_a_wait_is_bounded() -> None:
    health = Health()
    fail(health, 1, 0, failures.ProviderBusy(429, 1e9))
    assert health.seconds_left(ROUTE, 0) == LONGEST_WAIT_SECONDS


def test_a_busy_provider_that_asks_for_nothing_is_only_put_behind_the_others() -> None:
    health = Health()
    fail(health, 1, 0, failures.ProviderBusy(429, None))
    assert health.state(ROUTE, 0) is State.COOLING


def test_a_refused_key_rests_and_its_route_does_not() -> None:
    health = Health()
    fail(health, FAILURES_TO_OPEN, 0, failures.ProviderKeyRefused(401, out_of_money=False))
    assert health.state(KEY, REFUSED_KEY_SECONDS - 1) is State.COOLING
    assert health.state(KEY, REFUSED_KEY_SECONDS) is State.HEALTHY
    assert health.state(ROUTE, 0) is State.HEALTHY


def test_a_key_without_money_rests_at_once() -> None:
    health = Health()
    fail(health, 1, 0, failures.ProviderKeyRefused(402, out_of_money=True))
    assert health.state(KEY, 0) is State.COOLING


def test_a_success_of_one_key_says_nothing_of_another() -> None:
    health = Health()
    fail(health, 1, 0, failures.ProviderKeyRefused(402, out_of_money=True))
    health.note_success(1, "other")
    assert health.state(KEY, 0) is State.COOLING
