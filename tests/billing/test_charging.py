"""Who pays what when: the table at the top of `billing.charging`, line by line."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.charging import NOTHING, Charge, Happened, decide
from catalog import pricing
from catalog.usage import LARGEST_COUNT, TokenUsage

RATES = pricing.fill_rates({"input": 1_000_000_000, "output": 2_000_000_000})  # 1,000 and 2,000 nano-USD a token
PRICE = pricing.Price(1, datetime(2026, 1, 1, tzinfo=UTC), RATES, None, None, 0)
DEAR = pricing.Price(2, datetime(2026, 1, 1, tzinfo=UTC), RATES, None, None, 250_000)
REPORTED = TokenUsage(input_tokens=10, output_tokens=5)
ESTIMATE = TokenUsage(input_tokens=12, output_tokens=6)
ENOUGH = 10**9
COUNTS = st.integers(0, 10**6)
USAGES = st.builds(TokenUsage, input_tokens=COUNTS, cached_input_tokens=COUNTS, output_tokens=COUNTS, reasoning_tokens=COUNTS)
STATUSES = st.sampled_from(["ok", "cut", "aborted", "stopped", "error"])


def happened(
    reported: TokenUsage | None = None, estimate: TokenUsage = ESTIMATE, finish: str = "stop", status: str = "ok", *, test: bool = False
) -> Happened:
    return Happened(reported, estimate, finish, status, is_test=test)


@pytest.mark.parametrize("status", ["ok", "cut", "aborted", "stopped"])
def test_what_the_provider_said_is_charged(status: str) -> None:
    charge = decide(happened(REPORTED, status=status), PRICE, hold_amount=ENOUGH)
    assert charge == Charge(REPORTED, "provider", 20_000, 20_000, 20_000, "metered")


def test_what_the_provider_said_is_charged_even_beyond_the_hold() -> None:
    assert decide(happened(REPORTED), PRICE, hold_amount=1).cost == 20_000


def test_without_usage_our_own_count_is_charged() -> None:
    charge = decide(happened(), PRICE, hold_amount=ENOUGH)
    assert charge == Charge(ESTIMATE, "estimated", 24_000, 24_000, 24_000, "estimated")


@pytest.mark.parametrize("status", ["cut", "aborted", "stopped"])
def test_a_broken_stream_is_charged_for_what_was_delivered_and_never_above_its_hold(status: str) -> None:
    assert decide(happened(finish="", status=status), PRICE, hold_amount=ENOUGH).rule == "delivered"
    charge = decide(happened(finish="", status=status), PRICE, hold_amount=7_000)
    assert (charge.cost, charge.list_cost) == (7_000, 24_000)


@pytest.mark.parametrize("status", ["ok", "cut", "aborted", "stopped"])
def test_no_output_and_no_finish_reason_cost_nothing(status: str) -> None:
    charge = decide(happened(estimate=TokenUsage(input_tokens=500), finish="", status=status), PRICE, hold_amount=ENOUGH)
    assert charge == Charge(NOTHING, "none", 0, 0, 0, "no_output")


def test_no_output_with_a_finish_reason_costs_its_input() -> None:
    charge = decide(happened(TokenUsage(input_tokens=10), finish="content_filter"), PRICE, hold_amount=ENOUGH)
    assert (charge.rule, charge.cost) == ("metered", 10_000)


def test_an_error_costs_nothing_whatever_was_counted() -> None:
    assert decide(happened(finish="", status="error"), PRICE, hold_amount=ENOUGH).cost == 0


def test_what_the_provider_bills_for_nothing_is_the_operators_loss_and_is_shown() -> None:
    charge = decide(happened(TokenUsage(input_tokens=10), TokenUsage(input_tokens=9), finish="", status="cut"), PRICE, hold_amount=ENOUGH)
    assert (charge.rule, charge.cost, charge.usage_source, charge.upstream_cost) == ("no_output", 0, "provider", 10_000)


def test_a_test_key_pays_nothing_and_sees_the_price() -> None:
    charge = decide(happened(REPORTED, test=True), DEAR, hold_amount=0)
    assert (charge.rule, charge.cost, charge.list_cost, charge.upstream_cost) == ("test_key", 0, 25_000, 0)


@pytest.mark.parametrize(
    "lie", [TokenUsage(input_tokens=-50, output_tokens=5), TokenUsage(input_tokens=1, output_tokens=LARGEST_COUNT + 1)]
)
def test_an_unbelievable_count_is_not_believed(lie: TokenUsage) -> None:
    charge = decide(happened(lie), PRICE, hold_amount=ENOUGH)
    assert (charge.usage, charge.rule, charge.flags) == (ESTIMATE, "estimated", ("usage_not_believable",))


def test_the_markup_is_the_customers_and_not_the_providers() -> None:
    charge = decide(happened(REPORTED), DEAR, hold_amount=ENOUGH)
    assert (charge.cost, charge.upstream_cost) == (25_000, 20_000)


@given(st.none() | USAGES, USAGES, st.sampled_from(["", "stop", "length"]), STATUSES, st.booleans(), st.integers(0, 10**12))
def test_a_charge_is_never_negative_never_above_its_list_price_and_within_the_hold_unless_reported(
    reported: TokenUsage | None, estimate: TokenUsage, finish: str, status: str, test: bool, hold: int
) -> None:
    charge = decide(happened(reported, estimate, finish, status, test=test), DEAR, hold_amount=hold)
    assert 0 <= charge.cost <= charge.list_cost
    assert charge.usage.is_sane()
    if reported is None:
        assert charge.cost <= hold
    if test or (reported is None and status == "error"):
        assert charge.cost == 0
    assert (charge.cost > 0) <= (charge.rule in ("metered", "estimated", "delivered"))
