"""The performance report: what the whole governed path costs, side by side with no gateway and with nginx, in one run (`make bench`).

It starts servers of its own in a temporary folder (PostgreSQL with fsync on, Valkey, the mock provider, one gateway process), measures, and
ends with the audit: a figure counts only if the money is right. CPU a request is user and system time of the gateway's worker over the
requests it served; it survives noisy machines. Requests a second and latency are for orientation.
"""

import argparse
import json
import os
import platform
import pstats
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from tests.performance.load import Plan, Result

ROOT = Path(__file__).resolve().parents[2]
LEVELS = (1, 10, 64)
HELD_LEVELS = (100, 200, 400, 600, 800, 1000, 1200)
NANO = 1_000_000_000
PAID_USD = 10_000_000
UNREACHED = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to measure, in seconds."""

    whole: float
    bursts: float
    paced: float
    held: float
    wallet: float
    warm_up: float


QUICK = Pace(whole=1.0, bursts=1.2, paced=1.5, held=0.0, wallet=0.8, warm_up=0.8)
THOROUGH = Pace(whole=5.0, bursts=5.0, paced=6.0, held=5.0, wallet=4.0, warm_up=3.0)


@dataclass(slots=True)
class Row:
    """One measurement: what the clients saw, and the CPU microseconds that each party spent a request."""

    way: str
    mode: str
    concurrency: int
    seen: Result
    cpu: dict[str, float] = field(default_factory=dict)

    @property
    def per_second(self) -> float:
        return self.seen.answered / self.seen.seconds if self.seen.seconds else 0.0


@dataclass(slots=True)
class Report:
    """Everything that was measured."""

    machine: str = ""
    versions: str = ""
    rows: list[Row] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)
    wallet: list[dict[str, float]] = field(default_factory=list)
    memory: dict[str, float] = field(default_factory=dict)
    audit: list[str] = field(default_factory=list)
    answered: int = 0
    charged: int = 0

    def find(self, way: str, mode: str, concurrency: int) -> Row | None:
        """The row of this measurement."""
        return next((row for row in self.rows if (row.way, row.mode, row.concurrency) == (way, mode, concurrency)), None)


# -- Processes -----------------------------------------------------------------------------------------------------------------------


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Start children on one core (where the system can do that and has more than one)."""
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[core]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def running(command: list[str], *, core: int, log: Path, environ: Mapping[str, str] | None = None) -> Iterator["subprocess.Popen[str]"]:
    """Run a command on one core, its first output line readable, until the block ends."""
    with pinned(core), log.open("ab") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=out, text=True, start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of what it has started (reaped children included)."""
    total = 0.0
    try:
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            try:
                times = one.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
    except psutil.NoSuchProcess:
        pass
    return total


def wait_for(port: int, process: "subprocess.Popen[str]", log: Path, *, seconds: float = 60) -> None:
    """Return when something listens on `port`. Raises: RuntimeError with the end of the log when nothing does."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"nothing listens on port {port}; the log ends:\n{log.read_text()[-3000:]}")


