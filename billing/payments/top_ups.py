"""Top-ups: a payment is asked for, and credited once when Stripe says that it is paid, whichever road the news takes.

The row is committed before Stripe is asked, and its id is the idempotency key, so that a crash in between asks for nothing twice. Every
road (the webhooks of session and payment, the customer's return, the backfill, the nightly round) ends in `converge`, which fetches what
Stripe says and applies the difference under the row's lock. The credit is the row's own figure, decided when it was made; Stripe's figures
are only checked against it.

`paid_minor` is empty until a payment was seen. From then on the row is decided (paid, or quarantined and decided by staff), and what
Stripe says no longer changes it; what is taken back is the affair of `billing.payments.reversals`.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet

from accounts import audit
from accounts.models import Account, User
from billing import ledger
from billing.models import TopUp
from billing.payments import bookings, customers, news, reversals, strikes, stripe_client
from billing.payments.stripe_client import TAG, Payment, Session, StripeRefused
from billing.payments.verdicts import Verdict, judge
from catalog import money
from catalog.money import NANO_PER_USD

log = structlog.get_logger(__name__)

NANO_PER_MINOR = 10_000_000  # a cent
UNFINISHED = (TopUp.State.OPEN, TopUp.State.PROCESSING, TopUp.State.ACTION_NEEDED)
NEVER_ASKED_AFTER = timedelta(hours=24)  # idempotency keys and sessions last a day: what Stripe has not told us of by then is not to come
TRIES = 5


class AmountOutOfRange(Exception):
    """A top-up is a whole number of cents between these two (nano-USD)."""

    def __init__(self, *, minimum: int, maximum: int) -> None:
        super().__init__(f"a top-up is between {minimum} and {maximum} nano-USD, in whole cents")
        self.minimum = minimum
        self.maximum = maximum


class TopUpTaken(Exception):
    """This id is another top-up's already: of another wallet, another amount, or one that is over."""


class NothingToDecide(Exception):
    """The top-up is not quarantined."""


class MoreThanPaid(Exception):
    """What one person may credit for this payment ends at `most` (nano-USD); for the rest there are adjustments, which two people make."""

    def __init__(self, most: int) -> None:
        super().__init__(f"at most {most} nano-USD")
        self.most = most


@dataclass(frozen=True, slots=True)
class Checkout:
    """A payment that waits for its customer at `url`."""

    top_up: TopUp
    url: str


def limits() -> tuple[int, int]:
    """The least and the most of one top-up, in nano-USD."""
    return settings.TOP_UP_MINIMUM_USD * NANO_PER_USD, settings.TOP_UP_MAXIMUM_USD * NANO_PER_USD


def check_amount(amount_nano: int) -> None:
    """Refuse what cannot be topped up. Raises: AmountOutOfRange."""
    minimum, maximum = limits()
    if not minimum <= amount_nano <= maximum or amount_nano % NANO_PER_MINOR:
        raise AmountOutOfRange(minimum=minimum, maximum=maximum)


# -- Asking for a payment ------------------------------------------------------------------------------------------------------------


