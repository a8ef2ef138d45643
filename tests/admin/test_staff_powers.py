"""Facts about what staff may: looking as a member reads and never writes, groups have what they need and no more, plans tell whom they change."""

import re
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, Permission
from django.contrib.sessions.backends.db import SessionStore
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts import impersonation
from accounts.models import AuditEvent, User, UsualPermission
from billing.models import Adjustment, Plan, Wallet
from gateway_site import staff_groups
from keys import issuing
from keys.models import ApiKey
from tests.accounts.people import House
from tests.admin.staff import browser_of, new_staff
from tests.admin.test_admin import fields_of
from tests.conftest import make_customer

pytestmark = pytest.mark.filterwarnings("ignore:No directory at")

LOOKS = ("accounts.view_account", "accounts.impersonate")


@pytest.fixture
def house(_database: None) -> House:
    return House()


def look(client: Client, house: House, role: str = "developer", reason: str = "ticket 7") -> Any:
    there = reverse("admin:accounts_account_look_as", args=[house.account.pk])
    return client.post(there, {"membership": house.members[role].pk, "reason": reason})


# -- Looking as a member ---------------------------------------------------------------------------------------------------------------


def test_staff_looks_as_a_member_sees_what_they_see_and_says_so_on_every_page(house: House) -> None:
    staff = new_staff(*LOOKS)
    client = browser_of(staff)
    assert client.get(f"{house.base}/").status_code == 404
    assert look(client, house)["Location"] == f"{house.base}/"
    for page in (f"{house.base}/", f"{house.base}/members", "/docs/errors"):
        html = client.get(page).content.decode()
        assert f"You look at {house.account.slug} as {house.user('developer').email}" in html
    assert client.get(f"{house.base}/audit-log").status_code == 403  # a developer may not see it
    assert house.user("developer").email in client.get(reverse("admin:index")).content.decode()
    assert client.get(House().base + "/").status_code == 404
    assert client.get(reverse("profile")).context["user"] == staff
    event = AuditEvent.objects.get(account=house.account, action="staff.looking_began")
    assert (event.actor, event.actor_text, event.details["reason"]) == (staff, "staff", "ticket 7")
    assert LogEntry.objects.filter(user=staff, change_message__contains="ticket 7").exists()
    assert "staff.looking_began" in house.browser("owner").get(f"{house.base}/audit-log").content.decode()


def test_nothing_can_be_changed_while_looking(house: House) -> None:
    client = browser_of(new_staff(*LOOKS))
    look(client, house, "owner")
    for page, said in {
        f"{house.base}/keys/new": {"name": "mine"},
        f"{house.base}/settings": {"name": "Renamed"},
        f"{house.base}/members": {"email": "me@example.com", "role": "owner"},
    }.items():
        for method in ("post", "put", "patch", "delete"):
            assert getattr(client, method)(page, said).status_code == 403, (method, page)
    assert not ApiKey.objects.filter(account=house.account).exists()


def test_looking_ends_when_it_is_ended_and_after_half_an_hour(house: House) -> None:
    client = browser_of(new_staff(*LOOKS))
    look(client, house)
    assert client.get(reverse("admin:end_impersonation")).status_code == 405
    assert client.post(reverse("admin:end_impersonation")).status_code == 302
    assert client.get(f"{house.base}/").status_code == 404
    assert AuditEvent.objects.filter(account=house.account, action="staff.looking_ended").count() == 1
    look(client, house)
    session = client.session
    session["impersonation"] = {**session["impersonation"], "until": timezone.now().isoformat()}
    session.save()
    assert client.get(f"{house.base}/").status_code == 404
    assert "impersonation" not in client.session


def test_looking_ends_with_the_permission_and_with_the_membership(house: House) -> None:
    staff = new_staff(*LOOKS)
    client = browser_of(staff)
    look(client, house)
    staff.user_permissions.clear()
    assert client.get(f"{house.base}/").status_code == 404
    client = browser_of(new_staff(*LOOKS))
    look(client, house)
    house.members["developer"].delete()
    assert client.get(f"{house.base}/").status_code == 404


