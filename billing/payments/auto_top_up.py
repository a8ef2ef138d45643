"""Automatic top-up: refills a wallet from the saved card when its balance falls below what its owner said. Off unless they agreed.

Due wallets are found from the small table of agreements, whose index leads to those whose cooldown is over, so that no wallet without an
agreement is ever looked at. The top-up's row is committed before Stripe is asked, and its id is the idempotency key: after a crash it is
sent again with the same key, which makes no second payment. Those keys last a day at Stripe; from then on the payment is searched for and
never sent again. One top-up an account is in flight at a time (a unique index), and what it comes to is `top_ups.converge`'s affair.

When the bank wants its customer's consent, the payment waits for it at an address that is sent by mail and shown on the billing page.
"""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import F, Q, Sum
from django.urls import NoReverseMatch, reverse

from accounts import audit
from accounts.models import Account, User
from billing import ledger
from billing.models import AutoTopUp, StripeCustomer, TopUp, Wallet
from billing.payments import cards, news, strikes, top_ups
from billing.payments.cards import NoCard
from billing.payments.stripe_client import PAGE, TAG, Payment, StripeRefused, StripeUnavailable, call, fetch_payment, is_live, read_payment
from keys import budgets

log = structlog.get_logger(__name__)

COOLDOWN = timedelta(minutes=5)  # between two refills, whatever is spent
RECHECK = timedelta(hours=1)  # when the month's cap is reached
RESEND_AFTER = timedelta(seconds=30)
KEY_LASTS = timedelta(hours=23)  # Stripe's idempotency keys: a day
CONSENT_WAITS = timedelta(hours=24)


class NotOffered(Exception):
    """Automatic top-up is not possible here: tax is to be added (STRIPE_TAX), which only the checkout page can."""


class BadThreshold(ValueError):
    """The threshold is less than nothing, or more than the largest top-up (nano-USD)."""


class CapTooLow(ValueError):
    """The monthly cap is less than one top-up (nano-USD): it would never happen."""


# -- The agreement -------------------------------------------------------------------------------------------------------------------


def agree(*, account: Account, user: User, threshold_nano: int, amount_nano: int, monthly_cap_nano: int | None, now: datetime) -> AutoTopUp:
    """Charge `amount_nano` to the saved card whenever the balance is below `threshold_nano`, at most `monthly_cap_nano` a calendar month.

    All in nano-USD, the amount in whole cents. Agreeing again changes the figures and forgets failures.

    Raises: NotOffered, NoCard, top_ups.AmountOutOfRange, BadThreshold, CapTooLow.
    """
    if settings.STRIPE_TAX:
        raise NotOffered
    top_ups.check_amount(amount_nano)
    if not 0 <= threshold_nano <= top_ups.limits()[1]:
        raise BadThreshold
    if monthly_cap_nano is not None and monthly_cap_nano < amount_nano:
        raise CapTooLow
    card = cards.of(account)
    if card is None:
        raise NoCard
    fields: dict[str, Any] = {"threshold_nano": threshold_nano, "amount_nano": amount_nano, "monthly_cap_nano": monthly_cap_nano}
    wallet = ledger.open_wallet(account=account)
    with transaction.atomic():
        auto, _ = AutoTopUp.objects.update_or_create(
            wallet=wallet,
            defaults=fields
            | {"is_enabled": True, "strikes": 0, "disabled_reason": "", "not_before": now, "agreed_by": user, "agreed_at": now},
        )
        details = fields | {"last_four": card.card_last_four}
        audit.record(account=account, actor=user, action="auto_top_up.agreed", details=details, now=now)
    return auto


@transaction.atomic
def turn_off(*, account: Account, user: User, now: datetime) -> bool:
    """Turn automatic top-up off, as its owner wishes; returns False when it was off."""
    auto = AutoTopUp.objects.select_for_update().filter(wallet__account=account, is_enabled=True).first()
    if auto is None:
        return False
    auto.is_enabled = False
    auto.disabled_reason = ""
    auto.save(update_fields=["is_enabled", "disabled_reason"])
    audit.record(account=account, actor=user, action="auto_top_up.turned_off", now=now)
    return True


