"""Facts about starting a payment on the page, and about the page that a customer comes back to."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing.models import TopUp
from tests.billing.pages.conftest import Purse, text_of
from tests.conftest import USD
from tests.fakes.stripe import FakeStripe

Pay = Callable[..., TopUp]


def test_a_form_sent_twice_is_one_payment_at_one_page(purse: Purse, fake: FakeStripe) -> None:
    client, form_id = purse.browser("billing"), str(uuid.uuid4())
    first, second = (purse.start(client, form_id, preset=25) for _ in range(2))
    assert first.status_code == second.status_code == 302
    assert first["Location"] == second["Location"]
    assert first["Location"].startswith(fake.base_url)
    (payment,) = purse.payments
    assert (payment.credit_nano, payment.requested_by) == (25 * USD, purse.user("billing"))


def test_another_amount_in_the_same_form_is_another_payment(purse: Purse, fake: FakeStripe) -> None:
    client, form_id = purse.browser("owner"), str(uuid.uuid4())
    pages = {purse.start(client, form_id, preset=25)["Location"], purse.start(client, form_id, preset=25, other="31.50")["Location"]}
    assert len(pages) == 2
    assert sorted(payment.credit_nano for payment in purse.payments) == [25 * USD, 31_500_000_000]


def test_two_accounts_with_one_form_pay_each_their_own(purse: Purse, fake: FakeStripe) -> None:
    other, form_id = Purse(), str(uuid.uuid4())
    for each in (purse, other):
        assert each.start(each.browser("owner"), form_id, preset=25).status_code == 302
    assert len(purse.payments) == len(other.payments) == 1


@pytest.mark.parametrize(
    "fields", [{}, {"other": "4.99"}, {"other": "10000.01"}, {"other": "12.345"}, {"other": "NaN"}, {"other": "1e3x"}, {"preset": "24"}]
)
def test_what_cannot_be_paid_is_refused_and_asks_stripe_nothing(purse: Purse, fake: FakeStripe, fields: dict[str, str]) -> None:
    assert purse.start(purse.browser("owner"), str(uuid.uuid4()), **fields).status_code == 400
    assert (purse.payments, fake.calls) == ([], [])


def test_the_page_credits_a_payment_whose_webhook_never_came_and_shows_it(purse: Purse, paying: Pay) -> None:
    payment = paying(25)
    said = purse.text(f"/billing/top-ups/{payment.pk}", role="viewer")
    assert "$25.00 are in the wallet" in said
    assert "Stripe's receipt" in said
    purse.text(f"/billing/top-ups/{payment.pk}")
    purse.wallet.refresh_from_db()
    assert purse.wallet.balance == 25 * USD


def test_a_form_that_was_paid_leads_to_its_payment_and_not_to_the_till(purse: Purse, fake: FakeStripe) -> None:
    client, form_id = purse.browser("owner"), str(uuid.uuid4())
    purse.start(client, form_id, preset=25)
    (payment,) = purse.payments
    fake.pay(str(payment.session_id), "4242424242424242")
    purse.text(f"/billing/top-ups/{payment.pk}")
    assert purse.start(client, form_id, preset=25)["Location"] == f"{purse.base}/billing/top-ups/{payment.pk}"
    assert len(purse.payments) == 1


def test_the_page_looks_again_a_few_times_and_then_says_that_nothing_is_lost(purse: Purse, paying: Pay) -> None:
    address = f"{purse.base}/billing/top-ups/{paying(25, '').pk}"
    client = purse.browser("owner")
    assert b'hx-get="' in client.get(address).content
    part = client.get(f"{address}?looks=3", headers={"HX-Request": "true"}).content
    assert part.lstrip().startswith(b"<section")
    assert b"?looks=4" in part
    last = client.get(f"{address}?looks=8").content
    assert b"hx-get" not in last
    assert "do not pay twice" in text_of(last)
    back = client.get(f"{address}?cancelled").content
    assert b"hx-get" not in back
    assert "You came back without paying" in text_of(back)


def test_a_slow_payment_is_under_way_and_then_there(purse: Purse, paying: Pay, fake: FakeStripe) -> None:
    payment = paying(25, "bank")
    assert "The money is on its way" in purse.text(f"/billing/top-ups/{payment.pk}")
    fake.settle(str(payment.session_id), succeed=True)
    assert "$25.00 are in the wallet" in purse.text(f"/billing/top-ups/{payment.pk}")


def test_a_slow_payment_that_bounces_says_so(purse: Purse, paying: Pay, fake: FakeStripe) -> None:
    payment = paying(25, "bank")
    fake.settle(str(payment.session_id), succeed=False)
    assert "The payment failed" in purse.text(f"/billing/top-ups/{payment.pk}")


def test_a_payment_that_the_bank_asks_about_shows_where_to_consent(purse: Purse, paying: Pay, settings: Any) -> None:
    payment = paying(25, "")
    TopUp.objects.filter(pk=payment.pk).update(state=TopUp.State.ACTION_NEEDED, action_url="https://example.com/consent", session_id=None)
    settings.STRIPE_SECRET_KEY = ""
    for address in (f"/billing/top-ups/{payment.pk}", "/billing"):
        assert "https://example.com/consent" in purse.browser("owner").get(f"{purse.base}{address}").content.decode()


def test_while_stripe_is_away_the_page_says_what_is_known(purse: Purse, paying: Pay, fake: FakeStripe) -> None:
    payment = paying(25, "")
    fake.break_next(f"GET /v1/checkout/sessions/{payment.session_id}", "500", times=9)
    assert "Stripe cannot be asked at the moment" in purse.text(f"/billing/top-ups/{payment.pk}")


def test_what_was_refunded_shows_on_the_payment_and_in_the_history(purse: Purse, paying: Pay, fake: FakeStripe) -> None:
    from django.utils import timezone

    from billing.payments import reversals

    payment = paying(25)
    purse.text(f"/billing/top-ups/{payment.pk}")
    payment.refresh_from_db()
    reversals.refund(top_up=payment, amount_minor=1000, reason="too much", user=purse.user("owner"), key="r1", now=timezone.now())
    assert "Taken back since$10.00" in purse.text(f"/billing/top-ups/{payment.pk}").replace(" $", "$")
    assert "-$10.00" in purse.text("/billing/top-ups")
    assert "the credit that it had bought is taken out Payment -$10.00 $15.00" in purse.text("/billing/ledger")


def test_another_accounts_payment_is_not_there(purse: Purse, paying: Pay) -> None:
    payment, other = paying(25), Purse()
    assert other.browser("owner").get(f"{other.base}/billing/top-ups/{payment.pk}").status_code == 404
    assert other.browser("owner").get(f"{other.base}/billing/top-ups?before={payment.pk}").status_code == 404


def test_without_stripe_the_form_is_not_there_and_the_page_says_why(purse: Purse, settings: Any) -> None:
    settings.STRIPE_SECRET_KEY = ""
    assert "not connected to Stripe" in purse.text("/billing")
    assert b"form_id" not in purse.browser("owner").get(f"{purse.base}/billing").content
    answer = purse.start(purse.browser("owner"), str(uuid.uuid4()), preset=25)
    assert (answer.status_code, purse.payments) == (400, [])
    assert "takes no payments" not in purse.text("/billing")


@pytest.mark.parametrize("page", ["", "/plan", "/auto-top-up", "/top-ups", "/credits", "/ledger", "/statements", "/alerts"])
def test_every_billing_page_says_when_no_money_moves(purse: Purse, settings: Any, page: str) -> None:
    assert "Simulated payments" not in purse.text(f"/billing{page}")
    settings.STRIPE_SIMULATED = "yes"
    assert "Simulated payments: no money moves." in purse.text(f"/billing{page}")


def test_the_pages_cost_as_many_queries_with_much_as_with_little(purse: Purse, paying: Pay) -> None:
    def count() -> list[int]:
        counts = []
        for page in ("", "/plan", "/auto-top-up", "/top-ups", "/credits", "/ledger", "/alerts"):
            with CaptureQueriesContext(connection) as queries:
                assert client.get(f"{purse.base}/billing{page}").status_code == 200
            counts.append(len(queries))
        return counts

    client = purse.browser("owner")
    purse.give("1")
    paying(25, "")
    count()
    before = count()
    for usd in (10, 50, 100):
        paying(usd, "")
        purse.give("2")
        purse.take("1")
    assert count() == before
    assert max(before) <= 22, before


def test_what_is_owed_and_what_is_frozen_is_said_with_its_remedy(purse: Purse) -> None:
    purse.take("3.25")
    purse.wallet.status = "frozen"
    purse.wallet.save(update_fields=["status"])
    said = purse.text("/billing", role="viewer")
    assert "The account owes $3.25." in said
    assert "The wallet is frozen." in said


def test_who_may_only_read_sees_no_form(purse: Purse, fake: FakeStripe) -> None:
    for page in ("/billing", "/billing/credits", "/billing/auto-top-up", "/billing/plan", "/billing/alerts", "/webhooks"):
        content = purse.browser("viewer").get(f"{purse.base}{page}").content.decode()
        assert 'method="post"' not in content[content.index("<main") :], page
