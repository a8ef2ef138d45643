"""The database's own shape: its tables are those of this version, and the functions and partitions that money needs are there."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from gateway_site.diagnosis.findings import Finding, counted, error, some, warning

FUNCTIONS = ("billing_place", "billing_grow", "billing_settle", "billing_sweep")
PARTITIONS_AHEAD = 2  # months after this one


def check_migrations() -> Iterator[Finding]:
    """The tables are those of this version."""
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if plan:
        names = [f"{migration.app_label}.{migration.name}" for migration, _ in plan]
        yield error("migrations", f"{counted(len(plan), 'migration')} not applied: {some(names)}.", "Run `manage.py migrate`.")
    ours = {migration.app_label for migration in executor.loader.disk_migrations.values()}
    unknown = [
        f"{app}.{name}"
        for app, name in executor.loader.applied_migrations
        if app in ours and (app, name) not in executor.loader.disk_migrations
    ]
    if unknown:
        yield warning(
            "migrations",
            f"The database has migrations that this version does not know: {some(unknown)}.",
            "Run the newer version of the code: this one does not know those tables.",
        )


def check_functions() -> Iterator[Finding]:
    """The functions that place and settle are there."""
    there = {
        row[0]
        for row in _rows(
            "SELECT proname FROM pg_proc WHERE pronamespace = current_schema()::regnamespace AND proname = ANY(%s)", [list(FUNCTIONS)]
        )
    }
    if missing := [name for name in FUNCTIONS if name not in there]:
        yield error(
            "functions",
            f"PostgreSQL lacks {some(missing)}: no request can be placed or settled.",
            'Run `manage.py shell -c "from billing import sql; from django.db import connection; connection.cursor().execute(sql.read_functions())"`.',
        )


def check_partitions(*, now: datetime) -> Iterator[Finding]:
    """Usage records of this month and the coming ones have a partition each, and none lies outside them."""
    moment, wanted = now.astimezone(UTC), []
    for ahead in range(PARTITIONS_AHEAD + 1):
        years, month = divmod(moment.month - 1 + ahead, 12)
        wanted.append(f"billing_usagerecord_{moment.year + years}_{month + 1:02}")
    there = {
        row[0]
        for row in _rows(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'billing_usagerecord'::regclass"
        )
    }
    if missing := [name for name in wanted if name not in there]:
        yield error(
            "partitions",
            f"Usage records lack {some(missing)}.",
            'Run `manage.py shell -c "from billing import tasks; tasks.make_partitions()"`, and see that Celery beat runs: it does so daily.',
        )
    if "billing_usagerecord_default" not in there:
        yield error(
            "partitions",
            "billing_usagerecord_default is missing: a record outside every month would be refused.",
            "Run `CREATE TABLE billing_usagerecord_default PARTITION OF billing_usagerecord DEFAULT` in the database.",
        )
        return
    ((stray,),) = _rows("SELECT COUNT(*) FROM (SELECT 1 FROM billing_usagerecord_default LIMIT 100000) stray")
    if stray:
        yield error(
            "partitions",
            f"{counted(stray, 'usage record')} in billing_usagerecord_default: the partition of the month was missing, or a clock was wrong.",
            "Move them as docs/operations.md says (Housekeeping); until then their month cannot get a partition.",
        )


def _rows(query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return list(cursor.fetchall())
