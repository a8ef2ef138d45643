"""The wallet's ledger as its owner reads it: filtered, a page at a time, each entry with the words that explain it. Queries only.

A page is a run of the wallet's chain (`wallet_version`), so it costs the same at the first entry and at the millionth. Days are those of the
account's clock, and an entry belongs to the day in which it was booked, as in statements.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, Min, Q, QuerySet

from accounts.models import Account
from billing import ledger, statements
from billing.models import Transfer, UsageRecord, Wallet
from billing.payments import bookings
from billing.reports import Period

PAGE = 50
NOT_USAGE = ~Q(kind__in=("usage", "overrun"))  # as the partial index says it
# What the filter offers, and the kinds of entries that each choice shows.
CHOICES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "usage": ("Usage", ("usage", "overrun")),
    "bought": ("Credit bought", ("paid",)),
    "given": ("Credit given", ("promo", "plan", "welcome", "code")),
    "reversed": ("Refunds and disputes", ("refund", "dispute", bookings.REINSTATEMENT, "clawback", "undelivered")),
    "expired": ("Expired credit", ("expiry",)),
    "other": ("Adjustments and the rest", ()),  # whatever no other choice shows
}


class NoSuchPlace(Exception):
    """The page does not exist."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the ledger in words. `amount` and `balance_after` in nano-USD, the amount as the wallet sees it; `top_up` an id to link to."""

    transfer: Transfer
    label: str
    amount: int
    about: str
    top_up: str


@dataclass(frozen=True, slots=True)
class Page:
    """Entries, the latest first; `older` names the page after this one."""

    entries: Sequence[Entry]
    older: str


def page(*, account: Account, choice: str = "", period: Period | None = None, before: str = "", rows: int = PAGE) -> Page:
    """One page of an account's ledger, from the entry before version `before` on (from the latest without). Raises: NoSuchPlace."""
    wallet = Wallet.objects.filter(account=account).first()
    if wallet is None:
        return Page((), "")
    found = Transfer.objects.filter(wallet=wallet, wallet_version__isnull=False)
    if choice:
        found = _of_choice(found, choice)
    if period is not None:
        first, after = (_version_at(wallet, moment) for moment in (period.starts_at, period.ends_at))
        found = found.filter(wallet_version__gte=first, wallet_version__lt=after)
    if before:
        if not (before.isascii() and before.isdecimal() and len(before) < 19):
            raise NoSuchPlace(before)
        found = found.filter(wallet_version__lt=int(before))
    read = list(found.order_by("-wallet_version")[: rows + 1])
    shown = read[:rows]
    requests = _requests(shown)
    entries = [_entry(transfer, ledger.wallet_code(wallet.pk), requests) for transfer in shown]
    return Page(entries, str(shown[-1].wallet_version) if len(read) > rows else "")


def _of_choice(found: QuerySet[Transfer], choice: str) -> QuerySet[Transfer]:
    if choice not in CHOICES:
        raise NoSuchPlace(choice)
    kinds = CHOICES[choice][1]
    if choice == "usage":
        return found.filter(kind__in=kinds)
    if kinds:
        return found.filter(NOT_USAGE, kind__in=kinds)
    return found.filter(NOT_USAGE).exclude(kind__in=[kind for _, named in CHOICES.values() for kind in named])


def _version_at(wallet: Wallet, moment: datetime) -> int:
    """The version of the first entry booked at `moment` or later; the one to come when there is none."""
    later = Transfer.objects.filter(wallet=wallet, created_at__gte=moment, wallet_version__isnull=False)
    version = later.order_by("created_at", "wallet_version").values_list("wallet_version", flat=True).first()
    return version if version is not None else wallet.version + 1


def _requests(transfers: Sequence[Transfer]) -> Mapping[Any, Mapping[str, Any]]:
    """By entry of usage: how many requests it settles, of how many models, and one of those."""
    ids = [transfer.pk for transfer in transfers if transfer.kind == "usage"]
    counted = UsageRecord.objects.filter(transfer_id__in=ids).values("transfer_id").order_by()
    sums = counted.annotate(requests=Count("pk"), models=Count("model", distinct=True), model=Min("model")) if ids else []
    return {row["transfer_id"]: row for row in sums}


def _entry(transfer: Transfer, code: str, requests: Mapping[Any, Mapping[str, Any]]) -> Entry:
    amount = -transfer.amount if transfer.debit_account == code else transfer.amount
    return Entry(transfer, _label(transfer), amount, _about(transfer, requests), _top_up(transfer))


def _label(transfer: Transfer) -> str:
    if transfer.source_type == "code":
        return statements.label_of("code")
    if transfer.source_type == "welcome":
        return statements.label_of("welcome")
    return statements.label_of(transfer.kind)


def _about(transfer: Transfer, requests: Mapping[Any, Mapping[str, Any]]) -> str:
    """What happened, in a sentence. What staff noted for themselves is not shown."""
    row = requests.get(transfer.pk)
    if row is not None:
        of = row["model"] if row["models"] == 1 else f"{row['models']} models"
        return f"{row['requests']:,} request{'' if row['requests'] == 1 else 's'} to {of}"
    match transfer.kind, transfer.source_type:
        case "usage", _:
            return "Requests that were settled together"
        case "overrun", _:
            return f"What request {transfer.source_id} used after its hold had ended"
        case "paid", "top_up":
            return "Paid by card or bank through Stripe"
        case "refund" | "dispute", "invoice_reversal":
            return "The payment for the plan was refunded or is disputed: the credit that it had brought is taken out"
        case "refund", "reversal":
            return "Paid back by Stripe: the credit that it had bought is taken out"
        case "dispute", "reversal":
            return "Contested at the customer's bank: its credit is taken out until that is decided"
        case bookings.REINSTATEMENT, _:
            return "A dispute was won or a refund failed: the credit is back"
        case "expiry", _:
            return f"What was left of a credit that {transfer.note}"
        case "undelivered", _:
            return f"{transfer.note} by request {transfer.source_id}"
        case _, "code" | "welcome" | "invoice":
            return transfer.note
        case _:
            return "Booked by the operator"


def _top_up(transfer: Transfer) -> str:
    """The id of the payment that an entry is of."""
    if transfer.source_type in (bookings.CREDIT_SOURCE, bookings.REVERSAL_SOURCE):
        return transfer.source_id.partition(":")[0]
    return ""
