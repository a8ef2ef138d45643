"""Facts about the backfill: what no webhook brought is fetched, once, and what Stripe lists is compared with the books."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from billing import tasks
from billing.models import StripeEvent, TaskRun, TopUp
from billing.payments import backfill, stripe_client
from tests.billing.payments.conftest import Till, drain
from tests.conftest import USD
from tests.fakes.stripe import FakeStripe


def test_dropped_webhooks_are_fetched_and_credited_once(till: Till) -> None:
    """The lost credit of whoever trusts webhooks alone."""
    till.paid()
    assert backfill.fetch_recent(last=timezone.now(), now=timezone.now()) >= 2
    drain()
    assert till.balance == 25 * USD
    assert backfill.fetch_recent(last=timezone.now(), now=timezone.now()) == 0
    till.hear(till.news())  # and then the webhooks come after all
    assert till.balance == 25 * USD


def test_more_events_than_a_page_are_fetched(till: Till) -> None:
    import stripe

    client = stripe.StripeClient(till.fake.api_key, base_addresses={"api": till.fake.base_url})
    for number in range(110):
        client.v1.customers.create({"name": str(number)})
    assert backfill.fetch_recent(last=None, now=timezone.now()) == 110


def test_an_event_with_decimals_in_it_is_stored_like_its_webhook(fake: FakeStripe) -> None:
    """The library reads some strings as decimals, which no JSON has: one event of a price stopped the whole backfill."""
    price: Any = {"currency": "usd", "unit_amount": 1000, "recurring": {"interval": "month"}, "product_data": {"name": "a plan"}}
    stripe_client.call(lambda ready: ready.v1.prices.create(price))
    (made,) = [event for event in fake.events if event["type"] == "price.created"]
    assert backfill.fetch_recent(last=None, now=timezone.now()) == len(fake.events)
    assert StripeEvent.objects.get(pk=made["id"]).payload["data"]["object"] == made["data"]["object"]


def test_only_what_was_not_delivered_is_fetched_at_night(fake: FakeStripe) -> None:
    heard, dropped = Till(fake), Till(fake)
    heard.paid()
    for event in heard.news():
        fake._mark_delivered(event["id"])
    dropped.paid()
    missing = dropped.news()
    assert backfill.fetch_undelivered(now=timezone.now()) == len(missing)
    drain()
    assert (heard.balance, dropped.balance) == (0, 25 * USD)


def test_open_top_ups_are_asked_about_without_any_event(till: Till) -> None:
    top_up = till.paid()
    TopUp.objects.filter(pk=top_up.pk).update(created_at=timezone.now() - timedelta(hours=2))
    backfill.ask_about_unfinished(now=timezone.now())
    assert till.balance == 25 * USD


def compared() -> list[backfill.Difference]:
    now = timezone.now()
    return backfill.compare(since=now - timedelta(minutes=5), until=now + timedelta(minutes=5), now=now)


def test_comparing_credits_what_was_paid_and_finds_no_difference(till: Till) -> None:
    till.paid()
    assert compared() == []
    assert till.balance == 25 * USD


@pytest.mark.parametrize("wrong", [{"paid_minor": 2400}, {"payment_intent_id": None}])
def test_a_payment_that_the_books_do_not_know_is_a_difference(till: Till, wrong: dict[str, Any]) -> None:
    top_up = till.credited()
    TopUp.objects.filter(pk=top_up.pk).update(**wrong)
    (difference,) = compared()
    assert difference.payment_intent_id == top_up.payment_intent_id
    TopUp.objects.filter(pk=top_up.pk).update(paid_minor=2500, payment_intent_id=top_up.payment_intent_id)


def test_a_payment_without_its_row_is_a_difference_here_and_not_elsewhere(till: Till, settings: Any) -> None:
    top_up = till.paid()
    TopUp.objects.filter(pk=top_up.pk).delete()
    assert len(compared()) == 1
    settings.PUBLIC_URL = "https://another.example.com"
    assert compared() == []


def test_the_tasks_do_all_of_it_and_rest_without_a_key(till: Till, settings: Any) -> None:
    key, settings.STRIPE_SECRET_KEY = settings.STRIPE_SECRET_KEY, ""
    till_calls = len(till.fake.calls)
    tasks.backfill_stripe()
    tasks.drain_stripe()
    tasks.compare_with_stripe()
    assert len(till.fake.calls) == till_calls
    settings.STRIPE_SECRET_KEY = key
    drain()  # the task takes two hundred at once: these shall not be behind those of other tests
    till.paid()
    tasks.backfill_stripe()
    tasks.drain_stripe()
    assert till.balance == 25 * USD
    tasks.compare_with_stripe()
    assert set(
        TaskRun.objects.filter(name__in=["backfill_stripe", "drain_stripe", "compare_with_stripe"]).values_list("last_error", flat=True)
    ) == {""}
    assert not StripeEvent.objects.filter(pk__in=[event["id"] for event in till.fake.events], state="received").exists()
