"""Stored content in a real browser: turned on, a request read on its receipt, turned off, and gone."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from django.utils import timezone

from billing import ledger
from billing.models import ContentKey, StoredContent
from keys import issuing
from tests.accounts.people import House
from tests.conftest import Gateway
from tests.journeys.browser import browser, page, sign_in  # noqa: F401 - fixtures
from tests.journeys.test_all_pages import AXE, inaccessible

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


def test_from_turning_it_on_to_turning_it_off(page: Any, house: House, gateway: Gateway, new_model: Callable[..., str]) -> None:  # noqa: F811
    model, (_, secret) = new_model("hello"), issuing.issue(account=house.account, name="k", now=timezone.now())
    sign_in(page, house.user("owner"))
    page.goto(f"{house.base}/settings")
    section = page.locator("#stored-content")
    section.get_by_label("Days").fill("5")
    section.get_by_role("button", name="Turn it on").click()
    page.get_by_text("is stored from now on").wait_for()
    page.goto(f"{house.base}/settings")
    section.get_by_text("stored for 5 days").wait_for()
    if AXE.exists():
        assert inaccessible(page) == []

    body = {"model": model, "messages": [{"role": "user", "content": "Where is <b>Rome</b>?"}]}
    answer = httpx.post(f"{gateway.base_url}/chat/completions", json=body, headers={"Authorization": f"Bearer {secret}"}, timeout=30)
    request_id = answer.headers["x-request-id"]
    gateway.wait_until(lambda: StoredContent.objects.filter(pk=request_id).exists())
    receipt = f"{house.base}/requests/{request_id}"
    page.goto(receipt)
    page.get_by_role("link", name="Show it").click()
    page.locator("#asked", has_text="Where is <b>Rome</b>?").wait_for()
    assert page.locator("#answered").inner_text().startswith("{\n")
    assert page.url.endswith(receipt)
    assert page.locator(".content-text[tabindex='0']").count() == 2
    if AXE.exists():
        assert inaccessible(page) == []
    page.goto(f"{receipt}/content")  # the same without a script
    assert "Rome" in page.locator("#asked").inner_text()

    page.goto(f"{house.base}/settings")
    section.get_by_role("button", name="Turn it off", exact=True).click()
    page.get_by_role("button", name="Turn it off and delete").click()
    page.get_by_text("what was is deleted").wait_for()
    assert not StoredContent.objects.filter(pk=request_id).exists()
    assert not ContentKey.objects.filter(account=house.account, ended_at=None).exists()
    page.goto(receipt)
    page.get_by_text("is not stored anywhere").wait_for()
    assert page.get_by_role("link", name="Have it stored from now on").count() == 1
