"""Stored content, its rules and pages: who chooses, who reads, for how long, and that nothing of it opens anywhere else or afterwards."""

import html
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts import form_tokens
from accounts.models import Account, AuditEvent, Membership, User
from billing import content_pages, stored_content, tasks
from billing.models import ContentKey, StoredContent, TaskRun
from catalog import vault
from tests.accounts.people import browser_of, new_person
from tests.admin import staff
from tests.billing.desk import Desk
from tests.billing.tenants import Tenant

NOW = timezone.now()
READERS, OTHERS = ("owner", "admin", "developer"), ("billing", "viewer")
ASKED, ANSWERED = b'{"messages":[{"role":"user","content":"<b>Hello</b>"}]}', b'data: {"a":1}\n\ndata: [DONE]\n\n'


@dataclass
class Home:
    """An account with a member of each role and one settled request."""

    account: Account
    people: dict[str, User]
    request_id: str

    @property
    def receipt(self) -> str:
        return f"/a/{self.account.slug}/requests/{self.request_id}"

    def browser(self, role: str) -> Client:
        return browser_of(self.people[role])

    def choose(self, days: int, *, now: datetime = NOW) -> None:
        stored_content.choose(self.account, days=days, by=self.people["owner"], now=now)

    def store(
        self, request: bytes = ASKED, answer: bytes = ANSWERED, *, ident: uuid.UUID | None = None, at: datetime = NOW, **fields: Any
    ) -> StoredContent:
        """Store content as the data plane does."""
        ident = ident or uuid.uuid4()
        row = ContentKey.objects.get(account=self.account, ended_at=None)
        key = stored_content.open_key(row.sealed, account_id=self.account.pk)
        place: dict[str, Any] = {"key": key, "account_id": self.account.pk, "request_id": ident}
        return StoredContent.objects.create(
            request_id=ident, account=self.account, key=row, at=at, expires_at=at + timedelta(days=self.account.content_days), format="chat",
            request=stored_content.seal(request, part="request", **place), answer=stored_content.seal(answer, part="answer", **place),
            **{"request_cut": False, "answer_cut": False, **fields},
        )  # fmt: skip

    def store_of_request(self, *texts: bytes, **fields: Any) -> StoredContent:
        return self.store(*texts, ident=uuid.UUID(self.request_id), **fields)

    def has(self, stored: StoredContent, *, now: datetime = NOW) -> bool:
        return stored_content.find(stored.pk, account=self.account, now=now) is not None

    def told(self, action: str) -> list[dict[str, Any]]:
        return [event.details for event in AuditEvent.objects.filter(account=self.account, action=action).order_by("pk")]


def post(client: Client, address: str, token: str = "", **fields: Any) -> Any:
    return client.post(address, {form_tokens.FIELD: token or form_tokens.new(), **fields})


def words(answer: Any) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", answer.content.decode())).split())


@pytest.fixture
def new_home(open_desk: Callable[..., Desk]) -> Callable[[], Home]:
    def make() -> Home:
        tenant = Tenant(open_desk(usd=1))
        people = {role: new_person(name=f"the {role}") for role in Membership.Role.values}
        for role, person in people.items():
            Membership.objects.create(account=tenant.account, user=person, role=role)
        return Home(tenant.account, people, tenant.spend(1))

    return make


@pytest.fixture
def home(new_home: Callable[[], Home]) -> Home:
    return new_home()


@pytest.fixture
def wanting(home: Home) -> Home:
    home.choose(7)
    return home


# -- Choosing ----------------------------------------------------------------------------------------------------------------------------


def test_the_database_refuses_more_than_thirty_days(home: Home) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Account.objects.filter(pk=home.account.pk).update(content_days=31)
    for days in (-1, 31):
        with pytest.raises(stored_content.TooManyDays):
            home.choose(days)