def test_who_may_not_look_does_not_and_nobody_looks_as_staff(house: House) -> None:
    assert look(browser_of(new_staff("accounts.view_account")), house).status_code == 403
    User.objects.filter(pk=house.user("owner").pk).update(is_staff=True)
    client = browser_of(new_staff(*LOOKS))
    look(client, house, "owner")
    assert client.get(f"{house.base}/").status_code == 404
    assert look(client, house, reason="").status_code == 200
    other = House()
    there = reverse("admin:accounts_account_look_as", args=[house.account.pk])
    assert client.post(there, {"membership": other.members["owner"].pk, "reason": "x"}).status_code == 200
    assert "impersonation" not in client.session


def test_another_person_in_the_same_session_does_not_look(house: House) -> None:
    staff = new_staff(*LOOKS)
    session, now = SessionStore(), timezone.now()
    impersonation.begin(session=session, staff=staff, membership=house.members["viewer"], reason="r", now=now)
    last = now + impersonation.LASTS
    for person, moment, looks in ((staff, last - timedelta(seconds=1), True), (new_staff(*LOOKS), now, False), (staff, last, False)):
        copied = SessionStore()
        copied.update(dict(session.items()))
        assert (impersonation.current(session=copied, staff=person, now=moment) is not None) is looks


# -- Groups ----------------------------------------------------------------------------------------------------------------------------


def test_support_reads_and_grants_below_the_limit_and_finance_decides_above(settings: Any) -> None:
    settings.ADJUSTMENT_LIMIT_USD = "100"
    call_command("make_staff_groups", verbosity=0)
    call_command("make_staff_groups", verbosity=0)
    support = new_staff()
    support.groups.add(Group.objects.get(name="Support"))
    client, customer = browser_of(support), make_customer(usd="1")
    grant = reverse("admin:billing_wallet_grant_credit", args=[customer.wallet.pk])
    form = {"amount": "5", "kind": "promo", "reason": "sorry", "form_id": uuid.uuid4()}
    assert client.post(grant, form).status_code == 302
    assert Wallet.objects.get(pk=customer.wallet.pk).balance == 6_000_000_000
    client.post(grant, {**form, "amount": "50000", "form_id": uuid.uuid4()})
    waiting = Adjustment.objects.get(wallet=customer.wallet, state="waiting")
    assert Wallet.objects.get(pk=customer.wallet.pk).balance == 6_000_000_000
    for page in (reverse("admin:index"), reverse("admin:accounts_account_change", args=[customer.account.pk])):
        assert client.get(page).status_code == 200
    refused = [
        reverse("admin:billing_wallet_debit", args=[customer.wallet.pk]),
        reverse("admin:billing_wallet_freeze", args=[customer.wallet.pk]),
        reverse("admin:keys_apikey_add"),
        reverse("admin:catalog_providerkey_changelist"),
        reverse("admin:manifest"),
    ]
    refused += [reverse(f"admin:billing_adjustment_{deed}", args=[waiting.pk]) for deed in ("approve",)]
    for page in refused:
        assert client.post(page, {}).status_code == 403, page


def test_every_usual_permission_is_one_that_there_is() -> None:
    call_command("make_staff_groups", verbosity=0)
    for name, wanted in staff_groups.GROUPS.items():
        has = {f"{each.content_type.app_label}.{each.codename}" for each in Group.objects.get(name=name).permissions.all()}
        assert has == set(wanted)


@pytest.fixture
def usual() -> Iterator[Group]:
    """The group Support as it usually is, also afterwards."""
    staff_groups.make()
    yield Group.objects.get(name="Support")
    staff_groups.make()


def test_a_migration_makes_the_groups_and_leaves_what_operators_changed(usual: Group) -> None:
    taken, added = "impersonate", "delete_announcement"
    usual.permissions.remove(Permission.objects.get(codename=taken))
    usual.permissions.add(Permission.objects.get(codename=added))
    member = new_staff()
    member.groups.add(usual)
    for _ in range(2):
        call_command("migrate", verbosity=0)
    has = set(usual.permissions.values_list("codename", flat=True))
    assert added in has
    assert taken not in has
    assert member.groups.get() == usual
    call_command("make_staff_groups", verbosity=0)  # who asks for it gets the usual ones back
    has = set(usual.permissions.values_list("codename", flat=True))
    assert added not in has
    assert taken in has


