"""Facts about bought plans in the admin: found by what one has in hand, shown with all that came of them, and changed by the rules alone."""

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEvent, User
from billing.models import Subscription
from tests.admin.staff import browser_of, new_staff
from tests.billing.payments.conftest import fake  # noqa: F401 - fixture
from tests.billing.payments.test_subscriptions import Buyer, buyer, new_plan  # noqa: F401 - fixture

pytestmark = pytest.mark.filterwarnings("ignore:No directory at")

WHY = {"reason": "she called"}


@pytest.fixture
def staff(_database: None) -> User:
    return new_staff("billing.view_subscription", "billing.change_subscription")


@pytest.fixture
def desk(staff: User) -> Client:
    return browser_of(staff)


def page(row: Subscription, view: str = "change") -> str:
    return reverse(f"admin:billing_subscription_{view}", args=[row.pk])


def text(client: Client, row: Subscription, view: str = "change") -> str:
    return client.get(page(row, view)).content.decode()


def offers(client: Client, row: Subscription) -> set[str]:
    shown = text(client, row)
    return {view for view in ("cancel", "resume", "close_checkout", "ask_stripe", "invoices") if f'"{page(row, view)}"' in shown}


def test_a_bought_plan_is_shown_with_its_credit_its_invoices_and_what_was_heard(buyer: Buyer, desk: Client) -> None:  # noqa: F811
    small, large = new_plan(buyer.fake, 10, 5), new_plan(buyer.fake, 49, 20)
    row = buyer.bought(large)
    buyer.change(small)
    shown = text(desk, row)
    assert f"https://dashboard.stripe.com/test/subscriptions/{row.stripe_id}" in shown
    assert f"{small.slug} from " in shown
    assert ">$20.00</span> granted" in shown
    assert "customer.subscription.created" in shown
    assert buyer.account.slug in shown
    invoices = text(desk, row, "invoices")
    assert "/test/invoices/in_" in invoices
    assert "$49.00" in invoices
    assert "$20.00" in invoices
    assert "invoice.paid" in invoices


def test_a_subscription_is_found_by_slug_address_and_stripes_ids(buyer: Buyer, desk: Client) -> None:  # noqa: F811
    row = buyer.bought(new_plan(buyer.fake, 10, 5))
    listed = reverse("admin:billing_subscription_changelist")
    invoice = buyer.fake.objects("invoice")[-1]["id"]
    customer = row.account.stripe_customer.customer_id
    for term in (row.account.slug, buyer.user.email, row.stripe_id, row.session_id, row.stripe_item_id, customer, invoice, str(row.pk)):
        assert page(row) in desk.get(listed, {"q": str(term)}).content.decode(), term
    for term in ("sub_nobody", "in_nobody", "nobody@example.com", "nobody-here"):
        assert page(row) not in desk.get(listed, {"q": term}).content.decode(), term
    assert page(row) in desk.get(listed, {"status__exact": "active"}).content.decode()
    assert page(row) not in desk.get(listed, {"cancels_at_end__exact": "1"}).content.decode()
    hits = desk.post(reverse("admin:find"), {"term": row.stripe_id})
    assert hits["Location"] == page(row)


def test_staff_cancels_and_resumes_with_a_reason_that_both_logs_have(buyer: Buyer, desk: Client, staff: User) -> None:  # noqa: F811
    row = buyer.bought(new_plan(buyer.fake, 10, 5))
    assert offers(desk, row) == {"cancel", "ask_stripe", "invoices"}
    assert desk.post(page(row, "cancel"), {}).status_code == 200  # without a reason it is asked again
    row.refresh_from_db()
    assert not row.cancels_at_end
    assert desk.post(page(row, "cancel"), WHY).status_code == 302
    row.refresh_from_db()
    assert (row.status, row.cancels_at_end) == ("active", True)
    assert buyer.fake.object(str(row.stripe_id))["cancel_at_period_end"]
    assert offers(desk, row) == {"resume", "ask_stripe", "invoices"}
    assert "there is nothing to do" in desk.post(page(row, "cancel"), WHY, follow=True).content.decode()
    assert desk.post(page(row, "resume"), WHY).status_code == 302
    row.refresh_from_db()
    assert not row.cancels_at_end
    deeds = AuditEvent.objects.filter(account=buyer.account, actor=staff).order_by("pk")
    assert [(one.action, one.details["reason"]) for one in deeds] == [("plan.cancelled", "she called"), ("plan.resumed", "she called")]
    log = LogEntry.objects.filter(user=staff, object_id=str(row.pk)).order_by("pk")
    assert [one.get_change_message() for one in log] == ["Cancelled: she called", "Resumed: she called"]


def test_a_plan_that_is_past_due_ends_at_once(buyer: Buyer, desk: Client) -> None:  # noqa: F811
    row = buyer.bought(new_plan(buyer.fake, 49))
    buyer.fake.change_card(buyer.fake.object(str(row.stripe_id))["default_payment_method"], "4000000000000002")
    buyer.wait(32)
    buyer.listen()
    assert "it ends at once" in text(desk, row, "cancel")
    assert "It has ended." in desk.post(page(row, "cancel"), WHY, follow=True).content.decode()
    row.refresh_from_db()
    assert row.status == "canceled"
    assert offers(desk, row) == {"ask_stripe", "invoices"}


def test_a_checkout_nobody_paid_is_closed_and_one_just_paid_is_taken_over(buyer: Buyer, desk: Client) -> None:  # noqa: F811
    plan = new_plan(buyer.fake, 10)
    buyer.ask(plan)
    row = Subscription.objects.get(account=buyer.account)
    assert offers(desk, row) == {"close_checkout", "ask_stripe"}
    assert desk.post(page(row, "close_checkout"), WHY).status_code == 302
    row.refresh_from_db()
    assert row.status == "canceled"
    paid = buyer.buy(plan)
    assert desk.post(page(paid, "close_checkout"), WHY).status_code == 302
    paid.refresh_from_db()
    assert (paid.status, buyer.plan) == ("active", plan)


def test_asking_stripe_brings_what_no_event_has_told(buyer: Buyer, desk: Client) -> None:  # noqa: F811
    plan = new_plan(buyer.fake, 10, 5)
    row = buyer.buy(plan)
    assert desk.post(page(row, "ask_stripe")).status_code == 302
    row.refresh_from_db()
    assert (row.status, buyer.plan, buyer.grants) == ("active", plan, [5_000_000_000])


def test_stripe_being_away_is_said_and_changes_nothing(buyer: Buyer, desk: Client, settings: Any) -> None:  # noqa: F811
    row = buyer.bought(new_plan(buyer.fake, 10))
    settings.STRIPE_SECRET_KEY = ""
    for deed in ("cancel", "ask_stripe"):
        assert "could not be asked" in desk.post(page(row, deed), WHY, follow=True).content.decode(), deed
    assert "could not be asked" in desk.get(page(row, "invoices"), follow=True).content.decode()
    row.refresh_from_db()
    assert (row.status, row.cancels_at_end) == ("active", False)
    assert not AuditEvent.objects.filter(account=buyer.account, action="plan.cancelled").exists()


def test_who_may_only_look_changes_nothing(buyer: Buyer) -> None:  # noqa: F811
    row = buyer.bought(new_plan(buyer.fake, 10))
    reader = browser_of(new_staff("billing.view_subscription"))
    assert offers(reader, row) == {"ask_stripe", "invoices"}
    for deed in ("cancel", "resume", "close_checkout"):
        assert reader.post(page(row, deed), WHY).status_code == 403, deed
    row.refresh_from_db()
    assert not row.cancels_at_end
