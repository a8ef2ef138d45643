"""What is wrong with this installation, and how to mend it: one function for each thing that is looked at.

It only reads, and speaks to PostgreSQL and Valkey alone. A check that a broken part makes impossible is left out; the broken part is reported.
"""

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import psycopg
import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http.request import validate_host

from accounts.models import OutboxMessage, User
from billing import reconciliation, task_runs
from billing.models import HoldOwner, Plan, StripeEvent, TaskRun, TopUp
from billing.payments import stripe_client
from billing.settlement import Spool
from catalog import pricing, vault
from catalog.models import Model, Provider, ProviderKey, Route
from gateway_site.embedded import state
from keys import secret
from keys.models import ApiKey
from proxy import routing
from proxy.providers.registry import DECLARATIONS

OLDEST_POSTGRESQL = 15
OLDEST_VALKEY = 7
FUNCTIONS = ("billing_place", "billing_grow", "billing_settle", "billing_sweep")
PARTITIONS_AHEAD = 2  # months after this one
CONNECT_SECONDS = 5
SKEW_SECONDS = 2.0
MAIL_LATE_AFTER = timedelta(hours=1)
AUDIT_LATE_AFTER = timedelta(minutes=20)  # it runs every five
WEBHOOK_LATE_AFTER = timedelta(hours=1)  # Stripe tells of a new checkout within seconds
SECRET_KEY_CHARACTERS = 50
SECRET_BYTES = 32
LEAST_DIFFERENT_BYTES = 10  # 16 random bytes have 15 or 16 different ones
NAMED_AT_MOST = 3
DURABLE = ("fsync", "full_page_writes", "synchronous_commit")


class Severity(StrEnum):
    """How much a finding matters: an error is broken or dangerous, a warning will be, a note is good to know."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: what, and how to mend it, in a line each."""

    severity: Severity
    subject: str
    problem: str
    remedy: str

    def as_dict(self) -> dict[str, str]:
        """The fields, for JSON."""
        return asdict(self)


def diagnose(*, now: datetime, fast: bool) -> list[Finding]:
    """Look at everything, the gravest first; `fast` leaves out the audit of the money."""
    found = [*_run(CONFIGURATION), *check_valkey()]
    try:
        found += check_postgresql()
    except psycopg.Error as problem:
        found.append(
            error(
                "postgresql",
                f"PostgreSQL cannot be reached: {_first_line(problem)}.",
                "Start it, or mend DATABASE_URL. Until then every request is refused.",
            )
        )
    else:
        found += _run((*DATABASE, lambda: check_partitions(now=now), lambda: check_catalog(now=now), lambda: check_tasks(now=now)))
        found += _run((lambda: check_payments(now=now),))
        found += _run((lambda: check_outbox(now=now),))
        found += _run((check_last_audit if fast else lambda: check_audit(now=now),))
    return sorted(found, key=lambda finding: list(Severity).index(finding.severity))


def _run(checks: Iterable[Callable[[], Iterable[Finding]]]) -> list[Finding]:
    found: list[Finding] = []
    for check in checks:
        try:
            found += check()
        except DatabaseError as problem:
            found.append(
                error("postgresql", f"a check failed: {_first_line(problem)}", "Mend what else is reported here, and run this again.")
            )
    return found


def error(subject: str, problem: str, remedy: str) -> Finding:
    """Something that is broken or dangerous."""
    return Finding(Severity.ERROR, subject, problem, remedy)


def warning(subject: str, problem: str, remedy: str) -> Finding:
    """Something that will be trouble."""
    return Finding(Severity.WARNING, subject, problem, remedy)


def note(subject: str, problem: str, remedy: str) -> Finding:
    """Something that is good to know."""
    return Finding(Severity.NOTE, subject, problem, remedy)


# -- Configuration: no server is asked -----------------------------------------------------------------------------------------------


