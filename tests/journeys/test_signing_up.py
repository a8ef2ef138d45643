"""A person signs up in a real browser, reads the mail, and lands in an account of their own."""

import re
import time
import uuid
from typing import Any

from accounts.models import Membership, OutboxMessage
from tests.accounts.people import PASSWORD, House, code_in, new_person
from tests.journeys.browser import browser, page, sign_in  # noqa: F401 - fixtures


def mail_to(address: str, *, seconds: float = 60) -> OutboxMessage:
    """The latest mail to an address, waited for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = OutboxMessage.objects.filter(recipient=address).order_by("-pk").first()
        if found is not None:
            return found
        time.sleep(0.02)
    raise TimeoutError(f"no mail to {address}")


def test_a_stranger_signs_up_verifies_the_address_and_lands_in_an_account_of_their_own(page: Any) -> None:  # noqa: F811
    address = f"ada-{uuid.uuid4().hex[:12]}@example.com"
    page.goto("/")
    page.get_by_role("main").get_by_role("link", name="Create an account").click()
    page.get_by_label("Name").fill("Ada")
    page.get_by_label("E-mail").fill(address)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("main").get_by_role("button", name="Create the account").click()
    page.wait_for_url("**/user/confirm-email/**")
    code = code_in(mail_to(address))
    page.get_by_label("Code").fill(code)
    page.get_by_role("button", name="Confirm").click()
    page.wait_for_url(re.compile(r"/a/ada-[0-9a-f]{8}/$"))
    assert page.get_by_role("heading", level=1).inner_text() == "Ada"
    assert Membership.objects.get(user__email=address).role == "owner"


def test_the_pages_of_an_account_open_without_a_complaint_wide_and_narrow_light_and_dark(page: Any) -> None:  # noqa: F811
    house = House()
    sign_in(page, house.user("owner"))
    for path in ("/", "/members", "/settings", "/audit-log"):
        page.goto(f"{house.base}{path}")
        assert page.locator("nav[aria-label=Account] a[aria-current=page]").count() == 1
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"{house.base}/members")
    assert page.get_by_role("link", name="Audit log").is_hidden()
    page.get_by_text("Menu", exact=True).click()
    page.get_by_role("link", name="Audit log").click()
    page.wait_for_url("**/audit-log")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_first_page_is_small(page: Any) -> None:  # noqa: F811
    sizes: list[int] = []
    page.on("requestfinished", lambda request: sizes.append(request.sizes()["responseBodySize"]))
    page.goto("/", wait_until="networkidle")
    assert sum(sizes) < 100_000, sizes


def test_a_passkey_is_added_and_signs_in_without_a_password(page: Any) -> None:  # noqa: F811
    user = new_person(name="Grace", password=PASSWORD)
    devtools = page.context.new_cdp_session(page)
    devtools.send("WebAuthn.enable")
    options = {"protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True, "isUserVerified": True}
    devtools.send("WebAuthn.addVirtualAuthenticator", {"options": {**options, "automaticPresenceSimulation": True}})
    site = page.origin.replace("127.0.0.1", "localhost")  # passkeys belong to names, not to numbers
    page.goto(f"{site}/user/login/")
    page.get_by_label("E-mail").fill(user.email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.wait_for_url(re.compile(r"/a/grace-[0-9a-f]{8}/$"))
    page.goto(f"{site}/user/2fa/webauthn/add/")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Confirm").click()
    page.get_by_label("Passwordless").check()
    page.get_by_role("button", name="Add").click()
    page.wait_for_url("**/user/2fa/recovery-codes/**")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(f"{site}/")
    page.goto(f"{site}/user/login/")
    page.get_by_role("button", name="Sign in with a passkey").click()
    page.wait_for_url(re.compile(r"/a/grace-[0-9a-f]{8}/$"))
