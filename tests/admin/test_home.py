"""Facts about the admin's first page and its search: figures are the slots', each sees what they may, and everything is found by what one has."""

import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.utils import quote
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import Membership
from billing import business
from billing.models import StripeEvent, TopUp
from billing.reports import Period
from tests.accounts.people import new_person
from tests.admin.staff import browser_of, new_staff
from tests.billing.desk import Desk
from tests.conftest import make_customer

pytestmark = pytest.mark.filterwarnings("ignore:No directory at")

USD = 1_000_000_000


@pytest.fixture(scope="module")
def boss(_database: None) -> Client:
    return browser_of(new_staff(superuser=True))


@pytest.fixture(scope="module")
def desk(_database: None) -> Iterator[Desk]:
    """An account with a request of today that cost a dollar, 60 cents of it to the provider."""
    desk = Desk(usd=10)
    now = timezone.now()
    request = desk.hold(2 * USD, started=now)
    desk.settle(desk.record(request, USD, provider=f"p-{uuid.uuid4().hex[:12]}", upstream_cost=600_000_000, latency_ms=70, status="error"))
    desk.done = request  # type: ignore[attr-defined]
    yield desk
    desk.close()


def figure(page: Any, title: str) -> Any:
    return next((one for one in page.context["figures"] if one.title == title), None)


def test_a_day_without_a_request_is_a_day_of_nothing(desk: Desk) -> None:
    now = timezone.now()
    long_ago = Period(now.replace(year=2001, month=3, day=1), now.replace(year=2001, month=3, day=4))
    assert [(f"{day:%d}", each.requests) for day, each in business.by_day(period=long_ago)] == [("01", 0), ("02", 0), ("03", 0), ("04", 0)]


def test_the_days_together_are_the_total(desk: Desk) -> None:
    now = timezone.now()
    period = Period(business.day(now).starts_at - timedelta(days=2), now)
    days, (total,) = business.by_day(period=period), business.totals([period])
    assert len(days) == 3
    assert sum(each.revenue for _, each in days) == total.revenue
    assert sum(each.requests for _, each in days) == total.requests


def test_the_first_page_draws_money_and_requests_of_thirty_days_for_who_may_see_usage(boss: Client, desk: Desk) -> None:
    page = boss.get(reverse("admin:index"))
    assert [title for title, _ in page.context["charts"]] == ["Money", "Requests"]
    assert page.content.decode().count('<figure class="chart-figure">') == 2
    other = browser_of(new_staff("accounts.view_account")).get(reverse("admin:index"))
    assert other.context["charts"] == []


def test_the_totals_of_the_day_are_those_of_the_slots(desk: Desk) -> None:
    now = timezone.now()
    (before,) = business.totals([Period(business.day(now).starts_at, now)])
    request = desk.hold(USD, started=timezone.now())
    desk.settle(desk.record(request, 3_000_000, upstream_cost=2_000_000))
    later = timezone.now()
    today, month = business.totals([business.day(later), business.month(later)])
    assert today.revenue >= before.revenue + 3_000_000
    assert today.upstream_cost >= before.upstream_cost + 2_000_000
    assert today.requests > before.requests
    assert month.requests >= today.requests
    assert today.margin == today.revenue - today.upstream_cost


def test_without_requests_there_is_no_share_of_anything() -> None:
    nothing = business.Totals(0, 0, 0, 0, 0)
    assert (nothing.margin_ppm, nothing.error_ppm) == (None, None)


def test_the_times_are_those_of_the_last_requests(desk: Desk) -> None:
    times = business.times(since=timezone.now() - 24 * (timezone.now() - timezone.now().replace(microsecond=0)))
    assert times.requests == 0 or times.latency_p50 is not None


def test_the_first_page_shows_money_traffic_and_what_waits(boss: Client, desk: Desk) -> None:
    TopUp.objects.create(
        wallet=desk.wallet, kind="checkout", state="quarantined", credit_nano=USD, charge_minor=100, paid_minor=99, failure="odd"
    )
    page = boss.get(reverse("admin:index"))
    assert page.status_code == 200
    for title in ("Revenue today", "Upstream cost today", "Margin today", "Errors today", "Latency p50 / p95", "Books"):
        assert figure(page, title).value is not None, title
    assert int(figure(page, "Paid, not credited").value.replace(",", "")) >= 1
    titles = [table.title for table in page.context["tables"]]
    assert titles[:3] == ["Providers in the last hour", "Top accounts today", "Top models today"]
    for one in page.context["figures"]:
        assert boss.get(one.address).status_code == 200, one.title
    for table in page.context["tables"]:
        assert boss.get(table.more).status_code == 200, table.title


def test_staff_sees_the_figures_of_what_they_may_see(desk: Desk) -> None:
    page = browser_of(new_staff("billing.view_wallet")).get(reverse("admin:index"))
    assert figure(page, "Held now") is not None
    assert figure(page, "Revenue today") is None
    assert figure(page, "Paid, not credited") is None
    assert [table.title for table in page.context["tables"]] == ["Wallets running low"]


# -- Search ----------------------------------------------------------------------------------------------------------------------------


def look(client: Client, term: str) -> Any:
    return client.post(reverse("admin:find"), {"term": term})


def test_whatever_one_has_in_hand_is_found(boss: Client, desk: Desk) -> None:
    key = make_customer(usd="0").key
    member = new_person()
    Membership.objects.create(account=desk.account, user=member, role="owner")
    mark = uuid.uuid4().hex
    top_up = TopUp.objects.create(
        wallet=desk.wallet, kind="checkout", state="open", credit_nano=USD, charge_minor=100, session_id=f"cs_test_{mark}"
    )
    event = StripeEvent.objects.create(id=f"evt_{mark}", type="x", is_live=False, payload={}, state="done", created_at=timezone.now())
    request_id = desk.done["id"]  # type: ignore[attr-defined]
    for term, there in {
        f"{key.start}…{key.last_four}": reverse("admin:keys_apikey_change", args=[key.pk]),
        desk.account.slug: reverse("admin:accounts_account_change", args=[desk.account.pk]),
        f"  request {request_id} ": reverse("admin:billing_usagerecord_change", args=[request_id]),
        str(top_up.session_id): reverse("admin:billing_topup_change", args=[top_up.pk]),
        event.pk: reverse("admin:billing_stripeevent_change", args=[quote(event.pk)]),
    }.items():
        answer = look(boss, term)
        assert answer.status_code == 302, (term, answer.context["hits"])
        assert answer["Location"] == there
    kinds = {hit.address for hit in look(boss, member.email.upper()).context["hits"]}
    assert kinds == {
        reverse("admin:accounts_user_change", args=[member.pk]),
        reverse("admin:accounts_account_change", args=[desk.account.pk]),
    }


def test_staff_finds_only_what_they_may_see(desk: Desk) -> None:
    clerk = browser_of(new_staff("billing.view_wallet"))
    for term in (desk.account.slug, str(desk.done["id"]), desk.key.start, "somebody@example.com"):  # type: ignore[attr-defined]
        assert look(clerk, term).context["hits"] == []


@pytest.mark.parametrize("term", ["", "  ", "'; --", "\x00", "x" * 1000, "pi_", "sk-", "%", "é@", "4ee9a1ae-1a99-4d1e-a26b-a87e7f7d6555"])
def test_odd_terms_find_nothing_and_break_nothing(boss: Client, term: str) -> None:
    assert look(boss, term).status_code == 200


def test_a_whole_key_that_is_pasted_is_not_shown_again(boss: Client) -> None:
    text = "sk-gw-" + "A1b2" * 12
    assert text not in look(boss, text).content.decode()
