"""What each kind of Stripe's events means here: one handler a kind, and each does the same: fetch the object, compute where our rows should
be, apply the difference. An event only says where to look; what it carries is not believed.

`HANDLERS` is the registry; whoever owns subscriptions, invoices or saved cards adds theirs in it. A handler returns whether the event was
about something of ours. It may raise `Undecidable`: then staff decides.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings

from billing.models import Subscription, TopUp
from billing.payments import cards, plan_changes, plan_reversals, reversals, stripe_client, stripe_plans, top_ups
from billing.payments.stripe_client import TAG, Session


class Undecidable(Exception):
    """The event is about something of ours that is not here: a person has to look."""


@dataclass(frozen=True, slots=True)
class Notice:
    """An event: its kind, and the id and type of the object to look at. `object` is as it was sent, for what has no id of its own."""

    id: str
    type: str
    object_id: str
    object: Mapping[str, Any]


Handler = Callable[[Notice, datetime], bool]


def handle(notice: Notice, *, now: datetime) -> bool:
    """Do what an event asks for; returns False for what is nothing of ours.

    Raises: Undecidable, NotConfigured, StripeUnavailable, StripeRefused.
    """
    handler = HANDLERS.get(notice.type)
    return handler is not None and handler(notice, now)


# -- Top-ups -------------------------------------------------------------------------------------------------------------------------


def on_session(notice: Notice, now: datetime) -> bool:
    """A Checkout session was completed, paid late, failed late, or expired."""
    session = stripe_client.fetch_session(notice.object_id)
    handler = SESSION_HANDLERS.get(session.mode)
    return handler is not None and handler(session, now)


def on_payment_session(session: Session, now: datetime) -> bool:
    """A session in which something is paid once: a top-up, when it is ours."""
    top_up = _top_up_named(session.reference, session.metadata) or TopUp.objects.filter(session_id=session.id).first()
    if top_up is None:
        return False
    top_ups.converge(top_up_id=top_up.pk, now=now, session=session)
    return True


def on_payment(notice: Notice, now: datetime) -> bool:
    """A payment intent has come to an end, or wants the customer's consent."""
    payment = stripe_client.fetch_payment(notice.object_id)
    top_up = TopUp.objects.filter(payment_intent_id=payment.id).first() or _top_up_named("", payment.metadata)
    if top_up is None:
        return False
    # A session knows more (the amount before tax): the row's own is asked when it has one.
    top_ups.converge(top_up_id=top_up.pk, now=now, payment=payment)
    if payment.saves_card and payment.status == "succeeded":
        cards.adopt(
            payment_method_id=payment.payment_method_id, customer_id=payment.customer_id, now=now, by=str(top_up.requested_by_id or "")
        )
    return True


def _top_up_named(reference: str, metadata: Mapping[str, str]) -> TopUp | None:
    """The top-up that Stripe's object names. Raises: Undecidable when it names one of this installation that is not here."""
    for name in (metadata.get(TAG, ""), reference):
        try:
            found = TopUp.objects.filter(pk=uuid.UUID(name)).first()
        except ValueError:
            continue
        if found is not None:
            return found
    if metadata.get(TAG) and metadata.get("installation") == settings.PUBLIC_URL:
        raise Undecidable(f"top-up {metadata[TAG]} of account {metadata.get('account', '?')} is not here")
    return None  # another use of the same Stripe account


# -- Reversals -----------------------------------------------------------------------------------------------------------------------


def on_reversal(notice: Notice, now: datetime) -> bool:
    """A charge was refunded, or a refund or dispute has changed."""
    charge_id = notice.object_id if notice.object.get("object") == "charge" else str(notice.object.get("charge") or "")
    payment_intent_id = str(notice.object.get("payment_intent") or "") or (
        stripe_client.fetch_charge_payment(charge_id) if charge_id else ""
    )
    top_up = _top_up_paid_by(payment_intent_id, "", now)
    if top_up is None:
        return bool(payment_intent_id) and _decided(lambda: plan_reversals.converge(payment_intent_id=payment_intent_id, now=now))
    reversals.converge(top_up_id=top_up.pk, now=now)
    return True


def on_fraud_warning(notice: Notice, now: datetime) -> bool:
    """A card's network thinks that a payment was not its owner's."""
    warning = stripe_client.fetch_warning(notice.object_id)
    top_up = _top_up_paid_by(warning.payment_intent_id, warning.charge_id, now)
    if top_up is None:
        return False
    reversals.note_warning(top_up=top_up, warning=warning, now=now)
    return True