def check_secrets() -> Iterator[Finding]:
    """The strength of SECRET_KEY, and whether the lists of peppers and encryption keys can be read."""
    if len(settings.SECRET_KEY) < SECRET_KEY_CHARACTERS or len(set(settings.SECRET_KEY)) < LEAST_DIFFERENT_BYTES:
        yield error(
            "secrets",
            f"SECRET_KEY is weak: {len(settings.SECRET_KEY)} characters, {len(set(settings.SECRET_KEY))} of them different.",
            f"Set it to {SECRET_KEY_CHARACTERS} random characters or more (`openssl rand -base64 48`); everybody signs in again.",
        )
    try:
        secret.read_peppers(settings.KEY_PEPPERS)
    except secret.NoPepper as problem:
        yield error("secrets", f"KEY_PEPPERS cannot be read: {problem}.", "Set it as .env.example says; no API key works until then.")
    else:
        yield from _check_list("KEY_PEPPERS", settings.KEY_PEPPERS, "put a new one first and reroll the API keys")
    try:
        vault.current_version()
    except vault.NoEncryptionKey as problem:
        yield error(
            "secrets", f"ENCRYPTION_KEYS cannot be read: {problem}.", "Set it as .env.example says; no provider key opens until then."
        )
    else:
        yield from _check_list("ENCRYPTION_KEYS", settings.ENCRYPTION_KEYS, "put a new one first and run `manage.py rotate_encryption`")
    if {_value(entry) for entry in settings.KEY_PEPPERS} & {_value(entry) for entry in settings.ENCRYPTION_KEYS}:
        yield warning(
            "secrets",
            "KEY_PEPPERS and ENCRYPTION_KEYS share a secret, so whoever learns one knows both.",
            "Make another one (`openssl rand -hex 32`), put it first in ENCRYPTION_KEYS and run `manage.py rotate_encryption`.",
        )


def _check_list(name: str, entries: Sequence[str], replace: str) -> Iterator[Finding]:
    versions = [entry.partition(":")[0] for entry in entries]
    if len(versions) != len(set(versions)):
        yield error(
            "secrets", f"{name} has the same version twice.", "Give each entry a version of its own; the older one keeps its number."
        )
    for version, value in zip(versions, map(_value, entries), strict=True):
        if len(set(value)) < LEAST_DIFFERENT_BYTES:
            yield error("secrets", f"Version {version} of {name} is no random value.", f"`openssl rand -hex 32` makes one: {replace}.")
        elif len(value) < SECRET_BYTES:
            yield warning(
                "secrets",
                f"Version {version} of {name} has only {len(value)} bytes.",
                f"`openssl rand -hex {SECRET_BYTES}` makes a longer one: {replace}.",
            )


def _value(entry: str) -> bytes:
    try:
        return bytes.fromhex(entry.partition(":")[2])
    except ValueError:
        return b""


def check_stripe() -> Iterator[Finding]:
    """Whether people can pay, with which money, and whether the news of it would be believed."""
    if not settings.STRIPE_SECRET_KEY:
        yield note("stripe", "STRIPE_SECRET_KEY is not set: nobody can top up.", "Set it, or grant credit in the admin.")
        return
    if settings.STRIPE_SIMULATED:
        say = note if settings.DEBUG else warning
        yield say(
            "stripe",
            f"Payments are played ({settings.STRIPE_API_BASE}): credit is given for no money.",
            "Before anybody else comes here, remove STRIPE_SIMULATED and STRIPE_API_BASE and set Stripe's own keys.",
        )
    elif not stripe_client.is_live():
        yield note("stripe", "Stripe is in test mode: its test cards buy real credit.", "Set a live STRIPE_SECRET_KEY before you sell.")
    if not settings.STRIPE_WEBHOOK_SECRETS:
        yield error(
            "stripe",
            "STRIPE_WEBHOOK_SECRETS is not set: payments are credited up to ten minutes late, by the backfill alone.",
            f"At Stripe, add the endpoint {settings.PUBLIC_URL}/webhooks/stripe (API version {stripe_client.API_VERSION}) and set its secret.",
        )
    if weak := [secret for secret in settings.STRIPE_WEBHOOK_SECRETS if len(secret) < LEAST_DIFFERENT_BYTES]:
        yield error(
            "stripe",
            f"{len(weak)} of STRIPE_WEBHOOK_SECRETS is no signing secret.",
            "They begin with whsec_ and are long.",
        )


