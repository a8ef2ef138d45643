"""A fake Stripe for each test, the settings that lead to it, and a till: what customers, banks and events do."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import pytest
from django.utils import timezone

from billing.models import StripeEvent, TopUp
from billing.payments import inbox, top_ups
from tests.conftest import USD, Customer, make_customer
from tests.fakes.stripe import FakeStripe


class Till:
    """A customer at the till of a fake Stripe, and the events that come of it."""

    def __init__(self, fake: FakeStripe, usd: str = "0") -> None:
        self.fake = fake
        self.customer: Customer = make_customer(usd=usd)
        self._seen = 0

    @property
    def balance(self) -> int:
        return int(self.customer.fresh_wallet().balance)

    def checkout(self, usd: int = 25, **more: Any) -> TopUp:
        """A session that waits for its customer."""
        self._seen = len(self.fake.events)
        return top_ups.start_checkout(
            account=self.customer.account,
            user=None,
            amount_nano=usd * USD,
            success_url="http://localhost/paid",
            cancel_url="http://localhost/not",
            now=timezone.now(),
            **more,
        ).top_up

    def paid(self, usd: int = 25, number: str = "4242424242424242", **more: Any) -> TopUp:
        """A checkout that was paid; no event has been handled."""
        top_up = self.checkout(usd)
        self.fake.pay(top_up.session_id or "", number, **more)
        return top_up

    def credited(self, usd: int = 25) -> TopUp:
        """A checkout that was paid and credited."""
        top_up = self.paid(usd)
        self.hear(self.news())
        top_up.refresh_from_db()
        assert top_up.state == TopUp.State.PAID
        return top_up

    def news(self, *types: str) -> list[dict[str, Any]]:
        """The events of this till since the last look: those of `types`, or all."""
        events = self.fake.events
        fresh, self._seen = events[self._seen :], len(events)
        return [event for event in fresh if not types or event["type"] in types]

    def hear(self, events: Iterable[dict[str, Any]], *, now: datetime | None = None) -> list[StripeEvent.State | None]:
        """Receive events as webhooks, one after the other, and handle each."""
        states = []
        for event in events:
            body, signature = self.fake.signed(event["id"])
            event_id = inbox.receive(body=body, signature=signature, now=timezone.now())
            states.append(inbox.attempt(event_id, now=now or timezone.now()))
        return states


def drain(now: datetime | None = None) -> None:
    """Handle every event that is due, also the many that other tests have left."""
    now = now or timezone.now()
    while inbox.drain(now=now, limit=1000):
        pass


@pytest.fixture
def fake(settings: Any) -> Iterator[FakeStripe]:
    with FakeStripe() as running:
        settings.STRIPE_SECRET_KEY = running.api_key
        settings.STRIPE_WEBHOOK_SECRETS = [running.webhook_secret, running.old_webhook_secret]
        settings.STRIPE_API_BASE = running.base_url
        settings.STRIPE_SIMULATED = "yes"
        yield running


@pytest.fixture
def till(fake: FakeStripe) -> Till:
    return Till(fake)
