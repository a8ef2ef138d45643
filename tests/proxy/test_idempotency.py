"""Idempotency keys on inference: of all requests with one key, one is sent and charged; who repeats it gets its answer, or is told why not."""

import socket
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.utils import timezone

from billing.models import UsageRecord
from keys import issuing
from proxy import envelopes, idempotency, rate_limits
from proxy.formats.base import InvalidRequest
from proxy.idempotency import Idempotency, IdempotencyUnavailable, InProgress, Kept, KeyReused, KeyUsed
from tests.conftest import USD, Customer, Gateway, make_model
from tests.fakes.provider import FakeProvider

KEYS = [("1", bytes(range(32)))]


def ask(gateway: Gateway, customer: Customer, model: str, key: str, *, path: str = "chat/completions", **body: Any) -> httpx.Response:
    sent = {"model": model, "messages": [{"role": "user", "content": "Hello!"}], **body}
    return httpx.post(f"{gateway.base_url}/{path}", json=sent, headers={**customer.headers, "Idempotency-Key": key}, timeout=30)


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def new_key() -> str:
    return uuid.uuid4().hex


# -- Over the gateway --------------------------------------------------------------------------------------------------------------------


def test_a_repeated_request_gets_the_same_answer_and_is_charged_once(
    gateway: Gateway, customer: Customer, new_model: Callable[..., str], usage_of: Callable[..., Any]
) -> None:
    model, key = new_model("hello"), new_key()
    first = ask(gateway, customer, model, key)
    record = usage_of(first.headers["x-request-id"])
    again = ask(gateway, customer, model, key)
    assert (first.status_code, again.status_code, again.content) == (200, 200, first.content)
    assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (None, "true")
    assert again.headers["x-gateway-first-request-id"] == first.headers["x-request-id"] != again.headers["x-request-id"]
    assert (again.headers["x-gateway-cost-usd"], again.headers["x-gateway-provider"]) == ("0", first.headers["x-gateway-provider"])
    assert UsageRecord.objects.filter(account=customer.account).count() == 1
    assert 5 * USD - int(customer.fresh_wallet().balance) == record.cost > 0


def test_of_many_at_once_one_is_sent(
    gateway: Gateway, customer: Customer, provider: FakeProvider, new_model: Callable[..., str], usage_of: Callable[..., Any]
) -> None:
    door, key = f"d-{uuid.uuid4().hex}", new_key()
    model = new_model(f"hold:{door}")
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(ask, gateway, customer, model, key) for _ in range(12)]
        until(lambda: sum(each.done() for each in asked) == 11)
        provider.release(door)
        answers = [each.result() for each in asked]
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 11
    told = [answer for answer in answers if answer.status_code == 409]
    assert {code_of(answer) for answer in told} == {(409, "idempotency_in_progress")}
    assert {answer.headers["retry-after"] for answer in told} == {"2"}
    usage_of(next(answer for answer in answers if answer.status_code == 200).headers["x-request-id"])
    assert UsageRecord.objects.filter(account=customer.account).count() == 1


def test_a_streamed_answer_is_not_repeated_but_named(gateway: Gateway, customer: Customer, new_model: Callable[..., str]) -> None:
    model, key = new_model("hello"), new_key()
    first = ask(gateway, customer, model, key, stream=True)
    assert first.text.rstrip().endswith("[DONE]")
    again = ask(gateway, customer, model, key, stream=True)
    assert code_of(again) == (409, "idempotency_key_used")
    assert first.headers["x-request-id"] in again.json()["error"]["message"]
    assert again.headers["x-should-retry"] == "false"


def test_another_request_may_not_use_the_key_nor_another_api_key(
    gateway: Gateway, customer: Customer, new_model: Callable[..., str], stranger: Customer
) -> None:
    model, key = new_model("hello"), new_key()
    assert ask(gateway, customer, model, key).status_code == 200
    assert code_of(ask(gateway, customer, model, key, max_tokens=7)) == (422, "idempotency_key_reused")
    assert ask(gateway, customer, model, key, path="messages", max_tokens=9).status_code == 422
    colleague, secret = issuing.issue(account=customer.account, name="other", now=timezone.now())
    assert code_of(ask(gateway, Customer(customer.account, customer.wallet, colleague, secret), model, key))[0] == 422
    assert "idempotent-replayed" not in ask(gateway, stranger, model, key).headers  # another account has keys of its own


def test_a_request_that_failed_free_of_charge_runs_when_it_is_repeated(
    gateway: Gateway, customer: Customer, new_model: Callable[..., str]
) -> None:
    model, key = new_model(f"flaky:{uuid.uuid4().hex};fail=1;status=500"), new_key()
    assert ask(gateway, customer, model, key).status_code == 502
    answers: list[httpx.Response] = []
    until(lambda: (answers.append(ask(gateway, customer, model, key)) or answers[-1].status_code) != 409)  # type: ignore[func-returns-value]
    assert answers[-1].status_code in (200, 429), answers[-1].text  # the provider may be left alone for a moment
    assert code_of(ask(gateway, customer, "no/such", new_key())) == (404, "model_not_found")


def test_a_client_that_hangs_up_before_the_first_byte_may_ask_again(
    gateway: Gateway, customer: Customer, provider: FakeProvider, new_model: Callable[..., str]
) -> None:
    door, key = f"d-{uuid.uuid4().hex}", new_key()
    model = new_model(f"hold:{door}")
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    with httpx.Client() as client, pytest.raises(httpx.ReadTimeout):
        client.post(
            f"{gateway.base_url}/chat/completions",
            json=body,
            headers={**customer.headers, "Idempotency-Key": key},
            timeout=httpx.Timeout(5, read=0.4),
        )
    provider.release(door)

    def is_served() -> bool:
        answer = httpx.post(
            f"{gateway.base_url}/chat/completions", json=body, headers={**customer.headers, "Idempotency-Key": key}, timeout=30
        )
        return answer.status_code == 200

    until(is_served)


