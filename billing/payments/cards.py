"""The saved card: the one that an account lets us charge when nobody is there, for automatic top-ups and plans.

Stripe's record of the customer says which it is (its default payment method); the row `StripeCustomer` mirrors that, so that every event
about customers and payment methods leads to the same: ask, and write down the answer. A card that was saved becomes the default when it is
newer than the one before, whichever of them is heard of first.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction

from accounts import audit
from accounts.models import Account, User
from billing import assignments
from billing.models import StripeCustomer, Subscription
from billing.payments import customers, strikes, stripe_client
from billing.payments.stripe_client import StripeRefused, call

log = structlog.get_logger(__name__)

PURPOSE = {"purpose": "card"}
TRIES = 5


class NoCard(Exception):
    """The account has no saved card."""


class CardInUse(Exception):
    """A plan is paid with the card: replace it, or cancel the plan first."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A payment method as Stripe says it is. `created` in seconds of the epoch."""

    id: str
    kind: str
    customer_id: str
    brand: str
    last_four: str
    expires: str
    created: int


def start_card_setup(*, account: Account, user: User | None, success_url: str, cancel_url: str, now: datetime) -> str:
    """Ask Stripe for a page where a card can be saved without paying, in place of the one that is; returns its address.

    Raises: NotConfigured, StripeUnavailable, StripeRefused.
    """
    customer = customers.ensure(account=account, now=now)
    metadata = {"account": account.slug, "installation": settings.PUBLIC_URL, "user": str(user.pk) if user else "", **PURPOSE}
    params: Any = {
        "mode": "setup",
        "customer": customer.customer_id,
        "allowed_payment_method_types": ["card"],
        "metadata": metadata,
        "setup_intent_data": {"metadata": metadata},
        "success_url": success_url,
        "cancel_url": cancel_url,
    }
    return stripe_client.create_session(params, idempotency_key=str(uuid.uuid4())).url


def of(account: Account) -> StripeCustomer | None:
    """The account's record with its saved card, in the mode of the configured key; None when there is no card."""
    found = StripeCustomer.objects.filter(account=account, is_deleted=False, is_live=stripe_client.is_live()).first()
    return found if found is not None and found.payment_method_id else None


def adopt_from_setup(*, setup_intent_id: str, now: datetime) -> bool:
    """Take the card that was saved without a payment. Returns whether it is one of ours. Raises: as `stripe_client.call`."""
    found = call(lambda ready: ready.v1.setup_intents.retrieve(setup_intent_id))
    if found.get("status") != "succeeded" or not found.get("customer"):
        return False
    by = str((found.get("metadata") or {}).get("user") or "")
    return adopt(payment_method_id=_id(found.get("payment_method")), customer_id=_id(found["customer"]), now=now, by=by)


def adopt(*, payment_method_id: str, customer_id: str, now: datetime, by: str = "") -> bool:
    """Make a card that its owner has just saved the one to charge, also for the plan; `by` is the id of the member who did it, if known.

    Anything but a card, or one that is older than the default, stays aside. Returns whether the customer is one of ours.

    Raises: as `stripe_client.call`.
    """
    customer = StripeCustomer.objects.filter(customer_id=customer_id).select_related("account").first()
    if customer is None:
        return False
    card, default = _fetch(payment_method_id), _fetch_default(customer_id)
    if card is None or card.kind != "card" or card.customer_id != customer_id:
        return True
    if default is None or (default.created, default.id) < (card.created, card.id):
        asked: Any = {"invoice_settings": {"default_payment_method": card.id}}
        call(lambda ready: ready.v1.customers.update(customer_id, asked))
        paying = Subscription.objects.filter(account=customer.account, status__in=assignments.RUNNING).exclude(stripe_id=None).first()
        if paying is not None:
            id_, change = str(paying.stripe_id), {"default_payment_method": card.id}
            call(lambda ready: ready.v1.subscriptions.update(id_, change))  # type: ignore[arg-type]
    converge(customer_id=customer_id, now=now, by=by)
    return True


def converge(*, customer_id: str, now: datetime, by: str = "") -> bool:
    """Take over what Stripe says of a customer's card: another, renewed, or gone. Returns whether the customer is one of ours.

    A card that is gone turns automatic top-up off.

    Raises: as `stripe_client.call`.
    """
    for _ in range(TRIES):
        seen = StripeCustomer.objects.filter(customer_id=customer_id).first()
        if seen is None:
            return False
        record = stripe_client.fetch_customer(customer_id)
        is_deleted = record is None or record.is_deleted
        if _write(seen, None if is_deleted else _fetch_default(customer_id), is_deleted=is_deleted, now=now, by=by):
            break
    return True


