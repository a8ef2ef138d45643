"""How fast the pages are when an account has a million requests in thirty days: every query of theirs timed on a throwaway database (`make million`).

The rows are made by set-based SQL: records, slots, wallets and a ledger that belong together, which the audit confirms at the end. They are as
an account of that size has them: each key is an application that keeps to three of the twelve models (80, 15 and 4 of a hundred requests) and
tries the others now and then, the first key has two fifths of all requests, one in a hundred is answered by a model's second provider, and a
day's busiest hour has four times the traffic of its quietest. With `--even` every key calls every model as often: the most slots there can be.

For each question it prints the median of some runs, and what PostgreSQL read for it: rows and buffers of the plan that took longest. Nothing
that a person waits for may take longer than LIMIT_MS; what reads the requests themselves, by end user, comes after its page, which shows that it
is under way, or is asked by programs, and has LIMIT_OF_RECORDS_MS.
"""

import argparse
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DAYS = 30
LIMIT_MS = 300
LIMIT_OF_RECORDS_MS = 1000
OF_RECORDS = "(reads records)"  # in the name of a question that has the longer limit
BATCH = 50  # requests of an account that share a transfer
BY_USER = "usage?by=user"
OF_MONEY = ("billing", "billing/ledger", "billing/credits", "billing/top-ups", "billing/statements", "members", "audit-log")
OF_THE_ADMIN = (
    "", "system/", "accounts/account/", "keys/apikey/", "billing/wallet/", "billing/transfer/", "billing/transfer/?q=acme",
    "billing/usagerecord/", "billing/usagerecord/?status__exact=error", "billing/hold/", "billing/topup/", "billing/stripeevent/",
    "billing/providerinvoice/margin/", "catalog/model/",
)  # fmt: skip

# One account has as good as all of it: the worst case for every page. The others are there so that no index is of one account alone.
FILL = """
INSERT INTO billing_usagerecord (request_id, account_id, wallet_id, key_id, model, provider, upstream_model, endpoint, format, streamed, price_id,
        input_tokens, cached_input_tokens, cache_write_tokens, cache_write_1h_tokens, audio_input_tokens, output_tokens, reasoning_tokens,
        audio_output_tokens, images, cost, list_cost, overrun_cost, written_off, upstream_cost, reported_cost, hold_amount, usage_source, status,
        rule, finish_reason, error_code, status_code, attempts, flags, user_tag, latency_ms, first_token_ms, transfer_id, started_at, ended_at)
    SELECT (lpad(to_hex((EXTRACT(EPOCH FROM r.began) * 1000)::bigint), 12, '0') || '7' || lpad(to_hex(r.n %% 4096), 3, '0') || '8'
            || lpad(to_hex(r.n), 15, '0'))::uuid,
        w.account_id, w.id, k.keys[1 + r.key], 'house/model-' || r.model, 'provider-' || r.provider,
        'model', 'chat', 'chat', r.n %% 2 = 0, NULL, 100 + r.n %% 900, r.n %% 70, 0, r.n %% 5, 0, 50 + r.n %% 400, r.n %% 30, 0, 0,
        r.cost, r.cost, 0, 0, r.cost * 8 / 10, CASE WHEN r.provider = 0 THEN r.cost * 8 / 10 + r.n %% 3 END, r.cost, 'provider',
        CASE WHEN r.n %% 97 = 0 THEN 'error' ELSE 'ok' END, 'metered', 'stop', '', 200, '[]', '[]', 'user-' || r.n %% 5000, 300 + r.n %% 2000,
        CASE WHEN r.n %% 2 = 0 THEN 100 + r.n %% 300 END, billing_transfer_id('usage', md5((r.n / %(batch)s)::text)::uuid, w.id), r.began,
        r.began + interval '1 second'
    FROM (SELECT drawn.*, 1000 + n %% 5000 AS cost, CASE WHEN n %% 20 = 0 THEN 2 + (n / 20) %% 9 ELSE 1 END AS owner,
            (drawn.model + (second < 0.01)::int) %% 3 AS provider,
            %(starts)s::timestamptz + interval '1 day' * (day + 0.6 / (2 * pi()) * sin(2 * pi() * day)) AS began
        FROM (SELECT *, CASE WHEN %(even)s THEN floor(12 * third)::int
                WHEN third < 0.99 THEN (2 * key + (third >= 0.8)::int + (third >= 0.95)::int) %% 12 ELSE floor(1200 * (third - 0.99))::int END AS model
            FROM (SELECT *, floor(6 * CASE WHEN %(even)s THEN first ELSE first * first END)::int AS key
                FROM (SELECT n, %(days)s::float8 * n / %(rows)s AS day, (hashint8extended(n, 1) & 65535) / 65536.0 AS first,
                        (hashint8extended(n, 2) & 65535) / 65536.0 AS second, (hashint8extended(n, 3) & 65535) / 65536.0 AS third
                    FROM generate_series(0::bigint, %(rows)s - 1) n) chances) keyed) drawn) r
    JOIN (SELECT w.*, row_number() OVER (ORDER BY w.id) AS place FROM billing_wallet w) w ON w.place = r.owner
    JOIN (SELECT account_id, array_agg(id ORDER BY id) AS keys FROM keys_apikey GROUP BY 1) k ON k.account_id = w.account_id;

INSERT INTO billing_transfer (id, kind, wallet_id, debit_account, credit_account, amount, source_type, source_id, wallet_version, balance_after,
        actor, note, created_at)
    SELECT b.id, 'usage', b.wallet_id, 'wallet:' || b.wallet_id, 'revenue', b.cost, 'batch', b.id::text, 1 + row_number() OVER walk,
        w.credits - SUM(b.cost) OVER walk, '', '', b.ended
    FROM (SELECT u.transfer_id AS id, u.wallet_id, SUM(u.cost) AS cost, MAX(u.ended_at) AS ended FROM billing_usagerecord u GROUP BY 1, 2) b
    JOIN billing_wallet w ON w.id = b.wallet_id
    WINDOW walk AS (PARTITION BY b.wallet_id ORDER BY b.ended, b.id);

UPDATE billing_wallet w SET debits = t.spent, version = t.version
    FROM (SELECT wallet_id, SUM(amount) AS spent, MAX(wallet_version) AS version FROM billing_transfer WHERE kind = 'usage' GROUP BY 1) t
    WHERE t.wallet_id = w.id;
UPDATE billing_creditgrant g SET remaining = w.credits - w.debits FROM billing_wallet w WHERE w.id = g.wallet_id;
SELECT billing_count_in_slots((SELECT array_agg(request_id) FROM billing_usagerecord), 1);
"""


