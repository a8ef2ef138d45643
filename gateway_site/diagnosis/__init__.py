"""What is wrong with this installation, and how to mend it: one function for each thing that is looked at.

It only reads, and speaks to PostgreSQL and Valkey alone. A check that a broken part makes impossible is left out; the broken part is reported.
Each module looks at what it is named for; what a finding is, is in `findings`.
"""

from collections.abc import Callable, Iterable
from datetime import datetime

import psycopg
from django.db import DatabaseError

from gateway_site.diagnosis import catalog, database, exposure, files, mail, money, secrets, servers
from gateway_site.diagnosis.findings import Finding, Severity, error, first_line

__all__ = ["Finding", "Severity", "diagnose"]

CONFIGURATION: tuple[Callable[[], Iterable[Finding]], ...] = (
    secrets.check_secrets,
    money.check_stripe,
    exposure.check_exposure,
    servers.check_embedded,
    files.check_files,
    mail.check_mail,
)
DATABASE: tuple[Callable[[], Iterable[Finding]], ...] = (
    database.check_migrations,
    database.check_functions,
    secrets.check_provider_keys,
    catalog.check_people_and_plans,
)


def diagnose(*, now: datetime, fast: bool) -> list[Finding]:
    """Look at everything, the gravest first; `fast` leaves out the audit of the money."""
    found = [*_run(CONFIGURATION), *servers.check_valkey()]
    try:
        found += servers.check_postgresql()
    except psycopg.Error as problem:
        found.append(
            error(
                "postgresql",
                f"PostgreSQL cannot be reached: {first_line(problem)}.",
                "Start it, or mend DATABASE_URL. Until then every request is refused.",
            )
        )
    else:
        found += _run(
            (
                *DATABASE,
                lambda: database.check_partitions(now=now),
                lambda: catalog.check_catalog(now=now),
                lambda: servers.check_tasks(now=now),
            )
        )
        found += _run((lambda: money.check_payments(now=now),))
        found += _run((lambda: mail.check_outbox(now=now),))
        found += _run((money.check_last_audit if fast else lambda: money.check_audit(now=now),))
    return sorted(found, key=lambda finding: list(Severity).index(finding.severity))


def _run(checks: Iterable[Callable[[], Iterable[Finding]]]) -> list[Finding]:
    found: list[Finding] = []
    for check in checks:
        try:
            found += check()
        except DatabaseError as problem:
            found.append(
                error("postgresql", f"a check failed: {first_line(problem)}.", "Mend what else is reported here, and run this again.")
            )
    return found
