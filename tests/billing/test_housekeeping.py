"""Facts about the tasks, their locks, and partitions."""

import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.utils import timezone

from billing import partitions, reconciliation, tasks
from billing.models import HoldOwner
from billing.singleton import singleton
from gateway_site import celery, metrics
from tests.billing.desk import Desk, OpenDesk, connect

USD = 10**9


def test_the_sweeper_ends_every_hold_of_the_dead(desk: Desk) -> None:
    desk.place(*(desk.request(1) for _ in range(20)))
    desk.kill_owner()
    tasks.sweep_holds()
    tasks.sweep_holds()
    assert desk.wallet.held == 0


def test_a_task_does_nothing_while_another_worker_has_its_lock(desk: Desk) -> None:
    desk.hold(1)
    desk.kill_owner()
    with connect() as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended('tollgate:sweep_holds', 0))")
        tasks.sweep_holds()
        assert desk.wallet.held == 1
        other.execute("SELECT pg_advisory_unlock_all()")  # closing alone would free it a moment later
    tasks.sweep_holds()
    assert desk.wallet.held == 0


def test_a_lock_is_given_back_after_the_block_and_after_an_error() -> None:
    name = uuid.uuid4().hex
    with suppress(ZeroDivisionError), singleton(name) as alone:
        assert alone
        raise ZeroDivisionError
    with connect() as other:
        assert other.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [f"tollgate:{name}"]).fetchone() == (True,)
        with singleton(name) as alone:
            assert not alone


def test_a_lock_ends_with_its_connection() -> None:
    name = uuid.uuid4().hex
    with singleton(name) as alone:
        assert alone
        connection.close()
        with connect() as other:
            assert other.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [f"tollgate:{name}"]).fetchone() == (True,)


def test_expired_grants_go_at_the_next_run(open_desk: OpenDesk) -> None:
    desk = open_desk()
    desk.credit(USD, expires_at=timezone.now() - timedelta(seconds=1))
    tasks.expire_grants()
    tasks.expire_grants()
    assert desk.balance == 0
    assert len(desk.transfers("expiry")) == 1


def test_a_drift_is_shouted_about_and_left_alone(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.sql.execute("UPDATE billing_wallet SET held = held + 5 WHERE id = %s", [desk.wallet_id])
    with caplog.at_level("ERROR"):
        tasks.reconcile()
    assert any("billing_drift" in record.getMessage() and desk.slug in record.getMessage() for record in caplog.records)
    assert desk.wallet.held == 5
    assert next(iter(metrics.DRIFT.collect())).samples[0].value > 0
    desk.sql.execute("UPDATE billing_wallet SET held = held - 5 WHERE id = %s", [desk.wallet_id])
    assert desk.slug not in {drift.account for drift in reconciliation.audit(now=timezone.now())}


def test_owners_are_forgotten_a_day_after_their_lease_unless_they_hold(desk: Desk) -> None:
    gone, recent, holding = (desk.make_owner() for _ in range(3))
    desk.hold(1, owner=holding)
    HoldOwner.objects.filter(boot_id__in=[gone, holding]).update(lease_until=timezone.now() - timedelta(days=1, seconds=1))
    HoldOwner.objects.filter(boot_id=recent).update(lease_until=timezone.now() - timedelta(hours=23))
    tasks.drop_dead_owners()
    assert set(HoldOwner.objects.filter(boot_id__in=[gone, recent, holding]).values_list("pk", flat=True)) == {recent, holding}
    desk.sweep()


def test_partitions_are_made_once_and_months_ahead() -> None:
    start = datetime(2031, 11, 30, 23, 59, tzinfo=UTC)
    partitions.make_partitions(now=start)
    assert partitions.make_partitions(now=start) == 0
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT to_regclass(name) IS NOT NULL FROM unnest(%s::text[]) name",
            [[f"billing_usagerecord_{m}" for m in ("2031_11", "2032_02")]],
        )
        assert cursor.fetchall() == [(True,), (True,)]


def test_a_record_lies_in_the_partition_of_its_month(desk: Desk) -> None:
    partitions.make_partitions(now=datetime(2031, 11, 1, tzinfo=UTC))
    last = desk.spend(1, started=datetime(2031, 11, 30, 23, 59, 59, 999000, tzinfo=UTC))
    first = desk.spend(1, started=datetime(2031, 12, 1, tzinfo=UTC))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT tableoid::regclass::text FROM billing_usagerecord WHERE request_id = ANY(%s) ORDER BY request_id",
            [[last["id"], first["id"]]],
        )
        assert cursor.fetchall() == [("billing_usagerecord_2031_11",), ("billing_usagerecord_2031_12",)]


def test_the_scheduler_wakes_only_tasks_that_exist() -> None:
    celery.app.loader.import_default_modules()
    for entry in celery.app.conf.beat_schedule.values():
        assert entry["task"] in celery.app.tasks
    assert celery.app.conf.accept_content == ["json"]
