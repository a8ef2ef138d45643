"""Facts about /metrics: all web processes together, honest figures, and for nobody who is not meant to see them."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from billing import task_runs, tasks
from billing.models import TaskRun
from gateway_site import metrics
from tests.billing.desk import Desk
from tests.conftest import ROOT, Customer, Gateway, make_model
from tests.fakes.provider import FakeProvider

REQUESTS = 30
PATH = "chat_completions"


class TwoWorkers(Gateway):
    """The gateway with two web processes, which both know `plain` and `slow` from their start."""

    def __init__(self, folder: Path, provider: FakeProvider) -> None:
        super().__init__(folder / "gateway.log", {"WEB_CONCURRENCY": "2", "GATEWAY_STATE": str(folder)})
        self.folder = folder
        self.plain = make_model(provider.base_url, "hello")
        self.slow = make_model(provider.base_url, "chat:text=400;gap_ms=20")


@pytest.fixture
def two_workers(tmp_path: Path, provider: FakeProvider) -> Iterator[TwoWorkers]:
    running = TwoWorkers(tmp_path, provider)
    running.start()
    yield running
    running.stop()


def workers(gateway: Gateway) -> list[Any]:
    assert gateway.process is not None
    return list(psutil.Process(gateway.process.pid).children())


def read(gateway: Gateway) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels."""
    answer = httpx.get(f"{gateway.origin}/metrics")
    assert answer.status_code == 200
    found = {}
    for line in answer.text.splitlines():
        if match := re.match(r"(\w+)(?:\{(.*)\})? (\S+)$", line):
            name, labels, value = match.groups()
            found[(name, *re.findall(r'="((?:[^"\\]|\\.)*)"', labels or ""))] = float(value)
    return found


def ask(gateway: Gateway, customer: Customer, model: str, **options: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **options}
    return httpx.post(f"{gateway.base_url}/chat/completions", headers=customer.headers, json=body, timeout=20)


# -- Two processes -------------------------------------------------------------------------------------------------------------------


def test_two_workers_show_what_both_have_served(two_workers: TwoWorkers, customer: Customer) -> None:
    answers: list[httpx.Response] = []
    while not (len(answers) >= REQUESTS and all(any(two_workers.folder.glob(f"*/counter_{one.pid}.db")) for one in workers(two_workers))):
        # At once, on connections of their own, until both workers have got some.
        asking = [threading.Thread(target=lambda: answers.append(ask(two_workers, customer, two_workers.plain))) for _ in range(10)]
        for one in asking:
            one.start()
        for one in asking:
            one.join()
    served = len(answers)
    assert len(workers(two_workers)) == 2
    assert {answer.status_code for answer in answers} == {200}
    two_workers.wait_until(lambda: read(two_workers).get(("tollgate_settlements_total", "settled"), 0) >= served)
    two_workers.wait_until(lambda: read(two_workers)[("tollgate_request_seconds_count", PATH)] >= served)
    for _ in range(6):  # whichever process answers
        found = read(two_workers)
        assert sum(value for (name, *_), value in found.items() if name == "tollgate_requests_total") == served
        assert found[("tollgate_requests_total", PATH, "200")] == served
        assert found[("tollgate_request_seconds_bucket", PATH, "+Inf")] == served
        assert found[("tollgate_settlements_total", "settled")] == served
    usage = [answer.json()["usage"] for answer in answers]
    assert found[("tollgate_tokens_total", "input", two_workers.plain)] == sum(one["prompt_tokens"] for one in usage)
    assert found[("tollgate_tokens_total", "output", two_workers.plain)] == sum(one["completion_tokens"] for one in usage)
    before = customer.wallet.balance
    assert found[("tollgate_charged_nano_usd_total", two_workers.plain)] == before - customer.fresh_wallet().balance > 0
    ended = [(labels[1], value) for (name, *labels), value in found.items() if name == "tollgate_upstream_attempts_total"]
    assert ended == [("ok", served)]


