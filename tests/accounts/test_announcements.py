"""Facts about announcements: from when, to whom and how long they are shown, what a browser puts away, and who may write them."""

import re
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts import announcements
from accounts.models import Account, Announcement
from gateway_site import staff_groups
from tests.accounts.people import House
from tests.admin.staff import browser_of, new_staff
from tests.admin.test_admin import fields_of

pytestmark = pytest.mark.filterwarnings("ignore:No directory at")

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
NOBODY: Callable[[], Account | None] = lambda: None  # noqa: E731 - of no account's page


@pytest.fixture
def announce(_database: None) -> Iterator[Callable[..., Announcement]]:
    """Write an announcement, which is gone after the test: other tests' pages are not to show it."""
    made: list[int] = []

    def write(**fields: Any) -> Announcement:
        title = f"t-{uuid.uuid4().hex[:12]}"
        found = Announcement(**{"title": title, "text": "Some **words**.", "starts_at": timezone.now() - HOUR} | fields)
        found.full_clean()
        found.save()
        made.append(found.pk)
        announcements.forget()
        return found

    yield write
    Announcement.objects.filter(pk__in=made).delete()
    announcements.forget()


@pytest.fixture
def house(_database: None) -> House:
    return House()


def seen(now: datetime, *, is_signed_in: bool = False, account: Account | None = None, dismissed: str = "") -> set[str]:
    announcements.forget()
    return {one.title for one in announcements.shown(is_signed_in=is_signed_in, account=lambda: account, dismissed=dismissed, now=now)}


def put_away(client: Client, one: Announcement, **said: str) -> Any:
    announcements.forget()
    return client.post(reverse("dismiss_announcement"), {"mark": announcements.banner(one).mark, **said})


# -- When ------------------------------------------------------------------------------------------------------------------------------


def test_it_is_shown_from_its_start_until_its_end(announce: Callable[..., Announcement]) -> None:
    one = announce(starts_at=NOON, ends_at=NOON + HOUR)
    second = timedelta(seconds=1)
    for moment, is_shown in ((NOON - second, False), (NOON, True), (NOON + HOUR - second, True), (NOON + HOUR, False)):
        assert (one.title in seen(moment)) is is_shown, moment


def test_one_without_an_end_stays_until_it_is_ended(announce: Callable[..., Announcement]) -> None:
    one = announce(starts_at=NOON)
    assert one.title in seen(NOON + timedelta(days=900))
    announcements.end(one, now=NOON + HOUR)
    assert one.title not in seen(NOON + HOUR)
    announcements.end(one, now=NOON + 2 * HOUR)
    one.refresh_from_db()
    assert one.ends_at == NOON + HOUR


def test_maintenance_is_shown_a_day_ahead_and_listed_as_soon_as_it_is_written(announce: Callable[..., Announcement]) -> None:
    one = announce(kind="maintenance", starts_at=NOON, ends_at=NOON + HOUR)
    for moment, is_shown, is_listed in (
        (NOON - timedelta(days=9), False, True),
        (NOON - timedelta(days=1), True, True),
        (NOON, True, True),
        (NOON + HOUR, False, False),
    ):
        assert (one.title in seen(moment)) is is_shown, moment
        listed = {each.title for each in announcements.maintenance(is_signed_in=False, account=NOBODY, now=moment)}
        assert (one.title in listed) is is_listed, moment


def test_it_ends_after_it_starts_or_the_database_refuses_it(announce: Callable[..., Announcement]) -> None:
    for end in (NOON, NOON - HOUR):
        with pytest.raises(ValidationError, match="end after it starts"):
            announce(starts_at=NOON, ends_at=end)
        with pytest.raises(IntegrityError, match="announcement_ends_after_it_starts"), transaction.atomic():
            Announcement.objects.create(title="never", starts_at=NOON, ends_at=end)


def test_it_names_an_account_when_it_is_for_one_and_only_then(announce: Callable[..., Announcement], house: House) -> None:
    for audience, account in (("account", None), ("everybody", house.account), ("signed_in", house.account)):
        with pytest.raises(ValidationError, match="Choose the account"):
            announce(audience=audience, account=account)
        with pytest.raises(IntegrityError, match="announcement_names_its_account"), transaction.atomic():
            Announcement.objects.create(title="never", audience=audience, account=account)


# -- For whom --------------------------------------------------------------------------------------------------------------------------


