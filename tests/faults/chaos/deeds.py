"""What customers, staff and the clock do, as HTTP calls into the web processes: each is one call to a rule, as a view or a task makes it.

They stand in for the pages and for the tasks' long intervals, so that a kill meets them in a real web process. An answer with status 409 is a
rule's refusal (a used-up code, say) and final; after anything else but 200 the customer asks again with the same ids.
"""

import json
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.http import HttpRequest, JsonResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from accounts.models import Account, User
from billing import assignments, ledger, reconciliation, tasks
from billing.gifts import adjustments, codes
from billing.models import Hold, Plan, StripeEvent, TopUp
from billing.payments import auto_top_up, backfill, cards, inbox, plan_changes, reversals, stripe_client, subscriptions, top_ups
from catalog.money import NANO_PER_USD
from proxy import open_operations
from proxy.models import OpenOperation

LATER = timedelta(hours=2)  # beyond what the nightly round leaves alone because it may be on its way
Fields = dict[str, Any]
REFUSALS = (
    adjustments.AdjustmentConflict,
    assignments.SubscriptionRunning,
    cards.NoCard,
    codes.CodeAlreadyRedeemed,
    codes.CodeUsedUp,
    ledger.InsufficientBalance,
    reversals.NotRefundable,
    stripe_client.StripeRefused,
    subscriptions.CancelsAtEnd,
    subscriptions.ChangeScheduled,
    subscriptions.NoSubscription,
    subscriptions.NothingToChange,
    subscriptions.PaymentMissing,
    subscriptions.PaymentRefused,
    top_ups.TopUpTaken,
)


@csrf_exempt
def serve(request: HttpRequest, deed: str) -> JsonResponse:
    """Do one deed now."""
    try:
        return JsonResponse(DEEDS[deed](json.loads(request.body or "{}"), timezone.now()))
    except REFUSALS as refused:
        return JsonResponse({"refused": type(refused).__name__, "text": str(refused)}, status=409)
    except stripe_client.StripeUnavailable as error:
        return JsonResponse({"error": str(error)}, status=503)


def _account(fields: Fields) -> Account:
    return Account.objects.get(pk=fields["account"])


def _staff() -> User:
    return User.objects.get(email="staff@chaos.test")


def top_up(fields: Fields, now: datetime) -> Fields:
    """Ask for a page to pay at."""
    found = top_ups.start_checkout(
        account=_account(fields),
        user=None,
        amount_nano=fields["usd"] * NANO_PER_USD,
        success_url="http://127.0.0.1/paid?id={TOP_UP}",
        cancel_url="http://127.0.0.1/not",
        now=now,
        top_up_id=uuid.UUID(fields["id"]),
    )
    return {"session": found.top_up.session_id, "url": found.url}


def come_back(fields: Fields, now: datetime) -> Fields:
    """Return from the page: one of the five roads of a credit."""
    return {"state": top_ups.converge(top_up_id=uuid.UUID(fields["id"]), now=now).state}


def save_card(fields: Fields, now: datetime) -> Fields:
    """Ask for a page where a card is saved."""
    here = "http://127.0.0.1/"
    return {"url": cards.start_card_setup(account=_account(fields), user=_staff(), success_url=here, cancel_url=here, now=now)}


def agree(fields: Fields, now: datetime) -> Fields:
    """Agree to automatic top-ups with the card of a finished setup, if there is a new one."""
    if fields.get("setup_intent"):
        cards.adopt_from_setup(setup_intent_id=fields["setup_intent"], now=now)
    auto_top_up.agree(
        account=_account(fields),
        user=_staff(),
        threshold_nano=fields["below_usd"] * NANO_PER_USD,
        amount_nano=fields["usd"] * NANO_PER_USD,
        monthly_cap_nano=None,
        now=now,
    )
    return {}


def refund(fields: Fields, now: datetime) -> Fields:
    """Refund a part of a payment, as staff does."""
    row = TopUp.objects.get(pk=fields["id"])
    reversals.refund(top_up=row, amount_minor=fields["amount_minor"], reason="chaos", user=_staff(), key=fields["key"], now=now)
    return {}


def redeem(fields: Fields, now: datetime) -> Fields:
    """Redeem a code; one that was redeemed before counts as done, because the first answer may have been lost."""
    try:
        transfer = codes.redeem(account=_account(fields), code=fields["code"], user=None, now=now)
    except codes.CodeAlreadyRedeemed as known:
        transfer = known.transfer
    return {"transfer": str(transfer.pk)}


def adjust(fields: Fields, now: datetime) -> Fields:
    """Credit or debit by hand."""
    made = adjustments.request_adjustment(
        wallet=_account(fields).wallet,
        kind=fields["kind"],
        amount_nano=fields["amount_nano"],
        reason="chaos",
        user=_staff(),
        now=now,
        adjustment_id=uuid.UUID(fields["id"]),
    )
    return {"transfer": str(made.transfer_id)}


