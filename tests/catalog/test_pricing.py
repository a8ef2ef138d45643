"""Facts about what usage costs: one exact formula, in Python integers, PostgreSQL NUMERIC and fractions alike."""

import math
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest
from django.db import connection
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog import pricing
from catalog.money import LARGEST, usd
from catalog.pricing import Price, Rates, affordable_output, fill_rates, itemise, price_at, rates_for, upstream_cost, worst_case
from catalog.usage import BUCKETS, LARGEST_COUNT, MOST_SEARCHES, TokenUsage

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PAIRS = tuple(
    zip(
        BUCKETS,
        (
            "input",
            "cached_input",
            "cache_write",
            "cache_write_1h",
            "audio_input",
            "output",
            "reasoning",
            "audio_output",
            "image",
            "web_search",
        ),
        strict=True,
    )
)
rate = st.integers(0, 10**12)
rates = st.builds(Rates, *[rate] * 11)
counts = st.integers(0, 5_000_000)
usages = st.builds(TokenUsage, *[counts] * 10)
markups = st.integers(0, 1_000_000)


@st.composite
def prices(draw: st.DrawFn) -> Price:
    above = draw(st.none() | st.integers(0, 10_000_000))
    return Price(1, NOON, draw(rates), above, draw(rates) if above is not None else None, draw(markups))


def flat(*, markup_ppm: int = 0, **given_rates: int) -> Price:
    return Price(1, NOON, fill_rates(dict(given_rates)), None, None, markup_ppm)


def as_fraction(price: Price, usage: TokenUsage) -> int:
    chosen = rates_for(price, usage.total_input_tokens)
    total = sum(
        (Fraction(getattr(usage, bucket) * getattr(chosen, name), 10**6) for bucket, name in PAIRS), Fraction(chosen.request, 10**6)
    )
    return math.ceil(total * (1 + Fraction(price.markup_ppm, 10**6)))


@given(prices(), usages)
def test_integers_and_fractions_agree(price: Price, usage: TokenUsage) -> None:
    assert pricing.cost(price, usage) == as_fraction(price, usage)
    assert upstream_cost(price, usage) <= pricing.cost(price, usage)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(prices(), usages), min_size=20, max_size=40))
def test_integers_and_postgresql_numeric_agree(cases: list[tuple[Price, TokenUsage]]) -> None:
    rows = []
    for price, usage in cases:
        chosen = rates_for(price, usage.total_input_tokens)
        rows.append(
            (
                [getattr(usage, bucket) for bucket, _ in PAIRS] + [1],
                [getattr(chosen, name) for _, name in PAIRS] + [chosen.request],
                price.markup_ppm,
            )
        )
    with connection.cursor() as cursor:
        for (price, usage), (quantities, each, markup) in zip(cases, rows, strict=True):
            cursor.execute(
                """SELECT ceil(SUM(quantity * rate) * (1000000 + %s::numeric) * 0.000000000001)
                    FROM unnest(%s::numeric[], %s::numeric[]) AS line (quantity, rate)""",
                [markup, quantities, each],
            )
            assert int(cursor.fetchone()[0]) == pricing.cost(price, usage)


def test_a_million_tiny_embeddings_cost_what_they_cost() -> None:
    price = flat(input=20_000_000)  # $0.02 a million
    each = pricing.cost(price, TokenUsage(input_tokens=12))
    assert usd(each * 1_000_000) == "0.24"


def test_a_cache_hit_at_a_quarter_of_a_cent_a_million_is_exact() -> None:
    price = flat(input=280_000_000, cached_input=2_800_000)
    assert pricing.cost(price, TokenUsage(cached_input_tokens=1_000_000)) == 2_800_000


def test_the_cost_is_rounded_up_once_a_request() -> None:
    price = flat(input=1, output=1)
    assert pricing.cost(price, TokenUsage()) == 0
    assert pricing.cost(price, TokenUsage(input_tokens=1)) == 1
    assert pricing.cost(price, TokenUsage(input_tokens=500_000, output_tokens=500_000)) == 1
    assert pricing.cost(price, TokenUsage(input_tokens=500_000, output_tokens=500_001)) == 2


def test_the_markup_is_part_of_the_one_rounding() -> None:
    price = flat(input=1_000_000, markup_ppm=50_000)
    assert pricing.cost(price, TokenUsage(input_tokens=20)) == 21
    assert pricing.cost(price, TokenUsage(input_tokens=1)) == 2
    assert upstream_cost(price, TokenUsage(input_tokens=20)) == 20