def test_a_key_that_is_none_is_refused(gateway: Gateway, customer: Customer, new_model: Callable[..., str]) -> None:
    answer = ask(gateway, customer, new_model("hello"), "x" * 256)
    assert (*code_of(answer), answer.json()["error"]["param"]) == (400, "invalid_request_error", "Idempotency-Key")
    with pytest.raises(InvalidRequest):
        idempotency.read_key([(b"idempotency-key", b"with space")])
    assert idempotency.read_key([(b"accept", b"*/*")]) is None


@pytest.fixture(scope="module")
def without_valkey(tmp_path_factory: pytest.TempPathFactory, provider: FakeProvider) -> Iterator[tuple[Gateway, str]]:
    """A gateway whose Valkey's port answers to nobody, and a model that it has."""
    model = make_model(provider.base_url, "hello")
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{deaf.getsockname()[1]}/0"
        alone = Gateway(tmp_path_factory.mktemp("alone") / "gateway.log", {"REDIS_URL": url}).start()
        yield alone, model
        alone.stop()


def test_without_valkey_only_requests_with_a_key_are_refused(without_valkey: tuple[Gateway, str], customer: Customer) -> None:
    alone, model = without_valkey
    refused = ask(alone, customer, model, "k")
    assert code_of(refused) == (503, "idempotency_unavailable")
    assert refused.headers["retry-after"] == "1"
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
    served = httpx.post(f"{alone.base_url}/chat/completions", json=body, headers=customer.headers, timeout=30)
    assert served.status_code == 200, served.text


# -- The claims ---------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def claims() -> Any:
    owner = Idempotency(rate_limits.connect(settings.REDIS_URL, seconds=5), KEYS, lasts_seconds=600)
    yield owner
    await owner.close()


NOW = datetime(2026, 11, 1, tzinfo=UTC)
ACCOUNT = 1_000_000_001  # of nobody


async def claim(owner: Idempotency, key: str, *, request_id: str = "first", fingerprint: str = "f", now: datetime = NOW) -> Any:
    return await owner.claim(key, account_id=ACCOUNT, fingerprint=fingerprint, request_id=request_id, now=now)


async def test_what_is_kept_is_encrypted_and_opens_for_its_request_alone(claims: Idempotency) -> None:
    key = new_key()
    first = await claim(claims, key)
    await first.keep(b'{"said": "a secret"}', [("x-gateway-provider", "p"), ("x-ratelimit-limit-requests", "5")], now=NOW)
    (raw,) = await claims.call(("GET", first._place))
    assert b"secret" not in raw
    kept = await claim(claims, key, request_id="second")
    assert isinstance(kept, Kept)
    assert kept.raw == b'{"said": "a secret"}'
    assert ("x-gateway-provider", "p") in kept.headers
    assert not any(name.startswith("x-ratelimit") for name, _ in kept.headers)
    with pytest.raises(KeyReused):
        await claim(claims, key, fingerprint="another")
    other = Idempotency(claims._client, [("1", bytes(32))], lasts_seconds=600)
    with pytest.raises(KeyUsed):  # the encryption key is gone: the answer with it, never a second run
        await claim(other, key)


async def test_a_claim_of_a_process_that_died_is_never_run_again(claims: Idempotency) -> None:
    key = new_key()
    await claim(claims, key)
    with pytest.raises(InProgress):
        await claim(claims, key, now=NOW + timedelta(seconds=599))
    with pytest.raises(KeyUsed) as used:
        await claim(claims, key, now=NOW + timedelta(seconds=601))
    assert used.value.request_id == "first"


async def test_only_its_owner_gives_a_key_back(claims: Idempotency) -> None:
    key = new_key()
    first = await claim(claims, key)
    stale = idempotency.Claim(claims, first._place, b"other", account_id=ACCOUNT, fingerprint="f", request_id="x")
    await stale.give_back()
    with pytest.raises(InProgress):
        await claim(claims, key)
    await first.give_back()
    assert isinstance(await claim(claims, key), idempotency.Claim)


async def test_a_large_answer_is_named_but_not_kept_and_nobody_fills_valkey(claims: Idempotency, monkeypatch: pytest.MonkeyPatch) -> None:
    key = new_key()
    await (await claim(claims, key)).keep(b"x" * (idempotency.MOST_ANSWER_BYTES + 1), [], now=NOW)
    with pytest.raises(KeyUsed):
        await claim(claims, key)
    monkeypatch.setattr(idempotency, "MOST_ACCOUNT_BYTES", 10)
    now = NOW.timestamp()
    assert claims.seal(b"x" * 6, [], account_id=7, fingerprint="f", now=now) is not None
    assert claims.seal(b"x" * 6, [], account_id=7, fingerprint="f", now=now) is None
    assert claims.seal(b"x" * 6, [], account_id=8, fingerprint="f", now=now) is not None
    later = now + idempotency.KEEP_SECONDS
    assert claims.seal(b"x" * 6, [], account_id=7, fingerprint="f", now=later) is not None


async def test_valkey_being_away_is_said_and_ends_no_answer() -> None:
    owner = Idempotency(rate_limits.connect("redis://127.0.0.1:1/0"), envelopes.read_keys(settings.ENCRYPTION_KEYS), lasts_seconds=600)
    with pytest.raises(IdempotencyUnavailable):
        await claim(owner, "k")
    mine = idempotency.Claim(owner, "place", b"", account_id=ACCOUNT, fingerprint="f", request_id="x")
    await mine.keep(b"answer", [], now=NOW)
    await mine.mark_used()
    await mine.give_back()
    await owner.close()