def check_payments(*, now: datetime) -> Iterator[Finding]:
    """The inbox of Stripe's events is worked off, nothing waits for a decision, and webhooks arrive."""
    waiting = StripeEvent.objects.filter(state="quarantined").count()
    if waiting:
        yield warning(
            "stripe", f"{_count(waiting, 'event')} of Stripe wait for a decision.", "In the admin: Stripe's events, state quarantined."
        )
    held = TopUp.objects.filter(state="quarantined").count()
    if held:
        yield error("stripe", f"{_count(held, 'payment')} were made that are not what was asked for.", "Decide in the admin: Top-ups.")
    failing = StripeEvent.objects.filter(state="failed", attempts__gte=5).order_by("received_at").first()
    if failing is not None:
        yield warning(
            "stripe", f"Event {failing.pk} failed {failing.attempts} times: {_first_line(Exception(failing.last_error))}.", "See the admin."
        )
    if not settings.STRIPE_SECRET_KEY:
        return
    paid = TopUp.objects.filter(session_id__isnull=False, created_at__lt=now - WEBHOOK_LATE_AFTER, state="paid")
    asked = paid.order_by("-created_at").first()
    last = StripeEvent.objects.filter(source="webhook").order_by("-received_at").first()
    if asked is not None and asked.paid_at is not None and (last is None or last.received_at < asked.paid_at - timedelta(minutes=5)):
        when = "has ever come" if last is None else f"has come since {last.received_at:%Y-%m-%d %H:%M} UTC, and people have paid since"
        yield error(
            "stripe",
            f"No webhook of Stripe {when}.",
            f"At Stripe, see whether {settings.PUBLIC_URL}/webhooks/stripe can be reached, and which events it is sent.",
        )


def check_exposure() -> Iterator[Finding]:
    """What the settings show to whom."""
    listens = [name for name in ("HOST", "BIND") if not _is_loopback(_host_of(os.environ.get(name, "")))]
    names = [host for host in settings.ALLOWED_HOSTS if not _is_loopback(host)]
    public = urlsplit(settings.PUBLIC_URL)
    if settings.DEBUG and (listens or names):
        where = f"{listens[0]}={os.environ[listens[0]]}" if listens else f"ALLOWED_HOSTS={_some(names)}"
        yield error(
            "debug",
            f"DEBUG is on and {where} reaches beyond this machine: error pages show source code and settings to anybody.",
            "Set DEBUG=false (with `make run`: in the environment or in .env), or listen on 127.0.0.1 only.",
        )
    if not settings.DEBUG and not settings.HTTPS_ONLY:
        yield warning("https", "HTTPS_ONLY is off: cookies and passwords may travel in the clear.", "Remove HTTPS_ONLY=false.")
    if not settings.DEBUG and public.scheme == "http" and not _is_loopback(public.hostname or ""):
        yield warning("https", f"PUBLIC_URL={settings.PUBLIC_URL} is without TLS: API keys travel in the clear.", "Serve it as https://.")
    if settings.HTTPS_ONLY and public.scheme == "https" and not os.environ.get("TRUSTED_PROXIES"):
        yield warning(
            "https",
            "HTTPS_ONLY is on and no proxy is trusted to say that a request came over TLS: pages redirect to themselves for ever.",
            "Set TRUSTED_PROXIES to the address of the proxy that ends TLS.",
        )
    if public.hostname and not validate_host(public.hostname, settings.ALLOWED_HOSTS or ["localhost"]):
        yield warning(
            "hosts",
            f"PUBLIC_URL names {public.hostname}, which ALLOWED_HOSTS does not: pages there answer 400.",
            f"Add {public.hostname} to ALLOWED_HOSTS.",
        )


