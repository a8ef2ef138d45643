"""Facts about `manage.py doctor`: what it finds wrong, how gravely, and that it says how to mend it."""

import json
import os
import secrets
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from django.db import connection, transaction
from django.utils import timezone

from accounts.models import User
from billing import task_runs
from billing.models import HoldOwner, Plan, TaskRun, UsageRecord
from billing.settlement import Spool
from catalog.models import Model, Price, Provider, ProviderKey
from gateway_site import diagnosis
from gateway_site.diagnosis import Finding, Severity
from gateway_site.embedded.valkey import Valkey
from gateway_site.identifiers import uuid7
from tests.conftest import ROOT, free_port, make_customer, make_model

ERROR, WARNING, NOTE = Severity
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
STRONG = secrets.token_hex(32)


def grades(found: Iterable[Finding]) -> list[tuple[Severity, str]]:
    return [(finding.severity, finding.subject) for finding in found]


def about(found: Iterable[Finding], word: str) -> list[Finding]:
    return [finding for finding in found if word in finding.problem]


@contextmanager
def undone() -> Iterator[None]:
    """A transaction that leaves nothing behind, so that the database may be broken in it."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def execute(statement: str, *parameters: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters or None)


# -- The command ---------------------------------------------------------------------------------------------------------------------


class Installation:
    """A database of its own with what a healthy installation has, and the environment that `manage.py` runs in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"doctor_{uuid.uuid4().hex[:12]}"
        template = os.environ["TOLLGATE_TEMPLATE_URL"]
        self._maintenance = template.replace("/tollgate?", "/postgres?")
        self.url = template.replace("/tollgate?", f"/{self.name}?")
        with psycopg.connect(self._maintenance, autocommit=True) as session:
            session.execute(f"CREATE DATABASE {self.name} TEMPLATE tollgate STRATEGY file_copy".encode())
        state = folder / "state"
        state.mkdir(mode=0o700)
        self.environ = {
            **os.environ,
            "DATABASE_URL": self.url,
            "GATEWAY_STATE": str(state),
            "SPOOL_DIR": str(state / "spool"),
            "DJANGO_SUPERUSER_PASSWORD": "correct horse battery",
        }

    def manage(self, *arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            timeout=240,
        )

    def doctor(self, *arguments: str, **environ: str) -> tuple[int, list[dict[str, str]]]:
        done = self.manage("doctor", "--json", *arguments, **environ)
        assert not done.stderr
        said = json.loads(done.stdout)
        assert said["ok"] == (done.returncode == 0)
        return done.returncode, said["findings"]

    def drop(self) -> None:
        with psycopg.connect(self._maintenance, autocommit=True) as session:
            session.execute(f"DROP DATABASE {self.name} WITH (FORCE)".encode())


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    healthy = Installation(tmp_path_factory.mktemp("doctor"))
    for command in (("apply", "catalog/seeds/demo.yaml"), ("createsuperuser", "--noinput", "--email", "boss@example.com")):
        done = healthy.manage(*command)
        assert done.returncode == 0, done.stderr
    yield healthy
    healthy.drop()


def test_a_healthy_installation_passes(installation: Installation) -> None:
    code, found = installation.doctor()
    assert code == 0
    assert not [finding for finding in found if finding["severity"] == "error"]
    # The servers of the tests need not survive a crash.
    assert {finding["problem"].split(":")[0] for finding in found if finding["severity"] == "warning"} == {
        f"{name} is off" for name in diagnosis.servers.DURABLE
    }


def test_findings_are_told_in_two_lines_each_the_gravest_first(installation: Installation) -> None:
    done = installation.manage("doctor", "--fast", SECRET_KEY="short")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith("error   secrets    SECRET_KEY is weak")
    assert lines[1].startswith(" " * 19 + "Set it to")
    grades_told = [line.split()[0] for line in lines if line and not line.startswith(" ")][:-1]
    assert grades_told == sorted(grades_told, key=["error", "warning", "note"].index)
    assert lines[-1].startswith("1 error, ")


