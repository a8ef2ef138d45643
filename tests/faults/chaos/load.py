"""The inference load: clients who ask for completions, streamed and whole, and sometimes hang up in the middle of an answer."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp

CLIENTS = 8
# What the fake provider is asked to be: quick answers, streams that are often cut by a kill, and one that never says what it used.
UPSTREAM_MODELS = (
    "chat:text=40",
    "chat:text=120;gap_ms=10",
    "chat:text=60;delay_ms=30",
    "fault:no-usage",
    "fault:drop-midstream",
)


@dataclass
class Load:
    """Clients of one gateway, and what they saw."""

    port: int
    secrets: Sequence[str]
    models: Sequence[str]
    seed: int
    statuses: Counter[str] = field(default_factory=Counter)
    complete: list[str] = field(default_factory=list)  # request ids of answers that arrived whole

    def run(self, stop: threading.Event) -> None:
        """Ask until told to stop."""
        asyncio.run(self._clients(stop))

    async def _clients(self, stop: threading.Event) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=25)) as session:
            await asyncio.gather(*(self._client(session, random.Random(self.seed + number), stop) for number in range(CLIENTS)))

    async def _client(self, session: aiohttp.ClientSession, dice: random.Random, stop: threading.Event) -> None:
        while not stop.is_set():
            stream = dice.random() < 0.5
            hang_up = stream and dice.random() < 0.15
            body = {
                "model": dice.choice(self.models),
                "stream": stream,
                "max_tokens": 400,
                "messages": [{"role": "user", "content": "go on"}],
            }
            headers = {"Authorization": f"Bearer {dice.choice(self.secrets)}"}
            try:
                async with session.post(f"http://127.0.0.1:{self.port}/v1/chat/completions", json=body, headers=headers) as response:
                    if hang_up:
                        await response.content.readany()
                        self.statuses["hung up"] += 1
                        continue
                    data = await response.read()
                    self.statuses[str(response.status)] += 1
                    if response.status == 200 and b'"error"' not in data and (not stream or b"[DONE]" in data):
                        self.complete.append(response.headers["x-request-id"])
                    await asyncio.sleep(0.02 if response.status < 500 else 0.05)  # a person reads
            except (aiohttp.ClientError, TimeoutError, OSError):
                self.statuses["cut"] += 1
                await asyncio.sleep(0.05)
