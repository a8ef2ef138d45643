"""The housekeeping of the data plane that Celery wakes. Each task may run twice, late or never: it finds its work in the database."""

from collections.abc import Callable

import structlog
from celery import shared_task
from django.utils import timezone

from billing.task_runs import recorded
from proxy import open_operations, response_store

log = structlog.get_logger(__name__)

task: Callable[[Callable[[], None]], Callable[[], None]] = shared_task  # Celery has no types

DROPPED_AT_ONCE = 500
LOOKED_AT_ONCE = 200
LOOKING_SECONDS = 20.0  # the last looks take as long again: a worker is not kept from its frequent tasks for a minute


@task
@recorded
def drop_expired_responses() -> None:
    """Remove what is stored of responses whose time is over, until there is none left."""
    dropped = 0
    while count := response_store.drop_expired(now=timezone.now(), limit=DROPPED_AT_ONCE):
        dropped += count
    if dropped:
        log.info("expired_responses_dropped", count=dropped)


@task
@recorded
def look_after_videos() -> None:
    """Ask how the videos stand that nobody polled, and pay back what was not delivered."""
    done = open_operations.look_after(now=timezone.now(), limit=LOOKED_AT_ONCE, seconds=LOOKING_SECONDS)
    if done != open_operations.Round():
        log.info("videos_looked_after", ended=done.ended, paid_back=done.paid_back, waiting=done.waiting, given_up=done.given_up)