def check_embedded() -> Iterator[Finding]:
    """Whether the servers are those that `make run` starts."""
    here = str(state.sockets(state.folder()))
    found = [name for name, url in (("PostgreSQL", settings.DATABASE_URL), ("Valkey", settings.REDIS_URL)) if here in unquote(url)]
    if found:
        yield note(
            "servers",
            f"The embedded {' and '.join(found)} {'is' if len(found) == 1 else 'are'} in use: good for trying, not for production.",
            "Set DATABASE_URL and REDIS_URL to servers that are backed up and watched (docs/operations.md).",
        )


def check_files() -> Iterator[Finding]:
    """Whether others on this machine can read the secrets, and what lies in the spool."""
    here = state.folder()
    private = [here, here / "secrets.env", here / "quickstart.json", state.PROJECT / ".env", Path(settings.SPOOL_DIR)]
    for path in private:
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError:
            yield warning("files", f"{path} cannot be looked at: it is another user's.", "Run this as the user that the gateway runs as.")
            continue
        if stat.S_IMODE(found.st_mode) & 0o077:
            wanted = "700" if path.is_dir() else "600"
            tell = warning if path.name == ".env" else error  # it need not hold secrets
            yield tell(
                "files",
                f"{path} has mode {stat.S_IMODE(found.st_mode):o}: others on this machine can get at it.",
                f"Run `chmod {wanted} {path}`.",
            )
    yield from check_spool(Spool(Path(settings.SPOOL_DIR)))


def check_spool(spool: Spool) -> Iterator[Finding]:
    """Records of finished requests that are not in PostgreSQL."""
    if refused := _lines(spool.files("refused")):
        yield error(
            "spool",
            f"PostgreSQL has refused {_count(refused, 'record')} of finished requests; they were not charged.",
            f"Read the reasons in {spool.folder}/refused-*.jsonl, then remove the files.",
        )
    if waiting := _lines(spool.files("settle")):
        yield error(
            "spool",
            f"{_count(waiting, 'record')} of finished requests {'waits' if waiting == 1 else 'wait'} in {spool.folder} to be charged.",
            "Start the gateway on this host: within seconds of reaching PostgreSQL it books them, each once.",
        )


def _lines(files: Iterable[Path]) -> int:
    total = 0
    for path in files:
        try:
            with path.open("rb") as file:
                total += sum(1 for _ in file)
        except FileNotFoundError:  # a web process has just booked it
            continue
    return total


# -- Servers -------------------------------------------------------------------------------------------------------------------------


def check_valkey() -> Iterator[Finding]:
    """Valkey answers, is new enough, and never throws away what it was given."""
    try:
        with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=CONNECT_SECONDS, socket_connect_timeout=CONNECT_SECONDS) as client:
            info = client.info()
    except (redis.RedisError, ValueError) as problem:
        yield error(
            "valkey",
            f"Valkey cannot be reached: {_first_line(problem)}.",
            "Start it, or mend REDIS_URL. Meanwhile rate limits are each process's own, and Celery stands still.",
        )
        return
    version = str(info.get("valkey_version") or info["redis_version"])
    if int(version.partition(".")[0]) < OLDEST_VALKEY:
        yield error("valkey", f"The version behind REDIS_URL is {version}.", f"Use Valkey, or Redis {OLDEST_VALKEY} or newer.")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield error(
            "valkey",
            f"maxmemory-policy is {policy}: when memory runs short, rate limits and queued tasks are thrown away silently.",
            "Set `maxmemory-policy noeviction` in its configuration, or use a server of the gateway's own.",
        )
    if not info.get("aof_enabled"):
        yield note(
            "valkey",
            "Valkey's append-only file is off: when it crashes, rate limits begin anew and waiting tasks are lost. No money is there.",
            "Nothing needs to be done; `appendonly yes` keeps them.",
        )