def converge_method(*, payment_method_id: str, customer_id: str, now: datetime) -> bool:
    """Take over what has become of a payment method, by its customer, or by whose card it was when it has none any more."""
    owner = StripeCustomer.objects.filter(payment_method_id=payment_method_id).values_list("customer_id", flat=True).first()
    return converge(customer_id=owner or customer_id, now=now) if owner or customer_id else False


def remove(*, account: Account, user: User, now: datetime) -> None:
    """Take every card off the account's customer at Stripe. Automatic top-up is turned off first, and told.

    Raises: NoCard, CardInUse, NotConfigured, StripeUnavailable, StripeRefused.
    """
    customer = of(account)
    if customer is None:
        raise NoCard
    if Subscription.objects.filter(account=account, status__in=assignments.RUNNING, cancels_at_end=False).exists():
        raise CardInUse
    with transaction.atomic():
        strikes.turn_off(account=account, reason="The saved card was removed.", now=now)
        audit.record(account=account, actor=user, action="card.removed", details={"last_four": customer.card_last_four}, now=now)
    for method_id in _cards_of(customer.customer_id):
        try:
            call(lambda ready, id_=method_id: ready.v1.payment_methods.detach(id_))  # type: ignore[misc]
        except StripeRefused as refused:
            log.info("card_not_detached", payment_method=method_id, error=str(refused))  # it was gone already
    converge(customer_id=customer.customer_id, now=now)


@transaction.atomic
def _write(seen: StripeCustomer, card: Saved | None, *, is_deleted: bool, now: datetime, by: str) -> bool:
    """Write what Stripe said on the row that was `seen`; False when that has changed since."""
    row = StripeCustomer.objects.select_for_update().select_related("account").get(pk=seen.pk)
    if _standing(row) != _standing(seen):
        return False
    before = row.payment_method_id
    row.is_deleted = is_deleted
    row.payment_method_id = card.id if card else ""
    row.card_brand = card.brand[:30] if card else ""
    row.card_last_four = card.last_four[:4] if card else ""
    row.card_expires = card.expires[:7] if card else ""
    if _standing(row) != _standing(seen):
        row.save()
    if card is None and before:
        strikes.turn_off(account=row.account, reason="The saved card was removed.", now=now)
    elif card is not None and card.id != before:
        actor = User.objects.filter(pk=int(by)).first() if by.isdecimal() else None
        details = {"brand": row.card_brand, "last_four": row.card_last_four}
        audit.record(account=row.account, actor=actor, actor_text="" if actor else "stripe", action="card.saved", details=details, now=now)
    return True


def _standing(row: StripeCustomer) -> tuple[object, ...]:
    return row.customer_id, row.is_deleted, row.payment_method_id, row.card_brand, row.card_last_four, row.card_expires


def _fetch(payment_method_id: str) -> Saved | None:
    try:
        return _read(call(lambda ready: ready.v1.payment_methods.retrieve(payment_method_id)))
    except StripeRefused as refused:
        if refused.is_missing:
            return None
        raise


def _fetch_default(customer_id: str) -> Saved | None:
    asked: Any = {"expand": ["invoice_settings.default_payment_method"]}
    found = call(lambda ready: ready.v1.customers.retrieve(customer_id, asked))
    method = (found.get("invoice_settings") or {}).get("default_payment_method")
    return _read(method) if isinstance(method, dict) else None


def _cards_of(customer_id: str) -> list[str]:
    asked: Any = {"customer": customer_id, "limit": stripe_client.PAGE}
    return [one["id"] for one in call(lambda ready: ready.v1.payment_methods.list(asked))["data"]]


def _read(found: dict[str, Any]) -> Saved:
    card = found.get("card") or {}
    expires = f"{card['exp_year']:04d}-{card['exp_month']:02d}" if card.get("exp_year") and card.get("exp_month") else ""
    return Saved(
        id=found["id"],
        kind=str(found.get("type") or ""),
        customer_id=_id(found.get("customer")),
        brand=str(card.get("brand") or ""),
        last_four=str(card.get("last4") or ""),
        expires=expires,
        created=int(found.get("created") or 0),
    )


def _id(value: Any) -> str:
    return str(value.get("id") or "") if isinstance(value, dict) else str(value or "")
