"""Proves the fake provider itself: every behaviour it offers is what its manual says, on the wire."""

import asyncio
import gzip
import http.client
import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.fakes import provider as manual
from tests.fakes.provider import FakeProvider, oracle, recordings
from tests.fakes.provider.faults import FAULTS
from tests.fakes.provider.faults.connections import STALE
from tests.fakes.provider.faults.streams import POLYGLOT

MEBIBYTE = 1024 * 1024
QUESTION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How many legs has a spider"}]


@pytest.fixture(scope="module")
def shared() -> Iterator[FakeProvider]:
    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def provider(shared: FakeProvider) -> Iterator[FakeProvider]:
    shared.reset()
    yield shared
    assert shared.mistakes == []


@dataclass
class Said:
    """What came back: `raw` is everything after the request, the rest is filled when it is good HTTP."""

    status: int = 0
    headers: Any = None
    body: bytes = b""
    error: Exception | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[str]:
        return [line[6:] for line in self.body.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n") if line.startswith("data: ")]

    @property
    def text(self) -> str:
        return "".join(
            choice["delta"].get("content") or "" for event in self.events if event != "[DONE]" for choice in json.loads(event)["choices"]
        )


def connect(provider: FakeProvider) -> socket.socket:
    return socket.create_connection((provider.host, provider.port), timeout=20)


def send(
    sock: socket.socket, model: str, *, stream: bool = False, path: str = "/v1/chat/completions", headers: str = "", **fields: Any
) -> None:
    body = json.dumps({"model": model, "messages": QUESTION, **({"stream": True} if stream else {}), **fields}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: fake\r\nContent-Type: application/json\r\nAuthorization: Bearer sk-secret\r\n{headers}"
    sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


def receive(sock: socket.socket) -> Said:
    said = Said()
    answer = http.client.HTTPResponse(sock)
    try:
        answer.begin()
        said.status, said.headers = answer.status, answer.headers
        said.body = answer.read()
    except http.client.IncompleteRead as error:
        said.body, said.error = error.partial, error
    except (http.client.HTTPException, OSError) as error:
        said.error = error
    return said


def ask(provider: FakeProvider, model: str, **options: Any) -> Said:
    with connect(provider) as sock:
        send(sock, model, **options)
        return receive(sock)


def visit(url: str, body: bytes | None = None) -> Said:
    """Fetch an address, by POST when there is a body."""
    parts = urlsplit(url)
    client = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        client.request("POST" if body else "GET", url.removeprefix(f"http://{parts.netloc}"), body)
        answer = client.getresponse()
        return Said(answer.status, answer.headers, answer.read())
    finally:
        client.close()


def everything(sock: socket.socket) -> bytes:
    """Read until the other side closes; a reset ends the reading too."""
    received = b""
    try:
        while piece := sock.recv(65536):
            received += piece
    except ConnectionResetError:
        received += b"<RST>"
    return received


def raw(provider: FakeProvider, model: str, *, stream: bool = False) -> bytes:
    with connect(provider) as sock:
        send(sock, model, stream=stream)
        return everything(sock)


def leave_after(provider: FakeProvider, model: str, enough: int, *, stream: bool = True) -> bytes:
    """Read at least `enough` bytes, leave, and see that the provider notices."""
    received = b""
    with connect(provider) as sock:
        send(sock, model, stream=stream)
        while len(received) < enough:
            piece = sock.recv(65536)
            assert piece
            received += piece
    provider.wait_for(lambda request: request.model == model and request.client_gone_at is not None)
    return received


# Good answers


def test_plain_name_repeats_the_last_user_message(provider: FakeProvider) -> None:
    said = ask(provider, "any-model")
    assert said.status == 200
    assert said.json["model"] == "any-model"
    assert said.json["choices"][0]["message"]["content"] == "You said: How many legs has a spider"
    assert said.json["usage"]["prompt_tokens"] == 8
    assert said.json["usage"]["completion_tokens"] == 8
    assert said.json["usage"]["total_tokens"] == 16


def test_stream_states_counts_only_when_asked(provider: FakeProvider) -> None:
    silent = ask(provider, "any-model", stream=True)
    telling = ask(provider, "any-model", stream=True, stream_options={"include_usage": True})
    assert silent.text == telling.text == "You said: How many legs has a spider"
    assert "usage" not in silent.body.decode()
    assert json.loads(telling.events[-2])["choices"] == []
    assert json.loads(telling.events[-2])["usage"]["completion_tokens"] == 8
    assert all(json.loads(event)["usage"] is None for event in telling.events[:-2])
    assert silent.events[-1] == telling.events[-1] == "[DONE]"


def test_knobs_shape_the_answer(provider: FakeProvider) -> None:
    model = "chat:text=3;prompt_tokens=100;completion_tokens=50;cached=40;cache_write=10;reasoning=20;finish=length;n=2;model=served"
    body = ask(provider, model).json
    assert [choice["message"]["content"] for choice in body["choices"]] == ["word1 word2 word3"] * 2
    assert body["model"] == "served"
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 40, "cache_write_tokens": 10, "audio_tokens": 0}
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 20
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (100, 50)


def test_knobs_may_be_json(provider: FakeProvider) -> None:
    body = ask(provider, 'chat:{"say":"a; b=c","tools":["look","find"],"usage":"none"}').json
    assert body["choices"][0]["message"]["content"] == "a; b=c"
    assert [call["function"]["name"] for call in body["choices"][0]["message"]["tool_calls"]] == ["look", "find"]
    assert body["choices"][0]["finish_reason"] == "tool_calls"
    assert "usage" not in body


def test_usage_modes(provider: FakeProvider) -> None:
    inline = ask(provider, "chat:text=1;usage=inline", stream=True)
    always = ask(provider, "chat:text=1;usage=always", stream=True)
    none = ask(provider, "chat:text=1;usage=none", stream=True, stream_options={"include_usage": True})
    assert json.loads(inline.events[-2])["usage"]["completion_tokens"] == 1
    assert json.loads(inline.events[-2])["choices"][0]["finish_reason"] == "stop"
    assert json.loads(always.events[-2])["choices"] == []
    assert "completion_tokens" not in none.body.decode()


def test_max_tokens_cuts_the_answer(provider: FakeProvider) -> None:
    body = ask(provider, "chat:text=50", max_tokens=5).json
    assert body["choices"][0]["message"]["content"] == "word1 word2 word3 word4 word5"
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 5


def test_delay_holds_the_first_byte_back(provider: FakeProvider) -> None:
    ask(provider, "chat:text=1;delay_ms=80;gap_ms=1", stream=True)
    request = provider.requests[0]
    assert request.first_byte_at is not None
    assert request.first_byte_at - request.arrived_at >= 0.08


@pytest.mark.skipif(oracle.file() is None, reason=oracle.SKIP_REASON)
@pytest.mark.parametrize("knobs", ["text=4", "text=4;think=3;reasoning=7", "tools=2", "say=Hi;tools=2;cached=1", "text=2;finish=length"])
@pytest.mark.parametrize(
    ("shape", "path", "stream_path"),
    [
        ("chat", "/v1/chat/completions", "/v1/chat/completions"),
        ("messages", "/v1/messages", "/v1/messages"),
        ("responses", "/v1/responses", "/v1/responses"),
        ("gemini", "/v1beta/models/{}:generateContent", "/v1beta/models/{}:streamGenerateContent?alt=sse"),
    ],
)
def test_stream_means_the_same_as_the_whole_answer(provider: FakeProvider, shape: str, path: str, stream_path: str, knobs: str) -> None:
    model = f"chat:{knobs}"
    whole = ask(provider, model, path=path.format(model))
    streamed = ask(provider, model, stream=True, path=stream_path.format(model), stream_options={"include_usage": True})
    said = oracle.meaning(shape, whole.body, False)
    assert (
        oracle.diff(
            said, oracle.meaning(shape, streamed.body, True), keys=("text", "reasoning", "tools", "stop", "inp", "out", "cached", "sig")
        )
        == {}
    )
    assert said["text"] or said["tools"]
    assert said["inp"] == 8


def test_every_shape_says_the_same(provider: FakeProvider) -> None:
    if oracle.file() is None:
        pytest.skip(oracle.SKIP_REASON)
    paths = {
        "chat": "/v1/chat/completions",
        "messages": "/v1/messages",
        "responses": "/v1/responses",
        "gemini": "/v1beta/models/x:generateContent",
    }
    model = "chat:text=4;tools=look;cached=2;prompt_tokens=9;reasoning=3"
    said = {shape: oracle.meaning(shape, ask(provider, model, path=path).body) for shape, path in paths.items()}
    for shape in paths:
        assert oracle.diff(said["chat"], said[shape], keys=("text", "tools", "stop", "inp", "out", "cached")) == {}


def test_small_endpoints_answer(provider: FakeProvider) -> None:
    vectors = ask(provider, "embed", path="/v1/embeddings", messages=None, input=["one two", "three"]).json
    assert [len(one["embedding"]) for one in vectors["data"]] == [8, 8]
    pictures = ask(provider, "paint", path="/v1/images/generations", n=2).json
    assert len(pictures["data"]) == 2
    assert ask(provider, "m", path="/v1/messages/count_tokens").json == {"input_tokens": 8}
    assert ask(provider, "", path="/v1beta/models/m:countTokens").json == {"totalTokens": 8}
    assert {one["id"] for one in visit(f"{provider.base_url}/models").json["data"]} >= {"echo-small"}


def test_gemini_stream_without_sse_is_an_array(provider: FakeProvider) -> None:
    said = ask(provider, "", path="/v1beta/models/chat%3Atext=2:streamGenerateContent")
    assert len(said.json) == 3
    assert said.json[-1]["candidates"][0]["finishReason"] == "STOP"


# What is remembered


def test_request_is_remembered_as_it_came(provider: FakeProvider) -> None:
    body = b'{ "model": "any-model", "messages": [] }'
    with connect(provider) as sock:
        sock.sendall(
            b"POST /v1/chat/completions?x=1 HTTP/1.1\r\nHost: fake\r\nX-Twice: one\r\nx-twice: two\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        sock.sendall(b"%x\r\n%b\r\n3;ext=1\r\n   \r\n0\r\n\r\n" % (len(body), body))
        assert receive(sock).status == 200
    request = provider.wait_for(lambda one: one.response_finished)
    assert (request.method, request.path, request.body) == ("POST", "/v1/chat/completions?x=1", body + b"   ")
    assert request.headers[1:3] == [("X-Twice", "one"), ("x-twice", "two")]
    assert request.header_values("X-TWICE") == ["one", "two"]
    assert request.client_gone_at is None
    assert request.status == 200


def test_connection_is_kept_alive(provider: FakeProvider) -> None:
    with connect(provider) as sock:
        for stream in (False, True, False):
            send(sock, "any-model", stream=stream)
            assert receive(sock).status == 200
    assert len({request.connection for request in provider.wait_for_count(3, lambda one: one.response_finished)}) == 1


def test_waiting_client_is_told_to_continue(provider: FakeProvider) -> None:
    with connect(provider) as sock:
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: fake\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"{}")
        assert receive(sock).status == 200


@pytest.mark.parametrize("how", ["close", "reset"])
def test_leaving_client_is_noticed(provider: FakeProvider, how: str) -> None:
    sock = connect(provider)
    send(sock, "hold:never", stream=True)
    provider.wait_until_held("never")
    if how == "reset":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    request = provider.wait_for(lambda one: one.client_gone_at is not None)
    assert not request.response_finished
    assert provider.waiting("never") == 0


def test_waiting_ends_with_a_timeout(provider: FakeProvider) -> None:
    with pytest.raises(TimeoutError, match="matching request"):
        provider.wait_for(lambda _: True, timeout=0.01)


def test_misspelt_behaviour_is_a_mistake() -> None:
    provider = FakeProvider().start()
    assert ask(provider, "fault:stall-midstraem").json["error"]["code"] == "unknown_behaviour"
    for model in ("chat:txet=5", "chat:usage=often", "fault:status-503;retyr=5", "replay:nobody/chat/nothing"):
        ask(provider, model)
    with pytest.raises(AssertionError, match="stall-midstraem"):
        provider.__exit__(None, None, None)
    assert len(provider.mistakes) == 5


# Barriers


@pytest.mark.parametrize("stream", [False, True])
def test_hold_waits_before_the_first_byte(provider: FakeProvider, *, stream: bool) -> None:
    with connect(provider) as sock:
        send(sock, "hold:door;text=2", stream=stream)
        provider.wait_until_held("door")
        assert provider.requests[0].bytes_sent == 0
        provider.release("door")
        assert receive(sock).status == 200


def test_gate_waits_behind_its_chunks(provider: FakeProvider) -> None:
    with connect(provider) as sock:
        send(sock, "gate:door;chunks=2;text=5", stream=True)
        provider.wait_until_held("door")
        early = sock.recv(65536)
        while b"word2" not in early:
            early += sock.recv(65536)
        assert b"word3" not in early
        provider.release("door")
        rest = b""
        while not rest.endswith(b"0\r\n\r\n"):
            rest += sock.recv(65536)
        assert b"word5" in rest
        assert b"[DONE]" in rest


def test_released_door_stays_open(provider: FakeProvider) -> None:
    provider.release("door")
    assert ask(provider, "hold:door").status == 200
    assert ask(provider, "gate:door").status == 200


async def test_barriers_and_journal_work_from_a_running_loop(provider: FakeProvider) -> None:
    async with aiohttp.ClientSession() as session:
        call = asyncio.create_task(session.post(f"{provider.base_url}/chat/completions", json={"model": "hold:loop"}))
        await provider.held("loop")
        provider.release("loop")
        async with await call as answer:
            assert answer.status == 200
    assert (await provider.seen(lambda one: one.response_finished)).model == "hold:loop"


def test_flaky_fails_as_often_as_told(provider: FakeProvider) -> None:
    assert [ask(provider, "flaky:a;fail=2;status=529").status for _ in range(4)] == [529, 529, 200, 200]
    assert ask(provider, "flaky:b").status == 503
    assert raw(provider, "flaky:c;fault=reset") == b"<RST>"
    assert ask(provider, "flaky:c;fault=reset").status == 200


def test_credentials_are_checked_when_told(provider: FakeProvider) -> None:
    provider.accept_only("sk-other")
    assert ask(provider, "any-model").status == 401
    provider.accept_only("sk-secret")
    assert ask(provider, "any-model").status == 200


def test_door_faults_come_before_any_request(provider: FakeProvider) -> None:
    provider.set_door("close")
    with connect(provider) as sock:
        assert sock.recv(1) == b""
    provider.set_door("reset")
    with pytest.raises(ConnectionResetError):
        connect(provider).recv(1)
    provider.set_door("silent")
    with connect(provider) as sock:
        send(sock, "any-model")
        provider.wait_for_door(3)
        provider.set_door("open")
        assert ask(provider, "any-model").status == 200
    assert len(provider.requests) == 1


def test_stopped_provider_refuses_and_comes_back_on_its_port() -> None:
    provider = FakeProvider().start()
    provider.stop()
    with pytest.raises(ConnectionRefusedError):
        connect(provider)
    with provider.start():
        assert ask(provider, "any-model").status == 200


def test_stopping_cuts_running_answers() -> None:
    with FakeProvider() as provider:
        sock = connect(provider)
        send(sock, "hold:never")
        provider.wait_until_held("never")
    assert everything(sock) == b"<RST>"
    assert provider.requests[0].cut_at is not None
    assert provider.requests[0].client_gone_at is None


# Faults: one check per name, for a request that streams and one that does not


def cut_without_a_byte(provider: FakeProvider, model: str, *, stream: bool) -> None:
    assert raw(provider, model, stream=stream) == (b"<RST>" if model.endswith("reset") else b"")
    assert provider.requests[0].cut_at is not None


def stays_silent(provider: FakeProvider, model: str, *, stream: bool) -> None:
    assert leave_after(provider, model, 0, stream=stream) == b""


def slow(provider: FakeProvider, model: str, *, stream: bool) -> None:
    assert ask(provider, f"{model};ms=400", stream=stream).status == 200
    assert ask(provider, f"{model};ms=400;headers=1", stream=stream).status == 200
    late, early = provider.requests
    assert late.first_byte_at is not None
    assert early.first_byte_at is not None
    assert late.first_byte_at - late.arrived_at >= 0.4 > early.first_byte_at - early.arrived_at


def cut_inside_a_chunk(provider: FakeProvider, model: str, *, stream: bool) -> None:
    said = ask(provider, model, stream=stream)
    assert said.status == 200
    assert isinstance(said.error, http.client.IncompleteRead)
    assert not provider.requests[0].response_finished


def states_two_lengths(provider: FakeProvider, model: str, *, stream: bool) -> None:
    with connect(provider) as sock:
        send(sock, model, stream=stream)
        said = receive(sock)
        lengths = said.headers.get_all("content-length")
        assert len(lengths) == 2
        assert int(lengths[1]) == int(lengths[0]) + 5


def states_length_and_chunks(provider: FakeProvider, model: str, *, stream: bool) -> None:
    said = ask(provider, model, stream=stream)
    assert said.headers["content-length"] == "3"
    assert said.headers["transfer-encoding"] == "chunked"
    assert len(said.body) > 3


def glues_a_stale_answer(provider: FakeProvider, model: str, *, stream: bool) -> None:
    with connect(provider) as sock:
        send(sock, model, stream=stream)
        received = sock.recv(1_000_000)
        while received.count(b"HTTP/1.1 200 OK") < 2 or STALE.encode() not in received:
            received += sock.recv(1_000_000)
        assert received.index(b"legs") < received.rindex(b"HTTP/1.1 200 OK") < received.index(STALE.encode())
        send(sock, "any-model")
        assert receive(sock).status == 200


def speaks_no_http(provider: FakeProvider, model: str, *, stream: bool) -> None:
    start = b"SSH-2.0" if "banner" in model else b"HTTP/1.1 101 "
    assert leave_after(provider, model, 10, stream=stream).startswith(start)
    assert raw(provider, f"{model};close=1", stream=stream).startswith(start)


def refuses(provider: FakeProvider, model: str, *, stream: bool) -> None:
    code = int(model[-3:])
    said = ask(provider, f"{model};retry=seconds;should_retry=false;retry_ms=5", stream=stream)
    assert said.status == code
    assert (said.headers["retry-after"], said.headers["retry-after-ms"], said.headers["x-should-retry"]) == ("2", "5", "false")
    assert said.body.startswith(b"<html>") if code == 502 else said.json["error"]["message"]
    assert ask(provider, f"{model};retry=date").headers["retry-after"].endswith("GMT")
    assert ask(provider, f"{model};retry=huge").headers["retry-after"] == "99999999999"
    if code != 502:
        assert ask(provider, model, path="/v1/messages").json["type"] == "error"
        assert ask(provider, model, path="/v1beta/models/x:generateContent").json["error"]["code"] == code


def out_of_money(provider: FakeProvider, model: str, *, stream: bool) -> None:
    said = ask(provider, model, stream=stream)
    expected = {
        "insufficient": (429, "insufficient_quota"),
        "anthropic": (400, "credit balance"),
        "xai": (403, "credits"),
        "zai": (429, "1113"),
    }
    status, words = expected[model.removeprefix("fault:").split("-")[0]]
    assert said.status == status
    assert words in said.body.decode()


def redirects_to_the_canary(provider: FakeProvider, model: str, *, stream: bool) -> None:
    said = ask(provider, model, stream=stream)
    assert said.status == 307
    assert provider.canary_hits == 0
    assert b"CANARY" in visit(said.headers["location"]).body
    assert provider.canary_hits == 1
    assert ask(provider, "fault:redirect-302;to=http://169.254.169.254/latest").headers["location"] == "http://169.254.169.254/latest"


def repeats_secrets(provider: FakeProvider, model: str, *, stream: bool) -> None:
    said = ask(provider, model, stream=stream)
    assert said.status == 401
    late = ask(provider, f"{model};midstream=1", stream=True)
    assert late.status == 200
    for body in (said.body.decode(), late.body.decode()):
        assert all(word in body for word in ("Bearer sk-secret", "org-abc123", "openai"))


def errs_under_200(provider: FakeProvider, model: str, *, stream: bool) -> None:
    said = ask(provider, model, stream=stream)
    assert said.status == 200
    assert said.json["error"]["message"]


def serves_a_page(provider: FakeProvider, model: str, *, stream: bool) -> None:
    said = ask(provider, model, stream=stream)
    assert (said.status, said.headers["content-type"]) == (200, "text/html; charset=utf-8")


def breaks_the_json(provider: FakeProvider, model: str, *, stream: bool) -> None:
    said = ask(provider, model, stream=stream)
    assert said.status == 200
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        _ = said.text if stream else said.json
    if stream:
        assert said.events[-1] == "[DONE]"


def is_empty(provider: FakeProvider, model: str, *, stream: bool) -> None:
    said = ask(provider, model, stream=stream)
    assert (said.status, said.body, said.error) == (200, b"", None)


def answers_in_the_other_mode(provider: FakeProvider, model: str, *, stream: bool) -> None:
    said = ask(provider, model, stream=stream)
    assert (said.json["object"] == "chat.completion") if stream else (said.text == "You said: How many legs has a spider")


def is_packed(provider: FakeProvider, model: str, *, stream: bool) -> None:
    small = ask(provider, model, stream=stream)
    assert small.headers["content-encoding"] == "gzip"
    assert b"legs" in gzip.decompress(small.body)
    bomb = ask(provider, f"{model};mb=8", stream=stream)
    assert len(bomb.body) < 100_000
    assert len(gzip.decompress(bomb.body)) > 8 * MEBIBYTE


def brings_the_unheard_of(provider: FakeProvider, model: str, *, stream: bool) -> None:
    said = ask(provider, model, stream=stream)
    assert b"vendor.trace" in said.body if stream else "x_vendor" in said.json
    if stream:
        assert said.body.startswith(b": VENDOR PROCESSING")
        assert said.events[-1] == "[DONE]"


def states(prompt: str, completion: str) -> Callable[..., None]:
    def check(provider: FakeProvider, model: str, *, stream: bool) -> None:
        body = ask(provider, model, stream=stream).body.decode()
        assert f'"usage":{{"prompt_tokens":{prompt},"completion_tokens":{completion},' in body

    return check


def states_nothing(provider: FakeProvider, model: str, *, stream: bool) -> None:
    assert "prompt_tokens" not in ask(provider, model, stream=stream, stream_options={"include_usage": True}).body.decode()


def states_more_than_asked(provider: FakeProvider, model: str, *, stream: bool) -> None:
    assert '"completion_tokens":1000,' in ask(provider, model, stream=stream, max_tokens=100).body.decode()
    assert '"completion_tokens":77,' in ask(provider, f"{model};tokens=77", stream=stream).body.decode()


def stalls(provider: FakeProvider, model: str, *, stream: bool) -> None:
    received = leave_after(provider, model, 300, stream=stream)
    assert b"[DONE]" not in received
    assert not provider.requests[0].response_finished


def drops(provider: FakeProvider, model: str, *, stream: bool) -> None:
    received = raw(provider, model, stream=stream)
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert received.endswith(b"<RST>")
    assert b"You " in received if stream else True


def ends_without(*missing: str) -> Callable[..., None]:
    def check(provider: FakeProvider, model: str, *, stream: bool) -> None:
        said = ask(provider, model, stream=stream, stream_options={"include_usage": True})
        assert said.error is None
        assert provider.wait_for(lambda one: one.response_finished)
        assert not [word for word in missing if word in said.body.decode()]
        assert "spider" in said.body.decode()

    return check


def errs_in_the_stream(provider: FakeProvider, model: str, *, stream: bool) -> None:
    said = ask(provider, f"{model};code=overloaded", stream=stream)
    assert said.status == 200
    if not stream:
        assert said.json["error"]["code"] == "overloaded"
        return
    assert json.loads(said.events[-1])["error"]["code"] == "overloaded"
    assert ("You said" in "".join(said.events[0])) is False
    assert len(said.events) == (1 if "first" in model else 5)
    named = ask(provider, model, stream=True, path="/v1/messages")
    assert named.body.rpartition(b"event: ")[2].startswith(b"error\n")


def ends_lines_otherwise(provider: FakeProvider, model: str, *, stream: bool) -> None:
    said = ask(provider, model, stream=stream)
    if stream:
        assert said.text == "You said: How many legs has a spider"
        assert said.body.count(b"\n") == said.body.count(b"\r\n") > 10
        assert b"\n" not in ask(provider, f"{model};eol=cr", stream=True).body
    else:
        assert said.status == 200


def trickles(provider: FakeProvider, model: str, *, stream: bool) -> None:
    said = ask(provider, f"{model};text=2", stream=stream)
    assert (said.text if stream else said.json["choices"][0]["message"]["content"]) == "word1 word2"


def splits_letters(provider: FakeProvider, model: str, *, stream: bool) -> None:
    with connect(provider) as sock:
        send(sock, model, stream=stream)
        received = [sock.recv(65536)]
        while not received[-1].endswith(b"0\r\n\r\n" if stream else b"}}"):
            received.append(sock.recv(65536))
    torn = 0
    for piece in received:
        try:
            piece.decode()
        except UnicodeDecodeError:
            torn += 1
    assert torn > 3
    said = ask(provider, model, stream=stream)
    assert (said.text if stream else said.json["choices"][0]["message"]["content"]) == POLYGLOT


def is_huge(provider: FakeProvider, model: str, *, stream: bool) -> None:
    said = ask(provider, f"{model};mb=4", stream=stream)
    assert len(said.body) > 4 * MEBIBYTE
    if stream:
        assert said.events[-1] == "[DONE]"
        assert (max(map(len, said.events)) > 4 * MEBIBYTE) == ("line" in model)
        assert len(said.text) == 4 * MEBIBYTE
    else:
        assert len(said.json["choices"][0]["message"]["content"]) == 4 * MEBIBYTE


def never_ends(provider: FakeProvider, model: str, *, stream: bool) -> None:
    leave_after(provider, f"{model};gap_ms=0", 200_000, stream=stream)
    bounded = ask(provider, f"{model};count=5;gap_ms=1", stream=stream)
    if stream:
        assert bounded.body.count(b": keep-alive" if "comments" in model else b"again") >= 5
        assert bounded.events[-1] == "[DONE]"
    else:
        assert bounded.body.startswith(b"     {")


def floods_with_interim_answers(provider: FakeProvider, model: str, *, stream: bool) -> None:
    with connect(provider) as sock:
        send(sock, f"{model};count=2500", stream=stream)
        received = b""
        while b"legs" not in received:
            received += sock.recv(1_000_000)
    assert received.count(b"HTTP/1.1 100 Continue\r\n\r\n") == 2500
    assert received.count(b"HTTP/1.1 200 OK") == 1


def pads_the_head(provider: FakeProvider, model: str, *, stream: bool) -> None:
    with connect(provider) as sock:
        send(sock, model, stream=stream)
        received = b""
        while b"\r\n\r\n" not in received:
            received += sock.recv(1_000_000)
    assert received.index(b"\r\n\r\n") > 256 * 1024


CHECKS: dict[str, Callable[..., None]] = {
    "connect-close": cut_without_a_byte,
    "reset": cut_without_a_byte,
    "silence": stays_silent,
    "slow-first-byte": slow,
    "truncated-chunked": cut_inside_a_chunk,
    "content-length-short": cut_inside_a_chunk,
    "duplicate-content-length": states_two_lengths,
    "length-and-chunked": states_length_and_chunks,
    "glued-response": glues_a_stale_answer,
    "non-http-banner": speaks_no_http,
    "switching-101": speaks_no_http,
    **{f"status-{code}": refuses for code in (400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 529)},
    "insufficient-quota-429": out_of_money,
    "anthropic-credit-400": out_of_money,
    "xai-403-credits": out_of_money,
    "zai-429-1113": out_of_money,
    "redirect-307": redirects_to_the_canary,
    "leaks-secrets": repeats_secrets,
    "ok-with-error-body": errs_under_200,
    "ok-html": serves_a_page,
    "bad-json": breaks_the_json,
    "empty-body": is_empty,
    "other-mode": answers_in_the_other_mode,
    "gzip-encoded": is_packed,
    "unknown-events": brings_the_unheard_of,
    "no-usage": states_nothing,
    "negative-usage": states("-50", "-7"),
    "huge-usage": states("1" + "0" * 24, "1" + "0" * 24),
    "float-usage": states("12.5", "3.25"),
    "nan-usage": states("NaN", "Infinity"),
    "text-usage": states('"12"', '"3"'),
    "null-usage": states("null", "null"),
    "usage-more-than-hold": states_more_than_asked,
    "stall-midstream": stalls,
    "drop-midstream": drops,
    "no-done": ends_without("[DONE]", '"stop"', "prompt_tokens"),
    "finish-no-done": ends_without("[DONE]", "prompt_tokens"),
    "error-event-midstream": errs_in_the_stream,
    "error-event-first": errs_in_the_stream,
    "crlf-events": ends_lines_otherwise,
    "trickle": trickles,
    "split-utf8": splits_letters,
    "huge-line": is_huge,
    "huge-body": is_huge,
    "endless-comments": never_ends,
    "endless-stream": never_ends,
    "many-100-continue": floods_with_interim_answers,
    "huge-headers": pads_the_head,
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", sorted(FAULTS))
def test_fault_is_what_its_name_says(provider: FakeProvider, name: str, *, stream: bool) -> None:
    CHECKS[name](provider, f"fault:{name}", stream=stream)


def test_manual_names_every_fault() -> None:
    assert [name for name in FAULTS if name not in (manual.__doc__ or "")] == []


# Recordings


@pytest.mark.skipif(recordings.folder() is None, reason=recordings.SKIP_REASON)
def test_every_recording_replays_byte_for_byte(provider: FakeProvider) -> None:
    cases = recordings.cases()
    assert len(cases) == len({case.id for case in cases}) > 700
    with connect(provider) as sock:
        for case in cases:
            send(sock, f"replay:{case.id}", stream=case.stream)
            said = receive(sock)
            assert (said.status, said.body) == (case.status, case.response_bytes), case.id
            if kind := case.response_headers.get("content-type"):
                assert said.headers["content-type"] == kind


@pytest.mark.skipif(recordings.folder() is None, reason=recordings.SKIP_REASON)
@pytest.mark.parametrize("shape", ["chat", "responses", "messages", "gemini"])
def test_recorded_stream_may_be_cut_anywhere(provider: FakeProvider, shape: str) -> None:
    case = min(recordings.cases(shape, stream=True, statuses=[200]), key=lambda one: len(one.response_bytes))
    for size in (1, 7):
        assert ask(provider, f"replay:{case.id}@{size}", stream=True).body == case.response_bytes


@pytest.mark.skipif(recordings.folder() is None, reason=recordings.SKIP_REASON)
def test_cases_are_found_by_every_filter() -> None:
    found = recordings.cases("chat", ["openai", "xai"], stream=True, statuses=[200], kinds="tool_stream")
    assert found
    assert all(
        case.shape == "chat" and case.provider in ("openai", "xai") and case.stream and "tool_stream" in case.kinds for case in found
    )
    assert recordings.find(found[0].id) == found[0]
    asked = next(case for case in found if case.request_bytes is not None)
    assert asked.request["messages"]
    assert asked.meta["method"] == "POST"
    with pytest.raises(LookupError):
        recordings.find("nobody/chat/nothing")


def test_absent_recordings_are_no_cases(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("RECORDINGS_DIR", str(tmp_path))
    assert recordings.folder() is None
    assert recordings.cases("chat") == []


@pytest.mark.skipif(recordings.folder() is None or oracle.file() is None, reason=f"{recordings.SKIP_REASON}; {oracle.SKIP_REASON}")
@pytest.mark.parametrize("shape", ["chat", "responses", "messages", "gemini"])
def test_oracle_reads_recordings(shape: str) -> None:
    for case in recordings.cases(shape, statuses=[200], kinds=["plain", "plain_stream"]):
        said = oracle.meaning(shape, case.response_bytes, case.stream)
        assert oracle.diff(said, said) == {}


# Many at once, and in a process of its own


async def test_three_hundred_streams_at_once(provider: FakeProvider) -> None:
    async def one(session: aiohttp.ClientSession) -> bytes:
        body = {"model": "gate:crowd;chunks=2;text=20", "messages": QUESTION, "stream": True}
        async with session.post(f"{provider.base_url}/chat/completions", json=body) as answer:
            return await answer.read()

    started = time.monotonic()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        calls = [asyncio.create_task(one(session)) for _ in range(300)]
        await provider.held("crowd", 300)
        assert provider.waiting("crowd") == 300
        provider.release("crowd")
        bodies = await asyncio.gather(*calls)
    assert all(b"word20" in body and body.endswith(b"data: [DONE]\n\n") for body in bodies)
    assert time.monotonic() - started < 20


def test_threads_share_one_provider(provider: FakeProvider) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: ask(provider, f"chat:say=answer {number}"), range(64)))
    assert {said.json["choices"][0]["message"]["content"] for said in answers} == {f"answer {number}" for number in range(64)}


def test_process_takes_orders() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.provider", "--port", "0"], stdout=subprocess.PIPE, cwd=recordings.PROJECT
    )
    try:
        assert process.stdout is not None
        place = json.loads(process.stdout.readline())

        def order(path: str, **fields: Any) -> Any:
            body = json.dumps(fields).encode() if fields else None
            return visit(f"{place['origin']}/_control/{path}", body).json

        order("release", name="door")
        with socket.create_connection(("127.0.0.1", place["port"]), timeout=20) as sock:
            send(sock, "hold:door")
            assert receive(sock).status == 200
        [request] = order("requests?after=0")["requests"]
        assert (request["model"], request["status"]) == ("hold:door", 200)
        assert order("state?barrier=door")["waiting"] == {"door": 0}
    finally:
        process.terminate()
        assert process.wait(10) == 0