def _top_up_paid_by(payment_intent_id: str, charge_id: str, now: datetime) -> TopUp | None:
    """The top-up of a payment, brought to where it is: a reversal may be heard of before the payment itself."""
    payment_intent_id = payment_intent_id or (stripe_client.fetch_charge_payment(charge_id) if charge_id else "")
    if not payment_intent_id:
        return None
    top_up = TopUp.objects.filter(payment_intent_id=payment_intent_id).first()
    if top_up is None or top_up.paid_minor is None:
        payment = stripe_client.fetch_payment(payment_intent_id)
        top_up = top_up or _top_up_named("", payment.metadata)
        if top_up is not None:
            top_up = top_ups.converge(top_up_id=top_up.pk, now=now, payment=payment)
    return top_up


# -- Customers and cards -------------------------------------------------------------------------------------------------------------


def on_customer(notice: Notice, now: datetime) -> bool:
    """A customer's record was changed or deleted."""
    return cards.converge(customer_id=notice.object_id, now=now)


def on_payment_method(notice: Notice, now: datetime) -> bool:
    """A saved card was renewed or taken off."""
    return cards.converge_method(payment_method_id=notice.object_id, customer_id=str(notice.object.get("customer") or ""), now=now)


def on_setup(notice: Notice, now: datetime) -> bool:
    """A card was saved without a payment."""
    return cards.adopt_from_setup(setup_intent_id=notice.object_id, now=now)


# -- Plans ---------------------------------------------------------------------------------------------------------------------------


def on_plan_session(session: Session, now: datetime) -> bool:
    """A session in which a plan is bought was completed, or expired."""
    row = Subscription.objects.filter(session_id=session.id).first() or _subscription_named(session.metadata)
    if row is None:
        return False
    if row.session_id is None:
        Subscription.objects.filter(pk=row.pk, session_id=None).update(session_id=session.id)
    return _decided(lambda: plan_changes.converge_session(subscription_id=row.pk, now=now))


def on_subscription(notice: Notice, now: datetime) -> bool:
    """A subscription has begun, changed or ended."""
    return _decided(lambda: plan_changes.converge(stripe_id=notice.object_id, now=now))


def on_invoice(notice: Notice, now: datetime) -> bool:
    """An invoice was paid, or could not be."""
    stripe_id = stripe_plans.subscription_of_invoice(notice.object_id)
    return bool(stripe_id) and _decided(lambda: plan_changes.converge(stripe_id=stripe_id, now=now))


def _subscription_named(metadata: Mapping[str, str]) -> Subscription | None:
    try:
        return Subscription.objects.filter(pk=uuid.UUID(metadata.get(stripe_plans.TAG, ""))).first()
    except ValueError:
        return None


def _decided(converge: Callable[[], Subscription | None]) -> bool:
    """Whether it was about a subscription of ours. Raises: Undecidable when a person has to look."""
    try:
        return converge() is not None
    except (plan_changes.UnknownSubscription, plan_changes.SecondSubscription) as problem:
        raise Undecidable(str(problem)) from problem


# -- The registry --------------------------------------------------------------------------------------------------------------------

SESSION_HANDLERS: dict[str, Callable[[Session, datetime], bool]] = {  # by the session's mode; of a saved card its setup intent tells
    "payment": on_payment_session,
    "subscription": on_plan_session,
}

HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(
        (
            "checkout.session.completed",
            "checkout.session.async_payment_succeeded",
            "checkout.session.async_payment_failed",
            "checkout.session.expired",
        ),
        on_session,
    ),
    **dict.fromkeys(
        (
            "payment_intent.succeeded",
            "payment_intent.payment_failed",
            "payment_intent.canceled",
            "payment_intent.requires_action",
        ),
        on_payment,
    ),
    **dict.fromkeys(
        (
            "charge.refunded",
            "refund.created",
            "refund.updated",
            "refund.failed",
            "charge.refund.updated",
            "charge.dispute.created",
            "charge.dispute.funds_withdrawn",
            "charge.dispute.funds_reinstated",
            "charge.dispute.updated",
            "charge.dispute.closed",
        ),
        on_reversal,
    ),
    "radar.early_fraud_warning.created": on_fraud_warning,
    "radar.early_fraud_warning.updated": on_fraud_warning,
    **dict.fromkeys(("customer.updated", "customer.deleted"), on_customer),
    **dict.fromkeys(
        ("payment_method.attached", "payment_method.automatically_updated", "payment_method.detached", "payment_method.updated"),
        on_payment_method,
    ),
    "setup_intent.succeeded": on_setup,
    **dict.fromkeys(
        (
            "customer.subscription.created",
            "customer.subscription.updated",
            "customer.subscription.deleted",
            "customer.subscription.paused",
            "customer.subscription.resumed",
        ),
        on_subscription,
    ),
    **dict.fromkeys(("invoice.paid", "invoice.payment_failed", "invoice.payment_action_required"), on_invoice),
}
