"""Pays back what was charged for units that a provider accepted and then did not deliver: videos that failed or were filtered.

Such work is paid when the provider accepts it, because that is the only moment that is certain to come. The refund is one transfer from
`revenue` for each request, however often and by however many processes it is asked for; the usage record stays as it was.

Which grants paid for a request is not on record. Where bought money was never touched, gifts did, and what comes back is a gift again that
expires when the last of them does: nobody makes lasting credit of one that ends. Otherwise it comes back as bought.
"""

import uuid
from datetime import datetime

import structlog
from django.db.models import F

from billing import ledger
from billing.models import CreditGrant, Transfer, UsageRecord
from catalog import pricing
from catalog.models import Price
from catalog.usage import TokenUsage

log = structlog.get_logger(__name__)

KIND = "undelivered"


class NotBooked(Exception):
    """The request has no usage record: its settlement waits on disk, or it is not the account's."""


def refund(*, request_id: uuid.UUID, account_id: int, delivered: int, now: datetime) -> Transfer | None:
    """Give back what the request was charged beyond `delivered` units; None when there is nothing to give back.

    With nothing delivered it is the whole charge. What an earlier call gave back stays, whatever is `delivered` now.

    Raises: NotBooked.
    """
    record = UsageRecord.objects.filter(request_id=request_id, account_id=account_id).first()
    if record is None:
        raise NotBooked(str(request_id))
    owed = 0
    if delivered > 0 and record.price_id is not None:
        price = Price.objects.get(pk=record.price_id).frozen()
        owed = pricing.cost(price, TokenUsage(images=min(delivered, record.images)))
    amount = record.cost - owed
    if amount <= 0:
        return None
    kind, expires_at = _what_paid(record)
    try:
        return ledger.credit(
            wallet_id=record.wallet_id,
            amount=amount,
            kind=KIND,
            debit_account="revenue",
            source_type="request",
            source_id=str(request_id),
            actor="",
            note=f"{record.images - delivered} of {record.images} units of {record.model} were not delivered",
            now=now,
            grant_kind=kind,
            expires_at=expires_at,
        )
    except ledger.SourceConflict as conflict:
        log.warning("refunded_otherwise", request_id=str(request_id), booked=conflict.booked.amount, amount=amount)
        return conflict.booked


def _what_paid(record: UsageRecord) -> tuple[CreditGrant.Kind, datetime | None]:
    """The kind of credit that a request was paid with, as far as that is certain, and when it expires."""
    burnt = CreditGrant.objects.filter(wallet=record.wallet_id, remaining__lt=F("amount"), created_at__lte=record.ended_at)
    found = list(burnt.values_list("kind", "expires_at"))
    if not found or any(kind == CreditGrant.Kind.PAID for kind, _ in found):
        return CreditGrant.Kind.PAID, None
    ends = [expires_at for _, expires_at in found]
    kind = CreditGrant.Kind.PLAN if all(kind == CreditGrant.Kind.PLAN for kind, _ in found) else CreditGrant.Kind.PROMO
    return kind, None if None in ends else max(moment for moment in ends if moment is not None)