def test_what_a_dead_worker_counted_stays_and_its_state_goes(tmp_path: Path, customer: Customer, provider: FakeProvider) -> None:
    model = make_model(provider.base_url, "hello")
    gateway = Gateway(tmp_path / "gateway.log", {"GATEWAY_STATE": str(tmp_path)}).start()
    try:
        gateway.sees_catalog()
        assert ask(gateway, customer, model).status_code == 200
        gateway.wait_until(lambda: read(gateway).get(("tollgate_requests_total", PATH, "200")) == 1)
        (old,) = workers(gateway)
        live = f"gauge_livesum_{old.pid}.db"
        (folder,) = tmp_path.glob("tollgate-metrics-*")
        assert (folder / live).exists()
        old.send_signal(signal.SIGKILL)
        gateway.wait_until(lambda: any(one.pid != old.pid for one in workers(gateway)))
        gateway.wait_until(lambda: httpx.get(f"{gateway.origin}/readyz").status_code == 200)
        gateway.wait_until(lambda: ("tollgate_streams_open",) in read(gateway))
        assert read(gateway)[("tollgate_requests_total", PATH, "200")] == 1
        assert not (folder / live).exists()
        assert ask(gateway, customer, model).status_code == 200
        gateway.wait_until(lambda: read(gateway)[("tollgate_requests_total", PATH, "200")] == 2)
    finally:
        gateway.stop()


def test_an_open_stream_and_its_hold_show_while_they_last(two_workers: TwoWorkers, customer: Customer) -> None:
    body = {"model": two_workers.slow, "messages": [{"role": "user", "content": "hello"}], "stream": True}
    with httpx.stream("POST", f"{two_workers.base_url}/chat/completions", headers=customer.headers, json=body, timeout=20) as answer:
        chunks = answer.iter_raw()  # kept: the response closes when it goes
        next(chunks)
        two_workers.wait_until(lambda: read(two_workers)[("tollgate_streams_open",)] == 1)
        assert read(two_workers)[("tollgate_holds_open",)] >= 1
    two_workers.wait_until(lambda: read(two_workers)[("tollgate_streams_open",)] == 0)
    two_workers.wait_until(lambda: any(name == "tollgate_first_token_seconds_count" for name, *_ in read(two_workers)))


# -- What lies elsewhere -------------------------------------------------------------------------------------------------------------


def test_the_audits_findings_and_the_tasks_ends_are_read_from_the_database(gateway: Gateway) -> None:
    desk = Desk(usd=1)
    desk.sql.execute("UPDATE billing_wallet SET held = held + 5 WHERE id = %s", [desk.wallet_id])
    tasks.reconcile()
    assert read(gateway)[("tollgate_billing_drift",)] >= 1
    desk.sql.execute("UPDATE billing_wallet SET held = held - 5 WHERE id = %s", [desk.wallet_id])
    tasks.reconcile()
    run = TaskRun.objects.get(name=task_runs.AUDIT)
    assert run.last_finished_at is not None
    found = read(gateway)
    assert found[("tollgate_billing_drift",)] == run.findings
    assert found[("tollgate_task_finished_timestamp_seconds", "reconcile")] == pytest.approx(run.last_finished_at.timestamp(), abs=1e-3)
    desk.close()


def test_records_on_disk_are_counted_by_file(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    gateway = Gateway(tmp_path / "gateway.log", {"SPOOL_DIR": str(spool)}).start()
    try:
        assert read(gateway)[("tollgate_spool_files", "refused")] == 0
        spool.mkdir(mode=0o700, exist_ok=True)
        (spool / "refused-1-1-1.jsonl").write_text("{}\n")
        assert read(gateway)[("tollgate_spool_files", "refused")] == 1
        assert read(gateway)[("tollgate_spool_files", "settle")] == 0
    finally:
        gateway.stop()


# -- Who may look --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP"])
def test_without_a_token_what_a_proxy_hands_over_finds_nothing(gateway: Gateway, header: str) -> None:
    assert httpx.get(f"{gateway.origin}/metrics", headers={header: "127.0.0.1"}).status_code == 404


@pytest.mark.parametrize(("address", "status"), [("203.0.113.9", 404), ("10.0.0.1", 404), ("", 404), ("::1", 200), ("127.0.0.1", 200)])
def test_without_a_token_only_this_machine_sees_figures(client: Any, address: str, status: int) -> None:
    assert client.get("/metrics", REMOTE_ADDR=address).status_code == status


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("Basic let-me-see", 401),
        ("Bearer", 401),
        ("Bearer lét", 401),
        ("Bearer let-me-see", 200),
        ("bearer let-me-see", 200),
    ],
)
def test_with_a_token_everybody_needs_it(client: Any, settings: Any, authorization: str | None, status: int) -> None:
    settings.METRICS_TOKEN = "let-me-see"
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = client.get("/metrics", headers=headers, REMOTE_ADDR="127.0.0.1")
    assert answer.status_code == status
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)
    far = client.get("/metrics", headers=headers, REMOTE_ADDR="203.0.113.9")
    assert far.status_code == status