def check_postgresql() -> list[Finding]:
    """PostgreSQL is new enough, keeps what it has confirmed, and tells the same time.

    Raises: psycopg.Error when it cannot be reached.
    """
    with psycopg.connect(settings.DATABASE_URL, connect_timeout=CONNECT_SECONDS, autocommit=True) as session:
        version = session.info.server_version
        configured: dict[str, str] = dict(
            session.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [list(DURABLE)]).fetchall()
        )
        skew, uncertain = measure_skew(session)
    found = list(judge_skew(skew, uncertain))
    if version < OLDEST_POSTGRESQL * 10_000:
        found.append(
            error("postgresql", f"PostgreSQL's version is {version // 10_000}.", f"Upgrade it to PostgreSQL {OLDEST_POSTGRESQL} or newer.")
        )
    found += [
        warning(
            "postgresql",
            f"{name} is off: a crash of the machine loses money that was confirmed, or the whole database.",
            f"Set `{name} = on` in postgresql.conf.",
        )
        for name in DURABLE
        if configured.get(name) == "off"
    ]
    return found


def measure_skew(session: "psycopg.Connection[tuple[Any, ...]]") -> tuple[float, float]:
    """How far PostgreSQL's clock is ahead of this host's, and how uncertain that is; seconds."""
    before, began = time.time(), time.monotonic()
    row = session.execute("SELECT clock_timestamp()").fetchone()
    took = time.monotonic() - began
    return (row[0].timestamp() - (before + took / 2) if row else 0.0), took / 2


def judge_skew(skew: float, uncertain: float) -> Iterator[Finding]:
    """Say so when the clocks differ by more than `SKEW_SECONDS`, whatever the network's delay (`uncertain`) adds; seconds."""
    if abs(skew) - uncertain > SKEW_SECONDS:
        yield error(
            "clock",
            f"PostgreSQL's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this host's: leases, windows and rate limits go wrong.",
            "Run a time service (chrony, systemd-timesyncd) on both.",
        )


# -- The database --------------------------------------------------------------------------------------------------------------------


def check_migrations() -> Iterator[Finding]:
    """The tables are those of this version."""
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if plan:
        names = [f"{migration.app_label}.{migration.name}" for migration, _ in plan]
        yield error("migrations", f"{_count(len(plan), 'migration')} not applied: {_some(names)}.", "Run `manage.py migrate`.")
    ours = {migration.app_label for migration in executor.loader.disk_migrations.values()}
    unknown = [
        f"{app}.{name}"
        for app, name in executor.loader.applied_migrations
        if app in ours and (app, name) not in executor.loader.disk_migrations
    ]
    if unknown:
        yield warning(
            "migrations",
            f"The database has migrations that this version does not know: {_some(unknown)}.",
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
            f"PostgreSQL lacks {_some(missing)}: no request can be placed or settled.",
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
            f"Usage records lack {_some(missing)}.",
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
            f"{_count(stray, 'usage record')} in billing_usagerecord_default: the partition of the month was missing, or a clock was wrong.",
            "Move them as docs/operations.md says (Housekeeping); until then their month cannot get a partition.",
        )


def check_provider_keys() -> Iterator[Finding]:
    """Every stored secret opens with what is configured: providers' with ENCRYPTION_KEYS, customers' with KEY_PEPPERS."""
    try:
        closed = [str(key) for key in ProviderKey.objects.select_related("provider").order_by("pk") if not _opens(key)]
        peppers = {pepper.version for pepper in secret.read_peppers(settings.KEY_PEPPERS)}
    except (vault.NoEncryptionKey, secret.NoPepper):
        return  # told already
    if closed:
        yield error(
            "secrets",
            f"ENCRYPTION_KEYS does not open {_count(len(closed), 'provider key')}: {_some(closed)}.",
            "Put the encryption key of that time back into ENCRYPTION_KEYS (after the current one), or enter the provider keys anew.",
        )
    lost = ApiKey.objects.filter(revoked_at__isnull=True).exclude(pepper_version__in=peppers)
    if count := lost.count():
        versions = sorted(set(lost.values_list("pepper_version", flat=True)))
        yield error(
            "secrets",
            f"{_count(count, 'API key')} made with a pepper that KEY_PEPPERS lacks (version {_some([str(number) for number in versions])}): refused as unknown.",
            "Put that pepper back into KEY_PEPPERS, after the current one.",
        )


