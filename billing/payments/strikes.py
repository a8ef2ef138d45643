"""What ends an account's automatic top-up without its doing: three failures in a row, a card that is gone, money that was taken back.

Failures are counted from the top-ups themselves, so that the order in which the news comes makes no difference.
"""

from datetime import datetime, timedelta

import structlog
from django.db import transaction
from django.db.models import Max

from accounts import audit
from accounts.models import Account
from billing.models import AutoTopUp, Reversal, TopUp
from billing.payments import news

log = structlog.get_logger(__name__)

MOST = 3
RETRY_AFTER = timedelta(hours=6)  # a card that was refused is not asked again at once


@transaction.atomic
def turn_off(*, account: Account, reason: str, now: datetime) -> bool:
    """Turn the account's automatic top-up off and tell why; returns False when it was off."""
    auto = AutoTopUp.objects.select_for_update().filter(wallet__account=account, is_enabled=True).first()
    if auto is None:
        return False
    _turn_off(auto, account, reason, now)
    return True


@transaction.atomic
def note_failure(top_up: TopUp, *, now: datetime) -> None:
    """Count the failure of an automatic top-up; the third in a row since its owner agreed turns it off."""
    account = top_up.wallet.account
    auto = AutoTopUp.objects.select_for_update().filter(wallet=top_up.wallet_id).first()
    if auto is None:
        return
    auto.strikes = _in_a_row(auto, top_up)
    auto.not_before = max(auto.not_before, now + RETRY_AFTER)
    auto.save(update_fields=["strikes", "not_before"])
    if auto.is_enabled and auto.strikes >= MOST:
        _turn_off(auto, account, f"It failed {MOST} times in a row: {top_up.failure}"[:200], now)
    else:
        context = {
            "top_up_id": str(top_up.pk),
            "charge_minor": top_up.charge_minor,
            "failure": top_up.failure,
            "strikes": auto.strikes,
        }
        news.tell(account=account, event="auto_top_up.failed", dedupe_key=str(top_up.pk), context=context, now=now)


def note_success(top_up: TopUp) -> None:
    """Forget the failures before a payment that went through."""
    AutoTopUp.objects.filter(wallet=top_up.wallet_id).update(strikes=0)


def was_reversed(auto: AutoTopUp) -> bool:
    """Whether money was refunded or disputed since the owner agreed: to charge the card for what falls short then would undo it."""
    reversals = Reversal.objects.filter(top_up__wallet=auto.wallet_id, is_active=True)
    return (reversals.filter(created_at__gt=auto.agreed_at) if auto.agreed_at else reversals).exists()


def _in_a_row(auto: AutoTopUp, last: TopUp) -> int:
    """How many automatic top-ups failed since the last that was paid and since the owner agreed; `last` is not written yet."""
    mine = TopUp.objects.filter(wallet=auto.wallet_id, kind=TopUp.Kind.AUTO)
    paid = mine.filter(state=TopUp.State.PAID).aggregate(at=Max("created_at"))["at"]
    failed = mine.filter(state=TopUp.State.FAILED).exclude(pk=last.pk)
    since = [moment for moment in (paid, auto.agreed_at) if moment is not None]
    if since:
        failed = failed.filter(created_at__gte=max(since))
        return failed.count() + (last.created_at >= max(since))
    return failed.count() + 1


def _turn_off(auto: AutoTopUp, account: Account, reason: str, now: datetime) -> None:
    auto.is_enabled = False
    auto.disabled_reason = reason[:200]
    auto.save(update_fields=["is_enabled", "disabled_reason"])
    audit.record(
        account=account, actor=None, actor_text="auto top-up", action="auto_top_up.turned_off", details={"reason": reason}, now=now
    )
    dedupe_key = f"{auto.pk}:{auto.agreed_at.timestamp() if auto.agreed_at else 0}"
    news.tell(account=account, event="auto_top_up.turned_off", dedupe_key=dedupe_key, context={"reason": reason}, now=now)
    log.warning("auto_top_up_turned_off", account=account.slug, reason=reason)
