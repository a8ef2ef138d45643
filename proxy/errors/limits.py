"""Something is used up for now: money, a budget, a quota, or a rate (402, 429)."""

from accounts import invitations
from billing import holds
from catalog import money
from proxy import failures
from proxy.errors.conditions import WalletRanOut
from proxy.errors.row import NO_RETRY, QUOTA, Entry, retry_after
from proxy.rate_limits import FreeLimitReached, RateLimited

_LIMIT_NAMES = {"requests": "requests per minute", "tokens": "tokens per minute", "concurrency": "requests at once"}


def _reached(limited: RateLimited) -> str:
    return f": {limited.limit} {_LIMIT_NAMES[limited.kind]}" if limited.limit else ""


ROWS: dict[type[Exception], Entry] = {
    holds.InsufficientBalance: Entry(
        402,
        QUOTA,
        "insufficient_quota",
        "INSUFFICIENT_CREDITS",
        "The wallet's free amount does not cover even a small answer.",
        "Top up, or wait for requests under way to give back what they hold.",
        lambda e: (
            f"Insufficient balance: ${money.usd(max(0, e.available))} is free and this request needs at least ${money.usd(e.needed)}. Top up to continue."
        ),
        lambda _: {"headers": NO_RETRY},
    ),
    holds.BudgetSpent: Entry(
        402,
        QUOTA,
        "key_budget_exceeded",
        "INSUFFICIENT_CREDITS",
        "The key's own budget for this window is spent.",
        "Raise the key's budget, use another key, or wait for the next window.",
        lambda e: (
            f"This key's budget is spent (${money.usd(max(0, e.available))} left). It begins anew at {e.resets_at:%Y-%m-%dT%H:%M:%SZ}."
        ),
        lambda _: {"headers": NO_RETRY},
    ),
    RateLimited: Entry(
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
        "RATE_LIMITED",
        "Too many requests or tokens a minute, or requests at once.",
        "Wait as `Retry-After` says.",
        lambda e: f"Rate limit reached{_reached(e)}. Retry in {max(1, round(e.retry_after_seconds))} s.",
        lambda e: {"headers": retry_after(e.retry_after_seconds)},
    ),
    invitations.TooManyInvitations: Entry(
        429,
        "rate_limit_error",
        "too_many_invitations",
        "RATE_LIMITED",
        f"A member invites {invitations.MOST_A_DAY} times a day at most, and {invitations.MOST_TO_ONE_A_DAY} times the same address.",
        "Wait until a day has passed. Retrying earlier does not help, so the answer says `x-should-retry: false`.",
        lambda _: "Whoever made this key has sent too many invitations within a day, or too many to this address.",
        lambda _: {"param": "email", "headers": NO_RETRY},
    ),
    FreeLimitReached: Entry(
        429,
        "rate_limit_error",
        "free_limit_reached",
        "RATE_LIMITED",
        "The model's free requests of today are used up: those of all accounts together, or this account's share of them.",
        "Wait until midnight UTC, as `Retry-After` says; retrying earlier does not help, so the answer says `x-should-retry: false`. "
        "A model that also has a price is paid from the balance, as soon as that covers a request.",
        lambda e: (
            f"The free requests of '{e.subject}' are used up for today. They begin anew at {e.resets_at:%Y-%m-%dT%H:%M:%SZ}."
            + (" Top up to go on at its price." if e.may_pay else "")
        ),
        lambda e: {"headers": (*retry_after(e.retry_after_seconds), *NO_RETRY)},
    ),
    holds.QuotaSpent: Entry(
        429,
        "rate_limit_error",
        "token_limit_exceeded",
        "RATE_LIMITED",
        "The plan's tokens for this month are used up.",
        "Change the plan, or wait for the next month. Retrying does not help, so the answer says `x-should-retry: false`.",
        lambda e: (
            f"The plan's monthly token quota is used up ({max(0, e.available)} tokens left). It begins anew at {e.resets_at:%Y-%m-%dT%H:%M:%SZ}."
        ),
        lambda _: {"headers": NO_RETRY},
    ),
    failures.ProviderBusy: Entry(
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
        "RATE_LIMITED",
        "The model's providers are busy.",
        "Wait as `Retry-After` says.",
        lambda _: "The model is busy. Retry shortly.",
        lambda e: {"headers": retry_after(e.retry_after_seconds or 1.0)},
    ),
    WalletRanOut: Entry(
        402,
        QUOTA,
        "insufficient_quota",
        "INSUFFICIENT_CREDITS",
        "A stream was ended because the balance or the key's budget is spent; what was delivered is charged.",
        "Top up and continue.",
        lambda _: "The balance or budget ran out during the answer. What was delivered is charged; top up to continue.",
    ),
}
