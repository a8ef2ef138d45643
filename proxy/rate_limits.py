"""Rate limits: requests and tokens a minute and requests at once, for several subjects in one step, in Valkey or beside it.

A minute is sixty one-second slots: what was counted in a second leaves exactly 60 s after that second began. Nobody is refused for
something older than a minute, the window is never shorter than 59 s, and the moment there is room again is known, so `Retry-After` is
a promise and not a guess. Requests are counted when admitted, tokens when the answer is finished, concurrency is a set of request ids
that expire by themselves. A request is admitted by all its subjects or by none; a refused one is counted nowhere.

`rate_limits.lua` does this for all waiting requests of one account in one call; the calls of different accounts share a round trip. The
script reads the server's clock, not ours: all gateway hosts then agree on which second it is, however far their own clocks are apart.

When Valkey fails, stalls or drags, `LocalBuckets` counts the same way in this process, with each limit divided by the number of
processes, until a probe finds Valkey well again. Callers never see a Valkey error. Limits are protection, not money: an outage may
let a client start its minute anew, and nothing else.

Free requests of a model (`Allowance`) are counted in the same call, by the UTC day: those of all accounts together and those of each. They
are counted when admitted and given back when nothing came of them. What a process counted by itself during an outage it adds to Valkey's
count afterwards. The count of all accounts has a key without an account's hash tag, so this wants one Valkey, not a cluster.
"""

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import orjson
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway_site.batches import Batcher
from proxy.limit_checks import (
    ANSWER_LENGTH,
    CONCURRENCY,
    DAY_SECONDS,
    FREE,
    FREE_OR_PAID,
    REQUESTS,
    TOKENS,
    Answer,
    Check,
    Operation,
)
from proxy.local_buckets import LocalBuckets

logger = logging.getLogger(__name__)

CALL_SECONDS: Final = 0.25  # one round trip may take this long, connecting included
SLOW_SECONDS: Final = 0.05  # a call longer than this is slow,
SLOW_CALLS: Final = 5  # so many slow ones in a row open the breaker,
SLOW_PAUSE_SECONDS: Final = 3.0  # for this long before the first probe
PROBE_SECONDS: Final = 1.0
BATCH_LIMIT: Final = 256
UNDELIVERED_LIMIT: Final = 50_000  # releases remembered during an outage; what is forgotten expires by itself

SCRIPT: Final = Path(__file__).with_name("rate_limits.lua").read_bytes()
SCRIPT_SHA: Final = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()

Kind = Literal["requests", "tokens", "concurrency", "free"]
KINDS: Final[dict[int, Kind]] = {REQUESTS: "requests", TOKENS: "tokens", CONCURRENCY: "concurrency", FREE: "free", FREE_OR_PAID: "free"}


@dataclass(frozen=True, slots=True)
class Limit:
    """What one subject (`key:17`, `account:5`) may do: requests and tokens a minute, requests at once. None is unlimited."""

    subject: str
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Allowance:
    """The free requests of a model in a UTC day: `cap` of all accounts together, `share` of each.

    `or_pays`: a request that finds none left is admitted as one that pays, and counted nowhere; else it is refused.
    """

    model_id: int
    slug: str
    cap: int
    share: int
    or_pays: bool = False


@dataclass(slots=True)
class Reading:
    """What the rate-limit headers show, of the subject with the least left; None where nothing is limited.

    The resets are seconds until the whole limit is free again, should nothing more be sent.
    """

    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests_seconds: float | None = None
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens_seconds: float | None = None
    free_day: int = 0  # the UTC day since 1970 in whose free requests this one was counted (negative: by this process alone); 0: in none

    @property
    def is_free(self) -> bool:
        """Whether the request was counted as one of the model's free ones."""
        return self.free_day != 0

    def headers(self) -> list[tuple[str, str]]:
        """The limits as OpenAI's headers show them."""
        headers = []
        if self.limit_requests is not None:
            headers += [
                ("x-ratelimit-limit-requests", str(self.limit_requests)),
                ("x-ratelimit-remaining-requests", str(self.remaining_requests)),
                ("x-ratelimit-reset-requests", f"{self.reset_requests_seconds or 0:.3f}s"),
            ]
        if self.limit_tokens is not None:
            headers += [
                ("x-ratelimit-limit-tokens", str(self.limit_tokens)),
                ("x-ratelimit-remaining-tokens", str(self.remaining_tokens)),
                ("x-ratelimit-reset-tokens", f"{self.reset_tokens_seconds or 0:.3f}s"),
            ]
        return headers