def used_this_month(auto: AutoTopUp, *, now: datetime) -> int:
    """What automatic top-ups came to in the account's calendar month, those under way included, in nano-USD."""
    month = budgets.window_at("month", now, timezone=auto.wallet.account.timezone)
    counted = TopUp.objects.filter(
        wallet=auto.wallet_id, kind=TopUp.Kind.AUTO, created_at__gte=month.starts_at, created_at__lt=month.ends_at
    ).exclude(state__in=[TopUp.State.FAILED, TopUp.State.EXPIRED])
    return int(counted.aggregate(sum=Sum("credit_nano"))["sum"] or 0)


# -- Refilling -----------------------------------------------------------------------------------------------------------------------


def fire(*, now: datetime, limit: int) -> int:
    """Refill the wallets that are due, at most `limit`; returns for how many Stripe was asked.

    Raises: NotConfigured.
    """
    return sum(top_up is not None for top_up in _each(due(now=now, limit=limit), lambda pk: refill(auto_id=pk, now=now)))


def due(*, now: datetime, limit: int) -> list[int]:
    """The ids of the agreements whose wallet is below its threshold and whose cooldown is over, those that wait longest first."""
    found = AutoTopUp.objects.filter(_below(now)).order_by("not_before", "id")
    return list(found.values_list("pk", flat=True)[:limit])


def refill(*, auto_id: int, now: datetime) -> TopUp | None:
    """Charge the card of one agreement, if it is due; None when it is not, or no longer.

    Raises: NotConfigured, StripeUnavailable: the top-up then stays open, and is sent again.
    """
    top_up = _begin(auto_id, now)
    return None if top_up is None else _send(top_up, now)


def follow_up(*, now: datetime, limit: int) -> int:
    """Take up what was left lying: top-ups that were not sent or got no answer, consent not yet asked for, consent that did not come.

    Returns how many were looked at. Raises: NotConfigured.
    """
    mine = TopUp.objects.filter(kind=TopUp.Kind.AUTO)
    unanswered = Q(state=TopUp.State.OPEN) | Q(state=TopUp.State.ACTION_NEEDED, action_url="")
    overdue = Q(state=TopUp.State.ACTION_NEEDED, created_at__lte=now - CONSENT_WAITS)
    rows = mine.filter((unanswered & Q(updated_at__lte=now - RESEND_AFTER)) | overdue).order_by("created_at")[:limit]
    return len(_each([row.pk for row in rows], lambda pk: _take_up(TopUp.objects.get(pk=pk), now)))


def _below(now: datetime) -> Q:
    return Q(
        is_enabled=True,
        not_before__lte=now,
        wallet__balance__lt=F("threshold_nano"),
        wallet__status=Wallet.Status.ACTIVE,
        wallet__account__is_active=True,
    )


@transaction.atomic
def _begin(auto_id: int, now: datetime) -> TopUp | None:
    """Commit to one top-up of an agreement; None when it is not due, or may not be charged."""
    locked = AutoTopUp.objects.select_for_update(of=("self",)).select_related("wallet__account")
    auto = locked.filter(_below(now), pk=auto_id).first()
    if auto is None or TopUp.objects.filter(wallet=auto.wallet_id, kind=TopUp.Kind.AUTO, state__in=top_ups.UNFINISHED).exists():
        return None
    account = auto.wallet.account
    if settings.STRIPE_TAX or cards.of(account) is None:
        strikes.turn_off(account=account, reason="There is no card that can be charged.", now=now)
        return None
    if strikes.was_reversed(auto):
        strikes.turn_off(account=account, reason="A payment was refunded or is disputed.", now=now)
        return None
    if auto.monthly_cap_nano is not None and used_this_month(auto, now=now) + auto.amount_nano > auto.monthly_cap_nano:
        auto.not_before = now + RECHECK
        auto.save(update_fields=["not_before"])
        _tell_of_cap(auto, now)
        return None
    auto.not_before = now + COOLDOWN
    auto.save(update_fields=["not_before"])
    return TopUp.objects.create(
        wallet=auto.wallet,
        kind=TopUp.Kind.AUTO,
        is_live=is_live(),
        credit_nano=auto.amount_nano,
        charge_minor=auto.amount_nano // top_ups.NANO_PER_MINOR,
        requested_by=auto.agreed_by,
        sent_at=now,
        created_at=now,
        updated_at=now,
    )


