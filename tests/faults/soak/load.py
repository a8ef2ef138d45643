"""The clients of a run: a steady number of them, each of whom does one thing of the mix after the other."""

import asyncio
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp

from tests.faults.soak.market import Market
from tests.faults.soak.mix import MIX, PATIENCE_SECONDS, Books, Kind, Visit

CLIENTS = 12


@dataclass
class Load:
    """Clients of one gateway; `books` are of all their runs."""

    origin: str
    market: Market
    seed: int
    books: Books = field(default_factory=Books)

    def run(self, *, deeds: float = math.inf, seconds: float = math.inf, mix: Mapping[Kind, int] = MIX) -> None:
        """Do so many things of the mix, or for so long, and return when the last client is through."""
        asyncio.run(self._clients(deeds, time.monotonic() + seconds, mix))

    async def _clients(self, deeds: float, deadline: float, mix: Mapping[Kind, int]) -> None:
        left = [deeds]
        timeout = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:

            async def live() -> None:
                self.seed += 1
                visit = Visit(self.origin, self.market, session, random.Random(self.seed), self.books)
                while left[0] > 0 and time.monotonic() < deadline:
                    left[0] -= 1
                    await self._do(visit, mix)

            await asyncio.gather(*(live() for _ in range(CLIENTS)))

    async def _do(self, visit: Visit, mix: Mapping[Kind, int]) -> None:
        (kind,) = visit.dice.choices(list(mix), weights=list(mix.values()))
        visit.doing = kind.__name__
        try:
            await kind(visit)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            visit.surprise(repr(error))
        self.books.done[kind.__name__] += 1
