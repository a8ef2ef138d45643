"""An account's settings, its end and its log; where people land; and the parts of the pages."""

import re
import uuid
from datetime import datetime, timedelta
from decimal import Decimal
from xml.etree import ElementTree as ET

import pytest
from django.conf import settings
from django.template import Context, Template
from django.test import Client
from django.utils import timezone

from accounts import audit
from accounts.models import Account, AuditEvent, Membership
from billing.models import Wallet
from gateway_site import charts, front_door, navigation
from tests.accounts.people import PASSWORD, House, browser_of, new_person


@pytest.fixture
def house() -> House:
    return House()


def settings_of(house: House, **changed: str) -> dict[str, str]:
    account = house.account
    return {"name": account.name, "slug": account.slug, "timezone": account.timezone, "billing_email": "", **changed}


def test_the_settings_are_saved_and_what_they_were_is_written_down(house: House) -> None:
    slug = f"new-{uuid.uuid4().hex[:12]}"
    changed = {"slug": slug, "timezone": "Asia/Tokyo", "billing_email": "bills@example.com"}
    answer = house.browser("owner").post(f"{house.base}/settings", settings_of(house, **changed))
    assert answer["Location"] == f"/a/{slug}/settings"
    event = AuditEvent.objects.get(account=house.account)
    assert event.details["timezone"] == {"from": "UTC", "to": "Asia/Tokyo"}
    assert house.browser("viewer").get(f"{house.base}/").status_code == 404
    assert house.browser("viewer").get(f"/a/{slug}/").status_code == 200


def test_settings_that_cannot_be_are_refused_and_nothing_changes(house: House) -> None:
    for changed in ({"slug": House().account.slug}, {"slug": "Über"}, {"timezone": "Mars/Olympus"}, {"name": ""}, {"billing_email": "x"}):
        answer = house.browser("owner").post(f"{house.base}/settings", settings_of(house, **changed))
        assert answer.status_code == 400
        assert 'aria-invalid="true"' in answer.content.decode()
    assert Account.objects.get(pk=house.account.pk).slug == house.account.slug


def test_times_are_the_accounts(house: House) -> None:
    audit.record(account=house.account, actor=None, action="key.created", now=datetime.fromisoformat("2026-01-01T20:00:00Z"))
    Account.objects.filter(pk=house.account.pk).update(timezone="Asia/Tokyo")
    assert "2026-01-02 05:00:00" in house.browser("owner").get(f"{house.base}/audit-log").content.decode()


def test_the_audit_log_says_what_changed_in_dollars_and_minutes_and_leaves_out_what_is_not_set(house: House) -> None:
    details = {
        "budget_nano": {"from": None, "to": 2_500_000_000},
        "expires_at": "2026-01-01T20:00:30.5+00:00",
        "allowed_models": ["a/*", "b/*"],
        "paid_minor": 1234,
        "rpm": None,
        "allowed_ips": [],
        "revoked_at": "soon",
    }
    audit.record(account=house.account, actor=None, action="key.changed", details=details, now=timezone.now())
    page = house.browser("owner").get(f"{house.base}/audit-log").content.decode()
    for told in ("budget: nothing → $2.50", "paid: $12.34", "expires at: 2026-01-01 20:00", "allowed models: a/*, b/*", "revoked at: soon"):
        assert told in page
    assert "rpm" not in page
    assert "allowed ips" not in page


def test_an_account_is_closed_by_its_owner_who_types_its_address_and_their_password_anew(house: House) -> None:
    owner, address = house.user("owner"), f"{house.base}/close"
    owner.set_password(PASSWORD)
    owner.save()
    client = house.browser("owner")
    sent = client.get(address)["Location"]
    assert sent.startswith("/user/reauthenticate/")
    assert client.post(address, {"slug": "another"})["Location"] == sent
    assert Account.objects.get(pk=house.account.pk).is_active
    assert "This is not h-" in client.post(sent, {"password": PASSWORD}).content.decode()  # and goes on with what was asked
    assert client.post(address, {"slug": house.account.slug}).status_code == 302
    assert not Account.objects.get(pk=house.account.pk).is_active
    assert AuditEvent.objects.get(account=house.account).action == "account.closed"
    assert "This account is closed" in client.get(f"{house.base}/").content.decode()


