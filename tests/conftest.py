"""What every test may ask for: the unblocked database of its worker, customers, a fake provider, and the gateway as a real server.

Tests isolate by making accounts and models of their own; nothing is rolled back or flushed.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.utils import timezone

from tests.fakes.provider import FakeProvider

ROOT = Path(__file__).resolve().parent.parent
USD = 1_000_000_000
# A machine under load answers later than within httpx's five seconds. A test that waits for a timeout names its own.
httpx._config.DEFAULT_TIMEOUT_CONFIG.read = 60.0  # the one place where all its functions and clients look
# Patience short enough for tests: what takes minutes in production takes seconds here.
SHORT = {
    "KEEPALIVE_SECONDS": "0.6",
    "IDLE_TIMEOUT_SECONDS": "2",
    "FIRST_BYTE_TIMEOUT_SECONDS": "3",
    "WHOLE_ANSWER_TIMEOUT_SECONDS": "3",
    "TOTAL_TIMEOUT_SECONDS": "20",
    "SLOW_READER_SECONDS": "2",
    "DRAIN_SECONDS": "2",
    "CONNECT_TIMEOUT_SECONDS": "1",
    "HOLD_LEASE_SECONDS": "5",
    "DEFAULT_RPM": "0",
    "MAX_BODY_BYTES": str(2 * 1024 * 1024),
    "CONTENT_MAX_BYTES": str(16 * 1024),
}


_begun: set[Path] = set()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Write down in which order a worker runs its tests: what one leaves in the database makes another fail in some orders only."""
    order = ROOT / ".pytest_cache" / f"order-{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
    order.parent.mkdir(exist_ok=True)
    with order.open("a" if order in _begun else "w") as file:
        file.write(f"{item.nodeid}\n")
    _begun.add(order)


@pytest.fixture(scope="session", autouse=True)
def django_db_setup() -> None:
    """The worker's database exists already (tests.servers)."""


@pytest.fixture(scope="session", autouse=True)
def _database(django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock():
        yield


@pytest.fixture(autouse=True)
def _announcements(_database: None) -> None:
    """Have the live announcements in memory, for longer than a test takes: no page whose queries are counted is the one that reads them."""
    from accounts import announcements

    announcements.FRESH = timedelta(hours=1)
    announcements.live(now=timezone.now())


@dataclass(frozen=True)
class Customer:
    """An account with a wallet, money and one key."""

    account: Any
    wallet: Any
    key: Any
    secret: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}"}

    def fresh_wallet(self) -> Any:
        self.wallet.refresh_from_db()
        return self.wallet


def make_customer(*, usd: str = "5", plan: str | None = None, **key_fields: Any) -> Customer:
    """Open an account of its own slug, grant it money and issue a key."""
    from billing import ledger
    from billing.opening import open_account
    from catalog.money import nano_from_usd
    from keys import issuing

    slug = f"a-{uuid.uuid4().hex[:16]}"
    account = open_account(slug=slug, name=slug, now=timezone.now(), plan_slug=plan)
    wallet = account.wallet
    amount = nano_from_usd(usd)
    if amount:
        ledger.credit(
            wallet_id=wallet.pk,
            amount=amount,
            kind="promo",
            debit_account="promo",
            source_type="test",
            source_id=slug,
            actor="test",
            note="",
            now=timezone.now(),
        )
    key, secret = issuing.issue(account=account, name="test key", now=timezone.now(), **key_fields)
    wallet.refresh_from_db()
    return Customer(account, wallet, key, secret)


@pytest.fixture
def customer() -> Customer:
    """Alice: five dollars and a key."""
    return make_customer()


@pytest.fixture
def stranger() -> Customer:
    """Charlie: another account, with money and a key of its own."""
    return make_customer()


@pytest.fixture
def new_customer() -> Callable[..., Customer]:
    return make_customer


@pytest.fixture(scope="session")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as fake:
        yield fake