def test_without_postgresql_the_rest_is_examined_all_the_same(installation: Installation) -> None:
    nowhere = f"postgres://nobody:secret-word@127.0.0.1:{free_port()}/nothing"
    done = installation.manage("doctor", DATABASE_URL=nowhere, REDIS_URL=f"redis://127.0.0.1:{free_port()}/0", SECRET_KEY="short")
    assert done.returncode == 1
    for word in ("PostgreSQL cannot be reached", "Valkey cannot be reached", "SECRET_KEY"):
        assert word in done.stdout
    assert "secret-word" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_database_without_tables_is_told_to_migrate(installation: Installation, tmp_path: Path) -> None:
    bare = installation.url.replace(installation.name, "postgres")
    code, found = installation.doctor(DATABASE_URL=bare)
    assert code == 1
    assert [finding["remedy"] for finding in found if finding["subject"] == "migrations"] == ["Run `manage.py migrate`."]


# -- Secrets -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("configured", "severity", "says"),
    [
        ({"SECRET_KEY": "k" * 60}, ERROR, "SECRET_KEY is weak"),
        ({"SECRET_KEY": STRONG[:49]}, ERROR, "SECRET_KEY is weak"),
        ({"KEY_PEPPERS": []}, ERROR, "KEY_PEPPERS cannot be read"),
        ({"KEY_PEPPERS": ["1:not-hex"]}, ERROR, "KEY_PEPPERS cannot be read"),
        ({"KEY_PEPPERS": [f"1:{'00' * 32}"]}, ERROR, "no random value"),
        ({"KEY_PEPPERS": [f"1:{secrets.token_hex(16)}"]}, WARNING, "only 16 bytes"),
        ({"KEY_PEPPERS": [f"1:{STRONG}", f"1:{secrets.token_hex(32)}"]}, ERROR, "same version twice"),
        ({"ENCRYPTION_KEYS": []}, ERROR, "ENCRYPTION_KEYS cannot be read"),
        ({"ENCRYPTION_KEYS": ["1:abcd"]}, ERROR, "ENCRYPTION_KEYS cannot be read"),
        ({"ENCRYPTION_KEYS": [f"2:{STRONG}", f"1:{'ab' * 32}"]}, ERROR, "Version 1 of ENCRYPTION_KEYS is no random value"),
        ({"KEY_PEPPERS": [f"1:{STRONG}"], "ENCRYPTION_KEYS": [f"1:{STRONG}"]}, WARNING, "share a secret"),
    ],
)
def test_a_weak_or_unreadable_secret_is_found(settings: Any, configured: dict[str, Any], severity: Severity, says: str) -> None:
    for name, value in configured.items():
        setattr(settings, name, value)
    (found,) = diagnosis.secrets.check_secrets()
    assert found.severity is severity
    assert says in found.problem
    assert STRONG not in found.problem + found.remedy


def test_strong_secrets_are_not_mentioned() -> None:
    assert not list(diagnosis.secrets.check_secrets())


def test_keys_that_the_configured_secrets_do_not_open_are_named(settings: Any) -> None:
    with undone():
        ProviderKey.objects.all().delete()
        make_customer()
        key = ProviderKey(provider=Provider.objects.create(slug=f"p-{uuid.uuid4().hex[:12]}", kind="openai"))
        key.set_secret("sk-provider-secret-word")
        key.save()
        assert not list(diagnosis.secrets.check_provider_keys())
        settings.ENCRYPTION_KEYS = [f"9:{secrets.token_hex(32)}"]
        settings.KEY_PEPPERS = [f"9:{secrets.token_hex(32)}"]
        found = list(diagnosis.secrets.check_provider_keys())
    assert grades(found) == [(ERROR, "secrets"), (ERROR, "secrets")]
    assert "ENCRYPTION_KEYS does not open 1 provider key: p-" in found[0].problem
    assert "secret-word" not in found[0].problem
    assert "KEY_PEPPERS lacks (version 1)" in found[1].problem