@contextmanager
def stage() -> Iterator[None]:
    """A PostgreSQL and a Valkey of its own, migrated, with Django set up on them."""
    from gateway_site.embedded.servers import Servers

    folder = Path(tempfile.mkdtemp(prefix="tollgate-million-"))
    folder.chmod(0o700)
    for name in ("DATABASE_URL", "REDIS_URL"):
        os.environ.pop(name, None)
    servers = Servers(folder)
    try:
        servers.start(os.environ)
        os.environ.update(
            DJANGO_SETTINGS_MODULE="gateway_site.settings",
            GATEWAY_STATE=str(folder / "state"),
            SPOOL_DIR=str(folder / "spool"),
            SECRET_KEY=secrets.token_hex(32),
            KEY_PEPPERS=f"1:{secrets.token_hex(32)}",
            ENCRYPTION_KEYS=f"1:{secrets.token_hex(32)}",
            DEBUG="0",
        )
        subprocess.run([sys.executable, "-m", "django", "migrate", "--verbosity", "0"], check=True, cwd=ROOT)
        import django

        django.setup()
        yield
    finally:
        servers.stop()
        shutil.rmtree(folder, ignore_errors=True)


def fill(rows: int, now: datetime, *, even: bool = False) -> Any:
    """Make the accounts and their usage; returns the great account."""
    from django.db import connection

    from billing import ledger
    from billing.opening import open_account
    from keys import issuing

    starts = now - timedelta(days=DAYS)
    accounts = [open_account(slug=f"account-{number}", name=f"Account {number}", now=starts) for number in range(10)]
    for account in accounts:
        for number in range(6):
            issuing.issue(account=account, name=f"key {number}", now=starts)
        ledger.credit(
            wallet_id=account.wallet.pk, amount=10**15, kind="paid", debit_account="manual", source_type="million",
            source_id=account.slug, actor="million", note="", now=starts,
        )  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute("SELECT billing_make_partitions(%s, 3)", [starts])
        cursor.execute("SET work_mem = '256MB'")
        for statement in FILL.split(";\n"):
            if statement.strip():
                values: dict[str, Any] = {"starts": starts, "days": DAYS, "rows": rows, "batch": BATCH, "even": even}
                cursor.execute(statement, values if "%(" in statement else None)
        cursor.execute("RESET work_mem")
        cursor.execute("VACUUM ANALYZE")
    return accounts[0]


