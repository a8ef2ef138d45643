"""The pages of keys: made, changed, rerolled, switched off and deleted by members, each deed written down, each secret shown once."""

import html
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import Account, AuditEvent
from keys import custody, issuing
from keys.forms import ENDPOINTS
from keys.models import ApiKey
from proxy.translation import SURFACES
from tests.accounts.people import House

SECRET = re.compile(r"sk-gw-[A-Za-z0-9-]*[A-Za-z0-9]{40,}")
TOKEN = re.compile(r'name="form_token" value="([^"]+)"')


@pytest.fixture(scope="module")
def house(_database: None) -> House:
    return House()


@pytest.fixture
def developer(house: House) -> Client:
    return house.browser("developer")


def form_of(client: Client, house: House, **said: Any) -> dict[str, Any]:
    """What a browser sends of the form of a new key."""
    token = TOKEN.search(client.get(f"{house.base}/keys/new").content.decode())
    assert token
    return {"name": "a program", "kind": "live", "budget_window": "month", "form_token": token[1], **said}


def make(house: House, **said: Any) -> ApiKey:
    return issuing.issue(account=house.account, name="a key", now=timezone.now(), **said)[0]


def actions(house: House, key: ApiKey) -> list[str]:
    found = AuditEvent.objects.filter(account=house.account, details__key=custody.recognised(key)).order_by("pk")
    return list(found.values_list("action", flat=True))


def change_form(key: ApiKey, **said: Any) -> dict[str, Any]:
    return {"name": key.name, "budget_window": key.budget_window, **said}


# -- Made -----------------------------------------------------------------------------------------------------------------------------


def test_a_new_key_shows_its_secret_once_with_snippets_that_have_it_filled_in(house: House, developer: Client) -> None:
    form = form_of(
        developer,
        house,
        budget_nano="12.50",
        allowed_models="openai/*\nmine/model",
        allowed_endpoints=["chat"],
        rpm="60",
        tpm="",
        concurrency="4",
    )
    answer = developer.post(f"{house.base}/keys/new", form)
    assert answer.status_code == 200
    assert answer["Cache-Control"] == "no-store"
    text = html.unescape(answer.content.decode())
    secrets = set(SECRET.findall(text))
    assert len(secrets) == 1
    secret = secrets.pop()
    key = ApiKey.objects.filter(account=house.account).latest("pk")
    assert (key.start, key.last_four) == (secret[: len(key.start)], secret[-4:])
    assert (key.budget_nano, key.rpm, key.tpm, key.concurrency) == (12_500_000_000, 60, None, 4)
    assert (key.allowed_models, key.allowed_endpoints) == (["openai/*", "mine/model"], ["chat"])
    assert key.created_by == house.user("developer")
    for said in (
        f'curl http://testserver/v1/chat/completions \\\n  -H "Authorization: Bearer {secret}"',
        "anthropic.Anthropic(base_url=",
        "genai.Client",
    ):
        assert said in text
    assert actions(house, key) == ["key.issued"]
    event = AuditEvent.objects.get(account=house.account, details__key=custody.recognised(key))
    assert secret not in str(event.details)
    assert event.details["budget_usd"] == "12.50"
    for page in ("/keys", f"/keys/{key.pk}", f"/keys/{key.pk}/change"):
        assert secret not in developer.get(house.base + page).content.decode()


def test_the_form_of_a_key_sent_twice_makes_one(house: House, developer: Client) -> None:
    form = form_of(developer, house, name="only once")
    first, second = (developer.post(f"{house.base}/keys/new", form) for _ in range(2))
    key = ApiKey.objects.get(account=house.account, name="only once")
    assert first.status_code == 200
    assert second["Location"] == f"{house.base}/keys/{key.pk}"
    assert "shown again" in developer.get(second["Location"]).content.decode()
    assert actions(house, key) == ["key.issued"]


def test_what_cannot_be_is_said_at_its_field_and_nothing_is_made(house: House, developer: Client) -> None:
    before = ApiKey.objects.filter(account=house.account).count()
    for said in (
        {"name": ""},
        {"kind": "golden"},
        {"budget_nano": "-1"},
        {"budget_nano": "much"},
        {"allowed_models": "größe"},
        {"allowed_ips": "300.1.1.1"},
        {"rpm": "0"},
        {"expires_at": "2020-01-01T00:00"},
        {"expires_at": "soon"},
    ):
        answer = developer.post(f"{house.base}/keys/new", form_of(developer, house, **said))
        assert answer.status_code == 400, said
        assert 'class="problem"' in answer.content.decode(), said
    assert ApiKey.objects.filter(account=house.account).count() == before