def _opens(key: ProviderKey) -> bool:
    try:
        key.secret()
    except vault.CannotOpen:
        return False
    return True


def check_catalog(*, now: datetime) -> Iterator[Finding]:
    """Something can be sold, and what is enabled can be reached."""
    providers = list(Provider.objects.filter(is_enabled=True).prefetch_related("keys"))
    usable = {provider.pk: provider for provider in providers if _is_usable(provider)}
    routed = set(Route.objects.filter(is_enabled=True, model__is_enabled=True).values_list("provider_id", flat=True))
    if mute := [provider.slug for provider in providers if provider.pk not in usable and provider.pk in routed]:
        yield warning(
            "providers",
            f"{_count(len(mute), 'provider')} enabled without a key that can be used: {_some(mute)}.",
            "Give each a key in the admin or in a manifest, or switch it off.",
        )
    priced, unpriced, unreachable = 0, [], []
    for model in Model.objects.filter(is_enabled=True).prefetch_related("routes", "prices").order_by("slug"):
        if pricing.price_at([price.frozen() for price in sorted(model.prices.all(), key=lambda price: price.effective_from)], now) is None:
            unpriced.append(model.slug)
        elif _is_reachable(model, usable):
            priced += 1
        else:
            unreachable.append(model.slug)
    if not priced:
        yield error(
            "models",
            "No model can be sold: none is enabled with a price and a provider that has a key.",
            "Apply a manifest (`manage.py apply catalog/seeds/demo.yaml` is one to try with), or enable models in the admin.",
        )
    if unpriced:
        yield note(
            "models",
            f"{_count(len(unpriced), 'model')} enabled without a price, and not for sale: {_some(unpriced)}.",
            "Price or disable them.",
        )
    if unreachable and priced:
        yield note(
            "models",
            f"{_count(len(unreachable), 'model')} with a price and no provider to answer: {_some(unreachable)}.",
            "Give their providers keys, or disable them: they are listed, and calls end in 503.",
        )


def _is_usable(provider: Provider) -> bool:
    return not DECLARATIONS[provider.kind].needs_key or any(key.is_enabled and _opens(key) for key in provider.keys.all())


def _is_reachable(model: Model, usable: dict[int, Provider]) -> bool:
    routes = [route for route in model.routes.all() if route.is_enabled]
    if routes:
        return any(route.provider_id in usable for route in routes)
    kind, _ = routing.by_prefix(model.slug)
    return any(provider.kind == kind for provider in usable.values())


def check_people_and_plans() -> Iterator[Finding]:
    """Somebody can sign in to the admin, and a new account gets a plan."""
    if not User.objects.filter(is_superuser=True, is_active=True).exists():
        yield warning("people", "There is no active superuser: nobody can do everything in the admin.", "Run `manage.py createsuperuser`.")
    if Plan.objects.exists() and not Plan.objects.filter(is_default=True).exists():
        yield note("plans", "No plan is the default: new accounts start without limits.", "Mark one as default in the admin.")


def check_mail() -> Iterator[Finding]:
    """Mail leaves this installation."""
    if not settings.EMAIL_URL:
        yield warning("mail", "No mail is sent: EMAIL_URL is not set.", "Set EMAIL_URL (smtp+tls://user:password@host:587).")
    elif settings.EMAIL_HOST and settings.DEFAULT_FROM_EMAIL.endswith("@localhost>"):
        yield warning("mail", "Mails come from an address at localhost: they will be refused.", "Set DEFAULT_FROM_EMAIL.")
    if not settings.STAFF_ALERT_EMAILS:
        yield note("mail", "Nobody is told of disputes and quarantined payments but the log.", "Set STAFF_ALERT_EMAILS.")