def test_each_choice_is_written_down_and_the_same_again_is_none(home: Home) -> None:
    for days in (7, 7, 3, 0, 0):
        home.choose(days)
    actions = ("content.turned_on", "content.changed", "content.turned_off")
    assert [home.told(action) for action in actions] == [[{"from": 0, "to": 7}], [{"from": 7, "to": 3}], [{"from": 3, "to": 0}]]


def test_turning_it_off_deletes_what_is_there_and_turning_it_on_again_brings_nothing_back(
    wanting: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_content, "DROPPED_AT_ONCE", 1)
    first, second = wanting.store(), wanting.store()
    wanting.choose(0)
    left = StoredContent.objects.filter(account=wanting.account)
    assert left.count() == 1  # the rest is the task's
    assert not ContentKey.objects.filter(account=wanting.account).exclude(sealed="").exists()
    wanting.choose(7)
    assert not (wanting.has(first) or wanting.has(second))
    kept = wanting.store()
    tasks.drop_stored_content()
    assert list(left.values_list("pk", flat=True)) == [kept.pk]
    assert ContentKey.objects.filter(account=wanting.account).count() == 1
    assert TaskRun.objects.get(name="drop_stored_content").last_finished_at is not None


def test_content_goes_when_its_days_are_over_or_fewer_are_wanted_or_allowed(wanting: Home, settings: Any) -> None:
    stored = wanting.store()
    assert wanting.has(stored, now=NOW + timedelta(days=7, seconds=-1))
    assert not wanting.has(stored, now=NOW + timedelta(days=7))
    wanting.choose(30)  # more days are for what comes
    assert not wanting.has(stored, now=NOW + timedelta(days=7))
    wanting.choose(3)
    assert not wanting.has(stored, now=NOW + timedelta(days=3))
    settings.CONTENT_MAX_DAYS = 1
    assert not wanting.has(stored, now=NOW + timedelta(days=1))
    settings.CONTENT_MAX_DAYS = 30
    assert wanting.has(stored)


def test_the_task_deletes_what_is_over_and_nothing_else(home: Home, settings: Any) -> None:
    home.choose(10)
    over, older, newer = (home.store(at=timezone.now() - timedelta(days=days)) for days in (10, 5, 1))
    rows = StoredContent.objects.filter(account=home.account).order_by("at")
    tasks.drop_stored_content()
    assert list(rows.all()) == [older, newer]
    home.choose(4)
    stored_content.drop(now=timezone.now())
    assert list(rows.all()) == [newer]
    assert not StoredContent.objects.filter(pk=over.pk).exists()
    settings.CONTENT_MAX_DAYS = 0
    assert not home.has(newer)


def test_the_owner_chooses_on_the_settings_page_once_for_each_form(home: Home) -> None:
    owner, page, there = home.browser("owner"), f"/a/{home.account.slug}/settings", f"/a/{home.account.slug}/settings/stored-content"
    assert "is not stored. If you turn this on" in words(owner.get(page))
    token = form_tokens.new()
    post(owner, there, token, days="5")
    home.choose(0)
    post(owner, there, token, days="5")  # the browser's retry
    home.account.refresh_from_db()
    assert (home.account.content_days, len(home.told("content.turned_on"))) == (0, 1)
    for days in ("31", "x", "-1", "", "99999999"):
        assert "1 to 30 days" in words(owner.get(post(owner, there, days=days)["Location"]))
    post(owner, there, days="30")
    assert "is stored for 30 days" in words(owner.get(page))
    post(owner, there, days="0")
    assert "is not stored" in words(owner.get(page))
    assert owner.post(there, {"days": "5"}).status_code == 400  # no form of ours


def test_an_operator_who_forbids_it_hides_it(wanting: Home, settings: Any) -> None:
    settings.CONTENT_MAX_DAYS = 0
    owner = wanting.browser("owner")
    assert "Stored content" not in words(owner.get(f"/a/{wanting.account.slug}/settings"))
    assert post(owner, f"/a/{wanting.account.slug}/settings/stored-content", days="1").status_code == 404
    assert "is not stored anywhere." in words(owner.get(wanting.receipt))
    assert "Have it stored" not in words(owner.get(wanting.receipt))


