"""What webhooks did not bring: events that are fetched, top-ups that are asked about, and Stripe's own list against ours.

Stripe keeps events for 30 days. The inbox takes fetched ones as it takes delivered ones: once.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from django.conf import settings

from billing.models import TopUp
from billing.payments import inbox, plan_changes, plan_reversals, stripe_client, top_ups
from billing.payments.stripe_client import TAG, Payment

log = structlog.get_logger(__name__)

OVERLAP = timedelta(hours=1)
FIRST_TIME = timedelta(days=1)
KEPT = timedelta(days=30)
SETTLED_AFTER = timedelta(hours=1)  # what is younger may be on its way
ASKED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Difference:
    """A payment that Stripe lists and that our books do not say the same of. `top_up` is what it names; empty: a plan's. Minor units."""

    payment_intent_id: str
    top_up: str
    sentence: str


def fetch_recent(*, last: datetime | None, now: datetime) -> int:
    """Put the events since the `last` fetch (an hour more, a day when there was none) into the inbox; returns how many were new.

    Raises: NotConfigured, StripeUnavailable, StripeRefused, django.db.Error.
    """
    since = last - OVERLAP if last is not None else now - FIRST_TIME  # what was made earlier may be listed later
    return _take_in(since=max(since, now - KEPT), undelivered_only=False, now=now)


def fetch_undelivered(*, now: datetime) -> int:
    """Put every event of the last 30 days that Stripe could not deliver into the inbox; returns how many were new.

    Raises: as `fetch_recent`.
    """
    return _take_in(since=now - KEPT, undelivered_only=True, now=now)


def _take_in(*, since: datetime, undelivered_only: bool, now: datetime) -> int:
    taken = 0
    for payload in stripe_client.list_events(since=since, undelivered_only=undelivered_only):
        try:
            taken += inbox.store(payload=payload, source="backfill", now=now)
        except inbox.InvalidEvent as problem:
            log.error("stripe_event_not_storable", stripe_event=str(payload.get("id")), problem=str(problem))
    return taken


def ask_about_unfinished(*, now: datetime) -> int:
    """Converge the top-ups that have been open for more than an hour, whatever events said; returns how many are over now.

    Raises: NotConfigured, StripeUnavailable.
    """
    over = 0
    for top_up in top_ups.unfinished(before=now - SETTLED_AFTER)[:ASKED_AT_ONCE]:
        try:
            over += top_ups.converge(top_up_id=top_up.pk, now=now).state not in top_ups.UNFINISHED
        except stripe_client.StripeRefused as refused:
            log.warning("top_up_not_asked_about", top_up=str(top_up.pk), error=str(refused))
    return over


def compare(*, since: datetime, until: datetime, now: datetime) -> list[Difference]:
    """Compare Stripe's list of payments with our top-ups and plans, after asking about each that differs: what is left is a difference.

    Raises: NotConfigured, StripeUnavailable, StripeRefused.
    """
    found = []
    for payment in stripe_client.list_payments(since=since, until=until):
        name = payment.metadata.get(TAG, "")
        if payment.status != "succeeded":
            continue
        if not name:
            found += _differences_of_plan(payment, now)
            continue
        top_up = TopUp.objects.filter(payment_intent_id=payment.id).first() or _converged(name, payment, now)
        if top_up is None and payment.metadata.get("installation") != settings.PUBLIC_URL:
            continue  # another installation's, at the same Stripe account
        if top_up is None or top_up.payment_intent_id != payment.id:
            sentence = f"{payment.received} US cents were paid, and no top-up here has this payment"
        elif top_up.paid_minor is None:
            top_up = top_ups.converge(top_up_id=top_up.pk, now=now)
            sentence = f"{payment.received} US cents were paid, and the top-up is {top_up.state}" if top_up.paid_minor is None else ""
        elif top_up.paid_minor != payment.received:
            sentence = f"{payment.received} US cents were paid, {top_up.paid_minor} are in our books"
        else:
            sentence = ""
        if sentence:
            found.append(Difference(payment.id, name, sentence))
    return found


def _differences_of_plan(payment: Payment, now: datetime) -> list[Difference]:
    """Bring the plan that a payment was for to where Stripe says it is, with its credit; what cannot be decided here is a difference."""
    try:
        plan_reversals.converge(payment_intent_id=payment.id, now=now)
    except (plan_changes.UnknownSubscription, plan_changes.SecondSubscription) as problem:
        return [Difference(payment.id, "", f"{payment.received} US cents were paid for a plan: {problem}")]
    return []


def _converged(name: str, payment: Payment, now: datetime) -> TopUp | None:
    try:
        return top_ups.converge(top_up_id=UUID(name), now=now, payment=payment)
    except (TopUp.DoesNotExist, ValueError):
        return None
