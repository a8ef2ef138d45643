"""Facts about the sample account: its books add up, it can buy nothing, and it goes without a trace; nobody else's history ever does."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from accounts.models import Account, AuditEvent, Membership
from billing import receipts, reconciliation, sample, service_health, usage_reports
from billing.models import Hold, HoldOwner, Plan, Transfer, UsageRecord, UsageSlot, Wallet
from billing.reports import Period
from catalog.models import CatalogVersion
from tests.accounts.people import House, browser_of, new_person
from tests.conftest import USD, make_customer, make_model


@pytest.fixture
def account() -> Iterator[Account]:
    CatalogVersion.objects.get_or_create(pk=1)
    make_model("http://127.0.0.1:9", "hello")
    made = sample.make(owner_email=new_person().email, now=timezone.now())
    yield made
    if Account.objects.filter(pk=made.pk).exists():
        Hold.objects.filter(account=made).delete()
        Wallet.objects.filter(account=made).update(held=0)
        sample.remove(made)


def test_its_books_add_up(account: Account) -> None:
    assert reconciliation.audit(now=timezone.now(), accounts=[account.pk]) == []
    assert Wallet.objects.get(account=account).balance > 0
    records = UsageRecord.objects.filter(account=account)
    assert records.count() > 1000
    assert {"ok", "error", "cut", "aborted"} == set(records.values_list("status", flat=True))
    assert all(receipts.explain(record).adjustment == 0 for record in records.select_related("price")[:200])


def test_something_happened_on_each_of_thirty_days_and_just_now(account: Account) -> None:
    now = timezone.now()
    month = Period(now - timedelta(days=29), now)
    steps = usage_reports.series(account=account, period=month, step="day")
    assert len(steps) >= 29
    assert all(step.sums.cost for step in steps[1:-1])
    assert UsageRecord.objects.filter(account=account, started_at__gt=now - timedelta(hours=1)).exists()


def test_the_status_of_models_is_not_judged_by_it(account: Account) -> None:
    now = timezone.now()
    models = set(UsageRecord.objects.filter(account=account).values_list("model", flat=True))
    made_up = service_health.by("model", service_health.WINDOWS["week"], now=now)
    others = UsageSlot.objects.filter(model__in=models, starts_at__gt=now - timedelta(days=8)).exclude(account=account)
    assert set(made_up) & models <= set(others.values_list("model", flat=True))


def test_making_it_twice_makes_one(account: Account) -> None:
    before = Transfer.objects.filter(wallet__account=account).count()
    assert sample.make(owner_email="somebody-else@example.com", now=timezone.now()) == account
    assert Transfer.objects.filter(wallet__account=account).count() == before


def test_its_invented_money_buys_nothing_but_demo_models(account: Account) -> None:
    assert account.plan_assignments.get().plan.allowed_models == ["demo/*"]


def test_it_goes_without_a_trace(account: Account) -> None:
    owner = account.memberships.get().user
    wallet = account.wallet.pk
    sample.remove(account)
    left = []
    for table in apps.get_models(include_auto_created=True):
        for field in table._meta.local_fields:
            if field.is_relation and field.related_model in (Account, Wallet):
                ids = {Account: account.pk, Wallet: wallet}
                left += list(table._base_manager.filter(**{field.name: ids[field.related_model]}))
    assert left == []
    assert not Account.objects.filter(pk=account.pk).exists()
    assert not Plan.objects.filter(slug=sample.PLAN).exists()
    owner.refresh_from_db()
    with pytest.raises(sample.NotASample):
        sample.remove(account)


def test_it_stays_while_a_request_is_under_way(account: Account) -> None:
    wallet, now = account.wallet, timezone.now()
    owner = HoldOwner.objects.create(
        boot_id="0191b7c0-0000-7000-8000-000000000077", host="here", pid=1, lease_until=now + timedelta(hours=1)
    )
    Hold.objects.create(
        request_id="0191b7c0-0000-7000-8000-000000000078", account=account, wallet=wallet, key=account.keys.all()[0], owner=owner, amount=0,
        free_after=0, started_at=now, expires_at=now + timedelta(hours=1),
    )  # fmt: skip
    with pytest.raises(sample.StillBusy):
        sample.remove(account)
    assert UsageSlot.objects.filter(account=account).exists()


def test_nobody_elses_history_is_removed_whatever_is_said_of_their_account() -> None:
    customer = make_customer()
    with pytest.raises(sample.NotASample):
        sample.remove(customer.account)
    with pytest.raises(IntegrityError, match="cannot become a sample"), transaction.atomic():
        Account.objects.filter(pk=customer.account.pk).update(is_sample=True)
    AuditEvent.objects.create(account=customer.account, actor_text="test", action="test.done")
    for deletion, owner in (
        ("DELETE FROM billing_transfer WHERE wallet_id = %s", customer.wallet.pk),
        ("DELETE FROM accounts_auditevent WHERE account_id = %s", customer.account.pk),
    ):
        with pytest.raises(IntegrityError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(deletion, [owner])
    assert customer.fresh_wallet().balance == 5 * USD


def test_its_owner_removes_it_with_one_click_and_others_cannot(account: Account) -> None:
    viewer, owner = new_person(), account.memberships.get().user
    Membership.objects.create(account=account, user=viewer, role=Membership.Role.VIEWER)
    address = f"/a/{account.slug}/remove-sample"
    assert "figures are invented" in browser_of(owner).get(f"/a/{account.slug}/members").content.decode()
    assert browser_of(viewer).post(address).status_code == 403
    assert browser_of(owner).post(address).status_code == 302
    assert not Account.objects.filter(pk=account.pk).exists()
    house = House()
    assert house.browser("owner").post(f"{house.base}/remove-sample").status_code == 404
    assert Account.objects.filter(pk=house.account.pk).exists()


def test_staff_remove_it_with_one_click(account: Account) -> None:
    staff: Any = browser_of(new_person(is_staff=True, is_superuser=True))
    address = f"/admin/accounts/account/{account.pk}"
    assert b"Remove the sample" in staff.get(f"{address}/change/").content
    assert staff.get(f"{address}/remove-sample/").status_code == 200
    assert staff.post(f"{address}/remove-sample/").status_code == 302
    assert not Account.objects.filter(pk=account.pk).exists()
    other = make_customer().account
    assert b"Remove the sample" not in staff.get(f"/admin/accounts/account/{other.pk}/change/").content
    assert staff.post(f"/admin/accounts/account/{other.pk}/remove-sample/").status_code in (302, 404)
    assert Account.objects.filter(pk=other.pk).exists()
