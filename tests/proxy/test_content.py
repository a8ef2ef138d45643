"""Content on its way: of accounts that want it stored, every format as it was sent and answered, whatever happens; of all others not a byte."""

import asyncio
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.db import connection
from django.utils import timezone
from redis import Redis

from accounts.models import Account, Membership, User
from billing import stored_content
from billing.models import ContentKey, StoredContent
from billing.stored_content import Content
from catalog.models import Model
from gateway_site import metrics
from gateway_site.clients import Lane
from gateway_site.identifiers import uuid7
from proxy.admission import Ask
from proxy.content import Keeper
from tests.accounts.people import new_person
from tests.billing.desk import connect
from tests.conftest import Customer, Gateway, make_customer, make_model
from tests.fakes.provider import FakeProvider
from tests.proxy.test_videos import sell

MOST = 16 * 1024  # of the gateway under test


def owner_of(account: Account) -> User:
    found = account.memberships.filter(role="owner").first()
    return found.user if found else Membership.objects.create(account=account, user=new_person(), role="owner").user


def choose(account: Account, days: int) -> None:
    stored_content.choose(account, days=days, by=owner_of(account), now=timezone.now())


def until(condition: Callable[[], Any], *, seconds: float = 15) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def stored_of(request_id: str, account: Account) -> tuple[StoredContent, Content]:
    """What is stored of a request, as soon as it is."""
    account.refresh_from_db()
    stored = until(lambda: stored_content.find(uuid.UUID(request_id), account=account, now=timezone.now()))
    return stored, stored_content.read(stored, by=owner_of(account), now=timezone.now())


@pytest.fixture
def wanting() -> Customer:
    """A customer who wants content stored, for a week."""
    customer = make_customer()
    choose(customer.account, 7)
    return customer


@pytest.fixture(scope="module")
def models(gateway: Gateway, new_models: Callable[..., list[str]], provider: FakeProvider) -> dict[str, str]:
    chat, slow, broken, long, embedder = new_models(
        ["hello", "chat:text=40;gap_ms=50", f"flaky:{uuid.uuid4().hex};fail=99;status=500", "chat:text=400", "hello"]
    )
    Model.objects.filter(slug=embedder).update(kind="embedding")
    gemini, film = make_model(provider.base_url, "hello", kind="google"), sell(provider)
    gateway.sees_catalog()
    return {"chat": chat, "slow": slow, "broken": broken, "long": long, "embedding": embedder, "gemini": gemini, "film": film}


