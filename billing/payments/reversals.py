"""What is taken back of payments: refunds and disputes as Stripe says they stand, and the credit that goes, or comes back, with them.

The target is `floor(credit * reversed / paid)` over the reversals that are active; what differs from what was taken already is booked.
So neither the order in which Stripe tells of them nor how often matters, and a dispute that is won, or a refund that fails, gives back by
itself. What was spent already leaves a debt: nothing is placed on the wallet until it is paid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import transaction

from accounts import audit
from accounts.models import User
from billing import ledger
from billing.models import Reversal, TopUp, Wallet
from billing.payments import bookings, news, stripe_client
from billing.payments.stripe_client import Dispute, Refund, Warned

log = structlog.get_logger(__name__)

ACTIVE_REFUNDS = ("pending", "requires_action", "succeeded")  # the others: failed, canceled
# An inquiry (warning_…) has taken nothing, a prevented or won dispute nothing for good.
ACTIVE_DISPUTES = ("needs_response", "under_review", "appeal_needs_response", "appeal_under_review", "lost")
TRIES = 10


class NotRefundable(Exception):
    """More was to be refunded than is left of the payment (both in minor units)."""

    def __init__(self, *, left_minor: int, wanted_minor: int) -> None:
        super().__init__(f"{wanted_minor} US cents wanted, {left_minor} left")
        self.left_minor = left_minor
        self.wanted_minor = wanted_minor


@dataclass(frozen=True, slots=True)
class Standing:
    """One reversal as Stripe says it stands."""

    id: str
    kind: Reversal.Kind
    amount_minor: int
    status: str
    is_active: bool
    reason: str
    evidence_due_at: datetime | None = None
    requested_by: int | None = None


def target_nano(*, credit_nano: int, paid_minor: int, reversed_minor: int) -> int:
    """How much of a credit (nano-USD) is to be taken back when `reversed_minor` of what was paid is reversed; never more than all of it."""
    return credit_nano * min(reversed_minor, paid_minor) // paid_minor if paid_minor > 0 else 0


def left_minor(top_up: TopUp) -> int:
    """What can still be refunded of a payment, in minor units."""
    return max(0, (top_up.paid_minor or 0) - _reversed_minor(top_up.reversals.all()))


def converge(*, top_up_id: UUID, now: datetime) -> TopUp:
    """Take over every refund and dispute of a top-up as Stripe says they stand, and book what differs.

    Raises: TopUp.DoesNotExist, NotConfigured, StripeUnavailable, StripeRefused.
    """
    for _ in range(TRIES):
        top_up = TopUp.objects.get(pk=top_up_id)
        if not top_up.payment_intent_id:
            return top_up
        known = _known(top_up)
        applied = _apply(top_up_id, known, standings_of(top_up.payment_intent_id), now)
        if applied is not None:
            return applied
    raise stripe_client.StripeUnavailable(f"the reversals of {top_up_id} change faster than they can be read")


def standings_of(payment_intent_id: str) -> list[Standing]:
    """Every refund and dispute of a payment as Stripe says they stand. Raises: as `stripe_client.call`."""
    return [
        *map(_of_refund, stripe_client.list_refunds(payment_intent_id=payment_intent_id)),
        *map(_of_dispute, stripe_client.list_disputes(payment_intent_id=payment_intent_id)),
    ]


def freeze(wallet: Wallet, dispute_id: str, *, now: datetime) -> None:
    """Freeze an active wallet because of a dispute, and say so in its account's audit log."""
    if wallet.status != Wallet.Status.ACTIVE:
        return
    ledger.set_status(wallet_id=wallet.pk, status=Wallet.Status.FROZEN, actor="stripe", note=f"dispute {dispute_id}")
    details = {"reason": "a payment is disputed"}
    audit.record(
        account=wallet.account, actor=None, actor_text="stripe", action="wallet.frozen", subject=dispute_id, details=details, now=now
    )