def test_a_form_without_its_token_is_refused(house: House, developer: Client) -> None:
    form = {name: value for name, value in form_of(developer, house).items() if name != "form_token"}
    assert developer.post(f"{house.base}/keys/new", form).status_code == 400


def test_the_endpoints_offered_are_the_ones_there_are() -> None:
    assert {name for name, _ in ENDPOINTS} == set(SURFACES)


def test_a_management_key_gets_no_snippet_of_a_model(house: House, developer: Client) -> None:
    text = developer.post(f"{house.base}/keys/new", form_of(developer, house, kind="management")).content.decode()
    assert "/v1/keys" in text
    assert "chat/completions" not in text


# -- Changed --------------------------------------------------------------------------------------------------------------------------


def test_only_what_was_changed_is_written_and_told(house: House, developer: Client) -> None:
    expires = timezone.now() + timedelta(days=3, seconds=7)
    key = make(house, budget_nano=5_000_000_000, expires_at=expires, rpm=10)
    shown = timezone.localtime(expires, UTC).strftime("%Y-%m-%dT%H:%M")
    address = f"{house.base}/keys/{key.pk}/change"
    answer = developer.post(address, change_form(key, budget_nano="7", rpm="10", expires_at=shown))
    assert answer["Location"] == f"{house.base}/keys/{key.pk}"
    changed = ApiKey.objects.get(pk=key.pk)
    assert (changed.budget_nano, changed.expires_at, changed.rpm) == (7_000_000_000, expires, 10)
    event = AuditEvent.objects.get(account=house.account, action="key.changed", details__key=custody.recognised(key))
    assert event.details == {"key": custody.recognised(key), "budget_usd": {"from": "5.00", "to": "7.00"}}
    developer.post(address, change_form(key, budget_nano="7", rpm="10", expires_at=shown))
    assert actions(house, key) == ["key.changed"]  # the same again is no change


def test_moments_are_typed_by_the_accounts_clock(house: House) -> None:
    tokyo = House()
    Account.objects.filter(pk=tokyo.account.pk).update(timezone="Asia/Tokyo")
    key = make(tokyo)
    tokyo.browser("owner").post(f"{tokyo.base}/keys/{key.pk}/change", change_form(key, expires_at="2035-01-02T05:00"))
    assert ApiKey.objects.get(pk=key.pk).expires_at == datetime(2035, 1, 1, 20, tzinfo=UTC)


def test_a_key_is_switched_off_and_on(house: House, developer: Client) -> None:
    key = make(house)
    address = f"{house.base}/keys/{key.pk}/switch"
    for to, is_disabled in (("off", True), ("off", True), ("on", False)):
        assert developer.post(address, {"to": to}).status_code == 302
        assert ApiKey.objects.get(pk=key.pk).is_disabled is is_disabled
    assert actions(house, key) == ["key.disabled", "key.enabled"]


# -- Rerolled and deleted -------------------------------------------------------------------------------------------------------------


def test_a_rerolled_key_works_on_for_as_long_as_was_chosen(house: House, developer: Client) -> None:
    for seconds in (0, 3600, 86400, 604800):
        key, now = make(house, budget_nano=1), timezone.now()
        answer = developer.post(f"{house.base}/keys/{key.pk}/reroll", {"overlap": str(seconds)})
        assert len(set(SECRET.findall(answer.content.decode()))) == 1
        old, new = ApiKey.objects.get(pk=key.pk), ApiKey.objects.get(replaces=key)
        assert new.budget_nano == 1
        if seconds:
            assert old.revoked_at is None
            assert old.expires_at is not None
            assert timedelta(0) <= old.expires_at - now - timedelta(seconds=seconds) < timedelta(seconds=20)
        else:
            assert old.revoked_at is not None
        assert actions(house, key) == ["key.rerolled"]
    again = developer.post(f"{house.base}/keys/{key.pk}/reroll", {"overlap": "0"})
    assert again.status_code == 302  # it has been replaced: no second key comes of it
    assert ApiKey.objects.filter(replaces=key).count() == 1
    page = developer.get(f"{house.base}/keys/{key.pk}").content.decode()
    assert f"{new.start}…{new.last_four}" in page
    assert "Reroll " not in page


