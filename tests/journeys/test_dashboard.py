"""A member's first day in a real browser: a key, the snippet run for real, the first steps turning green, usage, its files, and the receipt."""

import csv
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.utils import timezone

from accounts.models import Membership
from billing import ledger
from billing.models import UsageRecord
from keys.models import ApiKey
from tests.accounts.people import House, new_person
from tests.billing.desk import Desk
from tests.conftest import Gateway
from tests.journeys.browser import browser, page, sign_in  # noqa: F401 - fixtures

USD = 1_000_000_000


@pytest.fixture
def house(_database: None) -> House:
    """An account with five dollars."""
    found = House()
    ledger.credit(
        wallet_id=found.account.wallet.pk, amount=5 * USD, kind="promo", debit_account="promo", source_type="test", source_id=found.account.slug,
        actor="test", note="", now=timezone.now(),
    )  # fmt: skip
    return found


def run(snippet: str) -> None:
    """Run a snippet of curl as a reader would; without curl, what it says."""
    if shutil.which("curl"):
        done = subprocess.run(["bash", "-c", snippet.replace("curl ", "curl -sS --fail ", 1)], capture_output=True, check=True, timeout=30)
        assert b"choices" in done.stdout
        return
    url, secret, body = re.search(r"curl (\S+).*?Bearer ([\w-]+).*?-d '(.*)'", snippet, re.DOTALL).groups()  # type: ignore[union-attr]
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
    assert httpx.post(url, content=body, headers=headers, timeout=30).status_code == 200


def fits(page: Any) -> bool:  # noqa: F811
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def choose(page: Any, label: str, value: str) -> None:  # noqa: F811
    """Choose a filter, and wait for the page that shows it: until all of it is there, the next choice may find nobody who listens."""
    with page.expect_navigation():
        page.get_by_label(label).select_option(value)


def test_from_the_first_key_to_the_receipt(page: Any, house: House, gateway: Gateway, new_model: Callable[..., str]) -> None:  # noqa: F811
    model = new_model("chat:text=40")
    sign_in(page, house.user("developer"))

    # The first steps wait in one tab, the key is made in another.
    page.goto(f"{house.base}/")
    steps = page.locator("#first-steps")
    assert "done" not in (steps.locator(".step").nth(1).get_attribute("class") or "")
    tab = page.context.new_page()
    tab.goto(f"{gateway.origin}{house.base}/keys")
    tab.get_by_role("link", name="Make the first key").click()
    tab.get_by_label("Name").fill("My first program")
    tab.get_by_label("Budget in USD").fill("2.50")
    tab.get_by_role("textbox", name="Models").fill(model)
    tab.get_by_role("button", name="Make the key").click()
    secret = tab.locator("#secret").inner_text()
    assert secret.startswith("sk-gw-")
    steps.locator(".step.done .step-title", has_text="Make a key").wait_for()

    # The snippet is run, and both tabs see it.
    snippet = tab.locator("#snippet_1").inner_text()
    assert secret in snippet
    assert model in snippet
    tab.get_by_role("button", name="Copy", exact=True).first.click()
    run(snippet)
    tab.get_by_text("It works").wait_for()
    steps.get_by_text("It works").wait_for()
    record = UsageRecord.objects.get(account=house.account)
    told = steps.locator(".step", has_text="Make a request").inner_text()
    assert f"{record.tokens_out:,} out" in told
    assert "$0.0" in told
    assert steps.locator(".step.done .step-title", has_text="Set a budget").count() == 1
    tab.close()

    # The overview shows it, and leads on.
    page.goto(f"{house.base}/")
    page.get_by_role("main").get_by_role("link", name=model).first.click()
    page.wait_for_url("**/usage?**")
    assert page.get_by_label("Model", exact=True).input_value() == model
    assert page.get_by_label("By", exact=True).input_value() == "key"
    assert "My first program" in page.get_by_role("table").last.inner_text() or page.get_by_text("My first program").count()
    choose(page, "Period", "24h")
    assert "period=24h" in page.url
    with page.expect_download() as waiting:
        page.get_by_role("link", name="CSV", exact=True).first.click()
    with Path(waiting.value.path()).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["key"].startswith("My first program"), row["requests"]) for row in rows] == [(True, "1")]

    # The log, the receipt, and back by its key.
    page.get_by_role("link", name="The requests behind it").click()
    choose(page, "Status", "error")
    page.get_by_text("No request is like that").wait_for()
    choose(page, "Status", "")
    page.get_by_role("table").get_by_role("link").first.click()
    page.get_by_role("heading", name="What it cost").wait_for()
    receipt = page.get_by_role("main").inner_text()
    assert str(record.request_id) in receipt
    assert "Output tokens" in receipt
    assert "answered" in receipt

    # The key is rerolled with an overlap: both work.
    page.get_by_role("link", name="My first program").click()
    page.get_by_role("button", name="Reroll").click()
    page.get_by_label("The old key stops").select_option("after an hour")
    page.get_by_role("button", name="Make the new key").click()
    second = page.locator("#secret").inner_text()
    assert second != secret
    for each in (secret, second):
        assert httpx.get(f"{gateway.base_url}/key", headers={"Authorization": f"Bearer {each}"}, timeout=10).status_code == 200
    page.get_by_role("link", name="I have copied it").click()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete the key").click()
    page.wait_for_url("**/keys")
    assert ApiKey.objects.get(account=house.account, replaces__isnull=False).revoked_at is not None
    assert page.get_by_role("link", name="My first program").count() == 1


