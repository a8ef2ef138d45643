"""What is taken back of a plan's credit when its invoice's payment is refunded or disputed, and given back when that comes to nothing.

As with top-ups the target is the credit's share of what is reversed; what differs from what the ledger says was taken is booked, so neither
order nor repetition matters. What expired was taken already. What is given back does not expire: a part of it may have been taken from bought
money. Nothing but the ledger remembers, so after each booking Stripe is asked again, until there is nothing to book: an answer that was old
when it was applied is put right by the next.
"""

from collections.abc import Sequence
from datetime import datetime

from django.conf import settings
from django.db import transaction
from django.db.models import Sum

from billing import ledger
from billing.models import CreditGrant, Reversal, Subscription, Transfer, Wallet
from billing.payments import news, plan_changes, reversals, strikes, stripe_client, stripe_plans
from billing.payments.bookings import REINSTATEMENT
from billing.payments.reversals import Standing

SOURCE = "invoice_reversal"
TRIES = 10


def converge(*, payment_intent_id: str, now: datetime) -> Subscription | None:
    """Take back what was reversed of a payment for a plan; returns its subscription, None when it is no plan's of ours.

    Raises: plan_changes.UnknownSubscription, plan_changes.SecondSubscription, NotConfigured, StripeUnavailable, StripeRefused.
    """
    found = None
    for invoice_id in stripe_plans.invoices_paid_by(payment_intent_id):
        stripe_id = stripe_plans.subscription_of_invoice(invoice_id)
        row = plan_changes.converge(stripe_id=stripe_id, now=now) if stripe_id else None  # a reversal may be heard of before the payment
        if row is not None:
            _settle(row, invoice_id, now)
            found = row
    return found


def _settle(row: Subscription, invoice_id: str, now: datetime) -> None:
    """Ask and book until Stripe and the ledger say the same of an invoice."""
    for _ in range(TRIES):
        paid_minor, standings = _ask(invoice_id)
        granted = plan_changes.grant_of(invoice_id)
        if granted is None or not _book(row, granted, paid_minor, standings, now):
            _tell_staff(row, standings, now)
            return
    raise stripe_client.StripeUnavailable(f"the reversals of {invoice_id} change faster than they can be read")


def _ask(invoice_id: str) -> tuple[int, list[Standing]]:
    """What was paid for an invoice (minor units), and every refund and dispute of that."""
    payments = stripe_plans.payments_of(invoice_id)
    standings = [standing for payment_intent_id, _ in payments for standing in reversals.standings_of(payment_intent_id)]
    return sum(paid_minor for _, paid_minor in payments), standings


@transaction.atomic
def _book(row: Subscription, granted: Transfer, paid_minor: int, standings: Sequence[Standing], now: datetime) -> bool:
    """Book what differs; returns whether anything did. The wallet's lock makes the numbers of the bookings."""
    wallet = Wallet.objects.select_for_update(no_key=True).get(account=row.account_id)
    grant = CreditGrant.objects.get(transfer=granted)
    before = list(Transfer.objects.filter(reverses=granted, source_type=SOURCE).values_list("kind", "amount"))
    taken = sum(-amount if kind == REINSTATEMENT else amount for kind, amount in before)
    expired = Transfer.objects.filter(wallet=wallet, kind="expiry", source_type="grant", source_id__startswith=f"{grant.pk}:")
    left = granted.amount - int(expired.aggregate(sum=Sum("amount"))["sum"] or 0)
    reversed_minor = sum(standing.amount_minor for standing in standings if standing.is_active)
    share = reversals.target_nano(credit_nano=granted.amount, paid_minor=paid_minor, reversed_minor=reversed_minor)
    difference = min(share, left) - taken
    if difference == 0:
        return False
    note = f"{reversed_minor} of {paid_minor} US cents reversed"
    source_id = f"{granted.source_id}:{len(before) + 1}"
    if difference < 0:
        ledger.credit(
            wallet_id=wallet.pk,
            amount=-difference,
            kind=REINSTATEMENT,
            debit_account=plan_changes.GRANT,
            source_type=SOURCE,
            source_id=source_id,
            actor="stripe",
            note=note,
            now=now,
            reverses=granted,
            grant_kind=CreditGrant.Kind.PLAN,
        )
        return True
    dispute = next((one for one in standings if one.is_active and one.kind == Reversal.Kind.DISPUTE), None)
    ledger.debit(
        wallet_id=wallet.pk,
        amount=difference,
        kind=str(Reversal.Kind.REFUND if dispute is None else Reversal.Kind.DISPUTE),
        credit_account=plan_changes.GRANT,
        source_type=SOURCE,
        source_id=source_id,
        actor="stripe",
        note=note,
        now=now,
        allow_debt=True,
        reverses=granted,
    )
    strikes.turn_off(account=row.account, reason="A payment was refunded or is disputed.", now=now)  # or it would pay the debt
    if dispute is not None and settings.FREEZE_ON_DISPUTE:
        reversals.freeze(wallet, dispute.id, now=now)
    return True


def _tell_staff(row: Subscription, standings: Sequence[Standing], now: datetime) -> None:
    """Tell the operator of each dispute, once when it asks and once when it takes money."""
    for standing in standings:
        if standing.kind == Reversal.Kind.DISPUTE and (standing.is_active or standing.status.startswith("warning_")):
            news.tell_staff(
                event="staff.dispute",
                dedupe_key=f"dispute:{standing.id}:{'taken' if standing.is_active else 'inquiry'}",
                context={
                    "account": row.account.slug,
                    "amount_minor": standing.amount_minor,
                    "reason": standing.reason,
                    "evidence_due_at": standing.evidence_due_at,
                },
                now=now,
            )
