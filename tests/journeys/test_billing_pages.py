"""A member pays in a real browser, at a gateway that a fake Stripe delivers webhooks to: declines, consent, slow money, lost news, plans."""

import signal
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.admin.utils import quote
from django.urls import reverse
from django.utils import timezone

from accounts.models import OutboxMessage
from billing import ledger
from billing.models import AutoTopUp, Plan, Transfer, Wallet
from billing.payments import auto_top_up, cards
from tests.accounts.people import House, new_person
from tests.conftest import USD, Gateway
from tests.fakes.stripe import FakeStripe
from tests.journeys.browser import browser, page, sign_in  # noqa: F401 - fixtures

GOOD, DECLINED, ASKS = "4242424242424242", "4000000000000002", "4000002760003184"


@pytest.fixture(scope="module")
def till() -> Iterator[FakeStripe]:
    with FakeStripe(automatic=True) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(till: FakeStripe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose Stripe is the fake one; events are delivered to it."""
    environ = {
        "STRIPE_SECRET_KEY": till.api_key,
        "STRIPE_WEBHOOK_SECRETS": till.webhook_secret,
        "STRIPE_API_BASE": till.base_url,
        "STRIPE_SIMULATED": "yes",
    }
    running = Gateway(tmp_path_factory.mktemp("billing") / "gateway.log", environ).start()
    till.deliveries.urls[:] = [f"{running.origin}/webhooks/stripe"]
    yield running
    running.stop(signal.SIGKILL)


@pytest.fixture(autouse=True)
def _the_same_stripe(till: FakeStripe, settings: Any) -> None:
    settings.STRIPE_SECRET_KEY, settings.STRIPE_API_BASE, settings.STRIPE_SIMULATED = till.api_key, till.base_url, "yes"


@pytest.fixture
def house(page: Any) -> House:  # noqa: F811
    found = House()
    sign_in(page, found.user("owner"))
    return found


def wait_for(condition: Callable[[], Any], *, seconds: float = 60) -> Any:
    """The first true answer of `condition`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "not so in time"
        time.sleep(0.02)
    return found


def balance(house: House) -> int:
    return int(Wallet.objects.get(account=house.account).balance)


def go_to_till(page: Any, house: House, amount: str, *, save_card: bool = False) -> None:  # noqa: F811
    page.goto(f"{house.base}/billing")
    page.get_by_label("Another amount").fill(amount)
    if save_card:
        page.get_by_label("Save the card").check()
    page.get_by_role("button", name="Go to payment").click()
    page.wait_for_url("**/c/pay/**")


def pay(page: Any, number: str = GOOD) -> None:  # noqa: F811
    page.locator("#number").fill(number)
    page.locator("#pay").click()


def says(page: Any, words: str) -> None:  # noqa: F811
    try:
        page.get_by_text(words).first.wait_for(timeout=30_000)  # a busy machine, and Stripe's library loaded for the first time
        page.wait_for_load_state("load")  # so that a button that opens a dialog does
    except Exception as error:
        raise AssertionError(f"{page.url} does not say {words!r}:\n{page.locator('body').inner_text()[:1500]}") from error


def test_a_declined_card_then_a_good_one_credit_and_receipt_and_its_mail(page: Any, house: House) -> None:  # noqa: F811
    go_to_till(page, house, "31.50")
    pay(page, DECLINED)
    page.locator("#error").wait_for()
    pay(page)
    page.wait_for_url("**/billing/top-ups/**")
    says(page, "$31.50 are in the wallet")
    says(page, "Simulated payments: no money moves.")
    mail = wait_for(lambda: OutboxMessage.objects.filter(account=house.account, recipient=house.user("owner").email).first())
    assert "31.50" in mail.content["text"]
    page.get_by_role("link", name="Stripe's receipt").click()
    says(page, "Refunded: ")
    page.goto(f"{house.base}/billing/ledger?kind=bought")
    says(page, "Paid by card or bank through Stripe")
    assert balance(house) == 31_500_000_000


def test_the_bank_asks_refused_it_is_no_payment_and_granted_it_is_one(page: Any, house: House) -> None:  # noqa: F811
    go_to_till(page, house, "25")
    pay(page, ASKS)
    page.locator("#fail").click()
    page.locator("#error").wait_for()
    page.locator("#cancel").click()
    says(page, "You came back without paying")
    assert balance(house) == 0
    page.get_by_role("main").get_by_role("link", name="Top up").click()
    go_to_till(page, house, "25")
    pay(page, ASKS)
    page.locator("#complete").click()
    says(page, "$25.00 are in the wallet")
    assert balance(house) == 25 * USD


def test_a_bank_debit_is_under_way_until_its_money_comes(page: Any, house: House, till: FakeStripe) -> None:  # noqa: F811
    go_to_till(page, house, "40")
    page.get_by_label("Bank debit").check()
    page.locator("#pay").click()
    says(page, "The money is on its way")
    session = till.objects("checkout.session", client_reference_id=page.url.rpartition("/")[2])[0]
    till.settle(session["id"], succeed=True)
    wait_for(lambda: balance(house) == 40 * USD)
    page.reload()
    says(page, "$40.00 are in the wallet")


def test_when_the_webhook_is_lost_the_page_finds_out_by_itself(page: Any, house: House, till: FakeStripe) -> None:  # noqa: F811
    till.deliveries.knobs.drop = lambda event: house.account.slug in str(event)
    try:
        go_to_till(page, house, "15")
        session = till.object(page.url.rpartition("/")[2])
        till.break_next(f"GET /v1/checkout/sessions/{session['id']}", "500", times=3)  # the first look, with the library's own retries
        page.goto(session["success_url"])
        says(page, "Stripe cannot be asked at the moment")
        till.pay(session["id"], GOOD)
        says(page, "$15.00 are in the wallet")  # nobody has touched the page
    finally:
        till.deliveries.knobs.drop = None
    assert balance(house) == 15 * USD


def test_the_saved_card_refills_the_wallet_after_spending(page: Any, house: House) -> None:  # noqa: F811
    go_to_till(page, house, "20", save_card=True)
    pay(page)
    says(page, "$20.00 are in the wallet")
    wait_for(lambda: cards.of(house.account))
    page.goto(f"{house.base}/billing/auto-top-up")
    says(page, "Visa ending in 4242")
    page.get_by_label("When the balance falls below").fill("10")
    page.get_by_label("Charge the card").fill("25")
    page.get_by_role("button", name="Continue").click()
    says(page, "This is what you agree to")
    page.get_by_role("button", name="Agree and turn it on").click()
    says(page, "Automatic top-up is on.")
    wallet = Wallet.objects.get(account=house.account)
    ledger.debit(
        wallet_id=wallet.pk, amount=15 * USD, kind="debit", credit_account="manual", source_type="test", source_id=house.account.slug,
        actor="test", note="spent", now=timezone.now(),
    )  # fmt: skip
    auto = AutoTopUp.objects.get(wallet=wallet)
    assert auto_top_up.refill(auto_id=auto.pk, now=timezone.now()) is not None
    wait_for(lambda: balance(house) == 30 * USD)
    page.goto(f"{house.base}/billing/top-ups")
    says(page, "automatic")


def test_a_plan_is_bought_upgraded_and_cancelled(page: Any, house: House, till: FakeStripe) -> None:  # noqa: F811
    import stripe

    if not Plan.objects.filter(is_default=True).exists():
        Plan.objects.create(slug=f"d-{uuid.uuid4().hex[:12]}", is_default=True)
    client, made = stripe.StripeClient(till.api_key, base_addresses={"api": till.base_url}), []
    for name, usd in (("Small", 20), ("Large", 50)):
        product = client.v1.products.create({"name": name})
        price = client.v1.prices.create(
            {"product": product.id, "currency": "usd", "unit_amount": usd * 100, "recurring": {"interval": "month"}}
        )
        slug = f"p-{uuid.uuid4().hex[:12]}"
        made.append(Plan.objects.create(slug=slug, name=name, price_nano=usd * USD, stripe_price_id=price.id, monthly_input_tokens=1000))
    small, large = made
    try:
        page.goto(f"{house.base}/billing/plan")
        page.locator(f"a[href$='/plan/change/{small.slug}']").click()
        page.get_by_role("button", name="Go to payment").click()
        pay(page)
        says(page, "Small has begun")
        page.get_by_role("link", name="To the plan").click()
        says(page, "0 of 1,000")
        page.locator(f"a[href$='/plan/change/{large.slug}']").click()
        page.get_by_role("button", name="and change").click()
        says(page, "The plan is changed.")
        page.get_by_role("button", name="Cancel the plan …").click()
        page.get_by_role("dialog").get_by_role("button", name="Cancel the plan").click()
        says(page, "Large ends on")
    finally:
        Plan.objects.filter(pk__in=[plan.pk for plan in made]).update(stripe_price_id="")


def test_a_refund_by_staff_shows_in_the_ledger(page: Any, house: House) -> None:  # noqa: F811
    go_to_till(page, house, "25")
    pay(page)
    says(page, "$25.00 are in the wallet")
    payment = page.url.rpartition("/")[2]
    sign_in(page, new_person(is_staff=True, is_superuser=True))
    page.goto(reverse("admin:billing_topup_refund", args=[quote(payment)]))
    page.get_by_label("refund, USD").fill("10")
    page.get_by_label("reason").fill("too much")
    page.get_by_role("button", name="Refund").click()
    says(page, "Refunded $10.00.")
    assert Transfer.objects.filter(wallet__account=house.account, kind="refund").count() == 1
    sign_in(page, house.user("owner"))
    page.goto(f"{house.base}/billing/ledger?kind=reversed")
    says(page, "the credit that it had bought is taken out")
    assert balance(house) == 15 * USD