def start_checkout(
    *,
    account: Account,
    user: User | None,
    amount_nano: int,
    success_url: str,
    cancel_url: str,
    now: datetime,
    top_up_id: uuid.UUID | None = None,
    save_card: bool = False,
) -> Checkout:
    """Ask Stripe for a page where `amount_nano` (nano-USD, whole cents) can be paid into the account's wallet.

    `top_up_id` is an id of the form that asks: sent twice, it is one top-up and one page. In `success_url`, `{TOP_UP}` stands for the id.
    `save_card`: the customer lets us charge the card later; the payment's event then makes it the saved one (`billing.payments.cards`).

    Raises: AmountOutOfRange, TopUpTaken, NotConfigured, StripeUnavailable, StripeRefused.
    """
    check_amount(amount_nano)
    stripe_client.client()  # not configured: no row
    customer = customers.ensure(account=account, now=now)
    top_up, _ = TopUp.objects.get_or_create(
        id=top_up_id or uuid.uuid4(),
        defaults={
            "wallet": ledger.open_wallet(account=account),
            "kind": TopUp.Kind.CHECKOUT,
            "is_live": stripe_client.is_live(),
            "credit_nano": amount_nano,
            "charge_minor": amount_nano // NANO_PER_MINOR,
            "requested_by": user,
            "sent_at": now,
            "created_at": now,
            "updated_at": now,
        },
    )
    if (top_up.wallet.account_id, top_up.credit_nano, top_up.state) != (account.pk, amount_nano, TopUp.State.OPEN):
        raise TopUpTaken(str(top_up.pk))
    try:
        session = _open_session(top_up, customer.customer_id, success_url, cancel_url, key=str(top_up.pk), save_card=save_card)
    except StripeRefused as refused:
        if refused.is_missing and refused.param == "customer":  # deleted at Stripe, and the news is not here yet
            customers.mark_deleted(customer_id=customer.customer_id)
            customer = customers.ensure(account=account, now=now)
            key = f"{top_up.pk}:{customer.customer_id}"
            session = _open_session(top_up, customer.customer_id, success_url, cancel_url, key=key, save_card=save_card)
        else:
            TopUp.objects.filter(pk=top_up.pk, state=TopUp.State.OPEN).update(
                state=TopUp.State.FAILED, failure=refused.message[:300], updated_at=now
            )
            raise
    TopUp.objects.filter(pk=top_up.pk, session_id=None).update(session_id=session.id, updated_at=now)
    top_up.refresh_from_db()
    return Checkout(top_up, session.url)


def metadata_of(top_up: TopUp) -> dict[str, str]:
    """What everything at Stripe that belongs to a top-up is tagged with."""
    return {TAG: str(top_up.pk), "account": top_up.wallet.account.slug, "installation": settings.PUBLIC_URL}


def _open_session(top_up: TopUp, customer_id: str, success_url: str, cancel_url: str, *, key: str, save_card: bool) -> Session:
    metadata = metadata_of(top_up)
    params: Any = {
        "mode": "payment",
        "customer": customer_id,
        "client_reference_id": str(top_up.pk),
        "line_items": [
            {
                "quantity": 1,
                "price_data": {"currency": "usd", "unit_amount": top_up.charge_minor, "product_data": {"name": "API credit"}},
            }
        ],
        "payment_intent_data": {"metadata": metadata, "description": f"API credit for {top_up.wallet.account.name}"},
        "metadata": metadata,
        "success_url": success_url.replace("{TOP_UP}", str(top_up.pk)),
        "cancel_url": cancel_url.replace("{TOP_UP}", str(top_up.pk)),
    }
    if save_card:
        params["payment_intent_data"]["setup_future_usage"] = "off_session"
    if settings.STRIPE_TAX:
        params["line_items"][0]["price_data"]["tax_behavior"] = "exclusive"  # the credit is what is left without it
        params |= {"automatic_tax": {"enabled": True}, "customer_update": {"address": "auto", "name": "auto"}}
    if settings.STRIPE_PROMOTION_CODES:
        params["allow_promotion_codes"] = True
    return stripe_client.create_session(params, idempotency_key=key)


# -- What became of it ---------------------------------------------------------------------------------------------------------------


def converge(*, top_up_id: uuid.UUID, now: datetime, session: Session | None = None, payment: Payment | None = None) -> TopUp:
    """Bring a top-up to where Stripe says it is: credited once when it is paid, else failed, expired or still open.

    `session` or `payment` is what the caller has just fetched. Safe to call at any time, from anywhere, as often as one likes.

    Raises: TopUp.DoesNotExist, NotConfigured, StripeUnavailable, StripeRefused.
    """
    for _ in range(TRIES):
        seen = TopUp.objects.get(pk=top_up_id)
        if seen.paid_minor is not None:
            return seen
        verdict = _ask(seen, session, payment, now)
        if verdict is None:
            return seen
        applied = _apply(top_up_id, seen, verdict, now)
        if applied is not None:
            return applied
        session = payment = None  # the row has changed since: what was fetched before that may be older
    return TopUp.objects.get(pk=top_up_id)


def unfinished(*, before: datetime) -> QuerySet[TopUp]:
    """Top-ups made before this moment of which Stripe has not said the last word, the oldest first."""
    return TopUp.objects.filter(state__in=UNFINISHED, created_at__lt=before).order_by("created_at")


