"""The housekeeping of money that Celery wakes. Each task may run twice, late or never: it finds its work in the database."""

import uuid
from collections.abc import Callable
from datetime import timedelta

import structlog
from celery import shared_task
from django.db import connection
from django.db.models import Exists, OuterRef
from django.utils import timezone

from billing import ledger, partitions, reconciliation
from billing.models import Hold, HoldOwner
from billing.task_runs import recorded
from gateway_site import metrics

log = structlog.get_logger(__name__)

task: Callable[[Callable[[], None]], Callable[[], None]] = shared_task  # Celery has no types

SWEPT_AT_ONCE = 500
EXPIRED_AT_ONCE = 1000
OWNER_KEPT = timedelta(days=1)


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