NOTHING_LIMITED: Final = Reading()


class RateLimited(Exception):
    """A limit is reached. After `retry_after_seconds` there is room again in every limit that refused (a guess for concurrency)."""

    def __init__(self, *, kind: Kind, subject: str, limit: int, retry_after_seconds: float, reading: Reading) -> None:
        super().__init__(f"{subject} has reached its limit of {limit} ({kind})")
        self.kind = kind
        self.subject = subject
        self.limit = limit
        self.retry_after_seconds = retry_after_seconds
        self.reading = reading


class FreeLimitReached(RateLimited):
    """The free requests of a model are used up for today: those of all accounts, or this account's share. `subject` is the model."""

    def __init__(self, *, model: str, limit: int, retry_after_seconds: float, reading: Reading, now: float, may_pay: bool) -> None:
        super().__init__(kind="free", subject=model, limit=limit, retry_after_seconds=retry_after_seconds, reading=reading)
        self.resets_at = datetime.fromtimestamp(round((now + retry_after_seconds) / DAY_SECONDS) * DAY_SECONDS, UTC)
        self.may_pay = may_pay  # the model has a price, which the wallet does not cover


def connect(url: str, *, seconds: float = CALL_SECONDS) -> Redis:
    """Make a client of the Valkey at `url` (`redis://`, `rediss://`, `unix://`) that fails fast and never tries again by itself.

    redis-py's own defaults are ten retries and five seconds, which is 4 s a command while the server is down.
    """
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=seconds, socket_connect_timeout=seconds, decode_responses=False)


