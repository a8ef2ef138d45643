"""Customers who order videos: those that fail, that are filtered and that come, whose makers ask how they stand, or never ask again."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp

DIRECTORS = 3
VIDEOS, SECONDS = 2, 4  # of each order
USD_PER_SECOND, NANO_PER_SECOND = "0.01", 10_000_000
# What the fake provider is asked to be, and how many of the ordered videos come.
KINDS = {
    "polls=1;videos=2": 2,
    "polls=1;error=The service is out of resources.": 0,
    "polls=2;videos=1;filtered=1": 1,
}
MOST_POLLS = 6


@dataclass
class Films:
    """Directors at one gateway, and what they were told."""

    port: int
    secrets: Sequence[str]
    delivers: Mapping[str, int]  # how many videos come, by model
    seed: int
    statuses: Counter[str] = field(default_factory=Counter)
    ordered: dict[str, int] = field(default_factory=dict)  # how many videos will come, by the ids of orders that were accepted
    ended: set[str] = field(default_factory=set)  # orders whose end was told: what did not come is paid back by then

    def run(self, stop: threading.Event) -> None:
        """Order until told to stop."""
        asyncio.run(self._directors(stop))

    async def _directors(self, stop: threading.Event) -> None:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{self.port}", timeout=aiohttp.ClientTimeout(total=25)) as session:
            directors = (self._director(session, random.Random(self.seed * 10 + n), stop) for n in range(DIRECTORS))
            await asyncio.gather(*directors, self._look_after(session, stop))

    async def _director(self, session: aiohttp.ClientSession, dice: random.Random, stop: threading.Event) -> None:
        while not stop.is_set():
            model = dice.choice(list(self.delivers))
            body = {"instances": [{"prompt": "a cat"}], "parameters": {"sampleCount": VIDEOS, "durationSeconds": SECONDS}}
            headers = {"x-goog-api-key": dice.choice(self.secrets)}
            try:
                async with session.post(f"/v1beta/models/{model}:predictLongRunning", json=body, headers=headers) as response:
                    told = await response.json()
                    self.statuses[f"order {response.status}"] += 1
                    request_id = response.headers.get("x-request-id", "")
                if response.status == 200:
                    self.ordered[request_id] = self.delivers[model]
                    if dice.random() < 0.5 and await self._ask(session, f"/v1beta/{told['name']}", headers, together=dice.randint(1, 3)):
                        self.ended.add(request_id)
            except (aiohttp.ClientError, TimeoutError, OSError):
                self.statuses["cut"] += 1
            await asyncio.sleep(dice.uniform(0.05, 0.3))

    async def _look_after(self, session: aiohttp.ClientSession, stop: threading.Event) -> None:
        """Have the gateway look by itself, as its task does."""
        while not stop.is_set():
            try:
                async with session.post("/chaos/look_after_videos", json={}) as response:
                    self.statuses[f"look {response.status}"] += 1
            except (aiohttp.ClientError, TimeoutError, OSError):
                self.statuses["cut"] += 1
            await asyncio.sleep(0.3)

    async def _ask(self, session: aiohttp.ClientSession, address: str, headers: Mapping[str, str], *, together: int) -> bool:
        """Ask how an order stands, several at the same time as impatient people do; whether it has ended."""

        async def ask() -> bool:
            async with session.get(address, headers=headers) as response:
                self.statuses[f"poll {response.status}"] += 1
                return response.status == 200 and (await response.json()).get("done") is True

        for _ in range(MOST_POLLS):
            if True in await asyncio.gather(*(ask() for _ in range(together)), return_exceptions=True):
                return True
            await asyncio.sleep(0.05)
        return False