# -- Exposure ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "allowed", "is_dangerous"),
    [
        ({}, ["localhost", "127.0.0.1", "[::1]"], False),
        ({"HOST": "127.0.0.2"}, ["localhost"], False),
        ({"BIND": "[::1]:8000"}, ["localhost"], False),
        ({"BIND": "unix:/run/tollgate.sock"}, ["localhost"], False),
        ({"HOST": "0.0.0.0"}, ["localhost"], True),  # noqa: S104
        ({"HOST": "::"}, ["localhost"], True),
        ({"BIND": ":8000"}, ["localhost"], True),
        ({"BIND": "192.0.2.7:8000"}, ["localhost"], True),
        ({}, ["localhost", "gateway.example"], True),
        ({}, ["*"], True),
    ],
)
def test_debug_within_others_reach_is_an_error(
    settings: Any, monkeypatch: pytest.MonkeyPatch, host: dict[str, str], allowed: list[str], is_dangerous: bool
) -> None:
    for name in ("HOST", "BIND"):
        monkeypatch.delenv(name, raising=False)
    for name, value in host.items():
        monkeypatch.setenv(name, value)
    settings.DEBUG, settings.ALLOWED_HOSTS, settings.HTTPS_ONLY = True, allowed, False
    settings.PUBLIC_URL = "http://localhost:8000" if "*" not in allowed else "http://127.0.0.1:8000"
    assert grades(diagnosis.exposure.check_exposure()) == [(ERROR, "debug")] * is_dangerous
    settings.DEBUG, settings.HTTPS_ONLY = False, True
    assert not list(diagnosis.exposure.check_exposure())


@pytest.mark.parametrize(
    ("https_only", "public", "proxies", "says"),
    [
        (True, "https://gateway.example", "127.0.0.1", None),
        (False, "https://gateway.example", "127.0.0.1", "HTTPS_ONLY is off"),
        (True, "http://gateway.example", "127.0.0.1", "is without TLS"),
        (True, "https://gateway.example", "", "no proxy is trusted"),
        (True, "https://other.example", "127.0.0.1", "which ALLOWED_HOSTS does not"),
    ],
)
def test_a_production_that_can_be_listened_to_is_warned(
    settings: Any, monkeypatch: pytest.MonkeyPatch, https_only: bool, public: str, proxies: str, says: str | None
) -> None:
    monkeypatch.setenv("TRUSTED_PROXIES", proxies)
    settings.DEBUG, settings.ALLOWED_HOSTS, settings.HTTPS_ONLY, settings.PUBLIC_URL = False, ["gateway.example"], https_only, public
    found = list(diagnosis.exposure.check_exposure())
    assert [finding.severity for finding in found] == [WARNING] * (says is not None)
    assert says is None or says in found[0].problem


def test_the_embedded_servers_are_noted(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway_site.embedded import state

    monkeypatch.setenv("GATEWAY_STATE", str(tmp_path))
    assert not list(diagnosis.servers.check_embedded())
    settings.DATABASE_URL, settings.REDIS_URL = state.database_url(tmp_path, "word"), state.redis_url(tmp_path)
    (found,) = diagnosis.servers.check_embedded()
    assert (found.severity, "PostgreSQL and Valkey are" in found.problem) == (NOTE, True)


# -- Files ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "private", "open_"), [("", 0o700, 0o750), ("secrets.env", 0o600, 0o640), ("quickstart.json", 0o600, 0o604)]
)
def test_state_that_others_can_read_is_an_error(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, private: int, open_: int
) -> None:
    monkeypatch.setenv("GATEWAY_STATE", str(tmp_path))
    settings.SPOOL_DIR = str(tmp_path / "spool")
    tmp_path.chmod(0o700)
    path = tmp_path / name
    if name:
        path.write_text("")
    path.chmod(private)
    assert not about(diagnosis.files.check_files(), str(tmp_path))
    path.chmod(open_)
    (found,) = about(diagnosis.files.check_files(), str(tmp_path))
    assert found.severity is ERROR
    assert found.remedy == f"Run `chmod {private:o} {path}`."
    tmp_path.chmod(0o700)