def calls(models: dict[str, str], canary: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """A request of every format, whole and streamed: its format, its address, and its body with the canary in it."""
    chat, said = models["chat"], {"messages": [{"role": "user", "content": canary}]}
    contents = {"contents": [{"role": "user", "parts": [{"text": canary}]}]}
    for stream in (False, True):
        yield "chat", "/v1/chat/completions", {"model": chat, **said, "stream": stream}
        yield "messages", "/v1/messages", {"model": chat, **said, "max_tokens": 50, "stream": stream}
        yield "responses", "/v1/responses", {"model": chat, "input": canary, "store": False, "stream": stream}
    yield "gemini", f"/v1beta/models/{models['gemini']}:generateContent", contents
    yield "gemini", f"/v1beta/models/{models['gemini']}:streamGenerateContent?alt=sse", contents
    yield "embeddings", "/v1/embeddings", {"model": models["embedding"], "input": canary}
    yield "gemini", f"/v1beta/models/{models['film']}:predictLongRunning", {"instances": [{"prompt": canary}]}


def post(gateway: Gateway, customer: Customer, address: str, body: Any, **headers: str) -> tuple[bytes, httpx.Response]:
    raw = json.dumps(body, indent=1).encode()
    headers = {**customer.headers, "Content-Type": "application/json", **headers}
    return raw, httpx.post(f"{gateway.origin}{address}", content=raw, headers=headers, timeout=30)


def chat(gateway: Gateway, customer: Customer, model: str, said: str = "Hello!", *, stream: bool = False) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": said}], "stream": stream}
    return post(gateway, customer, "/v1/chat/completions", body)[1]


def places_of(canary: str) -> list[str]:
    """Everywhere in PostgreSQL and Valkey where these letters stand."""
    found = []
    as_hex = canary.encode().hex()
    with connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        for (table,) in cursor.fetchall():
            sql = f'SELECT EXISTS (SELECT 1 FROM "{table}" t WHERE position(%s IN t::text) > 0 OR position(%s IN t::text) > 0)'  # noqa: S608 - names of tables
            cursor.execute(sql, [canary, as_hex])
            if cursor.fetchone() == (True,):
                found.append(table)
    valkey = Redis.from_url(settings.REDIS_URL)
    found += [
        str(name) for name in valkey.scan_iter(count=1000) if canary.encode() in (valkey.dump(name) or b"") or canary.encode() in name
    ]
    valkey.close()
    return found


# -- Through the gateway -----------------------------------------------------------------------------------------------------------------


def test_every_format_is_stored_as_it_was_sent_and_answered(gateway: Gateway, wanting: Customer, models: dict[str, str]) -> None:
    canary = f"canary-{uuid.uuid4().hex}"
    for name, address, body in calls(models, canary):
        sent, answer = post(gateway, wanting, address, body)
        assert answer.status_code == 200, (address, answer.text)
        stored, content = stored_of(answer.headers["x-request-id"], wanting.account)
        assert (content.request, content.answer) == (sent, answer.content), address
        assert (stored.format, stored.request_cut, stored.answer_cut) == (name, False, False)
        assert (stored.expires_at - stored.at).days == 7
    assert places_of(canary) == []  # nobody reads it there who has not the key


def test_of_who_does_not_want_it_not_a_byte_is_stored(
    gateway: Gateway, customer: Customer, models: dict[str, str], usage_of: Callable[..., Any]
) -> None:
    canary = f"canary-{uuid.uuid4().hex}"
    for _, address, body in calls(models, canary):
        _, answer = post(gateway, customer, address, body)
        assert answer.status_code == 200, (address, answer.text)
        usage_of(answer.headers["x-request-id"])
    assert places_of(canary) == []
    assert not StoredContent.objects.filter(account=customer.account).exists()
    assert not ContentKey.objects.filter(account=customer.account).exists()


def test_the_wish_reaches_a_key_in_use_within_moments_and_so_does_its_end(
    gateway: Gateway, customer: Customer, models: dict[str, str], usage_of: Callable[..., Any]
) -> None:
    account = customer.account

    def is_stored() -> bool:
        usage_of(chat(gateway, customer, models["chat"]).headers["x-request-id"])
        return StoredContent.objects.filter(account=account).exists()

    assert not is_stored()  # and now this process has the key in memory, for half a minute
    choose(account, 1)
    until(is_stored, seconds=10)
    choose(account, 0)
    assert not is_stored()


def test_what_is_long_is_cut_and_says_so(gateway: Gateway, wanting: Customer, models: dict[str, str]) -> None:
    answer = chat(gateway, wanting, models["long"], "x" * MOST, stream=True)
    assert len(answer.content) > MOST
    stored, content = stored_of(answer.headers["x-request-id"], wanting.account)
    assert (stored.request_cut, stored.answer_cut) == (True, True)
    assert content.answer == answer.content[:MOST]
    assert len(content.request) == MOST


def test_of_a_stream_that_is_hung_up_on_there_is_what_was_sent(gateway: Gateway, wanting: Customer, models: dict[str, str]) -> None:
    body = {"model": models["slow"], "messages": [{"role": "user", "content": "Hello!"}], "stream": True}
    with httpx.stream("POST", f"{gateway.base_url}/chat/completions", json=body, headers=wanting.headers, timeout=30) as answer:
        seen = next(answer.iter_raw())
    _, content = stored_of(answer.headers["x-request-id"], wanting.account)
    assert content.answer.startswith(seen)
    assert b"[DONE]" not in content.answer


def test_an_error_is_stored_too_but_not_a_request_that_was_refused(gateway: Gateway, wanting: Customer, models: dict[str, str]) -> None:
    refused = chat(gateway, wanting, "no/such-model")
    failed = chat(gateway, wanting, models["broken"])
    assert (refused.status_code, failed.status_code) == (404, 502)
    _, content = stored_of(failed.headers["x-request-id"], wanting.account)
    assert content.answer == failed.content
    assert not StoredContent.objects.filter(pk=refused.headers["x-request-id"]).exists()


def test_a_repeated_answer_is_stored_once(gateway: Gateway, wanting: Customer, models: dict[str, str]) -> None:
    key, body = uuid.uuid4().hex, {"model": models["chat"], "messages": [{"role": "user", "content": "Hello!"}]}
    first, again = (post(gateway, wanting, "/v1/chat/completions", body, **{"Idempotency-Key": key})[1] for _ in range(2))
    assert again.headers["idempotent-replayed"] == "true"
    stored_of(first.headers["x-request-id"], wanting.account)
    later = chat(gateway, wanting, models["chat"])
    stored_of(later.headers["x-request-id"], wanting.account)  # written after whatever came before
    assert StoredContent.objects.filter(account=wanting.account).count() == 2


def test_an_answer_does_not_wait_for_its_content_to_be_written(gateway: Gateway, wanting: Customer, models: dict[str, str]) -> None:
    with connect() as other, other.transaction():
        other.execute("LOCK TABLE billing_storedcontent IN ACCESS EXCLUSIVE MODE")
        answer = chat(gateway, wanting, models["chat"])
        assert answer.status_code == 200
    stored_of(answer.headers["x-request-id"], wanting.account)


# -- The keeper --------------------------------------------------------------------------------------------------------------------------


def ask_of() -> Ask:
    return Ask(uuid7(time.time_ns() // 1_000_000), "chat", "chat", False, 1, 1, None, 1, 0, 0, "", None, timezone.now(), 0.0)


def dropped(reason: str) -> float:
    metrics.CONTENT_DROPPED.pass_on()
    samples = [sample for metric in metrics.CONTENT_DROPPED._metric.collect() for sample in metric.samples]
    return sum(sample.value for sample in samples if sample.name.endswith("_total") and sample.labels == {"reason": reason})


def keep(lane: Lane, account: Account, *pairs: tuple[bytes, bytes], most_bytes: int = 1000, together: bool = False) -> list[uuid.UUID]:
    """Keep requests with these bodies and answers, one after the other or at once; returns their ids."""
    ids = []

    async def run() -> None:
        keeper = Keeper(lane, most_each=100, most_days=30, most_bytes=most_bytes)
        waiting = []
        for request, answer in pairs:
            ask = ask_of()
            ids.append(ask.request_id)
            content = keeper.begin(ask, account.pk, request)
            content.add(answer)
            waiting.append(content)
            if not together:
                content.end()
                await keeper.idle()
        for content in waiting:
            content.end()
        await keeper.idle()
        assert keeper._held == 0
        await lane.close()

    asyncio.run(run())
    return ids


def test_while_the_database_is_away_content_is_dropped_and_counted(wanting: Customer) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, and not listening
        lane = Lane(f"postgres://nobody@127.0.0.1:{nobody.getsockname()[1]}/nothing", deadline_seconds=0.5)
        before = dropped("database")
        keep(lane, wanting.account, (b"asked", b"answered"), (b"asked", b"answered"))
    assert dropped("database") == before + 2


def test_a_process_holds_no_more_than_it_may(wanting: Customer) -> None:
    lane = Lane(os.environ["DATABASE_URL"], deadline_seconds=5)
    before = dropped("full")
    kept, lost, later_lost = keep(
        lane, wanting.account, (b"a" * 60, b"b" * 30), (b"c" * 20, b""), (b"d", b"e" * 20), most_bytes=100, together=True
    )
    assert dropped("full") == before + 2
    assert stored_of(str(kept), wanting.account)[1] == Content(b"a" * 60, b"b" * 30)
    assert not StoredContent.objects.filter(pk__in=[lost, later_lost]).exists()
    after = keep(lane, wanting.account, (b"a" * 60, b"b" * 30), (b"a" * 60, b"b" * 30), most_bytes=100)
    assert StoredContent.objects.filter(pk__in=after).count() == 2  # what was written makes room


def test_content_of_an_account_without_a_key_is_not_written(customer: Customer, wanting: Customer) -> None:
    lane = Lane(os.environ["DATABASE_URL"], deadline_seconds=5)
    ids = keep(lane, customer.account, (b"asked", b"answered"))
    choose(wanting.account, 0)
    ids += keep(lane, wanting.account, (b"asked", b"answered"))
    assert not StoredContent.objects.filter(pk__in=ids).exists()