def _ask(top_up: TopUp, session: Session | None, payment: Payment | None, now: datetime) -> Verdict | None:
    """What Stripe says; None when there is nothing there to ask about yet."""
    if session is None and top_up.session_id:
        session = stripe_client.fetch_session(top_up.session_id)
    if session is None and payment is None and top_up.payment_intent_id:
        payment = stripe_client.fetch_payment(top_up.payment_intent_id)
    if session is None and payment is not None and top_up.kind == TopUp.Kind.CHECKOUT:
        session = stripe_client.find_session(payment_intent_id=payment.id)
    if session is not None and session.payment_intent_id and not _fits(session, payment):
        payment = stripe_client.fetch_payment(session.payment_intent_id)
    if session is None and payment is None:
        if top_up.kind != TopUp.Kind.CHECKOUT or now - top_up.created_at < NEVER_ASKED_AFTER:
            return None
        return Verdict(TopUp.State.EXPIRED, failure="Stripe was never reached.")
    return judge(top_up, session, payment, discounts_allowed=settings.STRIPE_PROMOTION_CODES)


def _fits(session: Session, payment: Payment | None) -> bool:
    """Whether a payment is the session's, and not of a moment before it: a customer may be declined and pay while we ask."""
    if payment is None or payment.id != session.payment_intent_id:
        return False
    return payment.status == "succeeded" or session.payment_status != "paid"


@transaction.atomic
def _apply(top_up_id: uuid.UUID, seen: TopUp, verdict: Verdict, now: datetime) -> TopUp | None:
    """Write the verdict on what was `seen`; None when the row is no longer that."""
    top_up = TopUp.objects.select_for_update().get(pk=top_up_id)
    if (top_up.state, top_up.paid_minor) != (seen.state, seen.paid_minor):
        return None
    taken = verdict.payment_intent_id and (
        TopUp.objects.filter(payment_intent_id=verdict.payment_intent_id).exclude(pk=top_up_id).values_list("pk", flat=True).first()
    )
    if taken:
        verdict = Verdict(TopUp.State.QUARANTINED, problem=f"its payment belongs to top-up {taken} already", paid_minor=verdict.paid_minor)
    before = top_up.state
    top_up.session_id = top_up.session_id or verdict.session_id or None
    top_up.payment_intent_id = top_up.payment_intent_id or verdict.payment_intent_id or None
    top_up.charge_id = verdict.charge_id or top_up.charge_id
    top_up.receipt_url = verdict.receipt_url or top_up.receipt_url
    top_up.action_url = verdict.action_url if verdict.state == TopUp.State.ACTION_NEEDED else ""
    top_up.failure = (verdict.problem or verdict.failure)[:300]
    top_up.paid_minor = verdict.paid_minor
    top_up.updated_at = now
    if verdict.state != TopUp.State.OPEN:  # an answer that lay about must not reopen what has moved on
        top_up.state = verdict.state
    if verdict.state == TopUp.State.PAID:
        _credit(top_up, now=now, actor="stripe", note="top-up")
    top_up.save()
    if top_up.state == TopUp.State.QUARANTINED:
        news.tell_of_quarantine(top_up, problem=verdict.problem, now=now)
    if top_up.state != before:
        log.info("top_up_changed", top_up=str(top_up.pk), before=before, after=str(top_up.state), problem=verdict.problem)
        AFTERMATH[TopUp.Kind(top_up.kind)](top_up, before, now)
    return top_up


def _credit(top_up: TopUp, *, now: datetime, actor: str, note: str) -> None:
    """Put the locked row's credit into its wallet, and take back at once what is reversed already."""
    bookings.credit(top_up, now=now, actor=actor, note=note)
    top_up.paid_at = now
    reversals.settle(top_up, now=now)


# -- What follows a change, in its transaction ---------------------------------------------------------------------------------------

Aftermath = Callable[[TopUp, str, datetime], None]


