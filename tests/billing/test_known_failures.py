"""What went wrong with money in other gateways, each as a fact about this one: `CASES` says where, and a test that every case has its test.

The case is named as its project names it. Where a test of the feature itself covers a case, it is listed and not repeated here.
"""

import ast
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.db import connection

from billing import ledger
from billing.charging import Happened, decide
from catalog import pricing
from catalog.usage import LARGEST_COUNT, TokenUsage
from keys import budgets
from tests.billing.desk import Desk, OpenDesk, connect, day

HERE = "tests/billing/test_known_failures.py"
TOP_UPS = "tests/billing/payments/test_top_ups.py"
REVERSALS = "tests/billing/payments/test_reversals.py"
CASES = {
    # credited twice
    "AutoGPT#10672": (TOP_UPS, "test_two_events_for_one_fact_are_one_credit"),
    "lago#2243": (TOP_UPS, "test_two_events_for_one_fact_are_one_credit"),
    "opencode#28402": (TOP_UPS, "test_fifty_threads_on_five_roads_are_one_credit"),
    "pollinations#10621": (TOP_UPS, "test_fifty_threads_on_five_roads_are_one_credit"),
    "llmgateway#1713": (HERE, "test_one_credit_whoever_asks_for_it_at_the_same_moment"),
    # credit lost by deduplication that was too eager
    "LibreChat#13812": (TOP_UPS, "test_two_equal_payments_are_two_credits"),
    "one-api#355": (TOP_UPS, "test_two_equal_payments_are_two_credits"),
    # taken back too much, twice or not at all
    "eliza#10920": (REVERSALS, "test_thirds_of_a_payment_add_up_to_all_of_it"),
    "eliza#10997": (REVERSALS, "test_every_order_of_the_dispute_history_ends_in_the_same_balance"),
    "eliza#11155": (REVERSALS, "test_a_refund_and_a_dispute_together_never_take_more_than_the_credit"),
    # figures that do not fit
    "new-api#6831": (HERE, "test_money_beyond_32_bits_is_exact"),
    "GHSA-8r8v-xf7q-rcpr": (HERE, "test_a_count_that_no_provider_means_is_never_a_price_nor_a_credit"),
    # an empty secret that signs for everybody
    "CVE-2026-41432": ("tests/billing/payments/test_inbox.py", "test_without_a_secret_the_address_is_off"),
    # months and time zones
    "bifrost#2325": (HERE, "test_a_monthly_budget_ends_with_its_month_and_not_thirty_days_after_it_was_made"),
    "LiteLLM#9098": (HERE, "test_a_monthly_budget_ends_with_its_month_and_not_thirty_days_after_it_was_made"),
    "LiteLLM#4196": (HERE, "test_a_month_that_begins_on_the_31st_ends_on_the_last_day_of_shorter_ones_and_comes_back"),
    "langwatch#6255": (HERE, "test_a_day_begins_at_the_accounts_midnight_also_when_the_clocks_change"),
    # spent more than there was
    "LiteLLM#26672": (HERE, "test_a_key_whose_budget_is_spent_is_refused_however_often_it_asks"),
    "LiteLLM#34732": (HERE, "test_parallel_requests_cannot_all_pass_a_budget_that_one_of_them_fills"),
    # refused although there was money: spend that never was
    "LiteLLM#27639": (HERE, "test_what_a_dead_process_had_reserved_does_not_count_against_its_key"),
    "LiteLLM#30460": (HERE, "test_a_settlement_repeated_after_timeouts_does_not_inflate_what_a_key_has_spent"),
    # an abort for nothing, and tokens that never came
    "GHSA-724j-f2pf-phf7": (HERE, "test_hanging_up_does_not_make_what_was_delivered_free"),
    "llmgateway PR#3546": (HERE, "test_an_estimate_is_never_charged_beyond_what_was_held_for_it"),
    "new-api#4168": (HERE, "test_a_long_prompt_without_a_byte_of_answer_costs_nothing"),
}
ROOT = Path(__file__).resolve().parents[2]
RATES = pricing.fill_rates({"input": 1_000_000_000, "output": 2_000_000_000})  # 1,000 and 2,000 nano-USD a token
PRICE = pricing.Price(1, datetime(2026, 1, 1, tzinfo=UTC), RATES, None, None, 0)


@pytest.mark.parametrize("case", CASES)
def test_every_known_failure_has_its_test(case: str) -> None:
    file, name = CASES[case]
    assert name in {node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.FunctionDef)}


# -- credited twice


