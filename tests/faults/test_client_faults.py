"""The fault matrix downstream: clients who leave, do not read, send too much or nonsense, and wallets that run dry under way."""

import asyncio
import contextlib
import json
import re
import select
import signal
import socket
import struct
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.utils import timezone

from catalog import money
from tests.conftest import Customer, Gateway, make_customer, make_model
from tests.fakes.provider import FakeProvider

MODEL_PRICE = (1, 2)  # nano-USD hold these: 1 and 2 USD a million tokens are 1,000 and 2,000 nano-USD a token
CONTENT = "one two three four five six seven"
INPUT_ESTIMATE = -(-len(CONTENT) // 4) + 8


class RawClient:
    """A client on a bare socket, to leave, lie and stall as no library lets one."""

    def __init__(self, gateway: Gateway, *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(60)
        self.socket.connect(("127.0.0.1", gateway.port))

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send_head(self, customer: Customer, *lines: str, path: str = "/v1/chat/completions") -> None:
        head = [
            f"POST {path} HTTP/1.1",
            "Host: localhost",
            f"Authorization: Bearer {customer.secret}",
            "Content-Type: application/json",
            *lines,
        ]
        self.socket.sendall("\r\n".join([*head, "", ""]).encode())

    def ask(self, customer: Customer, body: dict[str, Any]) -> None:
        raw = json.dumps(body).encode()
        self.send_head(customer, f"Content-Length: {len(raw)}")
        self.socket.sendall(raw)

    def read_until(self, mark: bytes) -> bytes:
        """Everything up to and with the read that brought `mark`."""
        data = b""
        while mark not in data:
            more = self.socket.recv(65536)
            if not more:
                raise ConnectionError(f"closed before {mark!r}: {data[-500:]!r}")
            data += more
        return data

    def read_to_end(self) -> bytes:
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while more := self.socket.recv(65536):
                data += more
        return data

    def reset(self) -> None:
        """Leave with a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def chat(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": CONTENT}], **more}


def latest_record(customer: Customer, *, count: int = 1, seconds: float = 60) -> Any:
    """The last usage record of an account, once it has `count` of them."""
    from billing.models import UsageRecord

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        records = list(UsageRecord.objects.filter(account=customer.account).order_by("-started_at"))
        if len(records) >= count:
            return records[0]
    raise TimeoutError(f"{len(records)} records, not {count}")


@pytest.fixture
def name() -> str:
    """A barrier of this test alone."""
    return uuid.uuid4().hex


# Leaving


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_leaving_before_the_first_byte_of_a_stream_stops_the_provider_and_costs_nothing(
    leave: str, gateway: Gateway, provider: FakeProvider, new_model: Callable[..., str], customer: Customer, name: str
) -> None:
    client = RawClient(gateway)
    client.ask(customer, chat(new_model(f"hold:{name}"), stream=True))
    provider.wait_until_held(name)
    left_at = time.monotonic()
    client.reset() if leave == "reset" else client.socket.close()
    gone = provider.wait_for(lambda request: request.model == f"hold:{name}" and request.client_gone_at is not None)
    assert gone.client_gone_at is not None
    assert gone.client_gone_at - left_at < 2.5  # before the gateway gives the first byte up
    record = latest_record(customer)
    assert (record.status, record.cost, record.status_code, record.error_code) == ("aborted", 0, 499, "client_gone")
    assert customer.fresh_wallet().held == 0


def test_leaving_between_the_providers_head_and_its_first_event_costs_nothing_and_closes_the_call(
    gateway: Gateway, provider: FakeProvider, new_model: Callable[..., str], customer: Customer
) -> None:
    upstream = "fault:slow-first-byte;ms=60000;headers=1"
    with RawClient(gateway) as client:
        client.ask(customer, chat(new_model(upstream), stream=True))
        provider.wait_for(lambda request: request.model == upstream and request.first_byte_at is not None)
    provider.wait_for(lambda request: request.model == upstream and request.client_gone_at is not None)
    assert latest_record(customer).cost == 0


@pytest.mark.parametrize("more", [{}, {"stream": False}, {"metadata": {"stream": True}}], ids=["unsaid", "false", "said-elsewhere"])
def test_leaving_before_a_whole_answer_does_not_make_it_free(
    more: dict[str, Any], gateway: Gateway, provider: FakeProvider, new_model: Callable[..., str], customer: Customer, name: str
) -> None:
    with RawClient(gateway) as client:
        client.ask(customer, chat(new_model(f"hold:{name}"), **more))
        provider.wait_until_held(name)
    provider.release(name)
    record = latest_record(customer)
    assert (record.status, record.rule, record.usage_source) == ("ok", "metered", "provider")
    assert record.cost == 7 * 1000 + 9 * 2000
    assert customer.fresh_wallet().held == 0


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_leaving_in_the_middle_of_a_stream_is_charged_for_what_was_delivered(
    leave: str, gateway: Gateway, provider: FakeProvider, new_model: Callable[..., str], customer: Customer, name: str
) -> None:
    upstream = f"gate:{name};chunks=4;text=50"
    client = RawClient(gateway)
    client.ask(customer, chat(new_model(upstream), stream=True))
    client.read_until(b"word4")
    left_at = time.monotonic()
    client.reset() if leave == "reset" else client.socket.close()
    gone = provider.wait_for(lambda request: request.model == upstream and request.client_gone_at is not None)
    assert gone.client_gone_at is not None
    assert gone.client_gone_at - left_at < 1.8  # before the gateway gives a silent provider up
    record = latest_record(customer)
    assert (record.status, record.rule, record.usage_source) == ("aborted", "delivered", "estimated")
    delivered = -(-len("word1 word2 word3 word4 ") // 4)
    assert (record.input_tokens, record.output_tokens) == (INPUT_ESTIMATE, delivered)
    assert record.cost == INPUT_ESTIMATE * 1000 + delivered * 2000 <= record.hold_amount
    wallet = customer.fresh_wallet()
    assert (wallet.held, wallet.balance) == (0, 5 * 10**9 - record.cost)


def test_leaving_after_the_counts_were_stated_pays_exactly_them(
    gateway: Gateway, provider: FakeProvider, new_model: Callable[..., str], customer: Customer
) -> None:
    with RawClient(gateway) as client:
        client.ask(customer, chat(new_model("chat:text=5;prompt_tokens=100;completion_tokens=50"), stream=True))
        client.read_until(b"[DONE]")
    assert latest_record(customer).cost == 100 * 1000 + 50 * 2000


def test_two_hundred_clients_who_leave_do_not_leak_the_pool(tmp_path: Path, provider: FakeProvider) -> None:
    """More aborted streams than the pool has connections, then honest requests: every one of them is served."""
    narrow = Gateway(tmp_path / "narrow.log", {"UPSTREAM_CONNECTIONS": "20"}).start()
    try:
        customer = make_customer(usd="50")
        endless, honest = make_model(provider.base_url, "chat:text=2000;gap_ms=50"), make_model(provider.base_url, "hello")
        narrow.sees_catalog()
        for _ in range(10):
            clients = [RawClient(narrow) for _ in range(20)]
            for client in clients:
                client.ask(customer, chat(endless, stream=True))
            for number, client in enumerate(clients):
                if number % 4:
                    client.read_until(b"\r\n\r\n")  # its stream has begun, or it was told why not
                client.reset() if number % 2 else client.socket.close()
        with httpx.Client(base_url=narrow.base_url, headers=customer.headers, timeout=60) as sdk:
            answers = [sdk.post("/chat/completions", json=chat(honest)) for _ in range(20)]
        assert [answer.status_code for answer in answers] == [200] * 20
        latest_record(customer, count=170)  # those who left before they were admitted have none
        narrow.wait_until(lambda: customer.fresh_wallet().held == 0)
        assert 0 < customer.wallet.balance < 50 * 10**9
    finally:
        assert narrow.stop() == 0


# Reading slowly


def test_a_reader_who_stops_is_let_go_and_costs_no_memory(
    gateway: Gateway, provider: FakeProvider, new_model: Callable[..., str], new_customer: Callable[..., Customer]
) -> None:
    customer = new_customer(usd="500")
    upstream = "fault:huge-body;mb=100"
    before = _resident_bytes(gateway)
    with RawClient(gateway, receive_buffer=4096) as client:
        client.ask(customer, chat(new_model(upstream), stream=True))
        client.read_until(b"data: ")
        began = time.monotonic()
        gone = provider.wait_for(lambda request: request.model == upstream and request.client_gone_at is not None)
        assert gone.client_gone_at is not None
        assert 1.5 < gone.client_gone_at - began < 10
        record = latest_record(customer)
        assert (record.status, record.rule) == ("aborted", "delivered")
        assert 0 < record.cost <= record.hold_amount
        # Back-pressure: the provider was read no further than what the kernel buffers between us, which is not the gateway's memory.
        assert gone.bytes_sent < 80 * 1024 * 1024
        assert _resident_bytes(gateway) - before < 24 * 1024 * 1024
        assert _is_cut(client.socket)
    assert customer.fresh_wallet().held == 0


def _is_cut(client: socket.socket) -> bool:
    """Whether the other side is gone: what it still had buffered is read, then the end."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if select.select([client], [], [], 1)[0] and not client.recv(65536):
                return True
        except ConnectionResetError:
            return True
    return False


def _resident_bytes(gateway: Gateway) -> int:
    """The memory of the worker process."""
    assert gateway.process is not None
    master = gateway.process.pid
    worker = Path(f"/proc/{master}/task/{master}/children").read_text().split()[0]
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{worker}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


# Silence


def test_comments_keep_the_connection_alive_while_the_provider_is_silent(
    gateway: Gateway, provider: FakeProvider, new_model: Callable[..., str], customer: Customer, name: str
) -> None:
    with RawClient(gateway) as client:
        client.ask(customer, chat(new_model(f"gate:{name};text=3"), stream=True))
        client.read_until(b": keep-alive\n\n")
        provider.release(name)
        client.read_until(b"[DONE]")
    assert latest_record(customer).status == "ok"


def test_a_stream_whose_provider_thinks_long_begins_with_comments(
    gateway: Gateway, new_model: Callable[..., str], customer: Customer
) -> None:
    with RawClient(gateway) as client:
        client.ask(customer, chat(new_model("fault:slow-first-byte;ms=1500;headers=1"), stream=True))
        data = client.read_until(b"[DONE]")
    head, _, body = data.partition(b"\r\n\r\n")
    assert b" 200 " in head
    assert b": keep-alive\n\n" in body.partition(b"data: ")[0]


# Too much and too strange


def test_a_body_declared_too_large_is_refused_before_it_is_sent(gateway: Gateway, customer: Customer) -> None:
    with RawClient(gateway) as client:
        client.send_head(customer, "Content-Length: 10000000000")
        assert client.read_until(b"body_too_large").startswith(b"HTTP/1.1 413 ")


def test_a_chunked_body_is_refused_as_soon_as_it_is_too_large(gateway: Gateway, customer: Customer) -> None:
    piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with RawClient(gateway) as client:
        client.send_head(customer, "Transfer-Encoding: chunked")
        for _ in range(40):  # 2.5 MiB of what never ends
            if select.select([client.socket], [], [], 0)[0]:
                break
            with contextlib.suppress(ConnectionError):
                client.socket.sendall(piece)
        assert client.read_until(b"body_too_large").startswith(b"HTTP/1.1 413 ")


def test_a_large_body_within_the_limit_is_served(gateway: Gateway, new_model: Callable[..., str], customer: Customer) -> None:
    body = {"model": new_model("chat:say=read"), "max_tokens": 5, "messages": [{"role": "user", "content": 'a "quoted\\u0041 ' * 60_000}]}
    answer = httpx.post(f"{gateway.base_url}/chat/completions", json=body, headers=customer.headers, timeout=20)
    assert (answer.status_code, answer.json()["choices"][0]["message"]["content"]) == (200, "read")


def _message(content: str) -> str:
    return '{"model":"m","messages":[{"role":"user","content":' + content + "}]}"


NONSENSE: dict[str, bytes] = {
    "empty": b"",
    "blank": b"  \n",
    "null": b"null",
    "array": b"[]",
    "text": b'"hello"',
    "number": b"5",
    "two objects": b"{}{}",
    "cut": b'{"model":"m","messages":[{"role":"user"',
    "BOM": b"\xef\xbb\xbf" + _message('"hi"').encode(),
    "invalid UTF-8": _message('"hi"').encode().replace(b"hi", b"\xff\xfe"),
    "UTF-16": _message('"hi"').encode("utf-16"),
    "lone surrogate": _message('"\\ud800"').encode(),
    "control character": _message('"\x01"').encode(),
    "NaN": _message('"hi"').encode()[:-1] + b',"temperature":NaN}',
    "Infinity": _message('"hi"').encode()[:-1] + b',"temperature":-Infinity}',
    "1e400": _message('"hi"').encode()[:-1] + b',"temperature":1e400}',
    "an integer of 5000 digits": _message('"hi"').encode()[:-1] + b',"seed":' + b"9" * 5000 + b"}",
    "deep arrays": b'{"model":"m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "deep, never closed": b"[" * 1_000_000,
    "model twice": b'{"model":"a","model":"b","messages":[{"role":"user","content":"hi"}]}',
    "stream twice": _message('"hi"').encode()[:-1] + b',"stream":false,"stream":true}',
    "a name twice, once escaped": b'{"model":"a","mod\\u0065l":"b","messages":[{"role":"user","content":"hi"}]}',
    "trailing comma": b'{"model":"m",}',
    "comment": b'{/*"model"*/}',
    "no model": b'{"messages":[{"role":"user","content":"hi"}]}',
    "model null": b'{"model":null,"messages":[{"role":"user","content":"hi"}]}',
    "model number": b'{"model":5,"messages":[{"role":"user","content":"hi"}]}',
    "model too long": b'{"model":"' + b"m" * 5000 + b'","messages":[{"role":"user","content":"hi"}]}',
    "no messages": b'{"model":"m"}',
    "messages empty": b'{"model":"m","messages":[]}',
    "messages text": b'{"model":"m","messages":"hi"}',
    "messages of texts": b'{"model":"m","messages":["hi"]}',
    "messages of nulls": b'{"model":"m","messages":[null]}',
    "stream text": _message('"hi"').encode()[:-1] + b',"stream":"yes"}',
    "stream number": _message('"hi"').encode()[:-1] + b',"stream":1}',
    "stream_options text": _message('"hi"').encode()[:-1] + b',"stream":true,"stream_options":"x"}',
    "include_usage text": _message('"hi"').encode()[:-1] + b',"stream":true,"stream_options":{"include_usage":"x"}}',
    **{
        f"{field} {value}": _message('"hi"').encode()[:-1] + f',"{field}":{value}}}'.encode()
        for field in ("n", "max_tokens", "max_completion_tokens")
        for value in ("0", "-1", "1.5", '"5"', "true", "[]", "1e30", "9223372036854775808", "100000000000000000000")
    },
}


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_is_told_so_and_never_an_internal_error(body: bytes, gateway: Gateway, customer: Customer) -> None:
    answer = httpx.post(
        f"{gateway.base_url}/chat/completions", content=body, headers={**customer.headers, "Content-Type": "application/json"}, timeout=10
    )
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] in ("invalid_json", "invalid_request_error", "missing_model")
    assert answer.headers["x-request-id"] == answer.headers["request-id"] == answer.json()["error"]["request_id"]


STRANGE = {
    "content null": "null",
    "content number": "5",
    "content object": '{"text":"hi"}',
    "content of numbers": "[1,2]",
    "parts of texts": '["hi"]',
    "part text null": '[{"type":"text","text":null}]',
    "part text number": '[{"type":"text","text":7}]',
    "nul character": '"\\u0000"',
    "line separators": '"\\u2028\\u2029\\u0085"',
    "astral": '"\\ud83d\\ude00"',
}


@pytest.mark.parametrize("content", STRANGE.values(), ids=STRANGE.keys())
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_the_providers_to_judge_reaches_the_provider(
    content: str, stream: bool, gateway: Gateway, echo: str, customer: Customer
) -> None:
    body = _message(content).replace('"m"', json.dumps(echo), 1)[:-1] + (',"stream":true' if stream else "") + ',"user":"a\\u0000b"}'
    answer = httpx.post(
        f"{gateway.base_url}/chat/completions", content=body, headers={**customer.headers, "Content-Type": "application/json"}, timeout=10
    )
    assert answer.status_code == 200, answer.text
    assert latest_record(customer).status == "ok"


@pytest.fixture(scope="module")
def echo(new_models: Callable[..., list[str]]) -> str:
    return new_models(["echo"])[0]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml"])
def test_another_content_type_is_refused(kind: str, gateway: Gateway, customer: Customer) -> None:
    answer = httpx.post(f"{gateway.base_url}/chat/completions", content=b"{}", headers={**customer.headers, "Content-Type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "not_json")


KEYS = {
    "none": None,
    "empty": b"Bearer",
    "no scheme": b"sk-gw-x",
    "basic": b"Basic c2stZ3c6eA==",
    "SQL": b"Bearer sk-gw-' OR 1=1; DROP TABLE keys_apikey; --",
    "percent": b"Bearer %s%(x)s%%",
    "4 KiB": b"Bearer sk-gw-" + b"a" * 4096,
    "unicode": "Bearer sk-gw-ключ".encode(),
    "not UTF-8": b"Bearer sk-gw-\xff\xfe",
    "well formed, unknown": None,  # made below
    "of a provider": b"Bearer sk-proj-abcdefghijklmnop",
}


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("header", [b"Authorization", b"X-API-Key"])
def test_a_key_that_is_none_is_refused_alike(name: str, header: bytes, gateway: Gateway) -> None:
    from keys import secret

    value = f"Bearer {secret.generate()}".encode() if name.startswith("well") else KEYS[name]
    if value is not None and header == b"X-API-Key":
        value = value.removeprefix(b"Bearer ")
    headers = [(header, value)] if value is not None else []
    answer = httpx.post(f"{gateway.base_url}/chat/completions", json=chat("m"), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: -5",),
        ("Content-Length: 0x10",),
        ("Transfer-Encoding: chunked, identity",),
    ],
    ids=["length and chunked", "two lengths", "negative length", "hex length", "chunked not last"],
)
def test_a_request_with_two_meanings_is_refused_and_the_connection_closed(
    lines: tuple[str, ...], gateway: Gateway, customer: Customer
) -> None:
    with RawClient(gateway) as client:
        client.send_head(customer, *lines)
        client.socket.sendall(b"0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = client.read_to_end()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


# The end of the process


def test_a_server_told_to_stop_ends_its_streams_in_order_and_settles_them(tmp_path: Path, provider: FakeProvider, name: str) -> None:
    stopping = Gateway(tmp_path / "stopping.log", {"DRAIN_SECONDS": "1", "SPOOL_DIR": str(tmp_path / "spool")}).start()
    assert stopping.process is not None
    customers = [make_customer() for _ in range(3)]
    gated = make_model(provider.base_url, f"gate:{name};chunks=2;text=9")
    quick = make_model(provider.base_url, f"gate:{name}-quick;chunks=2;text=9")
    held = make_model(provider.base_url, f"hold:{name}-whole")
    stopping.sees_catalog()
    clients = [RawClient(stopping) for _ in customers]
    try:
        for number, (client, customer) in enumerate(zip(clients, customers, strict=True)):
            client.ask(customer, chat(gated if number else quick, stream=True))
            client.read_until(b"word2")
        clients.append(RawClient(stopping))
        clients[-1].ask(customers[0], chat(held))
        provider.wait_until_held(f"{name}-whole")
        stopping.process.send_signal(signal.SIGTERM)
        stopping.wait_until(lambda: _refuses(stopping))
        provider.release(f"{name}-quick")  # what ends by itself in time ends well
        assert b"server_restarting" not in clients[0].read_until(b"[DONE]")
        provider.release(f"{name}-whole")
        assert clients.pop().read_until(b"You said: ").startswith(b"HTTP/1.1 200 ")
        for client in clients[1:]:
            tail = client.read_until(b"[DONE]")
            assert b'"code":"server_restarting"' in tail
        assert stopping.process.wait(timeout=15) == 0
    finally:
        for client in clients:
            client.socket.close()
        stopping.stop(signal.SIGKILL)
    assert latest_record(customers[0], count=2).status == "ok"
    for customer in customers[1:]:
        record = latest_record(customer)
        assert (record.status, record.rule, record.error_code) == ("cut", "delivered", "server_restarting")
        assert 0 < record.cost <= record.hold_amount
        assert customer.fresh_wallet().held == 0
    assert not list((tmp_path / "spool").glob("*")) if (tmp_path / "spool").exists() else True


def _refuses(gateway: Gateway) -> bool:
    try:
        return httpx.get(f"{gateway.origin}/readyz", timeout=2).status_code == 503
    except httpx.TransportError:
        return True


# Wallets that run dry


def test_a_stream_that_outgrows_its_hold_grows_it(gateway: Gateway, new_model: Callable[..., str], customer: Customer) -> None:
    model = new_model("chat:text=3000", usual_output=64)
    answer = httpx.post(f"{gateway.base_url}/chat/completions", json=chat(model, stream=True), headers=customer.headers, timeout=20)
    assert b"insufficient" not in answer.content
    record = latest_record(customer)
    assert (record.status, record.rule, record.cost) == ("ok", "metered", 7 * 1000 + 3000 * 2000)
    assert record.cost <= record.hold_amount
    assert customer.fresh_wallet().held == 0


def test_a_stream_is_ended_when_the_wallet_cannot_pay_for_more(
    gateway: Gateway, new_model: Callable[..., str], new_customer: Callable[..., Customer]
) -> None:
    customer = new_customer(usd="0.002")
    model = new_model("chat:text=20000", usual_output=64)
    answer = httpx.post(f"{gateway.base_url}/chat/completions", json=chat(model, stream=True), headers=customer.headers, timeout=20)
    *_, last, error, done = [event.removeprefix("data: ") for event in answer.text.split("\n\n") if event]
    assert json.loads(last)["choices"][0]["finish_reason"] == "length"
    assert json.loads(error)["error"]["code"] == "insufficient_quota"
    assert done == "[DONE]"
    record = latest_record(customer)
    assert (record.status, record.rule) == ("stopped", "delivered")
    assert 1_000_000 < record.cost <= record.hold_amount <= 2_000_000
    wallet = customer.fresh_wallet()
    assert (wallet.held, wallet.balance) == (0, 2_000_000 - record.cost)


def test_a_stream_is_ended_when_the_keys_budget_cannot_pay_for_more(
    gateway: Gateway, new_model: Callable[..., str], new_customer: Callable[..., Customer]
) -> None:
    customer = new_customer(budget_nano=2_000_000, budget_window="day")
    model = new_model("chat:text=20000", usual_output=64)
    answer = httpx.post(f"{gateway.base_url}/chat/completions", json=chat(model, stream=True), headers=customer.headers, timeout=20)
    assert b'"insufficient_quota"' in answer.content
    record = latest_record(customer)
    assert (record.status, record.rule) == ("stopped", "delivered")
    assert record.cost <= 2_000_000
    again = httpx.post(f"{gateway.base_url}/chat/completions", json=chat(model, stream=True), headers=customer.headers, timeout=20)
    assert (again.status_code, again.json()["error"]["code"]) == (402, "key_budget_exceeded")


def test_many_streams_on_one_small_wallet_never_spend_more_than_it_has(
    gateway: Gateway, new_model: Callable[..., str], new_customer: Callable[..., Customer]
) -> None:
    from billing.models import UsageRecord

    customer = new_customer(usd="0.01")
    model = new_model("chat:text=1500", usual_output=64)

    async def ask_all() -> list[int]:
        async with httpx.AsyncClient(base_url=gateway.base_url, headers=customer.headers, timeout=30) as client:
            answers = await asyncio.gather(*(client.post("/chat/completions", json=chat(model, stream=True)) for _ in range(12)))
        return [answer.status_code for answer in answers]

    statuses = asyncio.run(ask_all())
    assert set(statuses) <= {200, 402, 504}  # 504: the provider had no turn on a busy machine
    assert 200 in statuses
    latest_record(customer, count=statuses.count(200))
    wallet = customer.fresh_wallet()
    charged = sum(UsageRecord.objects.filter(account=customer.account).values_list("cost", flat=True))
    assert wallet.held == 0
    assert wallet.balance == 10_000_000 - charged >= 0


@pytest.mark.parametrize(
    ("given", "field"),
    [({}, "max_tokens"), ({"max_tokens": 4000}, "max_tokens"), ({"max_completion_tokens": 4000}, "max_completion_tokens")],
)
def test_a_whole_answer_is_limited_to_what_the_wallet_can_pay(
    given: dict[str, int],
    field: str,
    gateway: Gateway,
    provider: FakeProvider,
    new_model: Callable[..., str],
    new_customer: Callable[..., Customer],
    name: str,
) -> None:
    customer = new_customer(usd="0.001")
    upstream = f"chat:text=4000;model={name}"
    answer = httpx.post(
        f"{gateway.base_url}/chat/completions", json=chat(new_model(upstream), **given), headers=customer.headers, timeout=20
    )
    assert answer.status_code == 200, answer.text
    received = provider.wait_for(lambda request: request.model == upstream).json()
    assert 200 < received[field] < 500  # a thousandth of a dollar buys five hundred tokens
    assert {name: received.get(name) for name in ("max_tokens", "max_completion_tokens") if name != field} == {
        name: None for name in ("max_tokens", "max_completion_tokens") if name != field
    }
    assert answer.json()["choices"][0]["finish_reason"] == "length"
    record = latest_record(customer)
    assert 0 < record.cost <= record.hold_amount <= 1_000_000
    assert customer.fresh_wallet().balance >= 0


def test_a_limit_is_shared_by_the_choices(
    gateway: Gateway, provider: FakeProvider, new_model: Callable[..., str], new_customer: Callable[..., Customer], name: str
) -> None:
    customer = new_customer(usd="0.001")
    upstream = f"chat:text=4000;model={name}"
    answer = httpx.post(f"{gateway.base_url}/chat/completions", json=chat(new_model(upstream), n=4), headers=customer.headers, timeout=20)
    assert len(answer.json()["choices"]) == 4
    assert 50 < provider.wait_for(lambda request: request.model == upstream).json()["max_tokens"] < 125
    assert latest_record(customer).cost <= 1_000_000


def test_what_fits_is_not_limited(
    gateway: Gateway, provider: FakeProvider, new_model: Callable[..., str], customer: Customer, name: str
) -> None:
    upstream = f"chat:text=5;model={name}"
    httpx.post(f"{gateway.base_url}/chat/completions", json=chat(new_model(upstream)), headers=customer.headers, timeout=20)
    assert "max_tokens" not in provider.wait_for(lambda request: request.model == upstream).json()


# Keys that change under way


def test_a_revoked_key_is_refused_at_once_whatever_is_cached(gateway: Gateway, echo: str, customer: Customer) -> None:
    from keys.models import ApiKey

    assert httpx.post(f"{gateway.base_url}/chat/completions", json=chat(echo), headers=customer.headers).status_code == 200
    ApiKey.objects.filter(pk=customer.key.pk).update(revoked_at=timezone.now())  # behind the gateway's back: no message goes out
    refused = httpx.post(f"{gateway.base_url}/chat/completions", json=chat(echo), headers=customer.headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")


def test_a_budget_set_a_moment_ago_counts_for_the_next_request(gateway: Gateway, echo: str, customer: Customer) -> None:
    from keys.models import ApiKey

    ask = lambda: httpx.post(f"{gateway.base_url}/chat/completions", json=chat(echo, max_tokens=20), headers=customer.headers)  # noqa: E731
    assert ask().status_code == 200
    spent = latest_record(customer).cost
    ApiKey.objects.filter(pk=customer.key.pk).update(budget_nano=10**9, budget_window="day")
    assert ask().status_code == 200
    ApiKey.objects.filter(pk=customer.key.pk).update(budget_nano=2 * spent, budget_window="month")
    refused = ask()
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "key_budget_exceeded")  # what was spent before it was set counts
    ApiKey.objects.filter(pk=customer.key.pk).update(budget_nano=None)
    assert ask().status_code == 200


def test_a_running_stream_outlives_its_key_and_is_paid(
    gateway: Gateway, provider: FakeProvider, new_model: Callable[..., str], customer: Customer, name: str
) -> None:
    from keys.models import ApiKey

    with RawClient(gateway) as client:
        client.ask(customer, chat(new_model(f"gate:{name};chunks=2;text=20"), stream=True))
        client.read_until(b"word2")
        ApiKey.objects.filter(pk=customer.key.pk).update(revoked_at=timezone.now())
        provider.release(name)
        client.read_until(b"[DONE]")
    record = latest_record(customer)
    assert (record.status, record.cost) == ("ok", 7 * 1000 + 20 * 2000)


def test_prices_of_these_tests() -> None:
    """What the sums above rest on: a token costs 1,000 nano-USD in and 2,000 out."""
    assert [money.nano_from_usd(str(usd)) // 1_000_000 for usd in MODEL_PRICE] == [1000, 2000]