def test_closing_the_account_deletes_it(wanting: Home) -> None:
    stored = wanting.store()
    owner = wanting.browser("owner")
    session = owner.session
    session["account_authentication_methods"] = [{"method": "password", "at": timezone.now().timestamp()}]
    session.save()
    owner.post(f"/a/{wanting.account.slug}/close", {"slug": wanting.account.slug})
    wanting.account.refresh_from_db()
    assert (wanting.account.is_active, wanting.account.content_days) == (False, 0)
    assert not StoredContent.objects.filter(pk=stored.pk).exists()
    assert post(owner, f"/a/{wanting.account.slug}/settings/stored-content", days="1").status_code == 404


# -- Reading -----------------------------------------------------------------------------------------------------------------------------


def test_who_may_read_it_does_and_others_see_that_it_is_there(wanting: Home) -> None:
    wanting.store_of_request()
    for role in READERS:
        client = wanting.browser(role)
        assert "Show it" in words(client.get(wanting.receipt))
        page = client.get(f"{wanting.receipt}/content")
        assert page.headers["Cache-Control"] == "no-store"
        text = page.content.decode()
        assert "&lt;b&gt;Hello&lt;/b&gt;" in text
        assert "data: [DONE]" in text
        assert "<b>Hello" not in text
        part = client.get(f"{wanting.receipt}/content", headers={"HX-Request": "true"})
        assert (part.headers["Cache-Control"], b"<html" in part.content) == ("no-store", False)
    for role in OTHERS:
        client = wanting.browser(role)
        receipt = words(client.get(wanting.receipt))
        assert "It is stored until" in receipt
        assert "Show it" not in receipt
        answer = client.get(f"{wanting.receipt}/content")
        assert (answer.status_code, b"Hello" in answer.content) == (403, False)


def test_each_reader_is_written_down_once_a_day_for_each_request(wanting: Home) -> None:
    stored = wanting.store()
    owner, developer = wanting.people["owner"], wanting.people["developer"]
    morning = NOW.replace(hour=1)
    for by, now in ((owner, morning), (owner, morning + timedelta(hours=2)), (developer, morning), (owner, morning + timedelta(days=1))):
        stored_content.read(stored, by=by, now=now)
    assert len(wanting.told("content.read")) == 3


def test_staff_who_looks_as_a_member_does_not_see_it(wanting: Home) -> None:
    wanting.store_of_request()
    client = staff.browser_of(staff.new_staff("accounts.view_account", "accounts.impersonate"))
    membership = Membership.objects.get(account=wanting.account, user=wanting.people["owner"])
    client.post(reverse("admin:accounts_account_look_as", args=[wanting.account.pk]), {"membership": membership.pk, "reason": "ticket"})
    receipt = words(client.get(wanting.receipt))
    assert "You look at" in receipt
    assert "It is stored until" in receipt
    assert "Show it" not in receipt
    answer = client.get(f"{wanting.receipt}/content")
    assert (answer.status_code, b"Hello" in answer.content) == (403, False)
    assert "for members alone" in words(answer)
    assert post(client, f"{wanting.receipt}/content/delete").status_code == 403
    assert wanting.told("content.read") == []


def test_another_account_finds_nothing(wanting: Home, new_home: Callable[[], Home]) -> None:
    wanting.store_of_request()
    stranger = new_home()
    stranger.choose(7)
    for base in (wanting.receipt, f"/a/{stranger.account.slug}/requests/{wanting.request_id}"):
        assert stranger.browser("owner").get(f"{base}/content").status_code == 404
        assert post(stranger.browser("owner"), f"{base}/content/delete").status_code == 404
    assert StoredContent.objects.filter(pk=wanting.request_id).exists()


def test_what_is_cut_is_said_to_be_and_what_is_not_there_too(wanting: Home) -> None:
    client = wanting.browser("developer")
    assert "Nothing is stored of what was asked" in words(client.get(wanting.receipt))
    assert "Nothing is stored of this request." in words(client.get(f"{wanting.receipt}/content"))
    wanting.store_of_request(b'{"messages":[', b"", request_cut=True)
    text = words(client.get(f"{wanting.receipt}/content"))
    assert 'Asked cut: only its beginning is stored {"messages":[' in text
    assert "Answered Nothing." in text


