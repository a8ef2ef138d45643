"""Facts about reading and writing money."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.money import LARGEST, NotAnAmount, nano_from_usd, usd, usd_cents, usd_display

nanos = st.integers(-LARGEST, LARGEST)


@given(nanos)
def test_what_is_written_reads_back_the_same(nano: int) -> None:
    assert nano_from_usd(usd(nano)) == nano


@given(nanos)
def test_what_is_written_is_exact_and_has_at_least_two_decimals(nano: int) -> None:
    text = usd(nano)
    assert Decimal(text) * 10**9 == nano
    decimals = text.partition(".")[2]
    assert len(decimals) == 2 or (len(decimals) > 2 and not decimals.endswith("0"))


@given(nanos)
def test_a_headline_never_shows_money_that_is_not_there(nano: int) -> None:
    shown = Decimal(usd_cents(nano)) * 10**9
    assert 0 <= nano - shown < 10**7


@given(st.integers(1000, LARGEST))
def test_what_people_see_is_right_to_six_digits(nano: int) -> None:
    shown = Decimal(usd_display(nano).replace("$", "").replace(",", ""))
    assert abs(shown * 10**9 - nano) <= Decimal(nano) / 10**5


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("12.5", 12_500_000_000),
        ("0.000000001", 1),
        ("-3", -3_000_000_000),
        ("1e-9", 1),
        (" 2 ", 2_000_000_000),
        (Decimal("0.0028"), 2_800_000),
    ],
)
def test_dollars_are_read(text: Any, nano: int) -> None:
    assert nano_from_usd(text) == nano


@pytest.mark.parametrize(
    "text", ["", "ten", "NaN", "sNaN", "Infinity", "-inf", "0.0000000001", "1e30", "9223372036.854775808", "1,000", None]
)
def test_what_is_not_an_exact_amount_is_refused(text: Any) -> None:
    with pytest.raises(NotAnAmount):
        nano_from_usd(text)


@pytest.mark.parametrize(
    ("nano", "shown"),
    [
        (0, "$0.00"),
        (1, "<$0.000001"),
        (999, "<$0.000001"),
        (1000, "$0.000001"),
        (-1, "-<$0.000001"),
        (1_234_567_890, "$1.23457"),
        (12_500_000_000, "$12.50"),
        (1_234_567_890_000, "$1,234.57"),
        (-2_000_000_000, "-$2.00"),
        (999_999_999_999_999, "$1,000,000.00"),
    ],
)
def test_amounts_are_shown_to_people(nano: int, shown: str) -> None:
    assert usd_display(nano) == shown


@pytest.mark.parametrize(
    ("nano", "text"), [(0, "0.00"), (10, "0.00000001"), (-1, "-0.000000001"), (10**9, "1.00"), (1_100_000_000, "1.10")]
)
def test_amounts_are_written_exactly(nano: int, text: Any) -> None:
    assert usd(nano) == text