def test_a_deleted_key_is_ended_for_ever_and_its_list_says_so(house: House, developer: Client) -> None:
    key = make(house)
    for _ in range(2):
        assert developer.post(f"{house.base}/keys/{key.pk}/revoke")["Location"] == f"{house.base}/keys"
    assert actions(house, key) == ["key.revoked"]
    assert ApiKey.objects.get(pk=key.pk).state(timezone.now()) == "revoked"
    developer.get(f"{house.base}/keys")  # which says what was done
    assert custody.recognised(key) not in developer.get(f"{house.base}/keys").content.decode()
    assert custody.recognised(key) in developer.get(f"{house.base}/keys?show=all").content.decode()
    for to in ("switch", "reroll"):
        developer.post(f"{house.base}/keys/{key.pk}/{to}", {"to": "on", "overlap": "0"})
    assert developer.get(f"{house.base}/keys/{key.pk}/change").status_code == 302
    assert actions(house, key) == ["key.revoked"]


def test_keys_of_others_are_not_there_and_their_deeds_do_nothing(house: House) -> None:
    other = House()
    theirs = make(other)
    owner = house.browser("owner")
    for to in ("", "/change", "/first-request"):
        assert owner.get(f"{house.base}/keys/{theirs.pk}{to}").status_code == 404
    for to, said in (("switch", {"to": "off"}), ("reroll", {"overlap": "0"}), ("revoke", {}), ("change", change_form(theirs, name="mine"))):
        assert owner.post(f"{house.base}/keys/{theirs.pk}/{to}", said).status_code == 404
    kept = ApiKey.objects.get(pk=theirs.pk)
    assert (kept.state(timezone.now()), kept.name) == ("active", "a key")


def test_who_may_only_read_sees_keys_without_a_way_to_change_them(house: House) -> None:
    key = make(house)
    viewer = house.browser("viewer")
    for page in (viewer.get(f"{house.base}/keys"), viewer.get(f"{house.base}/keys/{key.pk}")):
        text = page.content.decode()
        assert custody.recognised(key) in text
        assert 'action="' + house.base not in text
        assert "/keys/new" not in text


# -- The list -------------------------------------------------------------------------------------------------------------------------


def test_the_list_is_read_page_by_page_in_a_fixed_number_of_queries() -> None:
    house = House()
    client = house.browser("viewer")
    client.get(f"{house.base}/keys")  # the first page of a session notes where its member was last
    counts = []
    for _ in range(2):
        for _ in range(60):
            make(house, budget_nano=10**9)
        with CaptureQueriesContext(connection) as queries:
            assert client.get(f"{house.base}/keys").status_code == 200
        counts.append(len(queries))
    assert counts[0] == counts[1] <= 8
    seen, address = [], f"{house.base}/keys"
    while address:
        text = client.get(address).content.decode()
        seen += re.findall(r'/keys/(\d+)"', text)
        older = re.search(r'rel="next" href="([^"]+)"', text)
        address = f"{house.base}/keys{html.unescape(older[1])}" if older else ""
    assert len(seen) == len(set(seen)) == 120
    assert client.get(f"{house.base}/keys?before=99999999999999999999-1").status_code in (200, 404)
    assert client.get(f"{house.base}/keys?before=x").status_code == 404


def test_keys_are_found_by_name_start_and_last_four(house: House, developer: Client) -> None:
    key = issuing.issue(account=house.account, name="Invoice robot", now=timezone.now())[0]
    make(house)
    for text in ("invoice", key.start, key.last_four, custody.recognised(key), f"{key.start}...{key.last_four}"):
        assert "Invoice robot" in developer.get(f"{house.base}/keys", {"q": text}).content.decode()
    assert developer.get(f"{house.base}/keys", {"q": "\x00"}).status_code == 200
    assert "No key is like that" in developer.get(f"{house.base}/keys", {"q": "no such key"}).content.decode()
