"""What an account's money stands at, as the billing pages say it: a bounded number of queries, whatever the account has."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db.models import F

from accounts.models import Account
from billing import reports, usage_reports
from billing.models import AutoTopUp, CreditGrant, Hold, TopUp, Wallet
from billing.pages import frame
from billing.payments import cards

LATEST = 5


class NoSuchPlace(Exception):
    """The list has no such entry to go on from."""


def facts(account: Account, *, now: datetime) -> dict[str, Any]:
    """What the home says of an account: a bounded number of queries, whatever it has."""
    wallet = frame.wallet_of(account)
    return {
        "wallet": wallet,
        "owed": max(0, -int(wallet.balance)),
        "is_frozen": wallet.status == Wallet.Status.FROZEN,
        "holds": Hold.objects.filter(wallet=wallet).count(),
        "burn": usage_reports.burn(account=account, now=now),
        "grants": unspent(wallet, limit=LATEST),
        "auto": AutoTopUp.objects.filter(wallet=wallet).first(),
        "card": cards.of(account),
        "assignment": reports.plan_of(account, now=now),
        "payments": latest_payments(wallet, limit=LATEST),
    }


def unspent(wallet: Wallet, *, limit: int) -> Sequence[CreditGrant]:
    """The grants with something left, in the order in which spending burns them."""
    found = CreditGrant.objects.filter(wallet=wallet, remaining__gt=0).select_related("transfer")
    return list(found.order_by("priority", F("expires_at").asc(nulls_last=True), "id")[:limit])


def latest_payments(wallet: Wallet, *, limit: int, before: str = "") -> Sequence[TopUp]:
    """A wallet's payments, the latest first, with what was reversed of them; older than the one named `before`.

    Raises: NoSuchPlace.
    """
    found = TopUp.objects.filter(wallet=wallet).select_related("requested_by").prefetch_related("reversals")
    if before:
        try:
            mark = TopUp.objects.filter(wallet=wallet, pk=uuid.UUID(before)).first()
        except ValueError:
            mark = None
        if mark is None:
            raise NoSuchPlace(before)
        found = found.filter(created_at__lte=mark.created_at).exclude(created_at=mark.created_at, pk__gte=mark.pk)
    return list(found.order_by("-created_at", "-pk")[:limit])