def switch(port: int, path: str) -> None:
    """Send one GET, when it is answered return."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        while client.recv(65536):
            pass


def shoot(plan: Plan) -> Result:
    """Run the load generator. Raises: RuntimeError when it fails."""
    with pinned(1):
        done = subprocess.run(
            [sys.executable, "-m", "tests.performance.load", json.dumps(asdict(plan))],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return Result(**json.loads(done.stdout))


BRIDGED = "bridged"  # the gateway again: an Anthropic client, a provider that speaks chat

# -- What is measured ----------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Bench:
    """The running cast: each way to the provider, and whose CPU to read."""

    folder: Path
    pace: Pace
    report: Report
    secret: str = ""
    account: int = 0
    key: int = 0
    ports: dict[str, int] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)  # the process measured for each way
    others: dict[str, int] = field(default_factory=dict)  # whose CPU is told beside it

    def measure(self, way: str, mode: str, concurrency: int, seconds: float, *, ramp: float = 0.0, keep: bool = True) -> Row:
        """Send load one way and read everybody's CPU around it."""
        parties = {"proxy": self.pids[way], **self.others} if way in self.pids else dict(self.others)
        before = {name: cpu_seconds(pid) for name, pid in parties.items()}
        path = "/v1/messages" if way == BRIDGED else "/v1/chat/completions"
        plan = Plan(self.ports[way], mode, "bench/chat", self.secret, concurrency, seconds, ramp_seconds=ramp, path=path)
        seen = shoot(plan)
        self._wait_idle(way)
        spent = {name: cpu_seconds(pid) - before[name] for name, pid in parties.items()}
        row = Row(way, mode, concurrency, seen, {name: value / max(1, seen.answered) * 1e6 for name, value in spent.items()})
        if way in ("gateway", BRIDGED):
            self.report.answered += seen.answered
            self.report.memory["worker RSS MB"] = psutil.Process(self.pids[way]).memory_info().rss / 1e6
        if keep:
            self.report.rows.append(row)
        if seen.failed or seen.unfinished:
            print(f"  ! {way} {mode} c={concurrency}: {seen.failed} failed, {seen.unfinished} unfinished: {seen.failure}", file=sys.stderr)
        return row

    def _wait_idle(self, way: str) -> None:
        """Let what follows an answer (settling) be counted too: wait until the process uses no more CPU, for a second at most."""
        if way not in self.pids:
            return
        last, deadline = -1.0, time.monotonic() + 1.0
        while (now := cpu_seconds(self.pids[way])) != last and time.monotonic() < deadline:
            last = now
            time.sleep(0.05)


def seed(bench: Bench, origin_port: int) -> None:
    """One provider, one model, one account under limits that are checked on every request and never reached."""
    import django

    django.setup()
    from datetime import timedelta

    from django.utils import timezone

    from billing import ledger
    from billing.models import Plan as BillingPlan
    from billing.opening import open_account
    from catalog.models import Model, Price, Provider, ProviderKey, Route
    from catalog.money import nano_from_usd
    from keys import issuing

    now = timezone.now()
    provider = Provider.objects.create(slug="bench", kind="custom", base_url=f"http://127.0.0.1:{origin_port}/v1", allow_private=True)
    credential = ProviderKey(provider=provider)
    credential.set_secret(f"sk-bench-{secrets.token_hex(16)}")
    credential.save()
    model = Model.objects.create(slug="bench/chat", max_output=16_384)
    Price.objects.create(model=model, input=nano_from_usd("0.15"), output=nano_from_usd("0.60"), effective_from=now - timedelta(hours=1))
    Route.objects.create(model=model, provider=provider, upstream_model="gpt-4o-mini")
    BillingPlan.objects.create(slug="bench", rpm=UNREACHED, tpm=UNREACHED, monthly_input_tokens=10**15, monthly_output_tokens=10**15)
    for slug in ("bench", "wallet"):
        account = open_account(slug=slug, name=slug, now=now, plan_slug="bench")
        ledger.credit(
            wallet_id=account.wallet.pk, amount=PAID_USD * NANO, kind="promo", debit_account="promo", source_type="bench", source_id=slug,
            actor="bench", note="", now=now,
        )  # fmt: skip
        key, secret = issuing.issue(
            account=account, name="bench", now=now, rpm=UNREACHED, tpm=UNREACHED, concurrency=100_000, budget_nano=PAID_USD * NANO
        )
        if slug == "bench":
            bench.secret = secret
        else:
            bench.account, bench.key = account.pk, key.pk


def measure_whole(bench: Bench, ways: list[str]) -> None:
    """Answers in one piece, at each concurrency, the ways taking turns."""
    for concurrency in LEVELS:
        for way in ways:
            bench.measure(way, "whole", concurrency, bench.pace.whole)


def measure_streams(bench: Bench, ways: list[str]) -> None:
    """Streams in bursts (16 at once) and paced at light load (20 streams: each chunk comes alone)."""
    bench.ports[BRIDGED], bench.pids[BRIDGED] = bench.ports["gateway"], bench.pids["gateway"]
    for way in (*ways, BRIDGED):
        bench.measure(way, "bursts", 16, bench.pace.bursts)
    for way in ways:
        bench.measure(way, "paced", 20, bench.pace.paced, ramp=0.4)