def test_a_receipt_says_where_to_turn_it_on_to_who_may(home: Home) -> None:
    for role, may in (("owner", True), ("admin", False), ("developer", False)):
        text = words(home.browser(role).get(home.receipt))
        assert "is not stored anywhere" in text
        assert ("Have it stored from now on" in text) is may


def test_one_requests_content_is_deleted_from_its_receipt(wanting: Home) -> None:
    wanting.store_of_request()
    other = wanting.store()
    client, token = wanting.browser("developer"), form_tokens.new()
    for _ in range(2):
        assert post(client, f"{wanting.receipt}/content/delete", token)["Location"] == wanting.receipt
    assert len(wanting.told("content.deleted")) == 1
    assert list(StoredContent.objects.filter(account=wanting.account).values_list("pk", flat=True)) == [other.pk]


def test_neither_admin_nor_exports_show_it(wanting: Home) -> None:
    from django.contrib import admin

    assert not {StoredContent, ContentKey} & set(admin.site._registry)
    wanting.store_of_request()
    for form in ("csv", "jsonl"):
        answer = wanting.browser("owner").get(f"/a/{wanting.account.slug}/usage.{form}")
        raw = b"".join(answer.streaming_content)  # type: ignore[attr-defined]
        assert wanting.request_id.encode() in raw
        assert b"Hello" not in raw


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b'{"a":[1,"\xc3\xa9"]}', '{\n  "a": [\n    1,\n    "é"\n  ]\n}'),
        (b'{"a":"\\ud83d"}', '{\n  "a": "\\ud83d"\n}'),
        (b"data: {}\n\n", "data: {}\n\n"),
        (b'{"a":', '{"a":'),
        (b"\xff", "\ufffd"),
        (b"", ""),
        (b"[" * 5000 + b"]" * 5000, "[" * 5000 + "]" * 5000),
    ],
)
def test_json_is_laid_out_and_anything_else_is_as_it_was(raw: bytes, text: str) -> None:
    assert content_pages.as_text(raw) == text


def test_a_text_that_grows_too_large_when_laid_out_is_left_as_it_was() -> None:
    raw = b"[" * 300 + b"1," * 20_000 + b"1" + b"]" * 300
    assert content_pages.as_text(raw) == raw.decode()


# -- Sealing -----------------------------------------------------------------------------------------------------------------------------


def test_a_row_that_is_moved_does_not_open(wanting: Home, new_home: Callable[[], Home]) -> None:
    other = new_home()
    other.choose(7)
    by, stored, theirs = wanting.people["owner"], wanting.store(), other.store()
    whole = stored_content.read(stored, by=by, now=NOW)
    assert (whole.request, whole.answer) == (ASKED, ANSWERED)
    moves: list[dict[str, Any]] = [
        {"request": stored.answer, "answer": stored.request},
        {"account": other.account, "key": theirs.key},
        {"account": other.account},
        {"key": theirs.key},
    ]
    for move in moves:
        moved = StoredContent.objects.get(pk=stored.pk)
        for name, value in move.items():
            setattr(moved, name, value)
        with pytest.raises(vault.CannotOpen):
            stored_content.read(moved, by=by, now=NOW)
    moved = StoredContent.objects.get(pk=stored.pk)
    moved.pk = uuid.uuid4()
    with pytest.raises(vault.CannotOpen):
        stored_content.read(moved, by=by, now=NOW)


def test_content_that_does_not_open_is_said_not_to(wanting: Home) -> None:
    wanting.store_of_request()
    StoredContent.objects.filter(pk=wanting.request_id).update(answer=b"x" * 40)
    assert "cannot be opened" in words(wanting.browser("owner").get(f"{wanting.receipt}/content"))
    assert wanting.told("content.read") == []