def test_the_daily_pages_fit_a_phone_and_a_dark_room(page: Any, house: House) -> None:  # noqa: F811
    sign_in(page, house.user("owner"))
    page.set_viewport_size({"width": 375, "height": 740})
    page.emulate_media(color_scheme="dark")
    for path in ("/", "/keys", "/keys/new", "/usage", "/usage?by=user&show=tokens", "/requests", "/requests?status=error"):
        page.goto(f"{house.base}{path}")
        assert page.get_by_role("heading", level=1).count() == 1
        assert fits(page), path


def test_the_table_of_end_users_comes_by_itself_or_says_why_not_or_is_a_link_away(
    page: Any,  # noqa: F811
    browser: Any,  # noqa: F811
) -> None:
    person = new_person()
    with closing(Desk(usd=5)) as desk:
        Membership.objects.create(account=desk.account, user=person, role="viewer")
        desk.spend(USD, started=timezone.now(), user_tag="ann")
    address = f"/a/{desk.slug}/usage?by=user"
    sign_in(page, person)

    # The part is held back: the page is there, says that it waits, and nothing blocks.
    held: list[Any] = []

    def take() -> Any:
        """The request for the part, once the page has made it."""
        while not held:
            page.wait_for_timeout(20)
        return held.pop()

    page.route("**/usage?*", lambda route: held.append(route) if "hx-request" in route.request.headers else route.continue_())
    page.goto(address)
    waiting = page.locator("[aria-busy=true]")
    assert waiting.get_by_role("progressbar").is_visible()
    assert "Adding up" in waiting.get_by_role("status").inner_text()
    take().continue_()
    page.get_by_role("link", name="ann").wait_for()
    assert page.locator("[aria-busy]").count() == 0

    # It fails: that is said, with a way on.
    page.goto(address)
    take().abort()
    page.get_by_role("link", name="Load the page with it").wait_for()
    assert page.locator("[aria-busy=true]").count() == 0
    assert not page.get_by_role("progressbar").is_visible()
    page.get_by_role("link", name="Load the page with it").click()
    page.get_by_role("link", name="ann").wait_for()
    page.complaints.found[:] = [each for each in page.complaints.found if not re.search("ERR_FAILED|htmx:(sendError|afterRequest)", each)]

    # Without scripts there is a link, and nothing that turns for ever.
    plain = browser.new_context(base_url=page.origin, java_script_enabled=False)
    plain.add_cookies(page.context.cookies())
    tab = plain.new_page()
    tab.goto(address)
    assert not tab.get_by_role("progressbar").is_visible()
    tab.get_by_role("link", name="Show the table of end users").click()
    tab.get_by_role("link", name="ann").wait_for()
    plain.close()
