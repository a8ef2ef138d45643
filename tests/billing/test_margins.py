"""Facts about margins, and about our upstream costs beside what providers report and bill. Each test has providers of its own."""

import csv
import io
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import User
from billing import margins
from billing.models import ProviderInvoice
from billing.reports import Period
from catalog.models import Provider
from tests.billing.desk import MONTH, NEXT_MONTH, NOW, Desk, OpenDesk

pytestmark = pytest.mark.filterwarnings("ignore:No directory at")  # only a deployment has collected its static files

USD = 10**9
THIS_MONTH = Period(MONTH, NEXT_MONTH)


@pytest.fixture
def company() -> str:
    return Provider.objects.create(slug=f"p-{uuid.uuid4().hex[:16]}", kind="demo").slug


@pytest.fixture
def sold(open_desk: OpenDesk, company: str) -> Desk:
    """A desk that used a provider of its own: 3 dollars charged, 2 of cost, one request of which no figure was reported."""
    desk = open_desk(usd=10)
    about: dict[str, Any] = {"provider": company, "model": f"{company}/m"}
    desk.spend(USD, upstream_cost=USD // 2, reported_cost=USD // 2 + 5_000_000, **about)
    desk.spend(USD, upstream_cost=USD // 2, reported_cost=USD // 2, **about)
    desk.spend(USD, upstream_cost=USD, **about)
    return desk


@pytest.mark.parametrize("dimension", margins.DIMENSIONS)
def test_margins_are_revenue_less_upstream_cost(sold: Desk, company: str, dimension: str) -> None:
    name = {"model": f"{company}/m", "provider": company, "account": sold.slug}[dimension]
    (row,) = (row for row in margins.margins(period=THIS_MONTH, dimension=dimension, limit=10**6) if row.name == name)
    assert (row.requests, row.revenue, row.upstream_cost, row.margin, row.margin_ppm) == (3, 3 * USD, 2 * USD, USD, 333_333)


def test_what_was_written_off_is_no_revenue(open_desk: OpenDesk, company: str) -> None:
    desk = open_desk(usd=1)
    desk.settle(desk.record(desk.hold(USD), 5 * USD, provider=company, upstream_cost=4 * USD))
    (row,) = (row for row in margins.margins(period=THIS_MONTH, dimension="provider", limit=10**6) if row.name == company)
    assert (row.revenue, row.written_off, row.margin) == (USD, 4 * USD, -3 * USD)


def test_the_days_compare_only_requests_whose_cost_was_reported(sold: Desk, company: str) -> None:
    (day,) = (day for day in margins.reported_days(period=THIS_MONTH) if day.provider == company)
    assert (day.day, day.requests, day.ours, day.reported, day.difference_ppm) == (MONTH.date(), 2, USD, USD + 5_000_000, 5000)


def test_an_invoice_stands_beside_our_own_figure(sold: Desk, company: str) -> None:
    def month() -> margins.InvoicedMonth:
        return next(one for one in margins.invoiced_months(now=NOW) if one.provider == company)

    assert (month().ours, month().invoiced, month().difference_ppm) == (2 * USD, None, None)
    ProviderInvoice.objects.create(provider=company, month=MONTH.date(), amount_nano=2 * USD + USD // 5, note="No. 7")
    assert (month().invoiced, month().difference_ppm, month().note) == (2 * USD + USD // 5, 100_000, "No. 7")


def test_a_months_invoice_without_any_usage_is_shown(company: str) -> None:
    earlier = (MONTH - timedelta(days=40)).date().replace(day=1)
    ProviderInvoice.objects.create(provider=company, month=earlier, amount_nano=1)
    (one,) = (one for one in margins.invoiced_months(now=NOW) if one.provider == company)
    assert (one.requests, one.ours, one.invoiced) == (0, 0, 1)


# -- The admin ---------------------------------------------------------------------------------------------------------------------------


def staff(*, boss: bool) -> Client:
    client = Client()
    client.force_login(User.objects.create_user(f"{uuid.uuid4().hex}@example.com", is_staff=True, is_superuser=boss))
    return client


def test_staff_see_the_margin_and_take_it_away(sold: Desk, company: str) -> None:
    boss, query = staff(boss=True), {"first": MONTH.date().isoformat(), "last": timezone.now().date().isoformat(), "by": "provider"}
    page = boss.get("/admin/billing/providerinvoice/margin/", query)
    assert page.status_code == 200
    assert company in page.content.decode()
    file = boss.get("/admin/billing/providerinvoice/margin/", {**query, "format": "csv"})
    text = b"".join(file.streaming_content).decode()  # type: ignore[attr-defined]
    (row,) = (row for row in csv.DictReader(io.StringIO(text, newline="")) if row["provider"] == company)
    assert (row["revenue_usd"], row["margin_usd"], row["margin_percent"]) == ("3.00", "1.00", "33.33")
    assert staff(boss=False).get("/admin/billing/providerinvoice/margin/", query).status_code == 403


def test_staff_enter_an_invoice_and_see_it_beside_our_costs(sold: Desk, company: str) -> None:
    boss = staff(boss=True)
    form = {"provider": company, "month": NOW.date().isoformat(), "amount": "2.5", "note": "No. 8"}
    assert boss.post("/admin/billing/providerinvoice/add/", form).status_code == 302
    invoice = ProviderInvoice.objects.get(provider=company)
    assert (invoice.month, invoice.amount_nano) == (MONTH.date(), 2_500_000_000)
    page = boss.get("/admin/billing/providerinvoice/provider-costs/").content.decode()
    assert company in page
    assert "+25.00 %" in page
    refused = boss.post("/admin/billing/providerinvoice/add/", {**form, "provider": "nobody"})
    assert refused.status_code == 200
    assert "no provider of this name" in refused.content.decode()


def test_a_period_that_is_upside_down_is_refused_in_words() -> None:
    page = staff(boss=True).get("/admin/billing/providerinvoice/margin/", {"first": "2026-02-01", "last": "2026-01-01"})
    assert "must run forward" in page.content.decode()