def questions(account: Any, now: datetime) -> dict[str, Callable[[], Any]]:
    """What the pages ask, by name."""
    from billing import business, exports, margins, reports, request_log, statements, usage_reports
    from billing.reports import Period
    from billing.request_log import Search

    month = Period(now - timedelta(days=DAYS), now + timedelta(seconds=1))
    key = _first_key(account)
    deep = request_log.page(account=account, search=Search(period=Period(month.starts_at, now - timedelta(days=20)))).next
    some_id = str(request_log.page(account=account, after=deep).records[0].pk)
    whole: dict[str, Any] = {"account": account, "period": month}
    narrow = usage_reports.Filters(models=("house/model-1",), keys=(key.pk,))
    last_month = statements.months_of(account, now=now)[0]
    asked: dict[str, Callable[[], Any]] = {
        **{f"usage_reports.series by {step}": partial(usage_reports.series, **whole, step=step) for step in usage_reports.STEPS},
        "usage_reports.series by hour, one model and key": lambda: usage_reports.series(**whole, step="hour", filters=narrow),
        **{
            f"usage_reports.breakdown by day and {dimension}": partial(
                usage_reports.breakdown, **whole, step="day", dimension=dimension, parts=5
            )
            for dimension in usage_reports.DIMENSIONS
        },
        "usage_reports.burn": lambda: usage_reports.burn(account=account, now=now),
        **{
            f"/v1/usage by {grouping}": partial(reports.usage, **whole, grouping=grouping)
            for grouping in ("model", "day", "hour", "key")
        },
        f"/v1/usage by user {OF_RECORDS}": lambda: reports.usage(**whole, grouping="user"),
        "/v1/key spending": lambda: reports.key_spending(key, now=now),
        "/v1/credits": lambda: reports.credits_of(account),
        "statement of a month": lambda: statements.statement(account=account, month=last_month, now=now),
        "request log, first page": lambda: request_log.page(account=account),
        "request log, a deep page": lambda: request_log.page(account=account, after=deep),
        "request log, one model": lambda: request_log.page(account=account, search=Search(model="house/model-3")),
        "request log, one key": lambda: request_log.page(account=account, search=Search(key_id=key.pk)),
        "request log, errors": lambda: request_log.page(account=account, search=Search(status="error")),
        "request log, one user": lambda: request_log.page(account=account, search=Search(user_tag="user-77", period=month)),
        "request log, a user that is not there": lambda: request_log.page(account=account, search=Search(user_tag="nobody", period=month)),
        "request log, one id": lambda: request_log.page(account=account, search=Search(request_id=some_id)),
        "ledger export, first 1,000 rows": lambda: _take(exports.ledger_rows(**whole)),
        "request export, first 1,000 rows": lambda: _take(exports.request_rows(account=account, search=Search(period=month))),
        **{f"margins by {dimension}": partial(margins.margins, period=month, dimension=dimension) for dimension in margins.DIMENSIONS},
        "reported costs by day": lambda: margins.reported_days(period=month),
        "operator's home: totals of today and the month": lambda: business.totals([business.day(now), Period(month.starts_at, now)]),
        "operator's home: thirty days": lambda: business.by_day(period=Period(now - timedelta(days=DAYS), now)),
        "operator's home: times of the last requests": lambda: business.times(since=now - timedelta(hours=1)),
        "operator's home: providers in an hour": lambda: business.providers(period=Period(now - timedelta(hours=1), now)),
        "operator's home: wallets": business.money,
        **{
            f"operator's home: top {dimension}s today": partial(margins.margins, period=business.day(now), dimension=dimension, limit=5)
            for dimension in ("account", "model")
        },
        "invoices beside our costs": lambda: margins.invoiced_months(now=now),
    }  # fmt: skip
    return {**asked, **pages(account)}


