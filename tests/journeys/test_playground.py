"""A member talks to demo models from the playground's page in a real browser: streaming, thoughts, two at once, stopping, errors, the code."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.utils import timezone

from accounts.models import AuditEvent
from billing import ledger
from billing.models import UsageRecord, Wallet
from keys import playground
from keys.models import ApiKey
from tests.accounts.people import House
from tests.billing.tenants import Shelf, open_shelf
from tests.journeys.browser import browser, page, sign_in  # noqa: F401 - fixtures


@pytest.fixture(scope="module")
def shelf(gateway: Any) -> Iterator[Shelf]:
    for shelf in open_shelf():
        rates = {"input": 1_000_000_000, "output": 2_000_000_000}
        for name in ("echo", "reasoning", "slow", "error-429"):
            shelf.model(name, rates=rates, max_output=4096)
        gateway.sees_catalog()
        yield shelf


@pytest.fixture
def house() -> House:
    found = House()
    wallet = Wallet.objects.get(account=found.account)
    give(wallet, 5)
    return found


def give(wallet: Wallet, usd: int) -> None:
    ledger.credit(
        wallet_id=wallet.pk, amount=usd * 10**9, kind="promo", debit_account="promo", source_type="test", source_id=str(wallet.pk),
        actor="test", note="", now=timezone.now(),
    )  # fmt: skip


def eventually(condition: Callable[[], Any], *, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def opened(page: Any, house: House, model: str, role: str = "developer") -> Any:  # noqa: F811
    sign_in(page, house.user(role))
    page.goto(f"{house.base}/playground?model={model}")
    return page.locator("[data-pane=a]")


def ask(page: Any, text: str) -> None:  # noqa: F811
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()


def test_a_member_asks_a_model_and_sees_the_answer_come_with_tokens_and_cost(page: Any, house: House, shelf: Shelf) -> None:  # noqa: F811
    pane = opened(page, house, f"{shelf.prefix}/echo")
    ask(page, "Say <b>this</b>")
    pane.locator("[data-meter]").get_by_text("first token").wait_for()
    meter = pane.locator("[data-meter]").inner_text()
    assert "tokens in" in meter and "about" not in meter
    assert "<b>this</b>" in pane.locator(".assistant .words").inner_text()
    assert pane.locator(".assistant b").count() == 0
    record = eventually(lambda: UsageRecord.objects.filter(account=house.account).first())
    assert f"{record.input_tokens} tokens in, {record.output_tokens} out" in meter
    key = ApiKey.objects.get(account=house.account)
    assert (key.pk, key.name, key.created_by) == (record.key_id, "Playground", house.user("developer"))
    assert AuditEvent.objects.filter(account=house.account, action="key.issued", actor=house.user("developer")).count() == 1
    ask(page, "And that")
    pane.locator(".assistant").nth(1).get_by_text("And that").wait_for()
    assert ApiKey.objects.filter(account=house.account).count() == 1, "the page keeps its key"


def test_two_models_answer_side_by_side_and_thoughts_stand_apart(page: Any, house: House, shelf: Shelf) -> None:  # noqa: F811
    pane = opened(page, house, f"{shelf.prefix}/echo")
    page.get_by_label("Compare two models").check()
    other = page.locator("[data-pane=b]")
    other.get_by_label("Second model").select_option(f"{shelf.prefix}/reasoning")
    ask(page, "Hello to both")
    for each in (pane, other):
        each.locator("[data-meter]").get_by_text("tokens in").wait_for()
        each.locator(".assistant .words").last.wait_for()
    other.get_by_text("Thoughts").wait_for()
    eventually(lambda: UsageRecord.objects.filter(account=house.account).count() == 2)
    assert ApiKey.objects.filter(account=house.account).count() == 1


def test_an_answer_can_be_stopped_and_a_refusal_says_what_helps(page: Any, house: House, shelf: Shelf) -> None:  # noqa: F811
    pane = opened(page, house, f"{shelf.prefix}/slow")
    ask(page, "Take your time")
    pane.locator(".assistant .words p").wait_for()
    page.get_by_role("button", name="Stop").click()
    pane.get_by_text("Stopped.").wait_for()
    assert page.get_by_role("button", name="Stop").is_hidden()
    assert page.get_by_role("button", name="Send").is_enabled()
    eventually(lambda: UsageRecord.objects.filter(account=house.account, status="aborted").count())
    page.get_by_role("button", name="New conversation").click()
    pane.locator("[data-model]").select_option(f"{shelf.prefix}/error-429")
    ask(page, "Hello")
    pane.get_by_role("link", name="What helps").wait_for()
    assert all("429" in complaint for complaint in page.complaints.found)
    page.complaints.found.clear()  # the browser's own notes about the refusal, which was meant


def test_the_code_is_what_the_page_would_send(page: Any, house: House, shelf: Shelf) -> None:  # noqa: F811
    opened(page, house, f"{shelf.prefix}/echo")
    page.get_by_label("System prompt").fill("Be 'brief'")
    page.get_by_label("Set the temperature").check()
    page.get_by_label("Message").fill("Hi")
    page.get_by_role("button", name="View code").click()
    text = page.locator("#code-text")
    for language, marks in (
        ("curl", ("curl http", "'\\''brief")),
        ("Python", ("from openai", "temperature=1")),
        ("Node", ("import OpenAI", "model:")),
    ):
        page.get_by_role("tab", name=language).click()
        shown = text.inner_text()
        assert all(mark in shown for mark in (*marks, f"{shelf.prefix}/echo", page.origin)), shown
        assert "sk-gw-" not in shown
    page.get_by_role("button", name="Close").click()
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_public_pages_open_without_a_complaint_wide_and_narrow(page: Any) -> None:  # noqa: F811
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 740})
        for address in ("/", "/models", "/status", "/docs", "/docs/formats", "/docs/errors", "/docs/reference"):
            page.goto(address)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (width, address)
    page.goto("/docs/quickstart")
    page.get_by_text("Pages", exact=True).click()
    page.get_by_role("navigation", name="Documentation").get_by_role("link", name="Errors").click()
    page.wait_for_url("**/docs/errors")
    page.goto("/models?q=nothing-of-this-name")
    page.get_by_role("link", name="Show all models").click()
    page.wait_for_url("**/models")


def test_the_key_of_a_page_is_small_and_short_lived_and_a_member_has_few() -> None:
    house, now = House(), timezone.now()
    first, secret = playground.open_page(account=house.account, by=house.user("developer"), now=now)
    assert secret.startswith("sk-gw-")
    assert (first.allowed_endpoints, first.budget_nano, first.budget_window) == (["chat"], 10**9, "total")
    assert first.expires_at == now + playground.LASTS
    for _ in range(playground.MOST_AT_ONCE):
        playground.open_page(account=house.account, by=house.user("developer"), now=now)
    other, _ = playground.open_page(account=house.account, by=house.user("owner"), now=now)
    first.refresh_from_db()
    other.refresh_from_db()
    assert first.revoked_at == now
    assert other.revoked_at is None
    assert (
        ApiKey.objects.filter(account=house.account, created_by=house.user("developer"), revoked_at=None).count() == playground.MOST_AT_ONCE
    )


def test_the_key_is_given_to_a_form_of_this_site_alone() -> None:
    from django.test import Client

    house = House()
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(house.user("owner"))
    assert strict.post(f"{house.base}/playground/key").status_code == 403
    answer = house.browser("owner").post(f"{house.base}/playground/key")
    assert answer.status_code == 200
    assert "no-store" in answer.headers["Cache-Control"]
    assert not ApiKey.objects.filter(account=house.account, created_by=house.user("viewer")).exists()