class RateLimiter:
    """Admit and finish requests within their limits, for one process of `processes` that share them.

    `client` None means no Valkey: the local buckets serve, for good. `server_time` False lets the given times rule in Valkey too, which
    makes a test independent of the clock. `clock` is unix seconds, `stopwatch` monotonic seconds.
    """

    def __init__(
        self,
        client: Redis | None,
        *,
        processes: int = 1,
        server_time: bool = True,
        clock: Callable[[], float] = time.time,
        stopwatch: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._processes = processes
        self._server_time = server_time
        self._clock = clock
        self._stopwatch = stopwatch
        self._local = LocalBuckets(processes)
        self._batcher: Batcher[Operation, Answer] = Batcher(self._send, limit=BATCH_LIMIT)
        self._connection: AbstractConnection | None = None
        self._open = client is None
        self._slow_calls = 0
        self._probe: asyncio.Task[None] | None = None
        self._undelivered: deque[Operation] = deque(maxlen=UNDELIVERED_LIMIT)

    @property
    def degraded(self) -> bool:
        """Whether the local buckets serve instead of Valkey."""
        return self._open

    async def admit(
        self, *, account: int, request_id: str, limits: Sequence[Limit], now: float, max_seconds: int, free: Allowance | None = None
    ) -> Reading:
        """Count a request in all `limits` of `account`, or in none, and say what is left; `free`: as one of a model's free requests.

        `now` is unix seconds, used while Valkey is away; `max_seconds` is when a concurrency slot that nobody released comes back. Every
        admitted request must be finished with the same limits. Requests of one account are judged in the order of their calls.

        Raises: RateLimited, FreeLimitReached.
        """
        checks = _checks(account, limits) + _free_checks(account, free)
        if not checks:
            return NOTHING_LIMITED
        operation = Operation(account, request_id, max_seconds, checks, int(now * 1000))
        if self._open:
            answer = self._local.serve(operation)
        else:
            asked = self._batcher.submit(operation)
            try:
                answer = await (asyncio.shield(asked) if free else asked)
            except asyncio.CancelledError:
                # The question is on its way and may be answered with a yes that nobody will finish.
                self.finish(account=account, request_id=request_id, limits=limits, tokens=0)
                if free is not None:
                    asked.add_done_callback(lambda done: self._give_back(account, free, _free_day(done)))
                raise
        return _conclude(answer, checks, now)

    def give_back(self, *, account: int, free: Allowance, reading: Reading) -> None:
        """Take back that a request was counted as a free one: nothing came of it. Returns at once; call it once."""
        self._give_back(account, free, reading.free_day)

    def _give_back(self, account: int, free: Allowance, day: int) -> None:
        if day == 0:
            return
        checks = [(FREE, key, -1, subject) for _, key, _, subject in _free_checks(account, free)]
        operation = Operation(account, "", -abs(day) - 1, checks, int(self._clock() * 1000))
        if not self._open:
            self._batcher.submit(operation)
        elif day < 0:
            self._local.serve(operation)
        else:
            self._undelivered.append(operation)  # Valkey counted it

    def finish(self, *, account: int, request_id: str, limits: Sequence[Limit], tokens: int) -> None:
        """Give back the concurrency slots of a request and count its `tokens`. Returns at once; a failure is nobody's concern."""
        checks = [
            check for check in _checks(account, limits) if check[0] == CONCURRENCY or (check[0] == TOKENS and tokens > 0)
        ]  # requests were counted when they came
        if not checks:
            return
        operation = Operation(account, request_id, -max(tokens, 0) - 1, checks, int(self._clock() * 1000))
        if self._open:
            self._serve_locally(operation)
        else:
            self._batcher.submit(operation)

    async def idle(self) -> None:
        """Return when everything handed in has been sent."""
        await self._batcher.idle()

    async def close(self) -> None:
        """Send what is waiting and let go of the connection. The client stays open: it is its maker's."""
        await self._batcher.idle()
        self._open = True
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)
        await self._disconnect()

    async def _send(self, operations: Sequence[Operation]) -> Sequence[Answer]:
        """Answer a batch from Valkey, or from the local buckets if it does not answer in time. Never raises."""
        if self._open:
            return [self._serve_locally(operation) for operation in operations]
        started = self._stopwatch()
        try:
            async with asyncio.timeout(CALL_SECONDS):
                answers = await self._call(operations)
        except Exception as error:
            # A stalled server is left alone for a moment; a connection that broke may be good again at once (a restart, an idle cut).
            await self._open_breaker(repr(error), pause=PROBE_SECONDS if isinstance(error, TimeoutError | RedisTimeoutError) else 0.0)
            return [self._serve_locally(operation, in_doubt=True) for operation in operations]
        if self._stopwatch() - started <= SLOW_SECONDS:
            self._slow_calls = 0
        else:
            self._slow_calls += 1
            if self._slow_calls >= SLOW_CALLS:
                await self._open_breaker(f"{SLOW_CALLS} slow calls in a row", pause=SLOW_PAUSE_SECONDS)
        return answers

    async def _call(self, operations: Sequence[Operation]) -> Sequence[Answer]:
        """Run the script once for each account of the batch, in one round trip, and give the answers in the order of the batch.

        Raises: RedisError, OSError.
        """
        groups: dict[int, list[Operation]] = {}
        for operation in operations:
            group = groups.get(operation.account)
            if group is None:
                groups[operation.account] = [operation]
            else:
                group.append(operation)
        commands = [self._command(group) for group in groups.values()]
        replies = await self._exchange(commands)
        unknown = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            loaded = await self._exchange([_pack((b"SCRIPT", b"LOAD", SCRIPT)), *(commands[index] for index in unknown)])
            for index, reply in zip(unknown, loaded[1:], strict=True):
                replies[index] = reply
        answers: dict[int, Iterator[Answer]] = {}
        for account, reply in zip(groups, replies, strict=True):
            if isinstance(reply, Exception):
                raise reply
            answers[account] = iter([reply[start : start + ANSWER_LENGTH] for start in range(0, len(reply), ANSWER_LENGTH)])
        return [() if operation.seconds < 0 else next(answers[operation.account]) for operation in operations]

    def _command(self, group: Sequence[Operation]) -> bytes:
        keys: dict[str, int] = {}
        listed = []
        for operation in group:
            row: list[str | int] = [operation.request_id, operation.seconds]
            for kind, key, limit, _ in operation.checks:
                row += (kind, keys.setdefault(key, len(keys) + 1), limit)
            listed.append(row)
        moment = b"" if self._server_time else b"%d" % max(operation.now_ms for operation in group)
        return _pack((b"EVALSHA", SCRIPT_SHA, b"%d" % len(keys), *(key.encode() for key in keys), orjson.dumps(listed), moment))

    async def _exchange(self, commands: Sequence[bytes]) -> list[Any]:
        """Write the commands, read one reply each; a reply may be a ResponseError.

        On a connection of our own and without redis-py's timers: its pipeline costs more than everything else here, and the one
        timeout around the call already bounds it.
        """
        if self._connection is None:
            if self._client is None:
                raise RuntimeError("there is no Valkey to call")
            pool = self._client.connection_pool
            self._connection = pool.connection_class(**{**pool.connection_kwargs, "socket_timeout": None, "health_check_interval": 0})
        connection = self._connection
        await connection.send_packed_command(b"".join(commands), check_health=False)
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(await connection.read_response())
            except ResponseError as error:
                replies.append(error)
        return replies

    def _serve_locally(self, operation: Operation, *, in_doubt: bool = False) -> Answer:
        """Answer from this process's buckets, and remember the concurrency slots that Valkey may hold for this request."""
        answer = self._local.serve(operation)
        ended = operation.seconds < 0 or (in_doubt and answer[0] != 0)
        if ended and self._client is not None:
            slots = [check for check in operation.checks if check[0] == CONCURRENCY]
            if slots:
                self._undelivered.append(Operation(operation.account, operation.request_id, -1, slots, operation.now_ms))
        return answer

    async def _open_breaker(self, reason: str, *, pause: float) -> None:
        self._open = True
        self._slow_calls = 0
        logger.warning("rate limits are served by this process alone: %s", reason)
        await self._disconnect()
        self._probe = asyncio.get_running_loop().create_task(self._watch(pause))

    async def _watch(self, pause: float) -> None:
        """Ask Valkey to admit a request of nobody until it does so quickly; then give the limits back to it."""
        nobody = Limit("probe", rpm=1_000_000)
        while True:
            await asyncio.sleep(pause)
            pause = PROBE_SECONDS
            started = self._stopwatch()
            try:
                async with asyncio.timeout(CALL_SECONDS):
                    await self._call([Operation(0, "probe", 0, _checks(0, [nobody]), int(self._clock() * 1000))])
            except Exception:
                await self._disconnect()
                continue
            if self._stopwatch() - started <= SLOW_SECONDS:
                break
        logger.warning("rate limits are shared through Valkey again")
        self._open = False
        counted, self._local = self._local.free_requests(), LocalBuckets(self._processes)
        while self._undelivered:
            self._batcher.submit(self._undelivered.popleft())
        for key, day, count in counted:
            self._batcher.submit(Operation(0, "", -day - 1, [(FREE, key, count, "")], int(self._clock() * 1000)))

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)


