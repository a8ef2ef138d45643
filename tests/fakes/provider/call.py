"""Owns one call as a behaviour sees it: what was asked, the knobs, and the ways to answer well."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from tests.fakes.provider import shapes
from tests.fakes.provider.answers import Answer, Usage, compose
from tests.fakes.provider.asking import Ask
from tests.fakes.provider.barriers import Barriers
from tests.fakes.provider.behaviours import Behaviour, Knobs
from tests.fakes.provider.shapes import gemini
from tests.fakes.provider.shapes.event import Event, Part, dump, event
from tests.fakes.provider.wire import Exchange

JSON = "application/json"
SSE = "text/event-stream; charset=utf-8"


@dataclass(frozen=True)
class Call:
    """One request on its way to an answer."""

    exchange: Exchange
    ask: Ask
    behaviour: Behaviour
    barriers: Barriers
    origin: str

    @property
    def knobs(self) -> Knobs:
        return self.behaviour.knobs

    @cached_property
    def answer(self) -> Answer:
        return self.compose()

    def compose(self, *, text: str | None = None, usage: Usage | None = None) -> Answer:
        """Make the answer the knobs describe, with another text or other counts."""
        return compose(self.ask, self.knobs, self.exchange.request.number, text=text, usage=usage)

    @property
    def streams(self) -> bool:
        """Whether the answer is to be a stream of events."""
        return self.ask.stream and self.ask.sse and self.ask.shape in shapes.STREAMED

    def events(self, answer: Answer | None = None) -> list[Event]:
        return shapes.events(answer or self.answer, self.ask)

    def body(self, answer: Answer | None = None) -> bytes:
        """Return the whole answer as one JSON body."""
        if self.ask.stream and not self.ask.sse:
            return gemini.as_array(self.events(answer))
        return dump(shapes.whole(answer or self.answer, self.ask))

    def error_event(self, message: str, *, status: int = 500, kind: str = "server_error", code: str | None = None) -> bytes:
        """Return an error as an event of this shape's stream."""
        name, value = shapes.error_event(self.ask.shape, status, message, kind, code)
        return event(Part.CONTENT, value, name).data

    def content(self, chunks: int) -> tuple[list[Event], list[Event]]:
        """Split the stream behind its first `chunks` content events: (what opens it and those, all the rest)."""
        stream, seen = self.events(), 0
        for position, one in enumerate(stream):
            if seen == chunks and one.part is not Part.OPEN:
                return stream[:position], stream[position:]
            seen += one.part is Part.CONTENT
        return stream, []

    def headers(self, kind: str) -> list[tuple[str, str]]:
        name = f"req_fake{self.exchange.request.number}"
        return [("Content-Type", kind), ("x-request-id", name), ("request-id", name)]

    def stream_head(self) -> None:
        self.exchange.head(200, [*self.headers(SSE), ("Cache-Control", "no-cache")])

    async def send(self, stream: Iterable[Event]) -> None:
        """Send events one by one, `gap_ms` apart."""
        for position, one in enumerate(stream):
            if position and self.answer.gap:
                await asyncio.sleep(self.answer.gap)
            await self.exchange.send(one.data)

    async def respond(self, answer: Answer | None = None) -> None:
        """Answer well, streamed or whole, after `delay_ms`."""
        answer = answer or self.answer
        if answer.delay:
            await asyncio.sleep(answer.delay)
        if self.streams:
            stream = self.events(answer)
            self.stream_head()
            await self.send(stream[:-1])
            if self.answer.gap:
                await asyncio.sleep(self.answer.gap)
            await self.exchange.finish(stream[-1].data)
        else:
            await self.exchange.answer(200, self.headers(JSON), self.body(answer))

    async def fail(
        self, status: int, message: str, *, kind: str = "", code: str | None = None, more: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Answer with an error in this shape's words."""
        await self.exchange.answer(status, [*self.headers(JSON), *more], dump(shapes.error(self.ask.shape, status, message, kind, code)))
