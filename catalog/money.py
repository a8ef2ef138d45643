"""The one unit of money: integer nano-USD (a billionth of a dollar), and how it is read and written.

Prices are integer nano-USD per 1,000,000 units (tokens, images, requests), so DeepSeek's $0.0028 per million is 2,800,000 exactly.
"""

from decimal import ROUND_FLOOR, Context, Decimal, Inexact, InvalidOperation, Overflow

NANO_PER_USD = 1_000_000_000
LARGEST = 2**63 - 1  # what a BIGINT holds; nine thousand million dollars

_EXACT = Context(prec=40, traps=[Inexact, InvalidOperation, Overflow])  # what does not fit is refused, not rounded


class NotAnAmount(ValueError):
    """The text is not a decimal amount of dollars that this unit can hold exactly."""


def nano_from_usd(text: str | Decimal) -> int:
    """Read dollars ("12.5", "0.000000001") as nano-USD.

    Raises: NotAnAmount for anything else: signs of infinity, more than nine decimals, more than a BIGINT holds.
    """
    try:
        nano = _EXACT.multiply(Decimal(text), Decimal(NANO_PER_USD))
    except (ArithmeticError, TypeError, ValueError) as error:
        raise NotAnAmount(f"{text!r} is not an amount in dollars") from error
    if not nano.is_finite() or nano != nano.to_integral_value():
        raise NotAnAmount(f"{text!r} has more than nine decimals or is not finite")
    if abs(nano) > LARGEST:
        raise NotAnAmount(f"{text!r} is too large")
    return int(nano)


def usd(nano: int) -> str:
    """Write nano-USD as an exact decimal string of dollars: at least two decimals, no trailing zeros beyond them."""
    sign = "-" if nano < 0 else ""
    whole, part = divmod(abs(nano), NANO_PER_USD)
    decimals = f"{part:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole}.{decimals}"


def usd_cents(nano: int) -> str:
    """Write a headline balance: floored to cents, so that nobody is shown money they do not have."""
    return str((Decimal(nano) / NANO_PER_USD).quantize(Decimal("0.01"), rounding=ROUND_FLOOR))


def usd_display(nano: int) -> str:
    """Write an amount for people: six significant digits, and `<$0.000001` for less than that."""
    if nano == 0:
        return "$0.00"
    sign, size = ("-" if nano < 0 else ""), abs(nano)
    if size < 1000:
        return f"{sign}<$0.000001"
    amount = Decimal(size) / NANO_PER_USD
    text = format(Decimal(format(amount, ".6g")), "f")
    whole, _, part = text.partition(".")
    return f"{sign}${int(whole):,}.{part.rstrip('0').ljust(2, '0')}"


def exact(units: int, *, places: int, least: int = 2) -> str:
    """Write `units` of 10^-`places` dollars as an exact decimal string, for amounts finer than a nano-USD: at least `least` decimals."""
    sign = "-" if units < 0 else ""
    whole, part = divmod(abs(units), 10**places)
    decimals = f"{part:0{places}d}".rstrip("0").ljust(least, "0")
    return f"{sign}{whole}.{decimals}" if decimals else f"{sign}{whole}"
