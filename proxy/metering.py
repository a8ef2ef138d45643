"""Counts what a provider produces for one request, keeps the hold ahead of it, and says at the end what happened.

It counts what the provider produced for the client, not what the client read.
"""

import asyncio
from dataclasses import replace

from django.conf import settings

from billing import charging
from catalog import pricing
from catalog.usage import TokenUsage
from proxy.admission import SMALLEST_ANSWER_TOKENS, Ticket
from proxy.formats.base import BYTES_PER_TOKEN, Tap

GROW_AT = 0.5  # ask for more when half of the held stretch is delivered
STRETCH_FACTOR = 2  # each stretch is as long as all before it, so a long answer asks a handful of times


class Meter:
    """The count of one stream."""

    __slots__ = ("_asked", "_growth", "_held_tokens", "_noted_at", "_price", "_searches", "_spare_searches", "_tap", "_ticket")

    def __init__(self, ticket: Ticket, tap: Tap) -> None:
        self._ticket = ticket
        self._tap = tap
        self._price = ticket.price
        self._growth: asyncio.Future[int] | None = None
        self._asked = 0  # nano-USD, with the last growth
        self._searches = 0  # as many as the held tokens are reckoned beside
        # Kept apart for searches to come, as long as the wallet can spare it.
        searches = ticket.ask.web_searches
        self._spare_searches = searches if searches and self._covers(searches) else 0
        self._held_tokens = self._tokens_covered(ticket.held)
        self._noted_at = ticket.ask.clock

    def estimate(self) -> TokenUsage:
        """Our own count of the input and of what was delivered."""
        return TokenUsage(
            input_tokens=self._ticket.ask.input_estimate,
            output_tokens=-(-self._tap.output_bytes // BYTES_PER_TOKEN),
            web_searches=self._tap.web_searches,
        )

    @property
    def needs_attention(self) -> bool:
        """Whether the delivered output, or the searches, have come near what is held: cheap, asked for every chunk."""
        return self._tap.output_bytes >= self._held_tokens * BYTES_PER_TOKEN * GROW_AT or self._tap.web_searches > self._searches

    async def keep_ahead(self) -> bool:
        """Grow the hold ahead of what is delivered; False when the wallet cannot grow it and what is held is used up.

        Waits for PostgreSQL only when everything held is used up.
        """
        if self._ticket.costs_nothing:
            return True
        delivered = -(-self._tap.output_bytes // BYTES_PER_TOKEN)
        if self._growth is not None and self._growth.done():
            self._take_growth()
        if self._tap.web_searches > self._searches:
            self._held_tokens = self._tokens_covered(self._ticket.held)
        if self._growth is None:
            self._ask_for_more(delivered)
        asked = False
        while delivered >= self._held_tokens:
            before, growth = self._held_tokens, self._growth
            if growth is None:  # what was asked for earlier is less than what has arrived since
                growth, asked = self._ask_for_more(delivered), True
            await asyncio.wait([growth])
            self._take_growth()
            if asked and self._held_tokens <= before:
                return False
        return True

    def note(self, now: float) -> None:
        """Write down what was delivered so far, every few seconds: what is charged should this process die. `now` is monotonic."""
        if now - self._noted_at >= settings.HOLD_LEASE_SECONDS / 4 and self._growth is None and not self._ticket.costs_nothing:
            self._noted_at = now
            self._growth = self._ticket.grow(amount=self._ticket.held, usage=self.estimate())

    def happened(self, status: str) -> charging.Happened:
        """What is known now that the stream is over."""
        return charging.Happened(
            reported=self._reported(),
            estimate=self.estimate(),
            finish_reason=self._tap.finish_reason,
            status=status,
            is_test=self._ticket.grant.is_test,
        )

    def _reported(self) -> TokenUsage | None:
        """What the provider said; of searches that were seen and that it left out of its last word, those."""
        usage = self._tap.usage
        if usage is None or usage.web_searches >= self._tap.web_searches:
            return usage
        return replace(usage, web_searches=self._tap.web_searches)

    def _ask_for_more(self, delivered: int) -> "asyncio.Future[int]":
        ask = self._ticket.ask
        most = self._ticket.output_limit * ask.choices
        # The client's limit bounds the answer; our own count of it may run somewhat higher than the provider's.
        stretch = min(max(self._held_tokens, delivered) * STRETCH_FACTOR, max(most, delivered + self._ticket.model.usual_output))
        searches = max(ask.web_searches, self._tap.web_searches * STRETCH_FACTOR)
        amount = pricing.worst_case(
            self._price,
            input_tokens=ask.input_after(searches),
            output_tokens=max(stretch, self._ticket.model.usual_output),
            web_searches=searches,
        )
        self._asked = max(amount, self._ticket.held)
        self._growth = growth = self._ticket.grow(amount=self._asked, usage=self.estimate(), tokens_out=stretch)
        return growth

    def _take_growth(self) -> None:
        if self._growth is None:
            return
        growth, self._growth = self._growth, None
        if growth.cancelled() or growth.exception() is not None:
            # PostgreSQL is away. What has begun is finished: the stream runs on uncovered, one stretch at a time, and is settled from disk.
            self._held_tokens = max(self._held_tokens, self._tap.output_bytes // BYTES_PER_TOKEN) + self._ticket.model.usual_output
            return
        granted = growth.result()
        if granted >= 0:
            self._ticket.held = granted
            if granted < self._asked:
                self._spare_searches = 0  # the wallet is at its end: what is left is for what is being delivered
            self._held_tokens = self._tokens_covered(granted)

    def _tokens_covered(self, held: int) -> int:
        self._searches = max(self._tap.web_searches, self._spare_searches)
        return 1 << 60 if self._ticket.costs_nothing else self._affordable(held, self._searches)

    def _covers(self, searches: int) -> bool:
        return self._affordable(self._ticket.held, searches) >= SMALLEST_ANSWER_TOKENS

    def _affordable(self, held: int, searches: int) -> int:
        return pricing.affordable_output(
            self._price, input_tokens=self._ticket.ask.input_after(searches), budget=held, web_searches=searches
        )
