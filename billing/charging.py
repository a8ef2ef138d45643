"""Who pays what when: the pure rules that turn what happened in a request into its charge.

| what happened | charge | rule |
|---|---|---|
| the provider said what it used | that | `metered` |
| it ended well but the provider gave no (believable) usage | our own count | `estimated` |
| cut, aborted or stopped after output | input and what was delivered, never above the hold | `delivered` |
| no output token, no search and no finish reason, or an error | nothing | `no_output` |
| a test key | nothing | `test_key` |
| one of a model's free requests of the day | nothing | `free` |
"""

from dataclasses import dataclass

from catalog import pricing
from catalog.usage import TokenUsage

NOTHING = TokenUsage()
UNMETERED = "builtin_tools_unmetered"


@dataclass(slots=True)
class Happened:
    """What is known when a request is over. `estimate` is our own count of the input and of what was delivered."""

    reported: TokenUsage | None
    estimate: TokenUsage
    finish_reason: str
    status: str  # ok, cut, aborted, stopped, error: as UsageRecord.Status
    is_test: bool = False


@dataclass(slots=True)
class Charge:
    """What to book: nano-USD and the usage it stands for. `cost` may exceed the hold only when the provider reported the usage."""

    usage: TokenUsage
    usage_source: str
    cost: int
    list_cost: int
    upstream_cost: int
    rule: str
    flags: tuple[str, ...] = ()


def decide(happened: Happened, price: pricing.Price, *, hold_amount: int, is_free: bool = False) -> Charge:
    """Apply the table above."""
    reported = happened.reported
    flags = reported.doubts if reported is not None else ()
    if reported is not None and not reported.is_sane():
        reported = None
        flags = ("usage_not_believable", *flags)
    usage = reported if reported is not None else happened.estimate
    if usage.web_searches and not price.rates.web_search and UNMETERED not in flags:
        flags = (*flags, UNMETERED)
    if _is_empty(happened, usage):
        seen = reported or NOTHING
        return Charge(
            seen, "provider" if reported else "none", 0, 0, pricing.upstream_cost(price, seen) if reported else 0, "no_output", flags
        )
    list_cost = pricing.cost(price, usage)
    upstream_cost = pricing.upstream_cost(price, usage)
    if happened.is_test:
        return Charge(usage, "provider" if reported is not None else "estimated", 0, list_cost, 0, "test_key", flags)
    if is_free:
        return Charge(usage, "provider" if reported is not None else "estimated", 0, list_cost, upstream_cost, "free", flags)
    if reported is not None:
        return Charge(usage, "provider", list_cost, list_cost, upstream_cost, "metered", flags)
    if happened.status == "ok":
        return Charge(usage, "estimated", min(list_cost, hold_amount), list_cost, upstream_cost, "estimated", flags)
    return Charge(usage, "estimated", min(list_cost, hold_amount), list_cost, upstream_cost, "delivered", flags)


def _is_empty(happened: Happened, usage: TokenUsage) -> bool:
    if usage.images or usage.web_searches:
        return False
    if happened.status == "error" and happened.reported is None:
        return True
    return usage.total_output_tokens == 0 and not happened.finish_reason
