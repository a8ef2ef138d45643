"""Facts about the record of Celery's tasks: when each began and ended, with what error, and which is late."""

import importlib
import uuid
from collections.abc import Callable
from datetime import timedelta

import httpx
import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from billing import reconciliation, task_runs, tasks
from billing.models import TaskRun
from gateway_site import celery
from tests.billing.desk import Desk, connect
from tests.conftest import Gateway

MINUTE = timedelta(seconds=60)
NEW = timedelta(0)


def task_of(work: Callable[[], int | None]) -> tuple[str, Callable[[], None]]:
    """A recorded task with a name of its own."""
    work.__name__ = f"test_{uuid.uuid4().hex}"
    return work.__name__, task_runs.recorded(work)


def test_a_run_is_recorded_with_its_beginning_and_its_end() -> None:
    name, task = task_of(lambda: None)
    before = timezone.now()
    task()
    task()
    run = TaskRun.objects.get(name=name)
    assert run.runs == 2
    assert run.last_finished_at is not None
    assert before < run.last_started_at <= run.last_finished_at <= timezone.now()
    assert (run.last_error, run.findings) == ("", 0)


def test_what_a_task_raises_is_recorded_and_raised_and_the_next_good_run_clears_it() -> None:
    outcomes = iter([ValueError("no luck"), None])

    def work() -> None:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome

    name, task = task_of(work)
    with pytest.raises(ValueError, match="no luck"):
        task()
    run = TaskRun.objects.get(name=name)
    assert (run.last_error, run.last_finished_at) == ("ValueError: no luck", None)
    task()
    run.refresh_from_db()
    assert run.last_error == ""
    assert run.last_finished_at is not None


def test_a_run_whose_connection_is_lost_has_not_ended_and_its_own_error_is_raised() -> None:
    def work() -> None:
        with connect() as other:
            other.execute("SELECT pg_terminate_backend(%s)", [ask_pid()])
        ask_pid()

    name, task = task_of(work)
    with pytest.raises(OperationalError):
        task()
    connection.close()
    assert TaskRun.objects.get(name=name).last_finished_at is None


def ask_pid() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        row = cursor.fetchone()
    assert row is not None
    return int(row[0])


def test_a_task_that_another_worker_runs_is_not_recorded() -> None:
    name, task = task_of(lambda: None)
    with connect() as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [f"tollgate:{name}"])
        task()
        other.execute("SELECT pg_advisory_unlock_all()")
    assert not TaskRun.objects.filter(name=name).exists()


def test_a_run_whose_place_was_taken_does_not_end_the_newer_one() -> None:
    name = uuid.uuid4().hex
    first, second = timezone.now(), timezone.now() + timedelta(seconds=5)
    task_runs.begin(name, now=first)
    task_runs.begin(name, now=second)
    assert not task_runs.finish(name, began=first, findings=0, now=second)
    assert not task_runs.fail(name, began=first, error=ValueError("late"))
    run = TaskRun.objects.get(name=name)
    assert (run.last_finished_at, run.last_error, run.runs) == (None, "", 2)
    assert task_runs.finish(name, began=second, findings=3, now=second)
    run.refresh_from_db()
    assert (run.last_finished_at, run.findings) == (second, 3)


def test_every_task_that_beat_wakes_is_recorded() -> None:
    for entry in celery.app.conf.beat_schedule.values():
        module, _, name = str(entry["task"]).rpartition(".")
        before = TaskRun.objects.filter(name=name).values_list("runs", flat=True).first() or 0
        getattr(importlib.import_module(module), name)()
        assert TaskRun.objects.get(name=name).runs == before + 1


def test_the_audits_run_tells_how_many_invariants_are_broken(desk: Desk) -> None:
    desk.sql.execute("UPDATE billing_wallet SET held = held + 5 WHERE id = %s", [desk.wallet_id])
    tasks.reconcile()
    found = TaskRun.objects.get(name=task_runs.AUDIT).findings
    desk.sql.execute("UPDATE billing_wallet SET held = held - 5 WHERE id = %s", [desk.wallet_id])
    assert found == len(reconciliation.audit(now=timezone.now())) + 1


def test_a_task_is_late_a_minute_after_its_last_good_end() -> None:
    name, now = uuid.uuid4().hex, timezone.now()
    task_runs.begin(name, now=now)
    task_runs.finish(name, began=now, findings=0, now=now)
    assert not task_runs.is_late(name=name, now=now + MINUTE, running_for=10 * MINUTE)
    assert task_runs.is_late(name=name, now=now + MINUTE + timedelta(microseconds=1), running_for=NEW)


def test_a_task_that_fails_each_time_is_late_however_often_it_begins() -> None:
    name, now = uuid.uuid4().hex, timezone.now()
    task_runs.begin(name, now=now)
    assert not task_runs.is_late(name=name, now=now, running_for=NEW)
    task_runs.fail(name, began=now, error=ValueError("no"))
    assert task_runs.is_late(name=name, now=now, running_for=NEW)


def test_a_task_that_has_never_begun_is_late_once_the_process_is_a_minute_old() -> None:
    name, now = uuid.uuid4().hex, timezone.now()
    assert not task_runs.is_late(name=name, now=now, running_for=MINUTE)
    assert task_runs.is_late(name=name, now=now, running_for=MINUTE + timedelta(seconds=1))


def test_readiness_names_a_beat_that_has_stopped_and_stays_200(gateway: Gateway) -> None:
    tasks.sweep_holds()
    fresh = httpx.get(f"{gateway.origin}/readyz").json()
    assert "beat" not in fresh["degraded"]
    TaskRun.objects.filter(name=task_runs.SWEEP).update(last_finished_at=timezone.now() - 2 * MINUTE)
    stale = httpx.get(f"{gateway.origin}/readyz")
    assert stale.status_code == 200
    assert stale.json()["status"] == "degraded"
    assert "beat" in stale.json()["degraded"]
    tasks.sweep_holds()
    assert "beat" not in httpx.get(f"{gateway.origin}/readyz").json()["degraded"]
