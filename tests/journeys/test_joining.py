"""People come into an account in a real browser: by an invitation, with what the role allows and no more, and with an authenticator app."""

import re
import time
import uuid
from typing import Any

import pytest
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value

from accounts.models import Membership, OutboxMessage
from tests.accounts.people import PASSWORD, House, new_person
from tests.journeys.browser import browser, page, sign_in  # noqa: F401 - fixtures


def test_who_is_invited_joins_and_meets_the_limits_of_the_role(page: Any) -> None:  # noqa: F811
    house, guest = House(), new_person(name="Grace", password=PASSWORD)
    sign_in(page, house.user("owner"))
    page.goto(f"{house.base}/members")
    page.get_by_label("E-mail").fill(guest.email)
    page.get_by_label("Role", exact=True).select_option("viewer")
    page.get_by_role("button", name="Invite").click()
    page.get_by_role("cell", name=guest.email).wait_for()
    mail = OutboxMessage.objects.filter(recipient=guest.email).latest("pk")
    link = re.findall(r"/invitations/\S+", mail.content["text"])[0]

    page.context.clear_cookies()
    page.goto(link)
    page.get_by_role("main").get_by_role("link", name="Sign in").click()
    page.get_by_label("E-mail").fill(guest.email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.wait_for_url(f"**{link}")
    page.get_by_role("button", name="Join").click()
    page.wait_for_url(re.compile(re.escape(house.base)))
    assert Membership.objects.get(account=house.account, user=guest).role == "viewer"

    page.goto(f"{house.base}/keys")
    links = page.locator("nav[aria-label=Account] a").all_inner_texts()
    assert "Members" in links and not {"Settings", "Audit log", "Playground"} & set(links)
    assert page.get_by_role("link", name="New key").count() == 0
    page.complaints.none()
    assert page.goto(f"{house.base}/settings").status == 403
    page.get_by_text(re.compile("owner", re.IGNORECASE)).first.wait_for()
    assert page.goto(link).status == 404 or page.get_by_role("button", name="Join").count() == 0
    page.complaints.found.clear()  # the browser itself says 403 and 404 aloud


def test_an_authenticator_app_is_added_and_then_asked_for(page: Any) -> None:  # noqa: F811
    name = f"hedy{uuid.uuid4().hex[:6]}"
    user = new_person(name=name, password=PASSWORD)

    def arrive() -> None:
        page.goto("/user/login/")
        page.get_by_label("E-mail").fill(user.email)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in", exact=True).click()

    arrive()
    page.wait_for_url(re.compile(rf"/a/{name}-[0-9a-f]{{8}}/$"))
    page.goto("/user/2fa/totp/activate/")
    if page.get_by_label("Password").count():  # who signed in a while ago is asked again
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Confirm").click()
        page.wait_for_url("**/totp/activate/")
    secret = page.locator("input[disabled], #authenticator_secret, [name=secret]").first.input_value()

    def code(step: int = 0) -> str:
        return str(format_hotp_value(hotp_value(secret, int(time.time()) // 30 + step)))

    page.get_by_label("code", exact=False).last.fill(code())
    page.get_by_role("main").get_by_role("button", name=re.compile("Activate|Add|Turn on|Confirm")).click()
    page.wait_for_url("**/user/2fa/recovery-codes/**")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(re.compile(r"/$"))

    arrive()
    page.wait_for_url("**/user/2fa/authenticate/**")
    field = page.get_by_label("code", exact=False).first
    field.fill("000000")
    page.get_by_role("main").get_by_role("button", name=re.compile("sign in", re.IGNORECASE)).first.click()
    page.get_by_text("Incorrect code").wait_for()
    field.fill(code(1))  # the one of before is spent
    page.get_by_role("main").get_by_role("button", name=re.compile("sign in", re.IGNORECASE)).first.click()
    page.wait_for_url(re.compile(rf"/a/{name}-[0-9a-f]{{8}}/$"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_system_decides_between_light_and_dark_until_somebody_does(page: Any, scheme: str) -> None:  # noqa: F811
    page.emulate_media(color_scheme=scheme)
    page.goto("/")
    shown = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != shown
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != shown