def test_each_sees_what_is_for_them(announce: Callable[..., Announcement], house: House) -> None:
    other, now = House(), timezone.now()
    all_of_us, members = announce(), announce(audience="signed_in")
    theirs = announce(audience="account", account=house.account)
    ours = {all_of_us.title, members.title, theirs.title}
    assert seen(now) & ours == {all_of_us.title}
    assert seen(now, is_signed_in=True) & ours == {all_of_us.title, members.title}
    assert seen(now, is_signed_in=True, account=other.account) & ours == {all_of_us.title, members.title}
    assert seen(now, is_signed_in=True, account=house.account) & ours == ours
    assert seen(now, account=house.account) & ours == {all_of_us.title}


def test_pages_show_it_to_strangers_and_members_and_one_accounts_to_that_account(
    announce: Callable[..., Announcement], house: House
) -> None:
    everybody, theirs = announce(), announce(audience="account", account=house.account)
    for address in ("/", "/status", "/docs", "/models"):
        html = Client().get(address).content.decode()
        assert everybody.title in html, address
        assert theirs.title not in html, address
    other, member = House().browser("owner"), house.browser("viewer")
    for address in (f"{house.base}/", f"{house.base}/keys", reverse("profile")):
        html = member.get(address).content.decode()
        assert everybody.title in html, address
        assert theirs.title in html, address
        assert theirs.title not in other.get(address).content.decode(), address


def test_the_status_page_lists_maintenance_in_the_zone_of_the_reader(announce: Callable[..., Announcement], house: House) -> None:
    Account.objects.filter(pk=house.account.pk).update(timezone="Asia/Tokyo")
    soon = (timezone.now() + timedelta(days=5)).replace(hour=20, minute=30)
    one = announce(kind="maintenance", starts_at=soon, ends_at=soon + HOUR)
    theirs = announce(kind="maintenance", starts_at=soon, audience="account", account=house.account)
    page = Client().get("/status").content.decode()
    assert one.title in page
    assert theirs.title not in page
    assert f"{soon:%Y-%m-%d} 20:30 UTC" in page
    html = house.browser("viewer").get("/status").content.decode()
    assert f"{soon + timedelta(days=1):%Y-%m-%d} 05:30 Asia/Tokyo" in html
    assert theirs.title in html


# -- What it says ----------------------------------------------------------------------------------------------------------------------


def test_the_text_is_markdown_and_nothing_in_it_is_markup_or_script(announce: Callable[..., Announcement]) -> None:
    text = (
        "<script>alert(1)</script> **new** [prices](/models) [more](https://example.com/?a=1&b=2) [a](javascript:alert) [b](//evil.example)"
        " [c](/\\evil.example) [d](http://evil.example)\n\n- one\n- two"
    )
    html = str(announcements.banner(announce(text=text)).html)
    assert "<script" not in html
    assert re.findall(r'href="([^"]*)"', html) == ["/models", "https://example.com/?a=1&amp;b=2"]
    assert "<strong>new</strong>" in html
    assert "<li>two</li>" in html


@pytest.mark.parametrize("text", ["# Big", "```\ncode\n```", '<a id="main"></a>', "| a |\n|---|\n| b |", "x" * 2001])
def test_what_belongs_to_a_page_is_refused(announce: Callable[..., Announcement], text: str) -> None:
    with pytest.raises(ValidationError):
        announce(text=text)


# -- Put away --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["stranger", "member"])
def test_what_was_put_away_comes_back_when_its_words_change(announce: Callable[..., Announcement], house: House, who: str) -> None:
    client, address = (Client(), "/docs") if who == "stranger" else (house.browser("viewer"), f"{house.base}/keys")
    one, another = announce(), announce(kind="warning")
    assert client.get(address).content.decode().count("Announcements") == 1
    answer = put_away(client, one, next=f"{address}?a=1")
    assert (answer.status_code, answer["Location"]) == (302, f"{address}?a=1")
    cookie = answer.cookies[announcements.COOKIE]
    assert (bool(cookie["httponly"]), cookie["samesite"]) == (True, "Lax")
    html = client.get(address).content.decode()
    assert one.title not in html
    assert another.title in html
    put_away(client, another)
    assert another.title not in client.get(address).content.decode()
    one.text = "Other words."
    one.save()
    announcements.forget()
    html = client.get(address).content.decode()
    assert one.title in html
    assert another.title not in html
    assert one.title in Client().get("/docs").content.decode()


def test_another_time_of_a_maintenance_is_news_and_of_others_is_not(announce: Callable[..., Announcement]) -> None:
    for kind, comes_back in (("maintenance", True), ("info", False)):
        one = announce(kind=kind)
        before = announcements.banner(one).mark
        one.ends_at = NOON
        assert (announcements.banner(one).mark != before) is comes_back