def search_held(bench: Bench, ways: list[str]) -> None:
    """The most paced streams that one core carries with every stream whole and none silent for a second."""
    for way in ways:
        best = "none"
        for streams in HELD_LEVELS:
            row = bench.measure(way, "paced", streams, bench.pace.held, ramp=streams / 200, keep=False)
            seen, busy = row.seen, row.cpu.get("proxy", 0.0) * row.seen.answered / 1e6 / max(row.seen.seconds, 0.1)
            whole = seen.answered == streams and not seen.stalled
            late = seen.p99 / 1e6 - bench.pace.held
            told = (
                f"{streams}: {'held' if whole else 'not held'}, {seen.stalled} stalled, longest silence {seen.longest_gap:.2f} s, "
                f"p99 {late:+.2f} s late, {busy:.0%} of the core"
            )
            print(f"  {way} {told}")
            if not whole or late > 1.0:
                break
            best = told
        bench.report.held[way] = best


def measure_wallet(bench: Bench) -> None:
    """Place and settle on one wallet in one process."""
    plan = {
        "database_url": os.environ["DATABASE_URL"],
        "account": bench.account,
        "key": bench.key,
        "seconds": bench.pace.wallet,
        "concurrencies": LEVELS,
    }
    before = cpu_seconds(bench.others["postgres"])
    with pinned(0):
        done = subprocess.run(
            [sys.executable, "-m", "tests.performance.one_wallet", json.dumps(plan)], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    bench.report.wallet = json.loads(done.stdout)
    requests = sum(row["requests"] for row in bench.report.wallet)
    bench.report.memory["PostgreSQL CPU µs per place + settle"] = (cpu_seconds(bench.others["postgres"]) - before) / requests * 1e6


def check_money(bench: Bench) -> None:
    """The audit, and that what was answered is what was charged."""
    from django.utils import timezone

    from billing.models import UsageRecord
    from billing.reconciliation import audit

    bench.report.audit = [str(drift) for drift in audit(now=timezone.now())]
    bench.report.charged = UsageRecord.objects.filter(account__slug="bench", cost__gt=0, status="ok").count()


# -- The cast ------------------------------------------------------------------------------------------------------------------------


@contextmanager
def stage(
    pace: Pace, *, nginx: bool = True, application: str = "gateway_site.asgi:application", extra: Mapping[str, str] | None = None
) -> Iterator[Bench]:
    """Start everybody, and stop everybody afterwards."""
    from gateway_site.embedded.servers import Servers

    folder = Path(tempfile.mkdtemp(prefix="tollgate-bench-"))
    folder.chmod(0o700)
    bench = Bench(folder, pace, Report(machine=machine(), versions=versions()))
    for name in ("DATABASE_URL", "REDIS_URL"):
        os.environ.pop(name, None)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        servers = Servers(folder)
        stack.callback(servers.stop)
        servers.start(os.environ)
        os.environ.update(
            DJANGO_SETTINGS_MODULE="gateway_site.settings",
            GATEWAY_STATE=str(folder / "state"),
            SPOOL_DIR=str(folder / "spool"),
            SECRET_KEY=secrets.token_hex(32),
            KEY_PEPPERS=f"1:{secrets.token_hex(32)}",
            ENCRYPTION_KEYS=f"1:{secrets.token_hex(32)}",
            DEBUG="0",
            WEB_CONCURRENCY="1",
            **(extra or {}),
        )
        subprocess.run([sys.executable, "-m", "django", "migrate", "--verbosity", "0"], check=True, cwd=ROOT)
        log = folder / "origin.log"
        origin = stack.enter_context(running([sys.executable, "-m", "tests.performance.origin"], core=1, log=log))
        assert origin.stdout is not None
        bench.ports["direct"] = int(origin.stdout.readline())
        seed(bench, bench.ports["direct"])
        postgres, valkey = servers.postgres.pid, servers.valkey.pid
        assert postgres is not None
        assert valkey is not None
        bench.others = {"postgres": postgres, "valkey": valkey, "provider": origin.pid}
        if nginx and (binary := find_nginx()):
            stack.enter_context(start_nginx(bench, binary))
        stack.enter_context(start_gateway(bench, application))
        yield bench


@contextmanager
def start_gateway(bench: Bench, application: str) -> Iterator[None]:
    """One gunicorn worker on core 0."""
    port = free_port()
    log = bench.folder / "gateway.log"
    command = [sys.executable, "-m", "gunicorn", "-c", "gateway_site/gunicorn_conf.py", application]
    with running(command, core=0, log=log, environ={**os.environ, "BIND": f"127.0.0.1:{port}"}) as process:
        wait_for(port, process, log)
        switch(port, "/healthz")  # the worker answers, not only the master's socket
        (worker,) = psutil.Process(process.pid).children()
        bench.ports["gateway"], bench.pids["gateway"] = port, worker.pid
        yield
    unexpected = [line for line in log.read_text().splitlines() if "Traceback" in line or " [ERROR] " in line or '"level": "error"' in line]
    if unexpected:
        print("  ! the gateway's log says:", *unexpected[:5], sep="\n    ", file=sys.stderr)


@contextmanager
def start_nginx(bench: Bench, binary: str) -> Iterator[None]:
    """nginx as the limit of what a proxy can do: one worker on core 0, a static key check, kept connections."""
    port = free_port()
    here = bench.folder / "nginx"
    here.mkdir()
    temporary = "".join(f"{name}_temp_path {here}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;" if os.geteuid() == 0 else ""
    (here / "nginx.conf").write_text(f"""{user} daemon off; worker_processes 1; pid {here}/pid; error_log {here}/error.log;
events {{ worker_connections 8192; }}
http {{ access_log off; {temporary} keepalive_requests 10000000;
  upstream provider {{ server 127.0.0.1:{bench.ports["direct"]}; keepalive 1024; keepalive_requests 10000000; }}
  map_hash_bucket_size 256;
  map $http_authorization $known {{ default 0; "Bearer {bench.secret}" 1; }}
  server {{ listen 127.0.0.1:{port} backlog=4096;
    location / {{ if ($known = 0) {{ return 401; }}
      proxy_pass http://provider; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }} }} }}
""")
    log = here / "output.log"
    with running([binary, "-p", str(here), "-c", str(here / "nginx.conf"), "-e", str(here / "error.log")], core=0, log=log) as process:
        wait_for(port, process, log)
        bench.ports["nginx"], bench.pids["nginx"] = port, process.pid
        yield


def find_nginx() -> str | None:
    """The nginx binary, when there is one."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


# -- Printing ------------------------------------------------------------------------------------------------------------------------


def machine() -> str:
    """The machine in a line."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    memory = psutil.virtual_memory().total / 1e9
    return f"{psutil.cpu_count()} × {model}, {memory:.0f} GB, {platform.system()} {platform.release()}; load before: {load}"


def versions() -> str:
    """What was measured, in a line."""
    names = ("django", "uvicorn", "uvloop", "httptools", "aiohttp", "psycopg", "redis", "orjson")
    binary = find_nginx()
    nginx = subprocess.run([binary, "-v"], capture_output=True, text=True).stderr.strip().partition("/")[2] if binary else "not installed"
    return f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in names) + f"; nginx {nginx}"


def render(report: Report) -> str:
    """The report as text."""
    lines = [report.machine, report.versions, ""]
    lines += ["Answers in one piece (1 KB request, 800 B answer)", ""]
    lines.append(
        f"{'':9}{'c':>4}{'CPU µs/req':>12}{'req/s':>9}{'p50 µs':>9}{'p99 µs':>9}{'added p50':>11}{'added p99':>11}   CPU µs/req of others"
    )
    for row in report.rows:
        if row.mode != "whole":
            continue
        direct = report.find("direct", "whole", row.concurrency)
        added = (row.seen.p50 - direct.seen.p50, row.seen.p99 - direct.seen.p99) if direct and row.way != "direct" else None
        others = ", ".join(
            f"{name} {value:.0f}" for name, value in row.cpu.items() if name != "proxy" and (row.way == "gateway" or name == "provider")
        )
        lines.append(
            f"{row.way:9}{row.concurrency:>4}{_number(row.cpu.get('proxy')):>12}{row.per_second:>9.0f}{row.seen.p50:>9.0f}{row.seen.p99:>9.0f}"
            f"{_number(added[0] if added else None):>11}{_number(added[1] if added else None):>11}   {others}"
        )
    lines += ["", "Streams (54 chunks; paced: 50 a second each, 20 streams)", ""]
    lines.append(
        f"{'':17}{'CPU µs/chunk':>14}{'CPU µs/stream':>15}{'streams/s':>11}{'chunks/s':>10}"
        f"{'first p50 µs':>14}{'first p99 µs':>14}{'stalled':>9}"
    )
    for row in report.rows:
        if row.mode == "whole":
            continue
        per_stream = row.cpu.get("proxy")
        per_chunk = per_stream * row.seen.answered / row.seen.chunks if per_stream is not None and row.seen.chunks else None
        lines.append(
            f"{row.way:9}{row.mode:8}{_number(per_chunk, 1):>14}{_number(per_stream):>15}{row.per_second:>11.0f}"
            f"{row.seen.chunks / row.seen.seconds:>10.0f}{row.seen.first_p50:>14.0f}{row.seen.first_p99:>14.0f}{row.seen.stalled:>9}"
        )
    lines += ["", "Ratios", ""]
    for mode, concurrency in [("whole", level) for level in LEVELS] + [("bursts", 16), ("paced", 20)]:
        gateway = report.find("gateway", mode, concurrency)
        for way in ("direct", "nginx"):
            other = report.find(way, mode, concurrency)
            if gateway is None or other is None:
                continue
            parts = []
            if "proxy" in other.cpu and other.cpu["proxy"] > 0:
                parts.append(f"CPU × {gateway.cpu['proxy'] / other.cpu['proxy']:.1f}")
            if mode != "paced" and gateway.per_second and other.seen.p50:
                parts.append(f"{'requests' if mode == 'whole' else 'streams'}/s × {gateway.per_second / max(other.per_second, 0.001):.2f}")
                parts.append(f"p50 × {gateway.seen.p50 / other.seen.p50:.1f}")
            elif other.seen.first_p50:
                parts.append(f"first token p50 × {gateway.seen.first_p50 / other.seen.first_p50:.1f}")
            lines.append(f"gateway / {way:7} {mode:7} c={concurrency:<3} {', '.join(parts)}")
    if report.held:
        lines += ["", "Paced streams held on one core", ""]
        lines += [f"{way:9} {told}" for way, told in report.held.items()]
    if report.wallet:
        lines += ["", "place + settle on one wallet, one process", ""]
        lines += [f"c={row['concurrency']:<4} {row['per_second']:>7.0f}/s  {row['cpu_us']:>6.0f} CPU µs" for row in report.wallet]
    lines += ["", *(f"{name}: {value:.0f}" for name, value in report.memory.items())]
    lines.append(f"answered {report.answered}, charged {report.charged}: {'equal' if report.answered == report.charged else 'NOT EQUAL'}")
    lines.append("audit: clean" if not report.audit else "audit: DRIFT\n  " + "\n  ".join(report.audit[:20]))
    return "\n".join(lines)


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


# -- Commands ------------------------------------------------------------------------------------------------------------------------


def report(pace: Pace, *, only: str) -> Report:
    """Measure everything."""
    with stage(pace) as bench:
        ways: list[str] = [way for way in ("direct", "nginx", "gateway") if way in bench.ports]
        for mode, concurrency in (("whole", 16), ("bursts", 8)):
            bench.measure("gateway", mode, concurrency, pace.warm_up / 2, keep=False)
        if only in ("", "whole"):
            measure_whole(bench, ways)
        if only in ("", "streams"):
            measure_streams(bench, ways)
        if pace.held and only in ("", "held"):
            search_held(bench, [way for way in ways if way != "direct"])
        if only in ("", "wallet"):
            measure_wallet(bench)
        os.kill(psutil.Process(bench.pids["gateway"]).ppid(), signal.SIGTERM)  # everything is settled when it has ended
        psutil.wait_procs([psutil.Process(bench.pids["gateway"])], timeout=20)
        check_money(bench)
        return bench.report


def profile(kind: str, mode: str, seconds: float, top: int) -> None:
    """Where the gateway's CPU goes for one kind of request: `calls` (cProfile) or `sample`."""
    folder = Path(tempfile.mkdtemp(prefix="tollgate-profile-"))
    environ = {"PROFILE_DIR": str(folder), "PROFILE_KIND": kind}
    with stage(THOROUGH, nginx=False, application="tests.performance.profiled:application", extra=environ) as bench:
        concurrency = {"whole": 32, "bursts": 16, "paced": 20}[mode]
        bench.measure("gateway", mode, concurrency, 1.0, ramp=0.4, keep=False)
        before = cpu_seconds(bench.pids["gateway"])
        switch(bench.ports["gateway"], "/-/profile/start")
        row = bench.measure("gateway", mode, concurrency, seconds, ramp=0.4)
        switch(bench.ports["gateway"], "/-/profile/stop")
        spent = (cpu_seconds(bench.pids["gateway"]) - before) / row.seen.answered * 1e6
        print(
            f"{mode}, c={concurrency}: {row.seen.answered} answers, {row.per_second:.0f}/s, {row.cpu['proxy']:.0f} CPU µs each "
            f"(profiled: {spent:.0f})"
        )
        while not (folder / "stop").exists():
            time.sleep(0.01)
    if kind == "sample":
        for title in ("own", "whole", "lines"):
            lines = (folder / f"samples.{title}.txt").read_text().splitlines()
            print(
                f"\n{title}: {lines[0]} samples",
                *(f"{float(line.split('%')[0]) / 100 * row.cpu['proxy']:7.1f} µs {line}" for line in lines[1 : top + 1]),
                sep="\n",
            )
    else:
        show_calls(folder / "calls.prof", row.seen.answered, top)
    shutil.rmtree(folder, ignore_errors=True)


def show_calls(path: Path, answered: int, top: int) -> None:
    """Print the functions with the most time of their own, in microseconds a request."""
    stats: dict[tuple[str, int, str], tuple[int, int, float, float, Any]] = pstats.Stats(str(path)).stats  # type: ignore[attr-defined]
    total = sum(entry[2] for entry in stats.values())
    print(f"\n{total / answered * 1e6:.0f} µs a request under cProfile\n{'own µs':>8}{'whole µs':>10}{'calls/req':>11}")
    for (file, line, name), (_, calls, own, whole, _) in sorted(stats.items(), key=lambda item: -item[1][2])[:top]:
        place = f"{'/'.join(file.split('/')[-3:])}:{line} {name}" if line else name
        print(f"{own / answered * 1e6:8.1f}{whole / answered * 1e6:10.1f}{calls / answered:11.2f}  {place}")


def main() -> int:
    """Read the options and do it."""
    parser = argparse.ArgumentParser(prog="python -m tests.performance.bench", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="some twenty seconds, without the search for held streams")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--only", choices=("whole", "streams", "held", "wallet"), default="", help="one part of the report")
    parser.add_argument("--profile", choices=("whole", "bursts", "paced"), help="instead: where the gateway's CPU goes for such requests")
    parser.add_argument("--kind", choices=("calls", "sample"), default="calls", help="of profile: exact call counts, or fair shares")
    parser.add_argument("--seconds", type=float, default=4.0, help="of profile")
    parser.add_argument("--top", type=int, default=40, help="of profile: so many functions")
    options = parser.parse_args()
    if options.profile:
        profile(options.kind, options.profile, options.seconds, options.top)
        return 0
    found = report(QUICK if options.quick else THOROUGH, only=options.only)
    print(render(found))
    if options.json:
        options.json.write_text(json.dumps(asdict(found), indent=1))
    return 1 if found.audit or found.answered != found.charged else 0


if __name__ == "__main__":
    sys.exit(main())