def test_records_in_the_spool_are_counted_and_are_errors(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    assert not list(diagnosis.files.check_spool(spool))
    spool.append([{"id": 1}, {"id": 2}])
    spool.append([{"id": 3}])
    spool.set_aside([{"id": 4}], "no such wallet")
    found = list(diagnosis.files.check_spool(spool))
    assert grades(found) == [(ERROR, "spool")] * 2
    assert "refused 1 record of" in found[0].problem
    assert found[1].problem.startswith("3 records of finished requests wait in")


# -- Servers -------------------------------------------------------------------------------------------------------------------------


def test_a_valkey_that_evicts_is_an_error(settings: Any, tmp_path: Path) -> None:
    own = Valkey(tmp_path / "state")  # the suite's is everybody's
    own.start()
    try:
        settings.REDIS_URL = own.url()
        with redis.Redis.from_url(settings.REDIS_URL) as client:
            assert not about(diagnosis.servers.check_valkey(), "maxmemory-policy")
            client.config_set("maxmemory-policy", "allkeys-lru")
        (found,) = about(diagnosis.servers.check_valkey(), "maxmemory-policy is allkeys-lru")
    finally:
        own.stop()
    assert found.severity is ERROR


def test_a_server_that_takes_connections_and_says_nothing_is_given_up(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis.servers, "CONNECT_SECONDS", 2)  # libpq's least
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        settings.DATABASE_URL, settings.REDIS_URL = f"postgres://nobody@127.0.0.1:{port}/none", f"redis://127.0.0.1:{port}/0"
        assert grades(diagnosis.servers.check_valkey()) == [(ERROR, "valkey")]
        with pytest.raises(psycopg.OperationalError):
            diagnosis.servers.check_postgresql()


@pytest.mark.parametrize(
    ("skew", "uncertain", "is_wrong"), [(1.9, 0, False), (-2.1, 0, True), (2.1, 0, True), (4, 3, False), (-60, 3, True)]
)
def test_clocks_that_differ_for_certain_are_an_error(skew: float, uncertain: float, is_wrong: bool) -> None:
    found = list(diagnosis.servers.judge_skew(skew, uncertain))
    assert grades(found) == [(ERROR, "clock")] * is_wrong
    assert not found or ("ahead of" in found[0].problem) == (skew > 0)


def test_clocks_of_one_machine_agree() -> None:
    from django.conf import settings as configured

    with psycopg.connect(configured.DATABASE_URL) as session:
        skew, uncertain = diagnosis.servers.measure_skew(session)
    assert abs(skew) <= uncertain + 0.5


# -- The database --------------------------------------------------------------------------------------------------------------------


def test_a_migration_that_is_missing_or_unknown_is_found() -> None:
    assert not list(diagnosis.database.check_migrations())
    with undone():
        execute("DELETE FROM django_migrations WHERE app = 'sessions' AND name = '0001_initial'")
        execute("INSERT INTO django_migrations (app, name, applied) VALUES ('billing', '0999_from_the_future', now())")
        found = list(diagnosis.database.check_migrations())
    assert grades(found) == [(ERROR, "migrations"), (WARNING, "migrations")]
    assert "sessions.0001_initial" in found[0].problem
    assert "0999_from_the_future" in found[1].problem


@pytest.mark.parametrize("name", diagnosis.database.FUNCTIONS)
def test_a_missing_function_is_found_and_its_remedy_works(name: str) -> None:
    assert not list(diagnosis.database.check_functions())
    with undone():
        execute(f"DROP FUNCTION {name}")
        (found,) = diagnosis.database.check_functions()
        assert name in found.problem
        code = found.remedy.partition('-c "')[2].partition('"`')[0]
        exec(code)  # noqa: S102 - what an operator would paste
        assert not list(diagnosis.database.check_functions())


def test_a_month_without_a_partition_is_found_across_the_years_end() -> None:
    assert not about(diagnosis.database.check_partitions(now=timezone.now()), "lack")
    with undone():
        execute("SELECT billing_make_partitions('2034-11-15', 1)")
        found = list(diagnosis.database.check_partitions(now=datetime(2034, 11, 30, 23, tzinfo=UTC)))
    assert about(found, "lack billing_usagerecord_2035_01.")


def test_records_outside_every_month_are_found_and_the_documented_way_moves_them() -> None:
    operations = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    (steps,) = [block for block in operations.split("```") if "billing_usagerecord_stray" in block]
    moment = datetime(2037, 5, 7, tzinfo=UTC)
    with undone():
        execute("DELETE FROM billing_usagerecord_default")
        assert not about(diagnosis.database.check_partitions(now=timezone.now()), "in billing_usagerecord_default")
        record = make_record(moment)
        (found,) = about(diagnosis.database.check_partitions(now=timezone.now()), "1 usage record in billing_usagerecord_default")
        assert found.severity is ERROR
        execute(steps.removeprefix("sql").replace("BEGIN;", "").replace("COMMIT;", ""))
        assert not list(diagnosis.database.check_partitions(now=timezone.now()))
        with connection.cursor() as cursor:
            cursor.execute("SELECT tableoid::regclass::text FROM billing_usagerecord WHERE request_id = %s", [record.pk])
            assert cursor.fetchone() == ("billing_usagerecord_2037_05",)


def make_record(moment: datetime) -> UsageRecord:
    customer = make_customer()
    return UsageRecord.objects.create(
        request_id=uuid7(int(moment.timestamp() * 1000)),
        account=customer.account,
        wallet=customer.wallet,
        key=customer.key,
        streamed=False,
        cost=0,
        list_cost=0,
        upstream_cost=0,
        hold_amount=0,
        status_code=200,
        started_at=moment,
        ended_at=moment,
    )


def test_a_catalog_that_sells_nothing_is_an_error_and_what_is_wrong_with_it_is_named() -> None:
    with undone():
        Model.objects.update(is_enabled=False)
        Provider.objects.update(is_enabled=False)
        assert grades(diagnosis.catalog.check_catalog(now=NOW)) == [(ERROR, "models")]
        slug = make_model("https://models.example/v1", "m")
        now = timezone.now()
        assert not list(diagnosis.catalog.check_catalog(now=now))
        unpriced = Model.objects.create(slug=f"house/{uuid.uuid4().hex[:12]}")
        assert [(one.severity, unpriced.slug in one.problem) for one in diagnosis.catalog.check_catalog(now=now)] == [(NOTE, True)]
        Price.objects.create(model=unpriced, input=1, output=1, effective_from=now - timedelta(hours=1))
        assert [(one.severity, "no provider to answer" in one.problem) for one in diagnosis.catalog.check_catalog(now=now)] == [
            (NOTE, True)
        ]
        ProviderKey.objects.filter(provider__routes__model__slug=slug).update(is_enabled=False)
        found = list(diagnosis.catalog.check_catalog(now=now))
        assert grades(found) == [(WARNING, "providers"), (ERROR, "models")]


def test_a_missing_superuser_is_a_warning_and_a_missing_default_plan_a_note() -> None:
    with undone():
        User.objects.update(is_superuser=False)
        Plan.objects.update(is_default=False)
        Plan.objects.create(slug=f"plan-{uuid.uuid4().hex[:12]}")
        assert grades(diagnosis.catalog.check_people_and_plans()) == [(WARNING, "people"), (NOTE, "plans")]
        User.objects.create_superuser(f"{uuid.uuid4().hex}@example.com", "correct horse battery")
        Plan.objects.filter(pk=Plan.objects.latest("pk").pk).update(is_default=True)
        assert not list(diagnosis.catalog.check_people_and_plans())


# -- Tasks and money -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def web() -> Iterator[Callable[[timedelta], None]]:
    """No web process but those that the test makes, and no run of a task; undone afterwards."""
    with undone():
        HoldOwner.objects.update(lease_until=NOW - timedelta(days=1))
        TaskRun.objects.all().delete()

        def start(age: timedelta) -> None:
            HoldOwner.objects.create(boot_id=uuid.uuid4(), host="here", pid=1, started_at=NOW - age, lease_until=NOW + timedelta(minutes=1))

        yield start


def sweep(*, ago: timedelta) -> None:
    task_runs.begin(task_runs.SWEEP, now=NOW - ago)
    task_runs.finish(task_runs.SWEEP, began=NOW - ago, findings=0, now=NOW - ago)


def test_a_gateway_that_does_not_run_needs_no_beat(web: Callable[[timedelta], None]) -> None:
    sweep(ago=timedelta(days=3))
    assert grades(diagnosis.servers.check_tasks(now=NOW)) == [(NOTE, "web")]


def test_a_gateway_without_beat_is_an_error_a_minute_after_its_start(web: Callable[[timedelta], None]) -> None:
    web(timedelta(seconds=59))
    assert not list(diagnosis.servers.check_tasks(now=NOW))
    web(timedelta(seconds=61))
    assert grades(diagnosis.servers.check_tasks(now=NOW)) == [(ERROR, "celery")]
    sweep(ago=timedelta(seconds=59))
    assert not list(diagnosis.servers.check_tasks(now=NOW))
    sweep(ago=timedelta(seconds=61))
    (found,) = diagnosis.servers.check_tasks(now=NOW)
    assert "since 2026-11-20 11:58:59 UTC" in found.problem


def test_a_task_that_failed_and_an_audit_that_stopped_are_warnings(web: Callable[[timedelta], None]) -> None:
    web(timedelta(days=1))
    sweep(ago=timedelta(seconds=1))
    began = NOW - timedelta(hours=1)
    task_runs.begin(task_runs.AUDIT, now=began)
    task_runs.finish(task_runs.AUDIT, began=began, findings=0, now=began)
    task_runs.begin("expire_grants", now=began)
    task_runs.fail("expire_grants", began=began, error=ValueError("no luck\nat all"))
    found = list(diagnosis.servers.check_tasks(now=NOW))
    assert grades(found) == [(WARNING, "celery")] * 2
    assert found[0].problem == "The last run of expire_grants failed: ValueError: no luck."


def test_broken_books_are_an_error_and_the_fast_way_asks_the_last_audit(web: Callable[[timedelta], None]) -> None:
    assert not list(diagnosis.money.check_last_audit())
    execute("UPDATE billing_wallet SET held = held + 5 WHERE id = %s", make_customer().wallet.pk)
    (found,) = diagnosis.money.check_audit(now=timezone.now())
    assert (found.severity, found.subject) == (ERROR, "money")
    task_runs.begin(task_runs.AUDIT, now=NOW)
    task_runs.finish(task_runs.AUDIT, began=NOW, findings=2, now=NOW)
    assert "2 broken invariants" in next(iter(diagnosis.money.check_last_audit())).problem


def test_every_remedy_and_problem_is_one_line() -> None:
    for found in diagnosis.diagnose(now=timezone.now(), fast=True):
        assert "\n" not in found.problem + found.remedy
        assert found.problem.endswith((".", ")."))
        assert found.remedy.endswith(".")