class Gateway:
    """The gateway as a process of its own: gunicorn with one worker, on a free port of loopback."""

    def __init__(self, log: Path, environ: dict[str, str] | None = None) -> None:
        self.port = free_port()
        self.origin = f"http://127.0.0.1:{self.port}"
        self.base_url = f"{self.origin}/v1"
        self.log = log
        self._environ = {**os.environ, **SHORT, "BIND": f"127.0.0.1:{self.port}", "WEB_CONCURRENCY": "1", **(environ or {})}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Gateway":
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", "gateway_site/gunicorn_conf.py", "gateway_site.asgi:application"],
                cwd=ROOT, env=self._environ, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.wait_until(lambda: httpx.get(f"{self.origin}/healthz", timeout=5).status_code == 200, seconds=90)
        return self

    def stop(self, sig: int = signal.SIGTERM) -> int:
        if self.process is None:
            return 0
        if self.process.poll() is None:
            if sig == signal.SIGKILL:
                os.killpg(self.process.pid, sig)
            else:
                self.process.send_signal(sig)
        return self.process.wait(timeout=60)

    def wait_until(self, condition: Callable[[], bool], *, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if condition():
                    return
            except (httpx.TransportError, OSError):
                pass
            if time.monotonic() > deadline:
                raise TimeoutError(f"not so after {seconds} s; the log ends:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.02)

    def sees_catalog(self) -> None:
        """Return when the server's catalog is the database's."""
        from catalog.models import CatalogVersion
        from gateway_site import changes

        version = CatalogVersion.objects.get(pk=1).version
        changes.publish("catalog")
        self.wait_until(lambda: httpx.get(f"{self.origin}/readyz", timeout=5).json()["catalog_version"] >= version)


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    running = Gateway(tmp_path_factory.mktemp("gateway") / "gateway.log").start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def new_models(gateway: Gateway, provider: FakeProvider) -> Callable[..., list[str]]:
    """Make one sellable model for each upstream model name of the fake provider, each at a provider row of its own; returns their slugs."""

    def make(upstream_models: Sequence[str], **options: Any) -> list[str]:
        slugs = [make_model(provider.base_url, upstream_model, **options) for upstream_model in upstream_models]
        gateway.sees_catalog()
        return slugs

    return make


@pytest.fixture(scope="session")
def new_model(new_models: Callable[..., list[str]]) -> Callable[..., str]:
    """Make one model (see `new_models`)."""
    return lambda upstream_model, **options: new_models([upstream_model], **options)[0]


_made: list[str] = []


@pytest.fixture(autouse=True)
def _models_end_with_their_test(_database: None) -> Iterator[None]:
    """Models that a test makes for itself go out of the catalog when it ends: processes read all of it after each change, and would ever longer."""
    made_before = len(_made)  # by fixtures of a wider scope, which are set up before this one
    yield
    if done := _made[made_before:]:
        from catalog.models import Model, Provider

        del _made[made_before:]
        Provider.objects.filter(routes__model__slug__in=done).update(is_enabled=False)
        Model.objects.filter(slug__in=done).update(is_enabled=False)


def make_model(
    base_url: str,
    *upstream_models: str,
    kind: str = "custom",
    input_usd: str = "1",
    output_usd: str = "2",
    search_usd: str | None = None,
    image_usd: str | None = None,
    max_output: int = 4096,
    route_format: str = "",
    model_kind: str = "text",
    lasting: bool = False,
    **fields: Any,
) -> str:
    """A model with one route per upstream model, in that order of priority. `lasting`: other tests use it too."""
    from catalog.models import Model, Price, Provider, ProviderKey, Route
    from catalog.money import nano_from_usd

    name = f"fake/{uuid.uuid4().hex[:16]}"
    model = Model.objects.create(slug=name, kind=model_kind, max_output=max_output, **fields)
    if not lasting:
        _made.append(name)
    Price.objects.create(
        model=model,
        input=nano_from_usd(input_usd),
        output=nano_from_usd(output_usd),
        web_search=None if search_usd is None else nano_from_usd(search_usd) * 1_000_000,
        image=None if image_usd is None else nano_from_usd(image_usd) * 1_000_000,
        effective_from=timezone.now() - timedelta(hours=1),
    )
    for priority, upstream_model in enumerate(upstream_models):
        row = Provider.objects.create(slug=f"p-{uuid.uuid4().hex[:16]}", kind=kind, base_url=base_url, allow_private=True)
        key = ProviderKey(provider=row)
        key.set_secret(f"sk-fake-{uuid.uuid4().hex}")
        key.save()
        Route.objects.create(model=model, provider=row, upstream_model=upstream_model, priority=priority, format=route_format)
    return name


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def usage_of() -> Callable[..., Any]:
    """Wait for the usage record of a request: settlement follows the answer by a moment."""

    def find(request_id: str, *, seconds: float = 60) -> Any:
        from billing.models import UsageRecord

        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            record = UsageRecord.objects.filter(request_id=request_id).first()
            if record is not None:
                return record
            time.sleep(0.01)
        raise TimeoutError(f"no usage record of {request_id} after {seconds} s")

    return find