@transaction.atomic
def _apply(top_up_id: UUID, known: set[tuple[Any, ...]], standings: Sequence[Standing], now: datetime) -> TopUp | None:
    """Write the standings over what was `known` before they were fetched; None when another has written since, perhaps something newer."""
    top_up = TopUp.objects.select_for_update().get(pk=top_up_id)
    if _known(top_up) != known:
        return None
    rows = {row.pk: row for row in top_up.reversals.all()}
    changed: list[tuple[Reversal, bool]] = []
    for standing in standings:
        row = rows.get(standing.id)
        was_active = row is not None and row.is_active
        if row is None:
            row = Reversal(
                id=standing.id, top_up=top_up, kind=standing.kind, created_at=now, requested_by_id=_existing(standing.requested_by)
            )
        row.amount_minor = standing.amount_minor
        row.status = standing.status[:40]
        row.is_active = standing.is_active
        row.reason = standing.reason[:100]
        row.evidence_due_at = standing.evidence_due_at
        row.updated_at = now
        is_new = standing.id not in rows
        row.save(force_insert=is_new)
        if is_new or row.is_active != was_active:
            changed.append((row, was_active))
    cause = Reversal.Kind.DISPUTE if any(row.kind == Reversal.Kind.DISPUTE for row, _ in changed) else Reversal.Kind.REFUND
    settle(top_up, now=now, cause=cause)
    top_up.save(update_fields=["clawed_nano", "updated_at"])
    for row, was_active in changed:
        _announce(top_up, row, was_active, now)
    return top_up


def settle(top_up: TopUp, *, now: datetime, cause: Reversal.Kind | None = None) -> int:
    """Book the difference between what is to be taken back of a locked top-up and what was; returns it (nano-USD, negative: given back).

    Sets `clawed_nano`, which the caller saves. A top-up that was not credited has nothing to take back.
    """
    rows = list(top_up.reversals.all())
    if top_up.state != TopUp.State.PAID or not rows:
        return 0
    target = target_nano(credit_nano=top_up.credit_nano, paid_minor=top_up.paid_minor or 0, reversed_minor=_reversed_minor(rows))
    difference = target - top_up.clawed_nano
    if cause is None:
        disputed = any(row.is_active and row.kind == Reversal.Kind.DISPUTE for row in rows)
        cause = Reversal.Kind.DISPUTE if disputed else Reversal.Kind.REFUND
    note = f"{_reversed_minor(rows)} of {top_up.paid_minor} US cents reversed"
    if difference > 0:
        bookings.take_back(top_up, amount=difference, kind=str(cause), note=note, now=now)
    elif difference < 0:
        bookings.give_back(top_up, amount=-difference, note=note, now=now)
    top_up.clawed_nano = target
    top_up.updated_at = now
    return difference


def refund(*, top_up: TopUp, amount_minor: int, reason: str, user: User, key: str, now: datetime) -> TopUp:
    """Send `amount_minor` (US cents) of a payment back to its customer, and take the credit that belongs to it out of the wallet.

    `key` is an id of the form that asks: sent twice, it is one refund. After a crash between Stripe and here, its events bring the rest.

    Raises: NotRefundable, NotConfigured, StripeUnavailable, StripeRefused.
    """
    current = converge(top_up_id=top_up.pk, now=now)
    already = any(one.metadata.get("key") == key for one in _refunds_of(current))
    left = left_minor(current)
    if not already and (not 0 < amount_minor <= left or not current.payment_intent_id):
        raise NotRefundable(left_minor=left, wanted_minor=amount_minor)
    if not already:
        made = stripe_client.create_refund(
            {
                "payment_intent": current.payment_intent_id or "",
                "amount": amount_minor,
                "metadata": {"key": key, "requested_by": str(user.pk), "reason": reason[:400], stripe_client.TAG: str(current.pk)},
            },
            idempotency_key=f"refund:{key}",
        )
        audit.record(
            account=current.wallet.account,
            actor=user,
            action="top_up.refunded",
            subject=str(current.pk),
            details={"refund": made.id, "amount_minor": amount_minor, "reason": reason},
            now=now,
        )
    return converge(top_up_id=top_up.pk, now=now)


