"""What people are told of payments: in the transaction of the deed, but never in its way. A mail that cannot be made loses no money."""

from collections.abc import Callable, Mapping
from datetime import datetime

import structlog
from django.db import transaction

from accounts.models import Account
from billing.models import TopUp
from billing.notices import telling

log = structlog.get_logger(__name__)


def tell(*, account: Account, event: str, dedupe_key: str, context: Mapping[str, object], now: datetime) -> None:
    """Tell an account. What goes wrong with it is logged, and undone by itself."""
    _safely(event, dedupe_key, lambda: telling.tell(account=account, event=event, dedupe_key=dedupe_key, context=context, now=now))


def tell_staff(*, event: str, dedupe_key: str, context: Mapping[str, object], now: datetime) -> None:
    """Tell the operator. What goes wrong with it is logged, and undone by itself."""
    _safely(event, dedupe_key, lambda: telling.tell_staff(event=event, dedupe_key=dedupe_key, context=context, now=now))


def tell_of_quarantine(top_up: TopUp, *, problem: str, now: datetime) -> None:
    """Tell the operator that a payment waits for a decision."""
    tell_staff(
        event="staff.quarantined",
        dedupe_key=f"top_up:{top_up.pk}",
        context={
            "account": top_up.wallet.account.slug,
            "summary": f"The payment of top-up {top_up.pk} is not what was asked for: {problem}.",
            "details": f"Asked for: {top_up.charge_minor} US cents. It is not credited until somebody decides, in the admin under Top-ups.",
        },
        now=now,
    )


def _safely(event: str, dedupe_key: str, work: Callable[[], None]) -> None:
    try:
        with transaction.atomic():
            work()
    except Exception as error:
        log.exception("not_told", about=event, dedupe_key=dedupe_key, error=str(error))