def _tell_of_cap(auto: AutoTopUp, now: datetime) -> None:
    """Tell the account that nothing is refilled until its next month: once a month, and again when another cap is reached."""
    account = auto.wallet.account
    month = budgets.window_at("month", now, timezone=account.timezone)
    news.tell(
        account=account,
        event="auto_top_up.capped",
        dedupe_key=f"{auto.pk}:{month.starts_at.timestamp():.0f}:{auto.monthly_cap_nano}:{auto.amount_nano}",
        context={
            "monthly_cap_nano": auto.monthly_cap_nano,
            "used_nano": used_this_month(auto, now=now),
            "amount_nano": auto.amount_nano,
            "balance_nano": int(auto.wallet.balance),
            "resumes_at": month.ends_at,
        },
        now=now,
    )
    log.info("auto_top_up_capped", account=account.slug, monthly_cap_nano=auto.monthly_cap_nano)


def _send(top_up: TopUp, now: datetime) -> TopUp:
    """Charge the card; sent again, it is the same payment."""
    card = cards.of(top_up.wallet.account)
    if card is None:
        return _search(top_up, now)
    params: Any = {
        "amount": top_up.charge_minor,
        "currency": "usd",
        "customer": card.customer_id,
        "payment_method": card.payment_method_id,
        "allowed_payment_method_types": ["card"],
        "confirm": True,
        "off_session": True,
        "error_on_requires_action": True,
        "description": f"API credit for {top_up.wallet.account.name}, automatic",
        "metadata": top_ups.metadata_of(top_up),
        "expand": ["latest_charge"],
    }
    try:
        payment = read_payment(call(lambda ready: ready.v1.payment_intents.create(params, {"idempotency_key": str(top_up.pk)})))
    except StripeRefused as refused:
        if refused.payment_intent_id:
            payment = fetch_payment(refused.payment_intent_id)
        elif refused.code == "idempotency_error":  # sent before with another card, and the answer was lost
            return _search(top_up, now)
        else:
            return _close(top_up, refused.message, now)
    return _settle(top_up, payment, now)


def _settle(top_up: TopUp, payment: Payment, now: datetime) -> TopUp:
    settled = top_ups.converge(top_up_id=top_up.pk, now=now, payment=payment)
    return _ask_for_consent(settled, now) if settled.state == TopUp.State.ACTION_NEEDED and not settled.action_url else settled


def _take_up(top_up: TopUp, now: datetime) -> TopUp:
    """Go on with a top-up that was left lying; one worker does."""
    claimed = TopUp.objects.filter(pk=top_up.pk, updated_at=top_up.updated_at, state=top_up.state).update(updated_at=now)
    if not claimed:
        return top_up
    if top_up.state == TopUp.State.ACTION_NEEDED:
        return _cancel(top_up, now) if top_up.created_at <= now - CONSENT_WAITS else _ask_for_consent(top_up, now)
    wanted = AutoTopUp.objects.filter(wallet=top_up.wallet_id, is_enabled=True).exists()
    if wanted and now - (top_up.sent_at or top_up.created_at) < KEY_LASTS:
        return _send(top_up, now)
    return _search(top_up, now)  # its owner has turned it off since, or the key may be forgotten: nothing new is to be charged


def _search(top_up: TopUp, now: datetime) -> TopUp:
    """Find the payment of a top-up that must not be sent again; without one it has failed, once nothing can be on its way any more."""
    customer = StripeCustomer.objects.filter(account=top_up.wallet.account_id, is_deleted=False).first()
    if customer is not None:
        for payment in _payments_of(customer.customer_id, since=top_up.created_at - RESEND_AFTER):
            if payment.metadata.get(TAG) == str(top_up.pk):
                return _settle(top_up, fetch_payment(payment.id), now)
    if now - top_up.created_at < COOLDOWN:
        return top_up
    return _close(top_up, "The card was never charged.", now)


