"""Filters of the billing pages: Stripe's cents as people read them."""

from django import template

from billing.payments.top_ups import NANO_PER_MINOR
from catalog import money

register = template.Library()


@register.filter
def minor(cents: int | None) -> str:
    """An amount of US cents in dollars."""
    if cents is None:
        return ""
    return f"{'-' if cents < 0 else ''}${money.usd(abs(cents) * NANO_PER_MINOR)}"