def check_outbox(*, now: datetime) -> Iterator[Finding]:
    """What has to leave the house does."""
    waiting = OutboxMessage.objects.filter(state=OutboxMessage.State.WAITING)
    if stuck := waiting.filter(kind=OutboxMessage.Kind.MAIL, created_at__lt=now - MAIL_LATE_AFTER).count():
        last = waiting.exclude(last_error="").order_by("-id").values_list("last_error", flat=True).first() or "no error is noted"
        yield warning(
            "mail",
            f"{_count(stuck, 'mail')} not sent for an hour: {_first_line(Exception(last))}.",
            "See that EMAIL_URL's server answers; then they go out.",
        )
    failed = OutboxMessage.objects.filter(
        kind=OutboxMessage.Kind.MAIL, state=OutboxMessage.State.FAILED, created_at__gte=now - timedelta(days=7)
    ).count()
    if failed:
        yield note(
            "mail", f"{_count(failed, 'mail')} given up in the last seven days.", "See the outbox in the admin; it sends them again."
        )


def check_tasks(*, now: datetime) -> Iterator[Finding]:
    """Celery's tasks run, and end well."""
    alive = HoldOwner.objects.filter(lease_until__gt=now).order_by("started_at").first()
    if alive is None:
        yield note("web", "No web process is running.", "Start the gateway (`make run`, or gunicorn with gateway_site/gunicorn_conf.py).")
    elif task_runs.is_late(now=now, running_for=now - alive.started_at):
        run = TaskRun.objects.filter(name=task_runs.SWEEP).first()
        when = "yet" if run is None or run.last_finished_at is None else f"since {run.last_finished_at:%Y-%m-%d %H:%M:%S} UTC"
        yield error(
            "celery",
            f"No sweep of holds has ended well {when}: what requests of dead processes hold stays held, and nothing is audited.",
            "Start Celery's worker and beat (`celery -A gateway_site.celery worker`, `… beat`), and see their logs.",
        )
    for run in TaskRun.objects.exclude(last_error="").order_by("name"):
        yield warning("celery", f"The last run of {run.name} failed: {run.last_error.splitlines()[0]}.", "See the log of Celery's worker.")
    audit = TaskRun.objects.filter(name=task_runs.AUDIT, last_finished_at__lt=now - AUDIT_LATE_AFTER).first()
    if alive is not None and audit is not None:
        yield warning(
            "celery", f"The audit last ended well on {audit.last_finished_at:%Y-%m-%d %H:%M} UTC.", "See the log of Celery's worker."
        )


def check_audit(*, now: datetime) -> Iterator[Finding]:
    """Every invariant of money holds."""
    if drifts := reconciliation.audit(now=now):
        yield error(
            "money",
            f"{_count(len(drifts), 'invariant')} of money broken, the first: {drifts[0]}.",
            "`manage.py billing_audit` lists them. Find out why before anything is changed; nothing is repaired by itself.",
        )


def check_last_audit() -> Iterator[Finding]:
    """The last audit that Celery has run found nothing."""
    run = TaskRun.objects.filter(name=task_runs.AUDIT, findings__gt=0).first()
    if run is not None:
        yield error(
            "money",
            f"The last audit found {_count(run.findings, 'broken invariant')} of money.",
            "`manage.py billing_audit` lists them. Find out why before anything is changed; nothing is repaired by itself.",
        )


# -- Words ---------------------------------------------------------------------------------------------------------------------------


def _rows(query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return list(cursor.fetchall())


def _count(number: object, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMED_AT_MOST
    return ", ".join(names[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


def _first_line(problem: Exception) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0].rstrip(".")


def _host_of(address: str) -> str:
    """The host of `host:port`, `[::1]:port` or a host alone."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] or "0.0.0.0" if address.count(":") == 1 else address  # noqa: S104  compared, not bound


def _is_loopback(host: str) -> bool:
    host = host.strip("[]").lower()
    if host in ("", "localhost", "unix") or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


CONFIGURATION: tuple[Callable[[], Iterable[Finding]], ...] = (
    check_secrets,
    check_stripe,
    check_exposure,
    check_embedded,
    check_files,
    check_mail,
)
DATABASE: tuple[Callable[[], Iterable[Finding]], ...] = (
    check_migrations,
    check_functions,
    check_provider_keys,
    check_people_and_plans,
)
