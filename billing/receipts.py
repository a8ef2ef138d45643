"""Receipts: what a finished request was charged and why, in lines from which anyone can recompute it.

total = (sum of quantity x rate / 1,000,000) x (1 + markup), rounded up once to a billionth of a dollar. That plus the adjustment is the
list cost; the list cost less what was written off and less what was not charged by rule is what was charged.
"""

import uuid
from dataclasses import dataclass

from accounts.models import Account
from billing.models import UsageRecord
from catalog import pricing
from catalog.usage import BUCKETS, TokenUsage


class RequestNotFound(Exception):
    """No finished request of this id belongs to the account."""


RULES = {
    "metered": "The provider said what the request used; that is charged.",
    "estimated": "The answer is complete but the provider did not say what it used; our own count is charged, never more than was held.",
    "delivered": "The answer was cut short; the input and what was delivered are charged by our own count, never more than was held.",
    "no_output": "Nothing was delivered; nothing is charged.",
    "free": "One of the model's free requests of that day; the list cost is what it would have cost.",
    "test_key": "A test key is never charged; the list cost is what a live key would have paid.",
    "overrun": "The request outlived its hold; what it really used is charged, as far as the wallet could pay.",
    "swept_partial": "The process that served the request died; what it had noted as delivered is charged, never more than was held.",
    "swept_void": "The process that served the request died before it delivered anything; nothing is charged.",
}
# What is doubtful about a provider's count (`catalog.usage`), in words.
FLAGS = {
    "usage_not_believable": "The provider's count could not be true; our own was taken instead.",
    "usage_not_a_count": "The provider's count was not a number.",
    "usage_negative": "The provider counted less than nothing.",
    "usage_too_large": "The provider's count is larger than any request can be.",
    "usage_cached_beyond_input": "The provider counted more cached tokens than input; they are taken as it said.",
    "usage_cache_write_beyond_input": "The provider counted more tokens written to its cache than input.",
    "usage_cache_write_split_mismatch": "The provider's counts of short-lived and long-lived cache writes do not add up.",
    "usage_audio_beyond_input": "The provider counted more audio than input.",
    "usage_reasoning_beyond_output": "The provider counted more reasoning than output.",
    "usage_audio_beyond_output": "The provider counted more audio than output.",
    "usage_total_mismatch": "The provider's total is not the sum of its parts; the parts are charged.",
    "usage_iterations_mismatch": "The provider's steps do not add up to its whole.",
    "usage_tokens_unreadable": "Beside the pictures, which are charged by number, the provider's tokens could not be read.",
    "builtin_tools_unmetered": "The provider ran tools of its own whose fees are in no price here; they are not charged.",
}
FREE_RULES = frozenset({"no_output", "swept_void"})  # nothing is owed, whatever tokens the provider counted


@dataclass(frozen=True, slots=True)
class Receipt:
    """How the charge of one request comes about. Amounts in nano-USD, save for `subtotal` (10^-15 USD) and `total` (10^-21 USD).

    Without a price version nothing can be itemised: `price` is None and there are no lines.
    """

    price: pricing.Price | None
    lines: list[pricing.Line]
    is_long_prompt: bool
    subtotal: int
    total: int
    adjustment: int
    list_cost: int
    written_off: int
    not_charged: int
    charged: int


def find(text: str, *, account: Account) -> UsageRecord:
    """The record of the account's finished request with this id, with its key and price.

    Raises: RequestNotFound for anything else: an unknown or malformed id, another account's, or a request that is still under way.
    """
    try:
        request_id = uuid.UUID(text)
    except ValueError:
        raise RequestNotFound from None
    record = UsageRecord.objects.filter(pk=request_id, account=account).select_related("key", "price").first()
    if record is None:
        raise RequestNotFound
    return record


def usage_of(record: UsageRecord) -> TokenUsage:
    """What the request used, in the buckets that prices are for."""
    return TokenUsage(**{bucket: getattr(record, bucket) for bucket in BUCKETS})


def explain(record: UsageRecord) -> Receipt:
    """Work out how the charge of `record` comes about."""
    price = record.price.frozen() if record.price is not None else None
    usage = usage_of(record)
    lines = pricing.itemise(price, usage) if price is not None and record.rule not in FREE_RULES else []
    subtotal = sum(line.amount for line in lines)
    total = subtotal * (pricing.PER_UNITS + price.markup_ppm) if price is not None else 0
    computed = -(-total // (pricing.PER_UNITS * pricing.PER_UNITS))
    return Receipt(
        price=price,
        lines=lines,
        is_long_prompt=price is not None and pricing.rates_for(price, usage.total_input_tokens) is not price.rates,
        subtotal=subtotal,
        total=total,
        adjustment=record.list_cost - computed,
        list_cost=record.list_cost,
        written_off=record.written_off,
        not_charged=record.list_cost - record.cost - record.written_off,
        charged=record.cost,
    )


def cache_discount(receipt: Receipt) -> int:
    """What the provider's cache saved against the plain input price, markup included; negative when writing to it cost more. 10^-21 USD."""
    if receipt.price is None:
        return 0
    plain = (receipt.price.long_rates if receipt.is_long_prompt and receipt.price.long_rates else receipt.price.rates).input
    saved = sum(line.quantity * (plain - line.rate) for line in receipt.lines if line.bucket.startswith("cache"))
    return saved * (pricing.PER_UNITS + receipt.price.markup_ppm)