def grant(fields: Fields, now: datetime) -> Fields:
    """Give credit that expires in a moment."""
    transfer = ledger.credit(
        wallet_id=_account(fields).wallet.pk,
        amount=fields["amount_nano"],
        kind="promo",
        debit_account="promo",
        source_type="chaos",
        source_id=fields["id"],
        actor="chaos",
        note="",
        now=now,
        expires_at=now + timedelta(seconds=fields["seconds"]),
    )
    return {"transfer": str(transfer.pk)}


def change_plan(fields: Fields, now: datetime) -> Fields:
    """Put the account on another plan."""
    assignments.assign_by_staff(account=_account(fields), plan=Plan.objects.get(slug=fields["plan"]), user=_staff(), now=now)
    return {}


def sell(fields: Fields, _now: datetime) -> Fields:
    """Put a plan on sale at a price of Stripe's."""
    return {"sold": Plan.objects.filter(slug=fields["plan"]).update(stripe_price_id=fields["price"])}


def subscribe(fields: Fields, now: datetime) -> Fields:
    """Ask for a page where a plan is bought."""
    here, plan = "http://127.0.0.1/", Plan.objects.get(slug=fields["plan"])
    url = subscriptions.subscribe(account=_account(fields), plan=plan, user=_staff(), success_url=here, cancel_url=here, now=now)
    return {"url": url}


def change_subscription(fields: Fields, now: datetime) -> Fields:
    """Go up or down between the plans that are sold."""
    subscriptions.change_plan(account=_account(fields), plan=Plan.objects.get(slug=fields["plan"]), user=_staff(), now=now)
    return {}


def cancel(fields: Fields, now: datetime) -> Fields:
    """Let the plan end with its period."""
    subscriptions.cancel(account=_account(fields), user=_staff(), now=now)
    return {}


def resume(fields: Fields, now: datetime) -> Fields:
    """Let it go on."""
    subscriptions.resume(account=_account(fields), user=_staff(), now=now)
    return {}


def attend(_fields: Fields, now: datetime) -> Fields:
    """Look after subscriptions that no event has told of."""
    return {"attended": plan_changes.attend(now=now + LATER, limit=100)}


def expire(_fields: Fields, now: datetime) -> Fields:
    """Take back what is left of expired grants."""
    return {"expired": len(ledger.expire_grants(now=now, limit=1000))}


def sweep(_fields: Fields, _now: datetime) -> Fields:
    """End the holds of dead processes."""
    tasks.sweep_holds()
    return {}


def refill(_fields: Fields, now: datetime) -> Fields:
    """Refill the wallets that agreed to it, and take up what was left lying."""
    return {"asked": auto_top_up.fire(now=now, limit=20), "taken up": auto_top_up.follow_up(now=now, limit=20)}


def fetch_events(_fields: Fields, now: datetime) -> Fields:
    """Fetch what webhooks did not bring."""
    return {"taken": backfill.fetch_recent(last=now, now=now)}


def look_after_videos(_fields: Fields, now: datetime) -> Fields:
    """Ask how the videos stand that nobody polls, and pay back what did not come."""
    done = open_operations.look_after(now=now, limit=50, seconds=10)
    return {"ended": done.ended, "paid back": done.paid_back, "given up": done.given_up}


def drain(_fields: Fields, now: datetime) -> Fields:
    """Handle what lies in the inbox, whatever pause it is in."""
    return {"handled": inbox.drain(now=now + LATER, limit=1000)}


def ask_about(_fields: Fields, now: datetime) -> Fields:
    """Ask Stripe about open top-ups, as the nightly round does."""
    return {"over": backfill.ask_about_unfinished(now=now + LATER)}


def compare(_fields: Fields, now: datetime) -> Fields:
    """Compare Stripe's list of payments with the books."""
    found = backfill.compare(since=now - timedelta(days=2), until=now + timedelta(minutes=1), now=now)
    return {"differences": [f"{one.payment_intent_id}: {one.sentence}" for one in found]}


def audit(_fields: Fields, now: datetime) -> Fields:
    """Check every invariant, beside the live traffic."""
    return {"drifts": [str(drift) for drift in reconciliation.audit(now=now)][:20]}


def unfinished(_fields: Fields, _now: datetime) -> Fields:
    """Count what is still on its way."""
    waiting = StripeEvent.objects.filter(state__in=[StripeEvent.State.RECEIVED, StripeEvent.State.FAILED])
    errors = list(waiting.exclude(last_error="").values_list("type", "last_error")[:3])
    return {"holds": Hold.objects.count(), "events": waiting.count(), "videos": OpenOperation.objects.count(), "errors": errors}


DEEDS: dict[str, Callable[[Fields, datetime], Fields]] = {
    deed.__name__: deed
    for deed in (
        *(top_up, come_back, save_card, agree, refund, redeem, adjust, grant, change_plan),
        *(sell, subscribe, change_subscription, cancel, resume),
        *(expire, sweep, refill, attend, look_after_videos, fetch_events, drain, ask_about, compare, audit, unfinished),
    )
}
