"""Keeps account of the tasks that Celery wakes: alone at a time, when each began and ended, with what error, and which is late."""

import functools
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from django.db import Error, connection
from django.utils import timezone

from billing.models import TaskRun
from billing.singleton import singleton

log = structlog.get_logger(__name__)

SWEEP = "sweep_holds"  # the most frequent task: what it has not done for a minute, nobody does
AUDIT = "reconcile"
LATE_AFTER = timedelta(seconds=60)
LONGEST_ERROR = 2000
BEGIN = """INSERT INTO billing_taskrun (name, last_started_at, last_error, runs, findings) VALUES (%s, %s, '', 1, 0)
    ON CONFLICT (name) DO UPDATE SET runs = billing_taskrun.runs + 1, last_started_at = EXCLUDED.last_started_at"""


def recorded(work: Callable[[], int | None]) -> Callable[[], None]:
    """Make a task of `work`: it runs while no other worker does, and its `TaskRun` tells how it went.

    `work` may return how many things it found that need a person. What it raises is recorded and raised.
    """
    name = work.__name__

    @functools.wraps(work)
    def run() -> None:
        with singleton(name) as alone:
            if not alone:
                return
            began = timezone.now()
            begin(name, now=began)
            try:
                findings = work()
            except Exception as error:
                try:
                    fail(name, began=began, error=error)
                except Error as unrecorded:  # the error itself matters more
                    log.warning("task_run_not_recorded", task=name, error=str(unrecorded))
                raise
            finish(name, began=began, findings=findings or 0, now=timezone.now())

    return run


def begin(name: str, *, now: datetime) -> None:
    """Write down that a run of the task begins."""
    with connection.cursor() as cursor:
        cursor.execute(BEGIN, [name, now])


def finish(name: str, *, began: datetime, findings: int, now: datetime) -> bool:
    """Write down that the run which began at `began` ended well; returns False, and writes nothing, when another has begun since."""
    run = TaskRun.objects.filter(name=name, last_started_at=began)
    return run.update(last_finished_at=now, last_error="", findings=findings) == 1


def fail(name: str, *, began: datetime, error: Exception) -> bool:
    """Write down what the run which began at `began` ended with; returns False when another has begun since."""
    run = TaskRun.objects.filter(name=name, last_started_at=began)
    return run.update(last_error=f"{type(error).__name__}: {error}"[:LONGEST_ERROR]) == 1


def last_finished(name: str) -> datetime | None:
    """When the task last ended well; None if it never did."""
    return TaskRun.objects.filter(name=name).values_list("last_finished_at", flat=True).first()


def is_late(*, now: datetime, running_for: timedelta, name: str = SWEEP, allowed: timedelta = LATE_AFTER) -> bool:
    """Whether the task has not ended well for longer than `allowed`.

    One that has never begun is late once this process has been `running_for` that long.
    """
    run = TaskRun.objects.filter(name=name).first()
    if run is None:
        return running_for > allowed
    if run.last_finished_at is None:
        return bool(run.last_error) or now - run.last_started_at > allowed
    return now - run.last_finished_at > allowed
