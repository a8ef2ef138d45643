"""What templates ask of billing: Stripe's cents as people read them, and whether there is a sample account."""

from django import template

from accounts.models import Account
from billing import sample
from billing.payments.top_ups import NANO_PER_MINOR
from catalog import money

register = template.Library()


@register.simple_tag
def sample_account() -> Account | None:
    """The account with invented figures, if there is one."""
    return sample.find()


@register.filter
def minor(cents: int | None) -> str:
    """An amount of US cents in dollars."""
    if cents is None:
        return ""
    return f"{'-' if cents < 0 else ''}${money.usd(abs(cents) * NANO_PER_MINOR)}"
