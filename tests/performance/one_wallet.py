"""Places and settles requests on one wallet as one gateway process would, and nothing else: what a governed request costs in money alone.

Run as `python -m tests.performance.one_wallet '{"account": …}'` (the fields of `Plan`); it prints one JSON list (`Result`).
"""

import asyncio
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import uvloop

from billing.holds import HoldDesk, Wanted
from billing.settlement import Settlement
from gateway_site.clients import Lane
from gateway_site.identifiers import uuid7
from keys import budgets

ABOUT = {
    "model": "bench/chat",
    "provider": "",
    "upstream_model": "",
    "endpoint": "chat",
    "format": "chat",
    "streamed": False,
    "user_tag": "",
}
COST = 300_000


@dataclass(frozen=True, slots=True)
class Plan:
    """Whose wallet, how many requests at once, and for how many seconds each."""

    database_url: str
    account: int
    key: int
    seconds: float
    concurrencies: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What one concurrency reached; CPU is this process's, microseconds a request."""

    concurrency: int
    requests: int
    per_second: float
    cpu_us: float


async def measure(plan: Plan) -> list[Result]:
    """Place and settle at each concurrency."""
    holds, settles, owner = (
        Lane(plan.database_url, deadline_seconds=10, options=options) for options in ("-c synchronous_commit=off", "", "")
    )
    with tempfile.TemporaryDirectory() as spool:
        settlement = Settlement(settles, spool=Path(spool))
        desk = HoldDesk(holds, lease=timedelta(seconds=60), release=settlement.release, owner_lane=owner)
        await desk.renew_lease()
        results = []
        await _run(plan, desk, settlement, 4, 0.3)  # prepared statements, plans, caches
        for concurrency in plan.concurrencies:
            await desk.renew_lease()
            results.append(await _run(plan, desk, settlement, concurrency, plan.seconds))
        await settlement.idle()
    for lane in (holds, settles, owner):
        await lane.close()
    return results


async def _run(plan: Plan, desk: HoldDesk, settlement: Settlement, concurrency: int, seconds: float) -> Result:
    began, cpu = time.perf_counter(), time.process_time()
    until = began + seconds
    counts = await asyncio.gather(*(_one_client(plan, desk, settlement, until) for _ in range(concurrency)))
    spent = time.perf_counter() - began
    return Result(concurrency, sum(counts), sum(counts) / spent, (time.process_time() - cpu) / sum(counts) * 1e6)


async def _one_client(plan: Plan, desk: HoldDesk, settlement: Settlement, until: float) -> int:
    count = 0
    while time.perf_counter() < until:
        wanted = _wanted(plan, desk)
        await desk.place(wanted)
        settled = await settlement.submit(_record(wanted))
        if settled.outcome != "settled":
            raise RuntimeError(f"a record was {settled.outcome}")
        count += 1
    return count


def _wanted(plan: Plan, desk: HoldDesk) -> Wanted:
    now = datetime.now(UTC)
    month = budgets.window_at("month", now, timezone="UTC")
    return Wanted(
        request_id=uuid7(time.time_ns() // 1_000_000),
        account_id=plan.account,
        key_id=plan.key,
        amount=COST * 2,
        least=COST,
        budget=month,
        quota=month,
        tokens_in=250,
        tokens_out=256,
        started_at=now,
        lifetime=timedelta(minutes=10),
        about=ABOUT,
    )


def _record(wanted: Wanted) -> dict[str, Any]:
    none = dict.fromkeys(
        (
            "cached_input_tokens",
            "cache_write_tokens",
            "cache_write_1h_tokens",
            "audio_input_tokens",
            "reasoning_tokens",
            "audio_output_tokens",
        ),
        0,
    )
    return {
        **wanted.about,
        **none,
        "id": wanted.request_id,
        "account": wanted.account_id,
        "key": wanted.key_id,
        "price": None,
        "input_tokens": 212,
        "output_tokens": 52,
        "images": 0,
        "cost": COST,
        "list_cost": COST,
        "upstream_cost": COST,
        "reported_cost": None,
        "usage_source": "provider",
        "status": "ok",
        "rule": "metered",
        "finish_reason": "stop",
        "error_code": "",
        "status_code": 200,
        "attempts": [{"provider": "bench", "result": "ok", "ms": 1}],
        "flags": [],
        "latency_ms": 1,
        "first_token_ms": None,
        "started": wanted.started_at,
        "ended": datetime.now(UTC),
    }


if __name__ == "__main__":
    given = orjson.loads(sys.argv[1])
    found = uvloop.run(measure(Plan(**{**given, "concurrencies": tuple(given["concurrencies"])})))
    print(orjson.dumps([asdict(result) for result in found]).decode(), flush=True)
