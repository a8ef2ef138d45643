"""The plans' prices at Stripe, made there from the plans here: a product for each plan, and a price for each amount it ever cost.

A price is found by its lookup key, `tollgate-plan-<slug>-<US cents>`, so that doing it again finds what was made, and an amount that comes
back is the same price. Who subscribed at an older price keeps it: Stripe goes on asking for what was agreed.
"""

from collections.abc import Iterable
from typing import Any

from django.db import transaction

from billing.models import Plan
from billing.payments.stripe_client import StripeRefused, call
from billing.payments.stripe_plans import PLAN_TAG, Price, fetch_price, read_price
from billing.payments.top_ups import NANO_PER_MINOR
from catalog.manifest import Change


class NotInCents(Exception):
    """A plan's price is no whole number of US cents, or less than Stripe takes: it cannot be sold."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(f"the price of plan {plan.slug} cannot be charged: it takes whole cents, and at least 50")
        self.plan = plan


def sync(*, slugs: Iterable[str]) -> list[Change]:
    """Make sure that Stripe has the price of each of these plans that costs something, and that the plan names it; returns what changed.

    Raises: NotInCents, NotConfigured, StripeUnavailable, StripeRefused. What was done before stays: doing it again goes on from there.
    """
    found = []
    for plan in Plan.objects.filter(slug__in=list(slugs), price_nano__gt=0).order_by("pk"):
        if plan.price_nano % NANO_PER_MINOR or plan.price_nano < 50 * NANO_PER_MINOR:
            raise NotInCents(plan)
        price = _find(plan) or _make(plan)
        if plan.stripe_price_id != price.id:
            before = plan.stripe_price_id or "none"
            with transaction.atomic():
                Plan.objects.filter(pk=plan.pk).update(stripe_price_id=price.id)
            found.append(Change("~", f"plan {plan.slug}", f"stripe_price {before} → {price.id}"))
    return found


def lookup_key(plan: Plan) -> str:
    """The name of a plan's price at Stripe."""
    return f"tollgate-plan-{plan.slug}-{plan.price_nano // NANO_PER_MINOR}"


def _find(plan: Plan) -> Price | None:
    asked: Any = {"lookup_keys": [lookup_key(plan)], "active": True, "limit": 1}
    found = call(lambda ready: ready.v1.prices.list(asked))["data"]
    return read_price(found[0]) if found else None


def _make(plan: Plan) -> Price:
    asked: Any = {
        "currency": "usd",
        "unit_amount": plan.price_nano // NANO_PER_MINOR,
        "recurring": {"interval": "month"},
        **_product_of(plan),
        "lookup_key": lookup_key(plan),
        "metadata": {PLAN_TAG: plan.slug},
        "tax_behavior": "exclusive",
    }
    try:
        return read_price(call(lambda ready: ready.v1.prices.create(asked)))
    except StripeRefused:
        found = _find(plan)  # another was faster
        if found is None:
            raise
        return found


def _product_of(plan: Plan) -> dict[str, Any]:
    """The product of the price that the plan had, or what to make a new one of."""
    if plan.stripe_price_id:
        try:
            return {"product": fetch_price(plan.stripe_price_id).product_id}
        except StripeRefused as refused:
            if not refused.is_missing:  # of the other mode, say
                raise
    return {"product_data": {"name": plan.name or plan.slug, "metadata": {PLAN_TAG: plan.slug}}}
