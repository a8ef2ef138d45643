"""The housekeeping of sign-ins that Celery wakes. It may run twice, late or never: it finds its work in the database."""

from collections.abc import Callable

import structlog
from celery import shared_task
from django.utils import timezone

from billing.task_runs import recorded
from gateway_site import sessions

log = structlog.get_logger(__name__)

task: Callable[[Callable[[], None]], Callable[[], None]] = shared_task  # Celery has no types


@task
@recorded
def drop_ended_sessions() -> None:
    """Remove sessions whose time is over, what they were listed as, and the spent forms that nobody can send any more."""
    dropped = sessions.drop_ended(now=timezone.now())
    if dropped:
        log.info("ended_sessions_dropped", count=dropped)