# -- The folder ----------------------------------------------------------------------------------------------------------------------

PREPARE = "from gateway_site import metrics_folder as m; print(m.prepare(), m.prepare() is m.prepare(), flush=True); input()"


def prepare(environ: dict[str, str]) -> tuple["subprocess.Popen[str]", Path]:
    inherited = {name: value for name, value in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    process = subprocess.Popen(
        [sys.executable, "-c", PREPARE], cwd=ROOT, env={**inherited, **environ}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    folder, same = process.stdout.readline().split()
    assert same == "True"
    return process, Path(folder)


def test_each_start_has_a_folder_of_its_own_and_removes_those_of_the_dead(tmp_path: Path) -> None:
    first, one = prepare({"GATEWAY_STATE": str(tmp_path)})
    second, two = prepare({"GATEWAY_STATE": str(tmp_path)})
    assert one != two
    assert one.is_dir()
    assert one.parent == two.parent == tmp_path
    first.kill()
    first.wait()
    third, three = prepare({"GATEWAY_STATE": str(tmp_path)})
    assert set(tmp_path.iterdir()) == {two, three}
    for process in (second, third):
        process.communicate("\n")


def test_a_given_folder_is_made_emptied_and_shared_with_a_successor(tmp_path: Path) -> None:
    given = tmp_path / "figures"
    environ = {"PROMETHEUS_MULTIPROC_DIR": str(given)}
    first, folder = prepare(environ)
    assert folder == given
    (given / "counter_1.db").write_bytes(b"old")
    second, _ = prepare(environ)  # takes over, as on SIGUSR2: nothing of what runs is lost
    assert (given / "counter_1.db").exists()
    for process in (first, second):
        process.communicate("\n")
    last, _ = prepare(environ)
    assert not (given / "counter_1.db").exists()
    last.communicate("\n")


def test_a_folder_in_use_is_locked(tmp_path: Path) -> None:
    process, folder = prepare({"GATEWAY_STATE": str(tmp_path)})
    lock = os.open(folder, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    process.communicate("\n")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(lock)


# -- Tallies -------------------------------------------------------------------------------------------------------------------------


def test_a_tally_shows_what_was_counted_once_it_is_passed_on() -> None:
    label = uuid.uuid4().hex
    metrics.ATTEMPTS.add(2, label, "ok")
    metrics.ATTEMPTS.add(3, label, "ok")
    metrics.ATTEMPTS.pass_on()
    metrics.ATTEMPTS.pass_on()
    assert metrics.ATTEMPTS._metric.labels(label, "ok")._value.get() == 5


@pytest.mark.parametrize(("seconds", "bucket"), [(0.0, 0), (0.005, 0), (0.0051, 1), (600, 15), (601, 16)])
def test_a_spread_puts_a_value_where_prometheus_would(seconds: float, bucket: int) -> None:
    label = uuid.uuid4().hex
    ours, theirs = metrics.SpreadTally(f"a_{label}", "x", ("path",)), metrics.Spread(f"b_{label}", "x", ["path"], buckets=metrics.BOUNDS)
    ours.add(seconds, "/")
    ours.pass_on()
    theirs.labels("/").observe(seconds)
    counted = [[one.get() for one in child._buckets] for child in (ours._metric.labels("/"), theirs.labels("/"))]
    assert counted[0] == counted[1]
    assert counted[0].index(1) == bucket
    assert ours._metric.labels("/")._sum.get() == seconds
