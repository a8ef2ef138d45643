"""The operator's journey in a real browser: an account is found, a key is issued for it, and the key works; the account is looked at."""

import re
from collections.abc import Callable
from typing import Any

import httpx
from django.conf import settings

from accounts.models import Membership
from keys.models import ApiKey
from tests.accounts.people import new_person
from tests.admin.staff import new_staff
from tests.conftest import Gateway, make_customer
from tests.journeys.browser import browser, page, sign_in  # noqa: F401 - fixtures

HOME = f"/{settings.ADMIN_PATH}/"


def test_a_key_that_the_operator_issues_works(page: Any, gateway: Gateway, new_model: Callable[..., str]) -> None:  # noqa: F811
    customer, model = make_customer(usd="5"), new_model("chat:text=4")
    sign_in(page, new_staff(superuser=True))
    page.goto(HOME)
    page.get_by_label("Search everything").fill(customer.account.slug)
    page.get_by_role("button", name="Search", exact=True).click()
    page.get_by_role("link", name="Issue a key").click()
    page.get_by_label("Name").fill("from the operator")
    page.get_by_role("button", name="Issue").click()
    secret = page.locator("#secret").inner_text()
    answer = httpx.post(
        f"{gateway.base_url}/chat/completions",
        headers={"Authorization": f"Bearer {secret}"},
        json={"model": model, "messages": [{"role": "user", "content": "Hello"}]},
    )
    assert answer.status_code == 200, answer.text
    assert ApiKey.objects.get(account=customer.account, name="from the operator").last_four == secret[-4:]


def test_the_operator_looks_as_a_member_and_stops(page: Any) -> None:  # noqa: F811
    customer, member = make_customer(usd="5"), new_person()
    Membership.objects.create(account=customer.account, user=member, role="owner")
    sign_in(page, new_staff(superuser=True))
    page.goto(f"{HOME}accounts/account/{customer.account.pk}/change/")
    page.get_by_role("link", name="Look as a member").click()
    page.get_by_label("Reason").fill("ticket 7")
    page.get_by_role("button", name="Look").click()
    page.wait_for_url(re.compile(rf"/a/{customer.account.slug}/$"))
    assert page.get_by_text(f"You look at {customer.account.slug} as {member.email}").is_visible()
    page.get_by_role("button", name="Stop looking").click()
    page.wait_for_url(re.compile(rf"{HOME}$"))
    assert page.request.get(f"/a/{customer.account.slug}/").status == 404  # as a page it would have the browser complain