def test_the_audit_log_is_read_page_by_page_without_a_gap(house: House) -> None:
    at = timezone.now()
    for number in range(120):
        audit.record(
            account=house.account, actor=None, action="test.done", subject=f"n{number:03}.", now=at - timedelta(seconds=number // 3)
        )
    client, address, seen = house.browser("admin"), f"{house.base}/audit-log", []
    while address:
        html = client.get(address).content.decode()
        seen += re.findall(r"n\d{3}\.", html)
        older = re.search(r'rel="next" href="([^"]+)"', html)
        address = f"{house.base}/audit-log{older[1]}" if older else ""
    assert sorted(seen) == [f"n{number:03}." for number in range(120)]
    for nonsense in ("x", "1-", "9" * 39 + "-1", "1-2-3"):
        assert client.get(f"{house.base}/audit-log", {"before": nonsense}).status_code == 404


# -- Where people land ------------------------------------------------------------------------------------------------------------


def test_a_person_without_an_account_lands_in_one_of_their_own_and_gets_no_second() -> None:
    user = new_person(name="Ada Löve")
    client = browser_of(user)
    first = client.get("/")["Location"]
    assert re.fullmatch(r"/a/ada-l-ve-[0-9a-f]{8}/", first)
    assert client.get("/")["Location"] == first
    assert Wallet.objects.get(account__slug=first.split("/")[2]).balance == 0
    assert Membership.objects.get(user=user).role == "owner"


def test_a_person_lands_in_the_account_used_last(house: House) -> None:
    user = house.user("developer")
    other = front_door.open_for(user, name="Side project", now=timezone.now())
    client = browser_of(user)
    for base in (house.base, f"/a/{other.slug}", house.base):
        client.get(f"{base}/")
        assert client.get("/")["Location"] == f"{base}/"


def test_a_new_account_is_opened_once_however_often_the_form_is_sent() -> None:
    user = new_person()
    client = browser_of(user)
    token = re.search(r'name="form_token" value="([^"]+)"', client.get("/accounts/new").content.decode())
    assert token
    for _ in range(2):
        client.post("/accounts/new", {"name": "Second", "form_token": token[1]})
    assert Membership.objects.filter(user=user, account__name="Second").count() == 1


def test_the_navigation_shows_what_the_role_may_see_and_every_entry_leads_somewhere(house: House) -> None:
    for role in Membership.Role.values:
        html = house.browser(role).get(f"{house.base}/").content.decode()
        for entry in (*navigation.ACCOUNT, *navigation.MANAGE):
            assert (f"</svg>{entry.label}</a>" in html) == (entry.permission is None or house.members[role].may(entry.permission)), (
                role,
                entry.label,
            )
    client = house.browser("owner")
    html = client.get(f"{house.base}/").content.decode()
    for href in set(re.findall(r'<a [^>]*href="(/[^"#]*)"', html)):
        assert client.get(href).status_code in (200, 302), href


# -- What every page keeps to -----------------------------------------------------------------------------------------------------


def test_pages_carry_the_policies_and_no_inline_script_or_style(house: House) -> None:
    client = house.browser("owner")
    for address in ("/", f"{house.base}/", f"{house.base}/members", f"{house.base}/settings", "/user/2fa/", "/user/login/", "/nowhere"):
        for browser in (client, Client()):
            response = browser.get(address, follow=True)
            html = response.content.decode()
            assert "script-src 'self';" in response["Content-Security-Policy"]
            assert not re.search(r"<style|\sstyle=|\son\w+=", html), address
            assert not re.search(r"<script(?![^>]*(src=|application/json))", html), address
            assert all(found.startswith("/") for found in re.findall(r'<(?:script|link|img)\b[^>]*\b(?:src|href)="([^"d]+)"', html))
    assert client.get(f"{house.base}/")["Cache-Control"] == "no-store"


def test_pages_of_errors_name_the_request_and_need_nothing_else() -> None:
    response = Client().get("/nowhere")
    assert response.status_code == 404
    assert response["x-request-id"] in response.content.decode()
    refused = Client(enforce_csrf_checks=True).post("/user/login/", {})
    assert refused.status_code == 403
    assert refused["x-request-id"] in refused.content.decode()


def test_a_part_asked_for_by_a_stranger_sends_the_whole_page_to_sign_in(house: House) -> None:
    answer = Client().get(f"{house.base}/", headers={"HX-Request": "true", "HX-Current-URL": "http://testserver/a/x/?y=1"})
    assert (answer.status_code, answer["HX-Redirect"]) == (204, "/user/login/?next=/a/x/")
    assert settings.LOGIN_URL == "account_login"


# -- Parts ------------------------------------------------------------------------------------------------------------------------


def rendered(text: str, **context: object) -> str:
    return Template("{% load site %}" + text).render(Context(context))


def test_money_is_rounded_for_people_and_exact_in_the_title() -> None:
    assert rendered("{{ n|usd }}", n=1_234_567_891) == '<span title="$1.234567891 exactly">$1.23457</span>'
    assert rendered("{{ n|usd }}", n=1) == '<span title="$0.000000001 exactly">&lt;$0.000001</span>'
    assert rendered("{{ n|usd_headline }}", n=1_234_999_999_999) == '<span title="$1234.999999999 exactly">$1,234.99</span>'
    assert rendered("{{ n|usd_headline }}", n=-1) == '<span title="$-0.000000001 exactly">-$0.01</span>'


def test_a_meter_warns_at_four_fifths_and_draws_nothing_without_a_limit() -> None:
    assert 'meter-fill "' in rendered("{% meter 10 100 %}")
    assert "meter-fill warn" in rendered("{% meter 80 100 %}")
    assert "meter-fill bad" in rendered("{% meter 250 100 %}")
    assert "<svg" not in rendered("{% meter 10 None %}")


@pytest.mark.parametrize("kind", ["bar", "line"])
def test_a_chart_is_well_formed_says_what_it_shows_and_escapes_names(kind: str) -> None:
    series = [charts.Series("<b>one</b>", [1, 2, 3]), charts.Series("two", [0, Decimal("0.5"), 7])]
    markup = charts.draw(kind, title="Spend & co", labels=["a", "b", "c"], series=series, chart_id="spend")  # type: ignore[arg-type]
    root = ET.fromstring(markup)  # noqa: S314 - our own
    assert root.find("svg/title").text == "Spend & co"  # type: ignore[union-attr]
    assert "highest 7" in root.find("svg/desc").text  # type: ignore[union-attr, operator]
    assert [cell.text for cell in root.iter("td")] == ["1", "0", "2", "0.5", "3", "7"]
    assert "<b>" not in markup


def test_a_chart_of_nothing_and_of_zeros_is_drawn() -> None:
    for labels, values in (([], []), (["a"], [0])):
        for kind in ("bar", "line"):
            ET.fromstring(charts.draw(kind, title="t", labels=labels, series=[charts.Series("s", values)]))  # noqa: S314
    with pytest.raises(ValueError, match="one value for each label"):
        charts.draw("bar", title="t", labels=["a"], series=[charts.Series("s", [])])
