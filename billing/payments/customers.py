"""An account's customer record at Stripe; the card saved there is the affair of `billing.payments.cards`.

Records of test and of live mode are strangers to each other.
"""

from datetime import datetime

from django.db import IntegrityError, transaction

from accounts.models import Account
from billing.models import StripeCustomer
from billing.payments import stripe_client


def ensure(*, account: Account, now: datetime) -> StripeCustomer:
    """Give `account` a customer at Stripe in the mode of the configured key: the one it has, or a new one.

    Two that ask at once may make two there; one of them stays here.

    Raises: NotConfigured, StripeUnavailable, StripeRefused.
    """
    known = StripeCustomer.objects.filter(account=account).first()
    if known is not None and not known.is_deleted and known.is_live == stripe_client.is_live():
        return known
    made = stripe_client.create_customer(name=account.name, email=account.billing_email, metadata={"account": account.slug})
    fields = {
        "customer_id": made.id,
        "is_live": stripe_client.is_live(),
        "is_deleted": False,
        "payment_method_id": "",
        "card_brand": "",
        "card_last_four": "",
        "card_expires": "",
    }
    if known is not None:
        StripeCustomer.objects.filter(pk=known.pk, customer_id=known.customer_id).update(**fields)
    else:
        try:
            with transaction.atomic():
                StripeCustomer.objects.create(account=account, created_at=now, **fields)
        except IntegrityError:
            pass  # somebody else was first
    return StripeCustomer.objects.get(account=account)


def mark_deleted(*, customer_id: str) -> None:
    """Note that a customer is gone at Stripe, and its card with it: the next payment makes a new one."""
    StripeCustomer.objects.filter(customer_id=customer_id).update(
        is_deleted=True, payment_method_id="", card_brand="", card_last_four="", card_expires=""
    )