def test_one_credit_whoever_asks_for_it_at_the_same_moment(desk: Desk) -> None:
    before, start = desk.balance, threading.Barrier(8)
    booked = []

    def credit() -> None:
        start.wait(30)
        try:
            booked.append(desk.credit(5_000, source_id=f"payment of {desk.slug}").pk)
        finally:
            connection.close()

    threads = [threading.Thread(target=credit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(booked) == 8
    assert len(set(booked)) == 1
    assert desk.balance == before + 5_000


# -- figures that do not fit


@pytest.mark.parametrize("amount", [2**31, 2**32 + 1, 2**53 + 1])
def test_money_beyond_32_bits_is_exact(open_desk: OpenDesk, amount: int) -> None:
    desk = open_desk(nano=amount)
    desk.spend(amount - 1)
    assert desk.balance == 1


def test_a_count_that_no_provider_means_is_never_a_price_nor_a_credit(desk: Desk) -> None:
    for count in (LARGEST_COUNT + 1, 2**63, 10**40, -1, -(2**63)):
        charge = decide(
            Happened(TokenUsage(input_tokens=1, output_tokens=count), TokenUsage(input_tokens=1, output_tokens=2), "stop", "ok"),
            PRICE,
            hold_amount=10**9,
        )
        assert charge.cost == 5_000
        assert "usage_not_believable" in charge.flags
    with pytest.raises(ledger.NotPositive):
        desk.credit(2**63)
    with pytest.raises(ledger.NotPositive):
        desk.credit(-1)


# -- months and time zones


@pytest.mark.parametrize("made_on", ["2026-01-31T23:59:59", "2026-02-01T00:00:00", "2026-02-10T12:00:00", "2026-02-28T23:59:59"])
def test_a_monthly_budget_ends_with_its_month_and_not_thirty_days_after_it_was_made(made_on: str) -> None:
    now = datetime.fromisoformat(made_on).replace(tzinfo=UTC)
    window = budgets.window_at("month", now)
    assert window.starts_at == now.replace(day=1, hour=0, minute=0, second=0)
    assert window.ends_at == datetime(2026, now.month + 1, 1, tzinfo=UTC)


def test_a_month_that_begins_on_the_31st_ends_on_the_last_day_of_shorter_ones_and_comes_back() -> None:
    ends = []
    moment = datetime(2027, 12, 31, 12, tzinfo=UTC)
    for _ in range(5):
        window = budgets.window_at("month", moment, anchor_day=31)
        assert window.starts_at <= moment < window.ends_at
        ends.append(f"{window.ends_at:%m-%d}")
        moment = window.ends_at
    assert ends == ["01-31", "02-29", "03-31", "04-30", "05-31"]


@pytest.mark.parametrize(
    ("moment", "starts", "hours"),
    [
        ("2026-07-10T21:59:59", "2026-07-09T22:00:00", 24),
        ("2026-07-10T22:00:00", "2026-07-10T22:00:00", 24),
        ("2026-03-29T12:00:00", "2026-03-28T23:00:00", 23),
        ("2026-10-25T12:00:00", "2026-10-24T22:00:00", 25),
    ],
)
def test_a_day_begins_at_the_accounts_midnight_also_when_the_clocks_change(moment: str, starts: str, hours: int) -> None:
    window = budgets.window_at("day", datetime.fromisoformat(moment).replace(tzinfo=UTC), timezone="Europe/Amsterdam")
    assert window.starts_at == datetime.fromisoformat(starts).replace(tzinfo=UTC)
    assert window.ends_at - window.starts_at == timedelta(hours=hours)


# -- spent more than there was


def test_a_key_whose_budget_is_spent_is_refused_however_often_it_asks(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=1, budget=100)
    desk.spend(100)
    answers = desk.place(*(desk.request(amount) for amount in (1, 50, 100, 10**9)))
    assert {answer.outcome for answer in answers} == {"budget_spent"}
    assert desk.place(desk.request(1, started=day(3)))[0].outcome == "budget_spent"


def test_parallel_requests_cannot_all_pass_a_budget_that_one_of_them_fills(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=1, budget=100)
    start, outcomes = threading.Barrier(12), []

    def ask() -> None:
        with connect() as sql:
            start.wait(30)
            outcomes.append(desk.place(desk.request(100, least=100), sql=sql)[0].outcome)

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(outcomes) == ["budget_spent"] * 11 + ["placed"]


# -- spend that never was


def test_what_a_dead_process_had_reserved_does_not_count_against_its_key(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=1, budget=100)
    desk.hold(100)
    assert desk.place(desk.request(100, least=100))[0].outcome == "budget_spent"
    desk.kill_owner()
    desk.sweep()
    desk.owner = desk.make_owner()
    assert desk.place(desk.request(100, least=100))[0].outcome == "placed"


def test_a_settlement_repeated_after_timeouts_does_not_inflate_what_a_key_has_spent(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=1, budget=100)
    request = desk.hold(14)
    for _ in range(5):
        desk.settle(desk.record(request, 14))
    window = desk.window_of(desk.key)
    assert (window.spent, window.requests, window.held) == (14, 1, 0)
    assert desk.place(desk.request(86, least=86))[0].outcome == "placed"


# -- an abort for nothing, and tokens that never came


@pytest.mark.parametrize("status", ["aborted", "cut", "stopped"])
def test_hanging_up_does_not_make_what_was_delivered_free(status: str) -> None:
    charge = decide(Happened(None, TokenUsage(input_tokens=100, output_tokens=7), "", status), PRICE, hold_amount=10**9)
    assert (charge.rule, charge.cost) == ("delivered", 114_000)


def test_an_estimate_is_never_charged_beyond_what_was_held_for_it() -> None:
    for status in ("ok", "aborted", "cut", "stopped"):
        far_too_many = TokenUsage(input_tokens=100, output_tokens=1_165_619)
        assert decide(Happened(None, far_too_many, "stop", status), PRICE, hold_amount=300_000).cost == 300_000


@pytest.mark.parametrize("status", ["ok", "aborted", "cut", "stopped", "error"])
def test_a_long_prompt_without_a_byte_of_answer_costs_nothing(status: str) -> None:
    charge = decide(Happened(None, TokenUsage(input_tokens=2_360_000), "", status), PRICE, hold_amount=10**12)
    assert (charge.rule, charge.cost) == ("no_output", 0)