def note_warning(*, top_up: TopUp, warning: Warned, now: datetime) -> None:
    """Tell staff that a card's network takes a payment for fraud: refunding it now is cheaper than the dispute that follows."""
    news.tell_staff(
        event="staff.alert",
        dedupe_key=f"early_fraud_warning:{warning.id}",
        context={
            "account": top_up.wallet.account.slug,
            "summary": f"Early fraud warning for a payment of {top_up.wallet.account.slug}: {warning.kind.replace('_', ' ') or 'no kind given'}.",
            "details": f"Top-up {top_up.pk}, {top_up.paid_minor} US cents. "
            + ("A refund can still prevent the dispute." if warning.is_actionable else "It was refunded or disputed already."),
        },
        now=now,
    )


def _announce(top_up: TopUp, row: Reversal, was_active: bool, now: datetime) -> None:  # noqa: FBT001 - a column's value
    """Tell of a reversal that has appeared, begun or ended; freeze the wallet for a dispute where the operator wants that."""
    account = top_up.wallet.account
    wallet = Wallet.objects.get(pk=top_up.wallet_id)
    log.info("payment_reversed", top_up=str(top_up.pk), reversal=row.pk, status=row.status, is_active=row.is_active)
    context: dict[str, object] = {
        "top_up_id": str(top_up.pk),
        "amount_minor": row.amount_minor,
        "clawed_nano": top_up.clawed_nano,
        "balance_nano": int(wallet.balance),
    }
    if row.kind == Reversal.Kind.REFUND:
        if row.is_active:
            news.tell(account=account, event="top_up.refunded", dedupe_key=row.pk, context={**context, "refund_id": row.pk}, now=now)
        elif was_active:
            news.tell_staff(
                event="staff.alert",
                dedupe_key=f"refund:{row.pk}:{row.status}",
                context={
                    "account": account.slug,
                    "summary": f"The refund {row.pk} to {account.slug} is {row.status}.",
                    "details": f"{row.amount_minor} US cents of top-up {top_up.pk} did not reach the customer; the credit was given back.",
                },
                now=now,
            )
        return
    context |= {"dispute_id": row.pk, "reason": row.reason}
    if row.is_active or row.status.startswith("warning_"):
        news.tell_staff(
            event="staff.dispute",
            dedupe_key=f"dispute:{row.pk}:{'taken' if row.is_active else 'inquiry'}",
            context={
                "account": account.slug,
                "amount_minor": row.amount_minor,
                "reason": row.reason,
                "evidence_due_at": row.evidence_due_at,
            },
            now=now,
        )
    if row.is_active:
        news.tell(account=account, event="top_up.disputed", dedupe_key=row.pk, context=context, now=now)
        if settings.FREEZE_ON_DISPUTE:
            freeze(wallet, row.pk, now=now)
    elif was_active:
        news.tell(account=account, event="top_up.dispute_won", dedupe_key=row.pk, context=context, now=now)


def _of_refund(refund: Refund) -> Standing:
    by = refund.metadata.get("requested_by", "")
    return Standing(
        id=refund.id,
        kind=Reversal.Kind.REFUND,
        amount_minor=refund.amount,
        status=refund.status,
        is_active=refund.status in ACTIVE_REFUNDS,
        reason=refund.metadata.get("reason") or refund.reason,
        requested_by=int(by) if by.isdecimal() and len(by) < 19 else None,
    )


def _of_dispute(dispute: Dispute) -> Standing:
    return Standing(
        id=dispute.id,
        kind=Reversal.Kind.DISPUTE,
        amount_minor=dispute.amount,
        status=dispute.status,
        is_active=dispute.status in ACTIVE_DISPUTES,
        reason=dispute.reason,
        evidence_due_at=dispute.evidence_due_at,
    )


def _refunds_of(top_up: TopUp) -> list[Refund]:
    return stripe_client.list_refunds(payment_intent_id=top_up.payment_intent_id) if top_up.payment_intent_id else []


def _known(top_up: TopUp) -> set[tuple[Any, ...]]:
    return set(top_up.reversals.values_list("pk", "status", "amount_minor", "is_active"))


def _reversed_minor(rows: Any) -> int:
    return sum(row.amount_minor for row in rows if row.is_active)


def _existing(user_id: int | None) -> int | None:
    return user_id if user_id is not None and User.objects.filter(pk=user_id).exists() else None
