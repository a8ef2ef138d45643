"""Facts about payments in the admin: what staff may decide, that it is done once, and what goes wrong is said."""

import uuid
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import User
from billing.models import StripeEvent, TopUp
from billing.payments import inbox
from tests.billing.payments.conftest import Till, fake, till  # noqa: F401 - fixtures
from tests.conftest import USD

pytestmark = pytest.mark.filterwarnings("ignore:No directory at")


@pytest.fixture
def boss(_database: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_user(f"{uuid.uuid4().hex[:16]}@example.com", is_staff=True, is_superuser=True))
    return client


def page(obj: Any, view: str) -> str:
    return reverse(f"admin:billing_{obj._meta.model_name}_{view}", args=[quote(obj.pk)])


def wrong_payment(till: Till) -> TopUp:  # noqa: F811 - the fixture's name
    top_up = till.checkout()
    TopUp.objects.filter(pk=top_up.pk).update(charge_minor=2600)
    till.fake.pay(top_up.session_id or "")
    till.hear(till.news())
    top_up.refresh_from_db()
    assert top_up.state == "quarantined"
    return top_up


def test_a_refund_is_offered_sent_and_logged_once(boss: Client, till: Till) -> None:  # noqa: F811
    top_up = till.credited()
    assert "25" in boss.get(page(top_up, "refund")).content.decode()
    form = {"amount": "10", "reason": "asked for it", "form_id": uuid.uuid4()}
    for _ in range(2):
        assert boss.post(page(top_up, "refund"), form).status_code == 302
    assert (till.balance, len(till.fake.objects("refund"))) == (15 * USD, 1)
    assert LogEntry.objects.filter(object_id=str(top_up.pk), change_message__contains="Refunded $10.00").exists()
    shown = boss.get(reverse("admin:billing_topup_change", args=[top_up.pk])).content.decode()
    assert "re_" in shown


@pytest.mark.parametrize("amount", ["25.01", "0", "-1", "1.001", "x"])
def test_a_refund_that_is_not_there_is_refused_in_words(boss: Client, till: Till, amount: str) -> None:  # noqa: F811
    top_up = till.credited()
    answer = boss.post(page(top_up, "refund"), {"amount": amount, "reason": "r", "form_id": uuid.uuid4()})
    assert answer.status_code == 200
    assert not till.fake.objects("refund")


def test_stripe_being_away_is_said(boss: Client, till: Till, settings: Any) -> None:  # noqa: F811
    top_up = till.credited()
    settings.STRIPE_SECRET_KEY = ""
    answer = boss.post(page(top_up, "refund"), {"amount": "1", "reason": "r", "form_id": uuid.uuid4()})
    assert "could not be asked" in answer.content.decode()


def test_a_quarantined_payment_is_credited_with_what_was_paid(boss: Client, till: Till) -> None:  # noqa: F811
    top_up = wrong_payment(till)
    for _ in range(2):
        assert boss.post(page(top_up, "credit_paid"), {"amount": "25", "reason": "as paid"}).status_code == 302
    assert till.balance == 25 * USD


def test_a_quarantined_payment_is_rejected_and_can_be_refunded(boss: Client, till: Till) -> None:  # noqa: F811
    top_up = wrong_payment(till)
    assert boss.post(page(top_up, "reject"), {"reason": "no"}).status_code == 302
    assert boss.post(page(top_up, "refund"), {"amount": "25", "reason": "no", "form_id": uuid.uuid4()}).status_code == 302
    assert (till.balance, till.fake.objects("refund")[0]["amount"]) == (0, 2500)


def test_an_event_is_handled_again_by_hand(boss: Client, till: Till) -> None:  # noqa: F811
    till.paid()
    (event,) = till.news("checkout.session.completed")
    inbox.store(payload={**event, "livemode": True}, source="webhook", now=timezone.now())
    stored = StripeEvent.objects.get(pk=event["id"])
    assert stored.state == "quarantined"
    assert boss.post(page(stored, "replay")).status_code == 302
    assert till.balance == 25 * USD


def test_stripe_is_asked_about_a_top_up_by_hand(boss: Client, till: Till) -> None:  # noqa: F811
    top_up = till.paid()
    assert boss.post(page(top_up, "ask_stripe")).status_code == 302
    assert till.balance == 25 * USD


@pytest.mark.parametrize("term", ["cs_", "pi_", "ch_"])
def test_a_top_up_is_found_by_stripes_ids(boss: Client, till: Till, term: str) -> None:  # noqa: F811
    top_up = till.credited()
    ids = {"cs_": top_up.session_id or "", "pi_": top_up.payment_intent_id or "", "ch_": top_up.charge_id}
    shown = boss.get(reverse("admin:billing_topup_changelist"), {"q": ids[term]}).content.decode()
    assert till.customer.account.slug in shown
    assert till.customer.account.slug not in boss.get(reverse("admin:billing_topup_changelist"), {"q": f"{term}nobody"}).content.decode()
