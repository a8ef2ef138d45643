"""The housekeeping of money that Celery wakes. Each task may run twice, late or never: it finds its work in the database."""

import uuid
from collections.abc import Callable
from datetime import timedelta

import structlog
from celery import shared_task
from django.db import connection
from django.db.models import Exists, OuterRef
from django.utils import timezone

from accounts import outbox
from billing import ledger, partitions, reconciliation, stored_content, task_runs
from billing.models import Hold, HoldOwner, TaskRun
from billing.notices import alerts, webhooks_out
from billing.payments import auto_top_up, backfill, inbox, news, plan_changes, stripe_client
from billing.task_runs import recorded
from gateway_site import metrics

log = structlog.get_logger(__name__)

task: Callable[[Callable[[], None]], Callable[[], None]] = shared_task  # Celery has no types

SWEPT_AT_ONCE = 500
EXPIRED_AT_ONCE = 1000
OWNER_KEPT = timedelta(days=1)
EVENTS_AT_ONCE = 200
REFILLS_AT_ONCE = 100
PLANS_AT_ONCE = 500
COMPARED = timedelta(days=3)


@task
@recorded
def sweep_holds() -> None:
    """End the holds whose owner is dead or which outlived their limit, until there is none left."""
    while True:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT charged_count, voided_count FROM billing_sweep(%s, %s, %s)", [timezone.now(), uuid.uuid4(), SWEPT_AT_ONCE]
            )
            charged, voided = cursor.fetchone() or (0, 0)
        if not charged and not voided:
            return
        log.warning("holds_swept", charged=charged, voided=voided)


@task
@recorded
def expire_grants() -> None:
    """Take back what is left of expired grants, as far as no request holds it."""
    while True:
        expired = ledger.expire_grants(now=timezone.now(), limit=EXPIRED_AT_ONCE)
        if expired:
            log.info("grants_expired", count=len(expired), nano_usd=sum(transfer.amount for transfer in expired))
        if len(expired) < EXPIRED_AT_ONCE:
            return


@task
@recorded
def make_partitions() -> None:
    """Make the coming months' partitions of usage records."""
    if made := partitions.make_partitions(now=timezone.now()):
        log.info("partitions_made", count=made)


@task
@recorded
def reconcile() -> int:
    """Audit every invariant of money and shout about each that does not hold. Nothing is repaired."""
    drifts = reconciliation.audit(now=timezone.now())
    metrics.DRIFT.set(len(drifts))
    for drift in drifts:
        log.error("billing_drift", **drift.as_dict())
    return len(drifts)


@task
@recorded
def drop_dead_owners() -> None:
    """Forget the processes whose lease ended a day ago and whose holds are all swept."""
    HoldOwner.objects.filter(~Exists(Hold.objects.filter(owner_id=OuterRef("pk"))), lease_until__lt=timezone.now() - OWNER_KEPT).delete()


@task
@recorded
def drop_stored_content() -> None:
    """Delete the stored content whose time is over or that its account does not want any more, until there is none left."""
    dropped = 0
    while count := stored_content.drop(now=timezone.now()):
        dropped += count
    if dropped:
        log.info("stored_content_dropped", count=dropped)


@task
@recorded
def deliver_outbox() -> None:
    """Send the mails that are due."""
    if (done := outbox.deliver_mails(now=timezone.now())) != outbox.Round():
        log.info("mails_delivered", sent=done.sent, delayed=done.delayed, given_up=done.given_up)


@task
@recorded
def call_webhooks() -> None:
    """Make the calls to customers' webhooks that are due."""
    if (done := webhooks_out.deliver(now=timezone.now())) != outbox.Round():
        log.info("webhooks_called", sent=done.sent, delayed=done.delayed, given_up=done.given_up)


@task
@recorded
def raise_alerts() -> None:
    """Look at the wallets that moved since the last time, and turn every alert into messages."""
    alerts.watch_and_tell(since=task_runs.last_finished(alerts.TASK), now=timezone.now())


@task
@recorded
def look_ahead() -> None:
    """Raise the alerts about balances and keys that end soon."""
    alerts.look_ahead(now=timezone.now())


@task
@recorded
def drain_stripe() -> None:
    """Handle the events of Stripe that are due: new ones that nobody got to, and failed ones whose pause is over."""
    if stripe_client.is_configured():
        inbox.drain(now=timezone.now(), limit=EVENTS_AT_ONCE)


@task
@recorded
def refill_wallets() -> None:
    """Charge the saved cards of wallets that fell below what their owners said, and go on with what was left lying."""
    if stripe_client.is_configured():
        now = timezone.now()
        auto_top_up.follow_up(now=now, limit=REFILLS_AT_ONCE)
        auto_top_up.fire(now=now, limit=REFILLS_AT_ONCE)


@task
@recorded
def attend_to_plans() -> None:
    """End the plans whose grace is over, and ask about those that no event told of."""
    if stripe_client.is_configured():
        plan_changes.attend(now=timezone.now(), limit=PLANS_AT_ONCE)


@task
@recorded
def backfill_stripe() -> None:
    """Fetch the events that no webhook brought since this last ended well."""
    if not stripe_client.is_configured():
        return
    last = TaskRun.objects.filter(name="backfill_stripe").values_list("last_finished_at", flat=True).first()
    if taken := backfill.fetch_recent(last=last, now=timezone.now()):
        log.warning("stripe_events_backfilled", count=taken)


@task
@recorded
def compare_with_stripe() -> int:
    """Each night: fetch what Stripe could not deliver for 30 days, ask about open top-ups, and compare its payments with the books."""
    if not stripe_client.is_configured():
        return 0
    now = timezone.now()
    backfill.fetch_undelivered(now=now)
    backfill.ask_about_unfinished(now=now)
    differences = backfill.compare(since=now - COMPARED, until=now - backfill.SETTLED_AFTER, now=now)
    for difference in differences:
        log.error("stripe_differs", payment_intent=difference.payment_intent_id, top_up=difference.top_up, problem=difference.sentence)
        news.tell_staff(
            event="staff.alert",
            dedupe_key=f"stripe_differs:{difference.payment_intent_id}",
            context={
                "summary": f"Stripe's payment {difference.payment_intent_id} and the books differ.",
                "details": f"{f'Top-up {difference.top_up}' if difference.top_up else 'A plan'}: {difference.sentence}.",
            },
            now=now,
        )
    return len(differences)
