"""Adjustments: what staff credit or debit by hand, with a reason; above a limit only when a second person approves.

The limit is what one person may do to one wallet within a day, so that a large sum in small parts waits too. An adjustment's id may come
from its form: sent twice, it is one adjustment. The wallet is locked before the day's sum is read, and an adjustment before its wallet.
"""

import uuid
from datetime import datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Sum
from django.db.models.functions import Abs

from accounts import audit
from accounts.models import User
from billing import ledger
from billing.models import Adjustment, Transfer, Wallet
from catalog import money

APPROVE = "billing.change_adjustment"  # the permission of the second person
DEBIT_ACCOUNTS = {"promo": "promo", "paid": "manual"}
CREDIT_ACCOUNT = "manual"  # where a debit goes
SOURCE = "adjustment"
DAY = timedelta(days=1)


class BadAdjustment(ValueError):
    """It moves nothing or more than fits, has no reason, or would expire before it is booked; `field` names what is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class AdjustmentConflict(Exception):
    """This id is that of another adjustment: the form was sent before with something else in it."""


class NotWaiting(Exception):
    """It was decided before: `adjustment` says how."""

    def __init__(self, adjustment: Adjustment) -> None:
        super().__init__(adjustment.state)
        self.adjustment = adjustment


class SamePerson(Exception):
    """Whoever asks for an adjustment cannot approve it."""


class NotPermitted(Exception):
    """This person may not decide about adjustments."""


def request_adjustment(
    *,
    wallet: Wallet,
    kind: str,
    amount_nano: int,
    reason: str,
    user: User,
    now: datetime,
    expires_at: datetime | None = None,
    adjustment_id: uuid.UUID | None = None,
) -> Adjustment:
    """Ask for `amount_nano` (more than zero) nano-USD to be credited as "promo" or "paid", or taken out as "debit".

    Within the limit it is booked at once; above it, it waits for `approve`.

    Raises: BadAdjustment, AdjustmentConflict, billing.ledger.InsufficientBalance (a debit of more than is free).
    """
    if kind not in Adjustment.Kind.values:
        raise BadAdjustment("kind", f"{kind!r} is none of {', '.join(Adjustment.Kind.values)}")
    if not 0 < amount_nano <= money.LARGEST:
        raise BadAdjustment("amount", "cannot be moved")
    if not reason.strip():
        raise BadAdjustment("reason", "is missing")
    if expires_at is not None and (expires_at <= now or kind == Adjustment.Kind.DEBIT):
        raise BadAdjustment("expires_at", "is past" if expires_at <= now else "is of a credit only")
    asked = Adjustment(
        id=adjustment_id or uuid.uuid4(),
        wallet=wallet,
        kind=kind,
        amount_nano=-amount_nano if kind == Adjustment.Kind.DEBIT else amount_nano,
        reason=reason.strip()[:400],
        expires_at=expires_at,
        requested_by=user,
        created_at=now,
    )
    try:
        with transaction.atomic():
            return _enter(asked, now)
    except IntegrityError:  # the same form, sent twice at once, against another wallet: the other one was quicker
        return _same(Adjustment.objects.get(pk=asked.pk), asked)


def approve(*, adjustment_id: uuid.UUID, user: User, now: datetime) -> Adjustment:
    """Book an adjustment that waits.

    Raises: NotPermitted, SamePerson, NotWaiting, BadAdjustment (its credit would be expired by now), billing.ledger.InsufficientBalance,
    Adjustment.DoesNotExist. It waits on after each.
    """
    with transaction.atomic():
        adjustment = _lock_waiting(adjustment_id, user)
        if adjustment.requested_by_id == user.pk:
            raise SamePerson
        if adjustment.expires_at is not None and adjustment.expires_at <= now:
            raise BadAdjustment("expires_at", "is past")
        adjustment.decided_by, adjustment.decided_at = user, now
        _book(adjustment, now)
        adjustment.save(update_fields=["state", "transfer", "decided_by", "decided_at"])
        return adjustment


def reject(*, adjustment_id: uuid.UUID, user: User, now: datetime) -> Adjustment:
    """End an adjustment that waits, without booking it. Whoever asked for it may take it back so.

    Raises: NotPermitted, NotWaiting, Adjustment.DoesNotExist.
    """
    with transaction.atomic():
        adjustment = _lock_waiting(adjustment_id, user)
        adjustment.state = Adjustment.State.REJECTED
        adjustment.decided_by, adjustment.decided_at = user, now
        adjustment.save(update_fields=["state", "decided_by", "decided_at"])
        return adjustment


def _enter(asked: Adjustment, now: datetime) -> Adjustment:
    Wallet.objects.select_for_update().get(pk=asked.wallet_id)
    known = Adjustment.objects.filter(pk=asked.pk).first()
    if known is not None:
        return _same(known, asked)
    if _alone_today(asked, now) + abs(asked.amount_nano) <= money.nano_from_usd(settings.ADJUSTMENT_LIMIT_USD):
        _book(asked, now)
    asked.save(force_insert=True)
    return asked


def _alone_today(asked: Adjustment, now: datetime) -> int:
    """What this person moved in this wallet within a day without anybody's approval, in nano-USD, whichever way."""
    done = Adjustment.objects.filter(
        wallet_id=asked.wallet_id,
        requested_by=asked.requested_by,
        state=Adjustment.State.DONE,
        decided_by=None,
        created_at__gt=now - DAY,
    )
    return int(done.aggregate(sum=Sum(Abs("amount_nano")))["sum"] or 0)


def _book(adjustment: Adjustment, now: datetime) -> None:
    """Move the money; the adjustment is not saved here."""
    amount = abs(adjustment.amount_nano)
    actor = adjustment.requested_by.email
    if adjustment.decided_by is not None:
        actor = f"{actor}, approved by {adjustment.decided_by.email}"[:150]
    if adjustment.kind == Adjustment.Kind.DEBIT:
        transfer: Transfer = ledger.debit(
            wallet_id=adjustment.wallet_id,
            amount=amount,
            kind=adjustment.kind,
            credit_account=CREDIT_ACCOUNT,
            source_type=SOURCE,
            source_id=str(adjustment.pk),
            actor=actor,
            note=adjustment.reason,
            now=now,
        )
    else:
        transfer = ledger.credit(
            wallet_id=adjustment.wallet_id,
            amount=amount,
            kind=adjustment.kind,
            debit_account=DEBIT_ACCOUNTS[adjustment.kind],
            source_type=SOURCE,
            source_id=str(adjustment.pk),
            actor=actor,
            note=adjustment.reason,
            now=now,
            expires_at=adjustment.expires_at,
        )
    adjustment.transfer = transfer
    adjustment.state = Adjustment.State.DONE
    audit.record(
        account=adjustment.wallet.account,
        actor=None,
        actor_text="staff",
        action="wallet.adjusted",
        subject=adjustment.kind,
        details={"amount_usd": money.usd(adjustment.amount_nano), "reason": adjustment.reason},
        now=now,
    )


def _lock_waiting(adjustment_id: uuid.UUID, user: User) -> Adjustment:
    if not user.has_perm(APPROVE):
        raise NotPermitted
    adjustment = Adjustment.objects.select_for_update(of=("self",)).select_related("requested_by", "wallet__account").get(pk=adjustment_id)
    if adjustment.state != Adjustment.State.WAITING:
        raise NotWaiting(adjustment)
    return adjustment


def _same(known: Adjustment, asked: Adjustment) -> Adjustment:
    if (known.wallet_id, known.kind, known.amount_nano) != (asked.wallet_id, asked.kind, asked.amount_nano):
        raise AdjustmentConflict
    return known