def test_what_becomes_usual_is_given_once_and_a_group_that_is_gone_is_made_anew(usual: Group) -> None:
    fresh = Permission.objects.get(codename="view_subscription")
    UsualPermission.objects.filter(group=usual, permission=fresh).delete()  # as before the release that made it usual
    usual.permissions.remove(fresh)
    assert staff_groups.keep_up() == {"Support": 1, "Finance": 0}
    assert fresh in usual.permissions.all()
    assert staff_groups.keep_up() == {"Support": 0, "Finance": 0}
    usual.delete()
    assert staff_groups.keep_up()["Support"] == len(staff_groups.GROUPS["Support"])


# -- Plans -----------------------------------------------------------------------------------------------------------------------------


def test_a_plan_says_how_many_accounts_a_change_changes_before_it_does() -> None:
    boss = browser_of(new_staff(superuser=True))
    plan = Plan.objects.create(slug=f"plan-{uuid.uuid4().hex[:12]}", rpm=10)
    there = reverse("admin:billing_plan_change", args=[plan.pk])
    assert boss.post(there, {**fields_of(boss.get(there).content.decode()), "rpm": "20"}).status_code == 302  # nobody is on it
    for _ in range(2):
        make_customer(usd="0", plan=plan.slug)
    form = {**fields_of(boss.get(there).content.decode()), "rpm": "30"}
    asked = boss.post(there, form)
    assert "2 accounts are on this plan" in asked.content.decode()
    plan.refresh_from_db()
    assert plan.rpm == 20
    make_customer(usd="0", plan=plan.slug)
    again = fields_of(asked.content.decode())
    assert again["confirmed_for"] == "2"
    more = boss.post(there, again)  # one more came in between
    assert "3 accounts are on this plan" in more.content.decode()
    assert boss.post(there, fields_of(more.content.decode())).status_code == 302
    plan.refresh_from_db()
    assert plan.rpm == 30


# -- Keys ------------------------------------------------------------------------------------------------------------------------------


def test_a_key_gets_no_expiry_in_the_past_and_one_that_passed_stays() -> None:
    boss, customer = browser_of(new_staff(superuser=True)), make_customer(usd="0")
    there = reverse("admin:keys_apikey_change", args=[customer.key.pk])
    form = fields_of(boss.get(there).content.decode())
    refused = boss.post(there, {**form, "expires_at_0": "2020-01-01", "expires_at_1": "00:00:00"})
    assert "This moment is past" in re.sub(r"<[^>]+>", "", refused.content.decode())
    ApiKey.objects.filter(pk=customer.key.pk).update(expires_at=timezone.now() - timedelta(days=1))
    form = fields_of(boss.get(there).content.decode())
    assert boss.post(there, {**form, "rpm": "7"}).status_code == 302
    key = ApiKey.objects.get(pk=customer.key.pk)
    assert (key.rpm, key.expires_at is not None) == (7, True)


def test_a_key_that_was_revoked_while_its_form_was_open_stays_as_it_is() -> None:
    boss, customer = browser_of(new_staff(superuser=True)), make_customer(usd="0")
    there = reverse("admin:keys_apikey_change", args=[customer.key.pk])
    form = fields_of(boss.get(there).content.decode())
    issuing.revoke(key=customer.key, now=timezone.now())
    assert boss.post(there, {**form, "name": "another"}).status_code == 403
    assert ApiKey.objects.get(pk=customer.key.pk).name == "test key"


def test_who_may_only_look_at_people_sees_no_hash_of_a_password() -> None:
    person = User.objects.create_user(f"{uuid.uuid4().hex}@example.com", "correct horse battery staple")
    client = browser_of(new_staff("accounts.view_user"))
    page = client.get(reverse("admin:accounts_user_change", args=[person.pk])).content.decode()
    assert person.email in page
    assert person.password.rpartition("$")[2] not in page
    begins = person.password[:6]
    for lookup in ("password__startswith", "password"):
        assert client.get(reverse("admin:accounts_user_changelist"), {lookup: begins}).status_code == 400