def pages(account: Any) -> dict[str, Callable[[], Any]]:
    """The daily pages, whole, as a member's browser gets them, and the part that one of them loads after itself."""
    from django.conf import settings
    from django.test import Client, override_settings

    from accounts.models import Membership, User

    # The pages name their static files, which nothing has collected here, and staff has no second factor here.
    plain = {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}
    override_settings(STORAGES=plain, ADMIN_MFA=False).enable()
    user = User.objects.create_user("member@example.com")
    Membership.objects.create(account=account, user=user, role="owner")
    client = Client(headers={"host": settings.ALLOWED_HOSTS[0].replace("*", "localhost")})
    client.force_login(user)

    def get(address: str, *, part: bool = False) -> None:
        answer = client.get(f"/a/{account.slug}/{address}", secure=True, headers={"HX-Request": "true"} if part else None)
        assert answer.status_code == 200, (address, answer.status_code)
        assert part or (b'aria-busy="true"' in answer.content) is (address == BY_USER), address

    addresses = ("", "keys", "usage", "usage?by=key&show=tokens", "usage?by=time&step=day", BY_USER, "requests", "requests?status=error")
    found = {f"page /{address}": partial(get, address) for address in (*addresses, *OF_MONEY)}
    staff = Client(headers={"host": settings.ALLOWED_HOSTS[0].replace("*", "localhost")})
    staff.force_login(User.objects.create_superuser("staff@example.com"))

    def look(address: str) -> None:
        answer = staff.get(f"/{settings.ADMIN_PATH}/{address}", secure=True)
        assert answer.status_code == 200, (address, answer.status_code)

    return {
        **found,
        **{f"admin /{address}": partial(look, address) for address in OF_THE_ADMIN},
        f"part of /{BY_USER} {OF_RECORDS}": partial(get, BY_USER, part=True),
        f"page /{BY_USER}&whole=1 {OF_RECORDS}": partial(get, f"{BY_USER}&whole=1"),
    }


def _first_key(account: Any) -> Any:
    from keys.models import ApiKey

    return ApiKey.objects.select_related("account").filter(account=account).order_by("pk").first()


def _take(rows: Iterator[Any]) -> list[Any]:
    return [row for _, row in zip(range(1000), rows, strict=False)]


def measure(ask: Callable[[], Any], rounds: int) -> tuple[float, str]:
    """The median time in milliseconds, and what the plan of its greatest query read."""
    from django.db import connection

    from billing import reports

    seen: list[tuple[str, Any]] = []

    def note(execute: Any, sql: str, parameters: Any, many: bool, context: Any) -> Any:
        if sql.lstrip(" (\n").upper().startswith(("SELECT", "WITH")):
            seen.append((sql, parameters))
        return execute(sql, parameters, many, context)

    with connection.execute_wrapper(note):
        ask()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        ask()
        times.append((time.perf_counter() - began) * 1000)
    plans = []
    with reports.summing() as cursor:
        for sql, parameters in seen:
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", parameters)
            plans.append(cursor.fetchone()[0][0])
    if not plans:
        return statistics.median(times), ""
    plan = max(plans, key=lambda one: one["Execution Time"])
    root = plan["Plan"]
    tables = sorted({_short(name) for name in _relations(root)})
    buffers = root["Shared Hit Blocks"] + root["Shared Read Blocks"]
    return statistics.median(times), f"{_scanned(root):>9,} rows {buffers:>7,} buffers  {', '.join(tables)}"


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _relations(root: dict[str, Any]) -> Iterator[str]:
    return (node["Relation Name"] for node in _nodes(root) if "Relation Name" in node and node["Actual Loops"])


def _short(name: str) -> str:
    return "usagerecord" if name.startswith("billing_usagerecord") else name.removeprefix("billing_")


def _scanned(root: dict[str, Any]) -> int:
    """Rows that the scans looked at, those they threw away included."""
    return int(
        sum(
            (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
            for node in _nodes(root)
            if "Relation Name" in node
        )
    )


def main() -> int:
    """Fill, ask, print; 1 when a query of the pages is too slow or the books do not add up."""
    parser = argparse.ArgumentParser(prog="python -m tests.performance.million", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--even", action="store_true", help="every key calls every model as often")
    parser.add_argument("--only", default="", help="ask only the questions that have this in their name")
    options = parser.parse_args()
    now = datetime.now(UTC)
    with stage():
        began = time.perf_counter()
        account = fill(options.rows, now, even=options.even)
        took = time.perf_counter() - began
        from billing.models import UsageSlot

        print(f"{options.rows:,} requests in {DAYS} days, {UsageSlot.objects.count():,} slots, made in {took:.0f} s\n")
        slow = []
        for name, ask in questions(account, now).items():
            if options.only not in name:
                continue
            took, plan = measure(ask, options.rounds)
            print(f"{name:<52}{took:>9.1f} ms  {plan}", flush=True)
            limit = LIMIT_OF_RECORDS_MS if OF_RECORDS in name else LIMIT_MS
            if took > limit:
                slow.append(f"{name} (over {limit} ms)")
        from billing import reconciliation

        began = time.perf_counter()
        drifts = reconciliation.audit(now=now)
        print(f"\naudit: {len(drifts)} drifts, {time.perf_counter() - began:.1f} s")
        for drift in drifts[:5]:
            print(f"  {drift}")
    if slow:
        print(f"too slow: {', '.join(slow)}")
    return 1 if slow or drifts else 0


if __name__ == "__main__":
    sys.exit(main())