def tell_outcome(top_up: TopUp, before: str, now: datetime) -> None:
    """Tell the account of a payment that arrived or failed. A customer who gave up at the till knows it."""
    account = top_up.wallet.account
    if top_up.state == TopUp.State.PAID:
        top_up.wallet.refresh_from_db()
        audit.record(
            account=account,
            actor=top_up.requested_by,
            actor_text="" if top_up.requested_by else "stripe",
            action="wallet.topped_up",
            subject=str(top_up.pk),
            details={"credit_nano": top_up.credit_nano, "paid_minor": top_up.paid_minor, "kind": top_up.kind},
            now=now,
        )
        context: dict[str, object] = {
            "top_up_id": str(top_up.pk),
            "credit_nano": top_up.credit_nano,
            "paid_minor": top_up.paid_minor,
            "balance_nano": int(top_up.wallet.balance),
            "receipt_url": top_up.receipt_url,
            "is_auto": top_up.kind == TopUp.Kind.AUTO,
        }
        news.tell(account=account, event="top_up.paid", dedupe_key=str(top_up.pk), context=context, now=now)
    elif top_up.state == TopUp.State.ACTION_NEEDED:
        context = {"top_up_id": str(top_up.pk), "charge_minor": top_up.charge_minor, "action_url": top_up.action_url}
        news.tell(account=account, event="top_up.action_needed", dedupe_key=str(top_up.pk), context=context, now=now)
    elif top_up.state == TopUp.State.FAILED and before != TopUp.State.QUARANTINED:
        context = {"top_up_id": str(top_up.pk), "charge_minor": top_up.charge_minor, "failure": top_up.failure}
        news.tell(account=account, event="top_up.failed", dedupe_key=str(top_up.pk), context=context, now=now)


def tell_outcome_of_auto(top_up: TopUp, before: str, now: datetime) -> None:
    """Tell of an automatic top-up, and count its failures. Consent is asked for once there is an address where it can be given."""
    if top_up.state == TopUp.State.FAILED:
        strikes.note_failure(top_up, now=now)
    elif top_up.state != TopUp.State.ACTION_NEEDED or top_up.action_url:
        if top_up.state == TopUp.State.PAID:
            strikes.note_success(top_up)
        tell_outcome(top_up, before, now)


# One for each kind of top-up: called with the changed row, the state before, and now, within the transaction that changed it.
AFTERMATH: dict[TopUp.Kind, Aftermath] = {
    TopUp.Kind.CHECKOUT: tell_outcome,
    TopUp.Kind.AUTO: tell_outcome_of_auto,
    TopUp.Kind.MANUAL: tell_outcome,
}


# -- Decisions of staff --------------------------------------------------------------------------------------------------------------


@transaction.atomic
def credit_quarantined(*, top_up_id: uuid.UUID, credit_nano: int, reason: str, user: User, now: datetime) -> TopUp:
    """Credit a quarantined payment with what staff finds right, once: more than was paid or asked for only as far as one may give alone.

    Raises: NothingToDecide, MoreThanPaid, ledger.NotPositive, TopUp.DoesNotExist.
    """
    top_up = _quarantined(top_up_id)
    most = max(top_up.paid_minor or 0, top_up.charge_minor) * NANO_PER_MINOR + money.nano_from_usd(settings.ADJUSTMENT_LIMIT_USD)
    if credit_nano > most:
        raise MoreThanPaid(most)
    top_up.credit_nano = credit_nano
    top_up.state = TopUp.State.PAID
    top_up.failure = ""
    top_up.updated_at = now
    _credit(top_up, now=now, actor=user.get_username(), note=reason)
    top_up.save()
    AFTERMATH[TopUp.Kind(top_up.kind)](top_up, TopUp.State.QUARANTINED, now)
    return top_up


@transaction.atomic
def reject_quarantined(*, top_up_id: uuid.UUID, reason: str, user: User, now: datetime) -> TopUp:
    """Close a quarantined payment without credit. The money stays at Stripe until it is refunded.

    Raises: NothingToDecide, TopUp.DoesNotExist.
    """
    top_up = _quarantined(top_up_id)
    top_up.state = TopUp.State.FAILED
    top_up.failure = reason[:300]
    top_up.updated_at = now
    top_up.save()
    audit.record(
        account=top_up.wallet.account, actor=user, action="top_up.rejected", subject=str(top_up.pk), details={"reason": reason}, now=now
    )
    return top_up


def _quarantined(top_up_id: uuid.UUID) -> TopUp:
    top_up = TopUp.objects.select_for_update().get(pk=top_up_id)
    if top_up.state != TopUp.State.QUARANTINED:
        raise NothingToDecide(str(top_up_id))
    return top_up
