"""An announcement in a real browser: shown to a stranger and a member, put away with and without scripts, back when its words change."""

import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from accounts import announcements
from accounts.models import Announcement
from gateway_site import changes
from tests.accounts.people import House
from tests.conftest import Gateway
from tests.journeys.browser import browser, page, sign_in  # noqa: F401 - fixtures
from tests.journeys.test_all_pages import AXE, inaccessible


@pytest.fixture
def announced(_database: None) -> Iterator[Announcement]:
    now = timezone.now()
    one = Announcement.objects.create(
        title=f"Database move {uuid.uuid4().hex[:8]}",
        text="Requests may be **slower**; see [the status](/status).",
        kind="maintenance",
        starts_at=now + timedelta(hours=3),
        ends_at=now + timedelta(hours=4),
    )
    changes.publish(announcements.TOPIC)
    yield one
    Announcement.objects.filter(pk=one.pk).delete()
    changes.publish(announcements.TOPIC)


def seen(gateway: Gateway, page: Any, address: str, title: str) -> Any:  # noqa: F811
    """Open the page, again while the server's list is the old one; returns the announcement."""

    def opens() -> bool:
        page.goto(address)
        return bool(page.locator("[data-announcement]", has_text=title).count())

    gateway.wait_until(opens)
    return page.locator("[data-announcement]", has_text=title)


def test_an_announcement_is_shown_put_away_and_back_when_it_changes(page: Any, gateway: Gateway, announced: Announcement) -> None:  # noqa: F811
    house = House()
    sign_in(page, house.user("owner"))
    shown = seen(gateway, page, f"{house.base}/", announced.title)
    assert page.get_by_role("region", name="Announcements").is_visible()
    if AXE.exists():
        assert inaccessible(page) == []
    shown.get_by_role("button", name="Dismiss").click()  # htmx takes it out where it stands
    shown.wait_for(state="detached")
    assert page.url.endswith(f"{house.base}/")
    page.goto(f"{house.base}/keys")
    assert page.locator("[data-announcement]", has_text=announced.title).count() == 0
    Announcement.objects.filter(pk=announced.pk).update(text="It takes longer.")
    changes.publish(announcements.TOPIC)
    assert "It takes longer." in seen(gateway, page, f"{house.base}/keys", announced.title).inner_text()


def test_a_stranger_on_a_phone_puts_it_away_without_a_script(browser: Any, gateway: Gateway, announced: Announcement) -> None:  # noqa: F811
    context = browser.new_context(base_url=gateway.origin, viewport={"width": 375, "height": 812}, java_script_enabled=False)
    try:
        page = context.new_page()
        shown = seen(gateway, page, "/docs?from=here", announced.title)
        assert f"{announced.starts_at:%Y-%m-%d %H:%M} UTC" in shown.inner_text()
        shown.get_by_role("button", name="Dismiss").click()
        page.wait_for_url("**/docs?from=here")
        assert page.locator("[data-announcement]", has_text=announced.title).count() == 0
        assert [cookie["httpOnly"] for cookie in context.cookies() if cookie["name"] == announcements.COOKIE] == [True]
        page.goto("/status")  # put away, and still in the list
        assert page.get_by_role("region", name="Maintenance").get_by_text(announced.title).is_visible()
    finally:
        context.close()


def test_a_stranger_reads_the_time_in_their_own_zone(browser: Any, gateway: Gateway, announced: Announcement) -> None:  # noqa: F811
    context = browser.new_context(base_url=gateway.origin, viewport={"width": 375, "height": 812}, timezone_id="Asia/Tokyo")
    try:
        page = context.new_page()
        shown = seen(gateway, page, "/", announced.title)
        assert f"{announced.starts_at + timedelta(hours=9):%Y-%m-%d %H:%M} GMT+9" in shown.inner_text()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        if AXE.exists():
            assert inaccessible(page) == []
    finally:
        context.close()
