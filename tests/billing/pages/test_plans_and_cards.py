"""Facts about the pages of the plan, the saved card and automatic top-up."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.utils import timezone

from billing import assignments
from billing.models import AutoTopUp, Plan, PlanAssignment, Subscription
from billing.payments import cards, subscriptions
from tests.billing.pages.conftest import Purse
from tests.conftest import USD
from tests.fakes.stripe import FakeStripe

CARD = "4242424242424242"


@pytest.fixture
def plans(fake: FakeStripe) -> Iterator[list[Plan]]:
    """Two plans for sale, the cheaper first, and a default one to fall back to."""
    import stripe

    if not Plan.objects.filter(is_default=True).exists():
        Plan.objects.create(slug=f"d-{uuid.uuid4().hex[:12]}", is_default=True)
    client = stripe.StripeClient(fake.api_key, base_addresses={"api": fake.base_url})
    made = []
    for name, usd in (("Small", 20), ("Large", 50)):
        product = client.v1.products.create({"name": name})
        price = client.v1.prices.create(
            {"product": product.id, "currency": "usd", "unit_amount": usd * 100, "recurring": {"interval": "month"}}
        )
        slug = f"p-{uuid.uuid4().hex[:12]}"
        terms = {"monthly_input_tokens": usd * 1000, "included_credit_nano": 5 * USD}
        made.append(Plan.objects.create(slug=slug, name=name, price_nano=usd * USD, stripe_price_id=price.id, **terms))
    yield made
    Plan.objects.filter(pk__in=[plan.pk for plan in made]).update(stripe_price_id="")


def save_card(purse: Purse, fake: FakeStripe) -> None:
    """Save a card as the page does, and hear of it."""
    answer = purse.browser("owner").post(f"{purse.base}/billing/card")
    assert answer.status_code == 302
    session = fake.object(answer["Location"].rpartition("/")[2])
    fake.pay(session["id"], CARD)
    setup = fake.object(session["id"])["setup_intent"]
    assert cards.adopt_from_setup(setup_intent_id=setup, now=timezone.now())


def subscribe(purse: Purse, fake: FakeStripe, plan: Plan) -> Subscription:
    """Buy a plan on the page; no webhook is delivered."""
    answer = purse.browser("owner").post(f"{purse.base}/billing/plan/change/{plan.slug}")
    assert answer.status_code == 302, answer.content
    assert answer["Location"].startswith(fake.base_url)
    row = Subscription.objects.get(account=purse.account, status=Subscription.Status.INCOMPLETE)
    fake.pay(str(row.session_id), CARD)
    return row


def test_a_card_is_saved_shown_and_removed(purse: Purse, fake: FakeStripe) -> None:
    assert "No card is saved." in purse.text("/billing/auto-top-up")
    save_card(purse, fake)
    assert "Visa ending in 4242" in purse.text("/billing/auto-top-up", role="viewer")
    client = purse.browser("owner")
    for _ in range(2):
        assert client.post(f"{purse.base}/billing/card/remove").status_code == 302
    assert cards.of(purse.account) is None
    assert "No card is saved." in purse.text("/billing")


def test_nothing_is_agreed_to_before_the_page_has_said_what(purse: Purse, fake: FakeStripe) -> None:
    save_card(purse, fake)
    client, address = purse.browser("owner"), f"{purse.base}/billing/auto-top-up"
    wish = {"threshold_nano": "10", "amount_nano": "25", "monthly_cap_nano": "100"}
    told = client.post(address, wish)
    assert told.status_code == 200
    words = " ".join(told.content.decode().split())
    assert "below <strong>$10.00</strong>, <strong>$25.00</strong> are charged to your Visa ending in 4242 without asking again" in words
    assert "at most <strong>$100.00</strong> in a calendar month" in words
    assert "the first charge is made at once" in words
    assert not AutoTopUp.objects.filter(wallet=purse.wallet).exists()
    assert client.post(address, {**wish, "is_confirmed": "on"}).status_code == 302
    auto = AutoTopUp.objects.get(wallet=purse.wallet)
    assert (auto.is_enabled, auto.threshold_nano, auto.amount_nano, auto.monthly_cap_nano) == (True, 10 * USD, 25 * USD, 100 * USD)
    assert auto.agreed_by == purse.user("owner")
    assert "$25.00 are charged" in purse.text("/billing/auto-top-up", role="viewer")
    client.post(f"{address}/off")
    auto.refresh_from_db()
    assert not auto.is_enabled


@pytest.mark.parametrize("wish", [{}, {"threshold_nano": "10", "amount_nano": "1"}, {"threshold_nano": "-1", "amount_nano": "25"},
                                  {"threshold_nano": "10", "amount_nano": "25", "monthly_cap_nano": "20"}])  # fmt: skip
def test_what_cannot_be_charged_by_itself_is_refused(purse: Purse, fake: FakeStripe, wish: dict[str, str]) -> None:
    save_card(purse, fake)
    assert purse.browser("owner").post(f"{purse.base}/billing/auto-top-up", {**wish, "is_confirmed": "on"}).status_code == 400
    assert not AutoTopUp.objects.filter(wallet=purse.wallet).exists()


def test_without_a_card_nothing_can_be_agreed_to(purse: Purse, fake: FakeStripe) -> None:
    wish = {"threshold_nano": "10", "amount_nano": "25", "is_confirmed": "on"}
    assert purse.browser("owner").post(f"{purse.base}/billing/auto-top-up", wish).status_code == 400


def test_a_plan_is_bought_though_its_webhook_never_came(purse: Purse, fake: FakeStripe, plans: list[Plan]) -> None:
    small = plans[0]
    said = purse.text(f"/billing/plan/change/{small.slug}")
    assert "$20.00 (and tax, where it is due) are charged now" in said
    row = subscribe(purse, fake, small)
    assert "Small has begun" in purse.text(f"/billing/plan/purchases/{row.pk}")
    said = purse.text("/billing/plan", role="viewer")
    assert "0 of 20,000" in said
    assert "your plan" in said
    purse.wallet.refresh_from_db()
    assert purse.wallet.balance == 5 * USD
    assert "Included in the plan" in purse.text("/billing/credits")


def test_an_upgrade_charges_what_its_page_said(purse: Purse, fake: FakeStripe, plans: list[Plan]) -> None:
    small, large = plans
    row = subscribe(purse, fake, small)
    purse.text(f"/billing/plan/purchases/{row.pk}")
    client, address = purse.browser("owner"), f"{purse.base}/billing/plan/change/{large.slug}"
    page = client.get(address).content.decode()
    assert "Pay $30.00 and change" in page or "Pay $29.99 and change" in page
    quoted_at = page.split('name="quoted_at" value="')[1].split('"')[0]
    for _ in range(2):  # sent twice
        assert client.post(address, {"quoted_at": quoted_at}).status_code == 302
    current = subscriptions.current(purse.account)
    assert current is not None
    assert current.plan == large
    assert PlanAssignment.objects.filter(account=purse.account, plan=large).count() == 1
    assert client.get(address).status_code == 302


def test_a_downgrade_waits_and_can_be_undone_and_a_cancelled_plan_can_be_kept(purse: Purse, fake: FakeStripe, plans: list[Plan]) -> None:
    small, large = plans
    purse.text(f"/billing/plan/purchases/{subscribe(purse, fake, large).pk}")
    client, plan = purse.browser("owner"), f"{purse.base}/billing/plan"
    assert "Nothing is charged now." in purse.text(f"/billing/plan/change/{small.slug}")
    client.post(f"{plan}/change/{small.slug}")
    assert "the plan changes to Small" in purse.text("/billing/plan")
    assert "The change that was to come does not" in purse.text(f"/billing/plan/change/{large.slug}")
    client.post(f"{plan}/change/{large.slug}")
    assert "the plan changes to" not in purse.text("/billing/plan")
    client.post(f"{plan}/cancel")
    assert "Large ends on" in purse.text("/billing/plan")
    client.post(f"{plan}/resume")
    assert "Large ends on" not in purse.text("/billing/plan")


def test_a_plan_that_is_not_sold_is_not_there(purse: Purse, fake: FakeStripe) -> None:
    free = Plan.objects.create(slug=f"f-{uuid.uuid4().hex[:12]}")
    for slug in (free.slug, "none"):
        assert purse.browser("owner").get(f"{purse.base}/billing/plan/change/{slug}").status_code == 404


def test_the_plan_page_of_an_assigned_plan_shows_its_quota(purse: Purse) -> None:
    plan = Plan.objects.create(slug=f"q-{uuid.uuid4().hex[:12]}", name="Quota", monthly_output_tokens=1000)
    assignments.assign(account=purse.account, plan=plan, starts_at=timezone.now(), anchor_day=1)
    said = purse.text("/billing/plan", role="developer")
    assert "Quota" in said
    assert "0 of 1,000" in said
    assert "0, unlimited" in said


def test_who_pays_and_manages_nothing_gets_no_further_than_reading(
    purse: Purse, fake: FakeStripe, plans: list[Plan], settings: Any
) -> None:
    settings.STRIPE_SECRET_KEY = ""
    client = purse.browser("owner")
    for address in ("/card", "/card/remove", "/plan/cancel", "/plan/resume", "/plan/pay", f"/plan/change/{plans[0].slug}"):
        assert client.post(f"{purse.base}/billing{address}").status_code == 302, address
    assert Subscription.objects.filter(account=purse.account).count() == 0
