"""Owns long-running operations: how one goes is in the model name that began it, and that name is in the operation's own.

Knobs of `chat:` for `:predictLongRunning`: `polls=` how often it is not done yet (default 1), `videos=` how many come (default 1), `filtered=`
how many were filtered (default 0), `error=` what it fails with, `elsewhere=1` the file is at another host, `file=onward` it sends on first,
`file=cut` it breaks off in the middle, `status=` an error that it is always answered with.
"""

import json
from collections import Counter
from typing import Any
from urllib.parse import unquote

from tests.fakes.provider import behaviours
from tests.fakes.provider.shapes.event import dump
from tests.fakes.provider.wire import Exchange

KNOBS = ("polls", "videos", "filtered", "error", "elsewhere", "file", "status")
FILM = b"\x00\x00\x00\x18ftypmp42" + bytes(range(256)) * 1200
JSON = [("Content-Type", "application/json")]


class Operations:
    """Remembers how often each operation was asked for."""

    def __init__(self) -> None:
        self._asked: Counter[str] = Counter()

    async def serve(self, exchange: Exchange, origin: str) -> bool:
        """Answer a request about an operation or a file; whether it was one."""
        request = exchange.request
        path = unquote(request.path.partition("?")[0])
        if path.endswith(":fetchPredictOperation"):
            await self._tell(exchange, json.loads(request.body)["operationName"], origin, vertex=True)
        elif request.method == "GET" and "/operations/" in path:
            await self._tell(exchange, path.removeprefix("/v1/"), origin, vertex=False)
        elif request.method == "GET" and path.startswith("/v1/files/onward"):
            await exchange.answer(302, [("Location", "/v1/files/film:download?alt=media")], b"")
        elif request.method == "GET" and path.startswith("/v1/files/cut"):
            exchange.head(200, [("Content-Type", "video/mp4")], length=len(FILM))
            await exchange.send(FILM[: len(FILM) // 2])
            exchange.close()
        elif request.method == "GET" and path.startswith("/v1/files/"):
            await exchange.answer(200, [("Content-Type", "video/mp4")], FILM)
        else:
            return False
        return True

    async def _tell(self, exchange: Exchange, name: str, origin: str, *, vertex: bool) -> None:
        knobs = behaviours.parse(bytes.fromhex(name.rpartition("-")[2]).decode()).knobs
        if status := knobs.number("status", 0):
            await exchange.answer(status, JSON, dump({"error": {"code": status, "message": "Requested entity was not found."}}))
            return
        self._asked[name] += 1
        told: dict[str, Any] = {"name": name, "metadata": {"project": "a-secret-project"}}
        if self._asked[name] > knobs.number("polls", 1):
            told["done"] = True
            if knobs.given("error"):
                told["error"] = {"code": 3, "message": knobs.text("error")}
            else:
                host = "http://127.0.0.1:9" if knobs.flag("elsewhere") else origin
                url = f"{host}/v1/files/{knobs.text('file', 'film')}:download?alt=media"
                told["response"] = _response(knobs.number("videos", 1), knobs.number("filtered", 0), url, vertex=vertex)
        await exchange.answer(200, JSON, dump(told))


def _response(videos: int, filtered: int, url: str, *, vertex: bool) -> dict[str, Any]:
    made: dict[str, Any] = {"raiMediaFilteredCount": filtered, "raiMediaFilteredReasons": ["unsafe"]} if filtered else {}
    if vertex:
        return {**made, "videos": [{"bytesBase64Encoded": "AAAA", "mimeType": "video/mp4"}] * videos}
    if videos:
        made["generatedSamples"] = [{"video": {"uri": url}}] * videos
    return {"generateVideoResponse": made}