def _checks(account: int, limits: Sequence[Limit]) -> list[Check]:
    checks: list[Check] = []
    for limit in limits:
        if limit.rpm is not None:
            checks.append((REQUESTS, f"{{a{account}}}:rl:{limit.subject}:requests", limit.rpm, limit.subject))
        if limit.tpm is not None:
            checks.append((TOKENS, f"{{a{account}}}:rl:{limit.subject}:tokens", limit.tpm, limit.subject))
        if limit.concurrency is not None:
            checks.append((CONCURRENCY, f"{{a{account}}}:rl:{limit.subject}:running", limit.concurrency, limit.subject))
    return checks


def _free_day(done: "asyncio.Future[Answer]") -> int:
    return 0 if done.cancelled() or done.exception() is not None else done.result()[-1]


def _free_checks(account: int, free: Allowance | None) -> list[Check]:
    """Those of the account first: when both are used up, it is its own share that is named."""
    if free is None:
        return []
    kind = FREE_OR_PAID if free.or_pays else FREE
    return [
        (kind, f"{{a{account}}}:free:{free.model_id}", free.share, free.slug),
        (kind, f"free:{free.model_id}", free.cap, free.slug),
    ]


def _conclude(answer: Answer, checks: Sequence[Check], now: float) -> Reading:
    """Turn an answer into a reading; `now` is unix seconds.

    Raises: RateLimited, FreeLimitReached.
    """
    refusing, wait_ms, requests, requests_left, requests_reset_ms, tokens, tokens_left, tokens_reset_ms, free_day = answer
    reading = Reading(
        checks[requests - 1][2] if requests else None,
        requests_left if requests else None,
        requests_reset_ms / 1000 if requests else None,
        checks[tokens - 1][2] if tokens else None,
        tokens_left if tokens else None,
        tokens_reset_ms / 1000 if tokens else None,
        free_day,
    )
    if refusing:
        kind, _, limit, subject = checks[refusing - 1]
        if kind == FREE:
            raise FreeLimitReached(model=subject, limit=limit, retry_after_seconds=wait_ms / 1000, reading=reading, now=now, may_pay=False)
        raise RateLimited(kind=KINDS[kind], subject=subject, limit=limit, retry_after_seconds=wait_ms / 1000, reading=reading)
    return reading


def _pack(arguments: Sequence[bytes]) -> bytes:
    """Write a command as the protocol wants it: https://valkey.io/topics/protocol/."""
    return b"*%d\r\n%b" % (len(arguments), b"".join([b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments]))