def _payments_of(customer_id: str, *, since: datetime) -> Iterable[Payment]:
    after: dict[str, str] = {}
    while True:
        asked: Any = {"customer": customer_id, "created": {"gte": int(since.timestamp())}, "limit": PAGE, **after}
        page = _list_payments(asked)
        yield from map(read_payment, page["data"])
        if not page.get("has_more") or not page["data"]:
            return
        after = {"starting_after": page["data"][-1]["id"]}


def _list_payments(asked: Any) -> dict[str, Any]:
    return call(lambda ready: ready.v1.payment_intents.list(asked))


# -- The bank's questions ------------------------------------------------------------------------------------------------------------


def _ask_for_consent(top_up: TopUp, now: datetime) -> TopUp:
    """Prepare the page where the customer consents to a payment that the bank would not make without, and tell them where it is."""
    account, payment_id = top_up.wallet.account, str(top_up.payment_intent_id)
    card = cards.of(account)
    payment = fetch_payment(payment_id)
    if payment.status == "requires_payment_method" and card is not None:
        asked: Any = {"payment_method": card.payment_method_id, "return_url": _billing_page(account), "expand": ["latest_charge"]}
        key = f"{top_up.pk}:consent:{card.payment_method_id}"
        try:
            payment = read_payment(call(lambda ready: ready.v1.payment_intents.confirm(payment_id, asked, {"idempotency_key": key})))
        except StripeRefused as refused:
            log.info("consent_not_asked_for", top_up=str(top_up.pk), error=str(refused))
            payment = fetch_payment(payment_id)
    settled = top_ups.converge(top_up_id=top_up.pk, now=now, payment=payment)
    if settled.state == TopUp.State.ACTION_NEEDED and settled.action_url:
        context = {"top_up_id": str(settled.pk), "charge_minor": settled.charge_minor, "action_url": settled.action_url}
        news.tell(account=account, event="top_up.action_needed", dedupe_key=str(settled.pk), context=context, now=now)
    return settled


def _cancel(top_up: TopUp, now: datetime) -> TopUp:
    """Give up a payment whose consent did not come, unless it came just now."""
    payment_id = str(top_up.payment_intent_id)
    try:
        call(lambda ready: ready.v1.payment_intents.cancel(payment_id))
    except StripeRefused as refused:
        log.info("payment_not_cancelled", top_up=str(top_up.pk), error=str(refused))
    return top_ups.converge(top_up_id=top_up.pk, now=now, payment=fetch_payment(payment_id))


@transaction.atomic
def _close(top_up: TopUp, failure: str, now: datetime) -> TopUp:
    """End an open top-up that came to no payment."""
    row = TopUp.objects.select_for_update().get(pk=top_up.pk)
    if row.state != TopUp.State.OPEN or row.payment_intent_id:
        return row
    row.state = TopUp.State.FAILED
    row.failure = failure[:300]
    row.updated_at = now
    row.save(update_fields=["state", "failure", "updated_at"])
    strikes.note_failure(row, now=now)
    return row


def _billing_page(account: Account) -> str:
    try:
        return f"{settings.PUBLIC_URL}{reverse('billing', args=[account.slug])}"
    except NoReverseMatch:
        return f"{settings.PUBLIC_URL}/"


def _each(ids: Iterable[Any], work: Callable[[Any], TopUp | None]) -> list[TopUp | None]:
    """Do it for each; one that Stripe cannot be reached for, or that fails here, is logged and left for the next time."""
    done = []
    for one in ids:
        try:
            done.append(work(one))
        except StripeUnavailable as error:
            log.warning("auto_top_up_unanswered", about=str(one), error=str(error))
        except StripeRefused as error:
            log.error("auto_top_up_refused", about=str(one), error=str(error))
    return done