def test_htmx_gets_nothing_back_and_a_browser_is_led_nowhere_else(announce: Callable[..., Announcement]) -> None:
    one = announce()
    answer = Client().post(reverse("dismiss_announcement"), {"mark": announcements.banner(one).mark}, headers={"HX-Request": "true"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert announcements.COOKIE in answer.cookies
    for there in ("https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", ""):
        assert put_away(Client(), one, next=there)["Location"] == "/", there
    assert Client().get(reverse("dismiss_announcement")).status_code == 405
    assert Client(enforce_csrf_checks=True).post(reverse("dismiss_announcement"), {"mark": "1-0"}).status_code == 403


def test_the_cookie_keeps_marks_alone_and_not_too_many() -> None:
    mark = f"7-{'a' * 10}"
    assert announcements.dismiss("", mark) == mark
    assert announcements.dismiss(mark, mark) == mark
    assert announcements.dismiss(f"junk.{mark};x", "<script>") == ""
    many = ".".join(f"{number}-{'b' * 10}" for number in range(900))
    kept = announcements.dismiss(many, mark).split(".")
    assert (len(kept), kept[-1]) == (announcements.MOST, mark)


# -- What it costs ---------------------------------------------------------------------------------------------------------------------


def test_pages_ask_no_query_for_announcements_until_the_list_is_old(announce: Callable[..., Announcement], house: House) -> None:
    announce()
    announce(audience="account", account=house.account)
    client = house.browser("viewer")
    for address in ("/docs", f"{house.base}/keys"):
        client.get(address)
        with CaptureQueriesContext(connection) as queries:
            client.get(address)
        assert not [each for each in queries if "accounts_announcement" in each["sql"]]
    now = timezone.now()
    announcements.forget()  # and read now, so that its age is known
    announcements.live(now=now)
    for later, reads in ((timedelta(), 0), (announcements.FRESH - timedelta(seconds=1), 0), (announcements.FRESH, 1)):
        with CaptureQueriesContext(connection) as queries:
            announcements.live(now=now + later)
        assert len(queries) == reads, later
    announcements.forget()


def test_what_was_known_is_shown_while_the_database_does_not_answer(announce: Callable[..., Announcement]) -> None:
    one, now = announce(), timezone.now()
    announcements.live(now=now)
    later = now + announcements.FRESH
    with transaction.atomic():
        transaction.set_rollback(True)  # from here on every query of this connection fails
        assert one.title in {each.title for each in announcements.live(now=later)}
        announcements.forget()
        assert announcements.live(now=later) == ()
    assert one.title in {each.title for each in announcements.live(now=later + announcements.FRESH)}


# -- Writing -----------------------------------------------------------------------------------------------------------------------------


def test_support_writes_changes_and_ends_them_and_it_is_logged() -> None:
    staff_groups.make()
    support, finance = new_staff(), new_staff()
    support.groups.add(Group.objects.get(name="Support"))
    finance.groups.add(Group.objects.get(name="Finance"))
    client, title = browser_of(support), f"t-{uuid.uuid4().hex[:12]}"
    new = reverse("admin:accounts_announcement_add")
    try:
        form = {**fields_of(client.get(new).content.decode()), "title": title, "text": "Slower **today**.", "kind": "warning"}
        assert browser_of(finance).post(new, form).status_code == 403
        refused = client.post(new, {**form, "ends_at_0": "2020-01-01", "ends_at_1": "00:00:00"})
        assert "It has to end after it starts." in refused.content.decode()
        assert client.post(new, form).status_code == 302
        one = Announcement.objects.get(title=title)
        change = reverse("admin:accounts_announcement_change", args=[one.pk])
        assert "<strong>today</strong>" in client.get(change).content.decode()
        assert title in Client().get("/docs").content.decode()  # at once, where it was written
        assert browser_of(finance).get(change).status_code == 200
        end = reverse("admin:accounts_announcement_end", args=[one.pk])
        assert browser_of(finance).post(end).status_code == 403
        assert client.post(end).status_code == 302
        assert title not in Client().get("/docs").content.decode()
        assert client.post(reverse("admin:accounts_announcement_delete", args=[one.pk]), {"post": "yes"}).status_code == 403
        said = [each.get_change_message() for each in LogEntry.objects.filter(user=support, object_id=str(one.pk)).order_by("pk")]
        assert said == ["Added.", "Ended."]
    finally:
        Announcement.objects.filter(title=title).delete()
        announcements.forget()