def test_a_long_prompt_is_charged_whole_at_its_own_rates() -> None:
    long = fill_rates({"input": 2_000_000}, base=fill_rates({"input": 1_000_000, "output": 5_000_000}))
    price = Price(1, NOON, fill_rates({"input": 1_000_000, "output": 5_000_000}), 100, long, 0)
    assert pricing.cost(price, TokenUsage(input_tokens=100)) == 100
    assert pricing.cost(price, TokenUsage(input_tokens=60, cached_input_tokens=41)) == 2 * 101
    assert long.output == 5_000_000


@given(prices(), usages, st.sampled_from(BUCKETS))
def test_more_never_costs_less_within_a_tier(price: Price, usage: TokenUsage, bucket: str) -> None:
    more = TokenUsage(**{name: getattr(usage, name) + (name == bucket) for name in BUCKETS})
    if rates_for(price, more.total_input_tokens) is rates_for(price, usage.total_input_tokens):
        assert pricing.cost(price, more) >= pricing.cost(price, usage)


@given(prices(), usages)
def test_the_worst_case_is_never_exceeded(price: Price, usage: TokenUsage) -> None:
    bound = worst_case(
        price,
        input_tokens=usage.total_input_tokens,
        output_tokens=usage.total_output_tokens,
        images=usage.images,
        web_searches=usage.web_searches,
    )
    assert pricing.cost(price, usage) <= bound


@given(prices(), st.integers(0, 1_000_000), st.integers(0, 100), st.integers(0, 10**15))
def test_affordable_output_fits_and_one_token_more_does_not(price: Price, input_tokens: int, searches: int, budget: int) -> None:
    fits = affordable_output(price, input_tokens=input_tokens, budget=budget, web_searches=searches)
    chosen = rates_for(price, input_tokens)
    one_tier = Price(1, NOON, chosen, None, None, price.markup_ppm)
    if fits:
        assert worst_case(one_tier, input_tokens=input_tokens, output_tokens=fits, web_searches=searches) <= budget
    if max(chosen.output, chosen.reasoning, chosen.audio_output):
        assert worst_case(one_tier, input_tokens=input_tokens, output_tokens=fits + 1, web_searches=searches) > budget


@given(prices(), usages)
def test_a_receipts_lines_add_up_to_the_cost(price: Price, usage: TokenUsage) -> None:
    total = sum(line.amount for line in itemise(price, usage))
    assert -(-total * (10**6 + price.markup_ppm) // 10**12) == pricing.cost(price, usage)


def test_what_is_not_priced_apart_costs_what_it_is_a_kind_of() -> None:
    filled = fill_rates({"input": 10, "output": 20, "cache_write": 12})
    assert (filled.cached_input, filled.cache_write_1h, filled.audio_input, filled.reasoning, filled.audio_output) == (10, 12, 10, 20, 20)
    assert (filled.image, filled.request) == (0, 0)


def test_a_price_of_zero_is_a_price() -> None:
    assert fill_rates({"input": 10, "cached_input": 0}).cached_input == 0


def test_a_price_ends_where_the_next_begins() -> None:
    old, new = (Price(n, NOON + timedelta(days=n), fill_rates({}), None, None, 0) for n in (1, 2))
    assert price_at([old, new], NOON) is None
    assert price_at([old, new], old.effective_from) is old
    assert price_at([old, new], new.effective_from - timedelta(microseconds=1)) is old
    assert price_at([old, new], new.effective_from) is new


@pytest.mark.parametrize("bucket", BUCKETS)
def test_a_count_nobody_believes_is_not_sane(bucket: str) -> None:
    def counted(count: int) -> TokenUsage:
        given: dict[str, Any] = {bucket: count}
        return TokenUsage(**given)

    most = MOST_SEARCHES if bucket == "web_searches" else LARGEST_COUNT
    assert counted(most).is_sane()
    assert not counted(most + 1).is_sane()
    assert not counted(-1).is_sane()


def test_believable_usage_at_today_s_dearest_price_fits_a_bigint() -> None:
    dearest = 1_000_000_000_000  # $1,000 a million tokens
    assert pricing.cost(flat(input=dearest), TokenUsage(input_tokens=LARGEST_COUNT)) <= LARGEST
