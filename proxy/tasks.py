"""The housekeeping of the data plane that Celery wakes. Each task may run twice, late or never: it finds its work in the database."""

from collections.abc import Callable

import structlog
from celery import shared_task
from django.utils import timezone

from billing.task_runs import recorded
from proxy import response_store

log = structlog.get_logger(__name__)

task: Callable[[Callable[[], None]], Callable[[], None]] = shared_task  # Celery has no types

DROPPED_AT_ONCE = 500


@task
@recorded
def drop_expired_responses() -> None:
    """Remove what is stored of responses whose time is over, until there is none left."""
    dropped = 0
    while count := response_store.drop_expired(now=timezone.now(), limit=DROPPED_AT_ONCE):
        dropped += count
    if dropped:
        log.info("expired_responses_dropped", count=dropped)
