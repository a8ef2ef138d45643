"""What a key holder can read: models, usage, credits, the key, receipts. And that a stranger reads none of it."""

import csv
import io
import re
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Any

import httpx
import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from billing import charging, ledger, receipts, reports, sql
from billing.models import PlanAssignment
from catalog import pricing
from catalog.models import Price
from catalog.money import usd
from catalog.usage import TokenUsage
from gateway_site.identifiers import uuid7
from keys import budgets, issuing
from keys.models import ApiKey
from tests.billing.desk import MONTH, Desk
from tests.billing.tenants import USD, Answer, Shelf, Tenant, get, open_shelf

pytestmark = pytest.mark.filterwarnings("ignore:No directory at")  # only a deployment has collected its static files

LAST_MONTH = (MONTH - timedelta(days=1)).replace(day=1)
OpenTenant = Callable[..., Tenant]


@pytest.fixture
def open_tenant(open_desk: Callable[..., Desk]) -> OpenTenant:
    return lambda *, dollars=10, **key_fields: Tenant(open_desk(usd=dollars), **key_fields)


@pytest.fixture
def alice(open_tenant: OpenTenant) -> Tenant:
    return open_tenant()


@pytest.fixture
def charlie(open_tenant: OpenTenant) -> Tenant:
    return open_tenant()


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    yield from open_shelf()


# -- GET /v1/usage: HaioAI's shape ---------------------------------------------------------------------------------------------------


def test_usage_has_the_shape_that_haioai_documents(alice: Tenant) -> None:
    alice.put_on_plan(monthly_input_tokens=1_000_000, monthly_output_tokens=900_000, allowed_models=["*"])
    alice.spend(USD, model="nex-agi/nex-n2-pro:free", provider="openrouter", input_tokens=1500, output_tokens=800)
    body = alice.get("/v1/usage").body
    assert body["object"] == "usage"
    start = datetime.fromisoformat(body["period"]["start"])
    end = datetime.fromisoformat(body["period"]["end"])
    assert (start, body["period"]["start"][-1], body["period"]["end"][-1]) == (MONTH, "Z", "Z")
    assert timezone.now() - timedelta(minutes=1) < end <= timezone.now() + timedelta(seconds=1)
    assert {name: body["totals"][name] for name in ("input_tokens", "output_tokens", "total_tokens")} == {
        "input_tokens": 1500,
        "output_tokens": 800,
        "total_tokens": 2300,
    }
    assert body["plan_limits"] == {"monthly_input_tokens": 1_000_000, "monthly_output_tokens": 900_000, "allowed_models": ["*"]}
    (row,) = body["by_model"]
    assert {name: row[name] for name in ("model", "provider", "inp", "out", "total")} == {
        "model": "nex-agi/nex-n2-pro:free",
        "provider": "openrouter",
        "inp": 1500,
        "out": 800,
        "total": 2300,
    }


def test_an_account_that_used_nothing_has_zeros_and_no_limits(alice: Tenant) -> None:
    body = alice.get("/v1/usage").body
    assert body["totals"] == {
        "input_tokens": 0,
        "output_tokens": 0,
        "total_tokens": 0,
        "cached_input_tokens": 0,
        "reasoning_tokens": 0,
        "requests": 0,
        "cost": "0.00",
    }
    assert body["plan_limits"] == {"monthly_input_tokens": None, "monthly_output_tokens": None, "allowed_models": ["*"]}
    assert (body["by_model"], body["budget"], body["quota"]) == ([], None, None)


def test_every_kind_of_token_counts_as_input_or_output_and_as_what_it_was(alice: Tenant) -> None:
    used = TokenUsage(1, 20, 300, 4000, 50_000, 6, 70, 800, 9)
    alice.spend(5, **{field: getattr(used, field) for field in TokenUsage.__slots__})
    totals = alice.get("/v1/usage").body["totals"]
    assert (totals["input_tokens"], totals["output_tokens"]) == (used.total_input_tokens, used.total_output_tokens)
    assert (totals["cached_input_tokens"], totals["reasoning_tokens"], totals["requests"]) == (20, 70, 1)


def test_a_request_of_this_very_moment_is_included(alice: Tenant) -> None:
    alice.spend(7, input_tokens=1)
    assert alice.get("/v1/usage").body["totals"]["cost"] == "0.000000007"


def test_costs_are_exact_where_a_float_would_not_be(alice: Tenant) -> None:
    for cost in (100_000_000, 200_000_000, 1):
        alice.spend(cost)
    assert alice.get("/v1/usage").body["totals"]["cost"] == "0.300000001"


# -- GET /v1/usage: periods ------------------------------------------------------------------------------------------------------------


def test_the_default_month_begins_at_the_accounts_own_midnight(alice: Tenant) -> None:
    alice.account.timezone = "Asia/Kolkata"
    alice.account.save()
    start = datetime.fromisoformat(alice.get("/v1/usage").body["period"]["start"])
    local = start.astimezone(budgets.zone("Asia/Kolkata"))
    assert (local.day, local.hour, local.minute) == (1, 0, 0)


def test_a_period_is_half_open_and_dates_are_the_accounts_own(alice: Tenant) -> None:
    alice.account.timezone = "America/New_York"
    alice.account.save()
    zone = budgets.zone("America/New_York")
    day = LAST_MONTH.date() + timedelta(days=9)
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
    next_midnight = (datetime(day.year, day.month, day.day, tzinfo=zone) + timedelta(days=1)).astimezone(UTC)
    moment = timedelta(microseconds=1)
    for cost, started in ((1, midnight - moment), (20, midnight), (300, next_midnight - moment), (4000, next_midnight)):
        alice.spend(cost, started=started)
    body = alice.get("/v1/usage", start=day.isoformat(), end=(day + timedelta(days=1)).isoformat()).body
    assert body["totals"]["cost"] == usd(320)
    assert body["period"] == {"start": midnight.isoformat().replace("+00:00", "Z"), "end": next_midnight.isoformat().replace("+00:00", "Z")}


@pytest.mark.parametrize(
    "form", ["{:%Y-%m-%dT%H:%M:%S}Z", "{:%Y-%m-%dT%H:%M:%S}+00:00", "{:%Y-%m-%dT%H:%M:%S} 00:00", "{:%Y-%m-%dT%H:%M:%S}"]
)
def test_moments_may_be_written_as_clients_write_them(alice: Tenant, form: str) -> None:
    alice.spend(1, started=LAST_MONTH + timedelta(hours=5))
    start, end = form.format(LAST_MONTH + timedelta(hours=5)), form.format(LAST_MONTH + timedelta(hours=6))
    assert alice.get("/v1/usage", start=start, end=end).body["totals"]["requests"] == 1


def test_a_period_of_400_days_is_served_and_a_longer_one_is_not(alice: Tenant) -> None:
    now = timezone.now()
    alice.spend(3)
    end = now + timedelta(hours=1)
    longest = alice.get("/v1/usage", start=(end - timedelta(days=400)).isoformat(), end=end.isoformat())
    assert longest.body["totals"]["cost"] == usd(3)
    too_long = alice.get("/v1/usage", start=(end - timedelta(days=400, seconds=1)).isoformat(), end=end.isoformat())
    assert (too_long.status, too_long.body["error"]["param"]) == (400, "start")


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"start": "yesterday"}, "start"),
        ({"start": "2026-13-01"}, "start"),
        ({"start": "\x00"}, "start"),
        ({"start": "2026-01-01T00:00:00+99:00"}, "start"),
        ({"start": "0001-01-01"}, "start"),
        ({"end": "9999-12-31T23:59:59-14:00"}, "end"),
        ({"end": "9999-12-31"}, "end"),
        ({"start": "2026-02-02", "end": "2026-02-02"}, "end"),
        ({"start": "2190-01-01"}, "start"),
        ({"group_by": "account"}, "group_by"),
        ({"group_by": "; DROP TABLE"}, "group_by"),
        ({"key": "9" * 40}, "key"),
        ({"key": "٣"}, "key"),
        ({"key": "-1"}, "key"),
        ({"key": "sk-gw-1234"}, "key"),
        ({"format": "xml"}, "format"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_a_400_that_names_it(alice: Tenant, query: dict[str, str], param: str) -> None:
    answer = alice.get("/v1/usage", **query)
    assert (answer.status, answer.code, answer.body["error"]["param"]) == (400, "invalid_request_error", param)
    assert f"'{param}'" in answer.body["error"]["message"]


# -- GET /v1/usage: groups -------------------------------------------------------------------------------------------------------------


def test_models_are_split_by_provider_and_the_busiest_comes_first(alice: Tenant) -> None:
    alice.spend(1, model="m", provider="one", input_tokens=1)
    alice.spend(2, model="m", provider="two", input_tokens=5)
    alice.spend(3, model="m", provider="two", input_tokens=5)
    rows = alice.get("/v1/usage").body["by_model"]
    assert [(row["provider"], row["total"], row["requests"], row["cost"]) for row in rows] == [
        ("two", 10, 2, usd(5)),
        ("one", 1, 1, usd(1)),
    ]


def test_days_are_the_accounts_own_and_each_grouping_sums_up_to_the_totals(alice: Tenant) -> None:
    alice.account.timezone = "Asia/Tehran"  # +03:30
    alice.account.save()
    first = LAST_MONTH + timedelta(days=2)
    for cost, started in ((1, first + timedelta(hours=20, minutes=29)), (20, first + timedelta(hours=20, minutes=30))):
        alice.spend(cost, started=started, output_tokens=cost)
    query = {"start": first.isoformat(), "end": (first + timedelta(days=2)).isoformat()}
    body = alice.get("/v1/usage", group_by="day", **query).body
    assert [(row["day"], row["cost"]) for row in body["by_day"]] == [
        (first.date().isoformat(), usd(1)),
        ((first + timedelta(days=1)).date().isoformat(), usd(20)),
    ]
    assert (
        sum(row["total"] for row in body["by_day"]) == sum(row["total"] for row in body["by_model"]) == body["totals"]["total_tokens"] == 21
    )
    hours = alice.get("/v1/usage", group_by="hour", **query).body["by_hour"]
    assert [row["hour"] for row in hours] == [
        (first + timedelta(hours=offset, minutes=30)).isoformat().replace("+00:00", "Z") for offset in (19, 20)
    ]


def test_the_hour_that_comes_twice_when_clocks_go_back_is_two_hours(alice: Tenant) -> None:
    alice.account.timezone = "Europe/Berlin"
    alice.account.save()
    twice = datetime(2025, 10, 26, 0, 30, tzinfo=UTC)  # 02:30 summer time; an hour later it is 02:30 again
    alice.spend(1, started=twice)
    alice.spend(2, started=twice + timedelta(hours=1))
    body = alice.get("/v1/usage", start="2025-10-26", end="2025-10-27", group_by="hour").body
    assert [row["hour"] for row in body["by_hour"]] == ["2025-10-26T00:00:00Z", "2025-10-26T01:00:00Z"]
    assert datetime.fromisoformat(body["period"]["end"]) - datetime.fromisoformat(body["period"]["start"]) == timedelta(hours=25)


def test_keys_are_told_apart_by_how_they_are_recognised(alice: Tenant) -> None:
    other, _ = alice.issue(name="the other one")
    alice.spend(1)
    alice.spend(20, key=other)
    rows = alice.get("/v1/usage", group_by="key").body["by_key"]
    assert [(row["key_id"], row["name"], row["key"], row["cost"]) for row in rows] == [
        (other.pk, "the other one", f"{other.start}…{other.last_four}", usd(20)),
        (alice.key.pk, "reader", f"{alice.key.start}…{alice.key.last_four}", usd(1)),
    ]


def test_a_report_can_be_of_one_key_also_of_one_that_was_revoked(alice: Tenant) -> None:
    other, _ = alice.issue()
    alice.spend(1)
    alice.spend(20, key=other)
    issuing.revoke(key=other, now=timezone.now())
    costs = [alice.get("/v1/usage", key=choice).body["totals"]["cost"] for choice in ("all", "current", str(other.pk))]
    assert costs == [usd(21), usd(1), usd(20)]


def test_users_are_the_tags_that_requests_carried(alice: Tenant) -> None:
    alice.spend(1, user_tag="ann")
    alice.spend(2, user_tag="bob")
    alice.spend(4)
    rows = alice.get("/v1/usage", group_by="user").body["by_user"]
    assert [(row["user"], row["cost"]) for row in rows] == [("", usd(4)), ("bob", usd(2)), ("ann", usd(1))]


def test_more_groups_than_one_answer_holds_are_for_csv(alice: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MOST_ROWS", 2)
    monkeypatch.setattr(reports, "ROWS_AT_ONCE", 2)
    for user in "abc":
        alice.spend(1, user_tag=user)
    refused = alice.get("/v1/usage", group_by="user")
    assert (refused.status, refused.body["error"]["param"]) == (400, "group_by")
    assert len(alice.get("/v1/usage", group_by="user", format="csv").raw.splitlines()) == 4


def plan_of_a_report(alice: Tenant, grouping: str, period: reports.Period) -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {reports._records(grouping, None)}", reports._parameters(alice.account, period, None))
        return "\n".join(row[0] for row in cursor.fetchall())


def test_a_report_reads_only_the_partitions_of_its_period(alice: Tenant) -> None:
    plan = plan_of_a_report(alice, "user", reports.Period(MONTH, MONTH + timedelta(days=10)))
    assert f"billing_usagerecord_{MONTH:%Y_%m}" in plan
    assert f"billing_usagerecord_{(MONTH + timedelta(days=63)):%Y_%m}" not in plan


@pytest.mark.parametrize("grouping", ["model", "day", "hour", "key"])
def test_a_report_of_whole_slots_reads_no_records(alice: Tenant, grouping: str) -> None:
    plan = plan_of_a_report(alice, grouping, reports.Period(MONTH, MONTH + timedelta(days=10)))
    assert "billing_usageslot" in plan
    assert "billing_usagerecord" not in plan


@pytest.mark.parametrize(("start", "end"), [(0, 3600), (1, 3600), (0, 3599), (700, 800), (899, 901), (1, 899), (900, 900 + 1), (450, 2250)])
def test_a_period_may_cut_through_a_slot(alice: Tenant, start: int, end: int) -> None:
    hour = LAST_MONTH + timedelta(days=3)
    moments = [0, 1, 450, 700, 799, 899, 900, 901, 1799, 1800, 2250, 3598, 3599]
    for place, second in enumerate(moments):
        alice.spend(2**place, started=hour + timedelta(seconds=second), input_tokens=3)
    begins, ends = (f"{hour + timedelta(seconds=second):%Y-%m-%dT%H:%M:%SZ}" for second in (start, end))
    inside = [2**place for place, second in enumerate(moments) if start <= second < end]
    totals = alice.get("/v1/usage", start=begins, end=ends, group_by="hour").body["totals"]
    assert (totals["cost"], totals["requests"], totals["input_tokens"]) == (usd(sum(inside)), len(inside), 3 * len(inside))


# -- GET /v1/usage: CSV ----------------------------------------------------------------------------------------------------------------


def read_csv(answer: Answer) -> list[dict[str, str]]:
    assert answer.status == 200
    return list(csv.DictReader(io.StringIO(answer.raw, newline="")))


def test_csv_has_a_header_and_a_row_for_each_group(alice: Tenant) -> None:
    alice.spend(USD, model="m", provider="one", input_tokens=3, cached_input_tokens=4, output_tokens=5, reasoning_tokens=6)
    (row,) = read_csv(alice.get("/v1/usage", format="csv"))
    assert row == {
        "model": "m",
        "provider": "one",
        "requests": "1",
        "input_tokens": "7",
        "output_tokens": "11",
        "total_tokens": "18",
        "cached_input_tokens": "4",
        "reasoning_tokens": "6",
        "cost_usd": "1.00",
    }


@pytest.mark.parametrize("tag", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x","y")', "＝1"])
def test_a_cell_that_a_spreadsheet_would_run_is_neutralised(alice: Tenant, tag: str) -> None:
    alice.spend(1, user_tag=tag)
    (row,) = read_csv(alice.get("/v1/usage", format="csv", group_by="user"))
    assert row["user"] == f"'{tag}"


def test_commas_quotes_and_line_breaks_stay_in_their_cell(alice: Tenant) -> None:
    alice.spend(1, user_tag='a,"b"\nc')
    (row,) = read_csv(alice.get("/v1/usage", format="csv", group_by="user"))
    assert (row["user"], row["requests"]) == ('a,"b"\nc', "1")


def test_csv_by_key_names_the_keys_and_by_hour_the_hours(alice: Tenant) -> None:
    alice.spend(1, started=LAST_MONTH + timedelta(minutes=61))
    (row,) = read_csv(alice.get("/v1/usage", format="csv", group_by="key", start=LAST_MONTH.date()))
    assert (row["key_id"], row["name"], row["key"]) == (str(alice.key.pk), "reader", f"{alice.key.start}…{alice.key.last_four}")
    (row,) = read_csv(alice.get("/v1/usage", format="csv", group_by="hour", start=LAST_MONTH.date()))
    assert row["hour"] == (LAST_MONTH + timedelta(hours=1)).isoformat().replace("+00:00", "Z")


def test_the_server_streams_csv_and_answers_json_over_asgi(alice: Tenant, gateway: Any) -> None:
    alice.spend(1, user_tag="over the wire")
    with httpx.Client(base_url=gateway.base_url, headers={"X-API-Key": alice.secret}) as client:
        streamed = client.get("/usage", params={"format": "csv", "group_by": "user"})
        assert streamed.headers["content-type"] == "text/csv; charset=utf-8"
        assert streamed.headers["content-disposition"].endswith('-by-user.csv"')
        assert [row["user"] for row in csv.DictReader(io.StringIO(streamed.text))] == ["over the wire"]
        whole = client.get("/usage")
        assert (whole.json()["totals"]["requests"], whole.headers["cache-control"]) == (1, "no-store")
        assert "x-request-id" in whole.headers


# -- GET /v1/usage: what is left -------------------------------------------------------------------------------------------------------


def test_the_wallet_shows_what_is_held(alice: Tenant) -> None:
    alice.desk.hold(3 * USD, key=alice.key)
    assert alice.get("/v1/usage").body["wallet"] == {"balance": "10.00", "held": "3.00", "free": "7.00", "currency": "usd"}


def test_the_budget_shows_what_is_spent_and_when_it_begins_anew(open_tenant: OpenTenant) -> None:
    alice = open_tenant(budget_nano=5 * USD, budget_window="month")
    assert alice.get("/v1/usage").body["budget"]["spent"] == "0.00"
    alice.spend(USD)
    alice.desk.hold(2 * USD, key=alice.key)
    budget = alice.get("/v1/usage").body["budget"]
    resets_at = datetime.fromisoformat(budget.pop("resets_at"))
    assert budget == {"limit": "5.00", "spent": "1.00", "held": "2.00", "remaining": "4.00", "window": "month"}
    assert (resets_at.day, resets_at > timezone.now()) == (1, True)


def test_a_budget_that_never_resets_says_so_and_one_set_later_counts_what_was_before(alice: Tenant) -> None:
    alice.spend(USD)
    ApiKey.objects.filter(pk=alice.key.pk).update(budget_nano=USD // 2, budget_window="total")
    budget = alice.get("/v1/usage").body["budget"]
    assert (budget["spent"], budget["remaining"], budget["resets_at"]) == ("1.00", "0.00", None)


def test_the_quota_counts_in_the_plans_own_month(alice: Tenant) -> None:
    anchor = (timezone.now() + timedelta(days=3)).day
    alice.spend(1, started=timezone.now() - timedelta(days=20), input_tokens=5, cached_input_tokens=6, output_tokens=7)
    alice.put_on_plan(monthly_input_tokens=100)
    PlanAssignment.objects.filter(account=alice.account).update(anchor_day=anchor)
    before = alice.get("/v1/usage").body["quota"]
    assert (before["used_input"], before["used_output"]) == (11, 7)
    assert datetime.fromisoformat(before["resets_at"]) - timezone.now() < timedelta(days=4)


def test_the_quota_is_the_window_that_admission_uses(alice: Tenant) -> None:
    alice.put_on_plan(monthly_input_tokens=1000, monthly_output_tokens=1000)
    alice.spend(1, input_tokens=5, output_tokens=7)
    quota = alice.get("/v1/usage").body["quota"]
    assert (quota["used_input"], quota["used_output"]) == (5, 7)
    assert alice.desk.window_of(alice.account).input_tokens == 5


# -- GET /v1/credits and /v1/key ---------------------------------------------------------------------------------------------------------


def test_credits_less_usage_is_the_balance_also_after_money_was_taken_back(alice: Tenant) -> None:
    alice.desk.credit(2 * USD, kind="promo", debit_account="promo", expires_at=timezone.now() + timedelta(days=1))
    alice.spend(3 * USD)
    alice.desk.debit(USD)
    data = alice.get("/v1/credits").body["data"]
    assert (data["total_credits"], data["total_usage"]) == (11.0, 3.0)
    assert (data["balance"], data["held"], data["free"], data["currency"]) == ("8.00", "0.00", "8.00", "usd")
    assert (data["credited"], data["used"]) == ("11.00", "3.00")
    assert [(grant["kind"], grant["remaining"]) for grant in data["grants"]] == [("paid", "8.00")]


def test_grants_are_shown_by_kind_with_the_first_to_expire(alice: Tenant) -> None:
    soon, later = timezone.now() + timedelta(days=1), timezone.now() + timedelta(days=9)
    for expires_at in (later, soon):
        alice.desk.credit(USD, kind="promo", debit_account="promo", expires_at=expires_at)
    grants = {grant["kind"]: grant for grant in alice.get("/v1/credits").body["data"]["grants"]}
    assert (grants["promo"]["amount"], datetime.fromisoformat(grants["promo"]["next_expires_at"])) == ("2.00", soon)
    assert grants["paid"]["next_expires_at"] is None


def test_what_expired_is_no_usage(alice: Tenant) -> None:
    alice.desk.credit(USD, kind="promo", debit_account="promo", expires_at=timezone.now() - timedelta(seconds=1))
    while ledger.expire_grants(now=timezone.now(), limit=100):
        pass
    data = alice.get("/v1/credits").body["data"]
    assert (data["total_credits"], data["total_usage"], data["balance"]) == (10.0, 0.0, "10.00")


def test_a_key_reads_what_openrouter_tells_of_a_key(open_tenant: OpenTenant) -> None:
    alice = open_tenant(
        budget_nano=5 * USD, budget_window="week", rpm=7, allowed_models=["demo/*"], expires_at=timezone.now() + timedelta(days=1)
    )
    alice.spend(USD)
    data = alice.get("/v1/key").body["data"]
    assert (data["limit"], data["limit_remaining"], data["limit_reset"]) == (5.0, 4.0, "weekly")
    assert (data["usage"], data["usage_daily"], data["usage_weekly"], data["usage_monthly"]) == (1.0, 1.0, 1.0, 1.0)
    assert (data["is_free_tier"], data["is_management_key"], data["is_provisioning_key"]) == (False, False, False)
    assert data["rate_limit"]["requests"] == 7
    assert (data["label"], data["name"]) == (f"{alice.key.start}…{alice.key.last_four}", "reader")
    assert (data["kind"], data["allowed_models"], data["budget"]["window"]) == ("live", ["demo/*"], "week")
    assert datetime.fromisoformat(data["expires_at"]) == alice.key.expires_at
    assert alice.secret not in alice.get("/v1/key").raw


def test_usage_of_a_key_is_counted_by_day_week_and_month(alice: Tenant) -> None:
    alice.spend(1)
    alice.spend(1000, started=timezone.now() - timedelta(days=50))
    data = alice.get("/v1/key").body["data"]
    assert (data["usage"], data["usage_daily"], data["usage_weekly"], data["usage_monthly"]) == (1.001e-6, 1e-9, 1e-9, 1e-9)


def test_a_key_without_limits_says_null_and_an_account_that_never_paid_is_on_the_free_tier(open_tenant: OpenTenant) -> None:
    data = open_tenant(dollars=0).get("/v1/key").body["data"]
    assert (data["limit"], data["limit_remaining"], data["limit_reset"], data["budget"], data["expires_at"]) == (None,) * 5
    assert (data["is_free_tier"], data["rate_limit"]["tokens"], data["allowed_models"]) == (True, -1, ["*"])


def test_the_lower_of_the_keys_and_the_plans_limits_is_shown(open_tenant: OpenTenant) -> None:
    alice = open_tenant(rpm=100, tpm=50)
    alice.put_on_plan(rpm=60, tpm=70, concurrency=3)
    limit = alice.get("/v1/key").body["data"]["rate_limit"]
    assert (limit["requests"], limit["tokens"], limit["concurrency"]) == (60, 50, 3)


def test_a_management_key_reads_its_account(open_tenant: OpenTenant) -> None:
    alice = open_tenant(kind="management")
    assert alice.get("/v1/key").body["data"]["is_management_key"] is True
    assert alice.get("/v1/credits").body["data"]["balance"] == "10.00"


# -- GET /v1/generation: the receipt -----------------------------------------------------------------------------------------------------

ALL_BUCKETS = TokenUsage(1001, 203, 305, 407, 509, 611, 713, 815, 3, 7)
RATES = {
    "input": 3_000_000_007,
    "cached_input": 300_000_001,
    "cache_write": 3_750_000_003,
    "cache_write_1h": 6_000_000_011,
    "audio_input": 40_000_000_013,
    "output": 15_000_000_017,
    "reasoning": 15_000_000_019,
    "audio_output": 80_000_000_023,
    "image": 40_000_000_000_029,
    "web_search": 10_000_000_000_037,
    "request": 5_000_000_031,
}


def price_of(shelf: Shelf, **fields: Any) -> Price:
    return Price.objects.select_related("model").get(model=shelf.model(uuid.uuid4().hex[:8], rates={**RATES, **fields}))


def recomputed(receipt: dict[str, Any]) -> Decimal:
    """What anyone with the receipt and a pocket calculator comes to: lines, markup, one rounding up."""
    for line in receipt["lines"]:
        assert Decimal(line["amount"]) == line["quantity"] * Decimal(line["rate_per_million"]) / 1_000_000
    total = sum((Decimal(line["amount"]) for line in receipt["lines"]), Decimal(0)) * (1 + Decimal(receipt["markup"]["percent"]) / 100)
    assert total == Decimal(receipt["total"])
    return total.quantize(Decimal("0.000000001"), rounding=ROUND_CEILING)


@pytest.mark.parametrize("markup_ppm", [0, 1, 50_000, 333_333])
def test_a_receipt_can_be_recomputed_from_its_lines(alice: Tenant, shelf: Shelf, markup_ppm: int) -> None:
    price = price_of(shelf, markup_ppm=markup_ppm)
    request_id = alice.settle(ALL_BUCKETS, price)
    data = alice.get("/v1/generation", id=request_id).body["data"]
    receipt = data["receipt"]
    assert len(receipt["lines"]) == 11
    assert recomputed(receipt) == Decimal(receipt["list_cost"]) == Decimal(receipt["charged"])
    assert (receipt["adjustment"], receipt["written_off"], receipt["not_charged"]) == ("0.00", "0.00", "0.00")
    assert (receipt["price_version"]["id"], receipt["markup"]["ppm"]) == (price.pk, markup_ppm)
    assert datetime.fromisoformat(receipt["price_version"]["effective_from"]) == price.effective_from
    assert (data["total_cost"], data["usage"]) == (float(receipt["charged"]), float(receipt["charged"]))


def test_a_long_prompt_is_itemised_at_its_own_rates(alice: Tenant, shelf: Shelf) -> None:
    price = price_of(shelf, long_prompt={"above": 1000, "input": 9_000_000_000, "output": 20_000_000_000})
    receipt = alice.get("/v1/generation", id=alice.settle(TokenUsage(input_tokens=1001, output_tokens=5), price)).body["data"]["receipt"]
    assert receipt["is_long_prompt"] is True
    assert receipt["lines"][0]["rate_per_million"] == "9.00"
    assert recomputed(receipt) == Decimal(receipt["list_cost"])


def test_a_receipt_has_openrouters_fields(alice: Tenant, shelf: Shelf) -> None:
    price = price_of(shelf)
    request_id = alice.settle(
        ALL_BUCKETS, price, provider="azure", latency_ms=1250, first_token_ms=250, finish_reason="length", user_tag="ann", streamed=True
    )
    data = alice.get("/v1/generation", id=request_id).body["data"]
    assert (data["id"], data["model"], data["provider_name"]) == (request_id, price.model.slug, "azure")
    assert (data["streamed"], data["cancelled"], data["finish_reason"]) == (True, False, "length")
    assert (data["tokens_prompt"], data["tokens_completion"]) == (ALL_BUCKETS.total_input_tokens, ALL_BUCKETS.total_output_tokens)
    assert (data["native_tokens_prompt"], data["native_tokens_completion"]) == (data["tokens_prompt"], data["tokens_completion"])
    assert (data["native_tokens_reasoning"], data["native_tokens_cached"], data["native_tokens_completion_images"]) == (713, 203, 3)
    assert (data["latency"], data["generation_time"], data["external_user"]) == (250, 1000, "ann")
    assert datetime.fromisoformat(data["created_at"]) <= timezone.now()


def test_a_receipt_names_the_key_the_rule_and_the_attempts(alice: Tenant, shelf: Shelf) -> None:
    attempts = [{"provider": "one", "result": "http_500", "ms": 5, "org": "secret"}, {"provider": "two", "result": "ok", "ms": 9}]
    request_id = alice.settle(ALL_BUCKETS, price_of(shelf), attempts=attempts)
    answer = alice.get("/v1/generation", id=request_id)
    receipt = answer.body["data"]["receipt"]
    assert receipt["key"] == {"id": alice.key.pk, "name": "reader", "label": f"{alice.key.start}…{alice.key.last_four}"}
    assert receipt["rule"] == {"name": "metered", "explanation": receipts.RULES["metered"]}
    assert [attempt["provider"] for attempt in receipt["attempts"]] == ["one", "two"]
    assert "secret" not in answer.raw
    assert (receipt["status"], receipt["usage_source"], receipt["timings"]["latency_ms"]) == ("ok", "provider", 10)
    assert receipt["tokens"]["cache_write_1h_tokens"] == ALL_BUCKETS.cache_write_1h_tokens


def test_what_the_wallet_could_not_pay_is_written_off(open_tenant: OpenTenant, shelf: Shelf) -> None:
    alice = open_tenant(dollars=0)
    alice.desk.credit(1000)
    request_id = alice.settle(TokenUsage(input_tokens=1000), price_of(shelf, request=0), held=1000)
    receipt = alice.get("/v1/generation", id=request_id).body["data"]["receipt"]
    assert (receipt["hold"], receipt["charged"], receipt["not_charged"]) == ("0.000001", "0.000001", "0.00")
    assert Decimal(receipt["written_off"]) == Decimal(receipt["list_cost"]) - Decimal("0.000001") > 0
    assert recomputed(receipt) == Decimal(receipt["list_cost"])


def test_what_our_own_count_has_above_the_hold_is_not_charged(alice: Tenant, shelf: Shelf) -> None:
    request_id = alice.settle(
        TokenUsage(input_tokens=1000),
        price_of(shelf, request=0),
        held=1000,
        cost=1000,
        rule="delivered",
        usage_source="estimated",
        status="aborted",
    )
    data = alice.get("/v1/generation", id=request_id).body["data"]
    assert (data["cancelled"], data["receipt"]["charged"], data["receipt"]["written_off"]) == (True, "0.000001", "0.00")
    assert Decimal(data["receipt"]["not_charged"]) == Decimal(data["receipt"]["list_cost"]) - Decimal("0.000001")


def test_a_test_keys_receipt_says_what_it_would_have_cost(alice: Tenant, shelf: Shelf) -> None:
    request_id = alice.settle(ALL_BUCKETS, price_of(shelf), held=0, cost=0, rule="test_key")
    receipt = alice.get("/v1/generation", id=request_id).body["data"]["receipt"]
    assert (receipt["charged"], receipt["written_off"], receipt["not_charged"]) == ("0.00", "0.00", receipt["list_cost"])
    assert recomputed(receipt) == Decimal(receipt["list_cost"]) > 0


def test_an_answer_without_output_has_no_lines_though_the_provider_counted(alice: Tenant, shelf: Shelf) -> None:
    request_id = alice.settle(TokenUsage(input_tokens=900), price_of(shelf), held=10, cost=0, list_cost=0, rule="no_output")
    receipt = alice.get("/v1/generation", id=request_id).body["data"]["receipt"]
    assert (receipt["lines"], receipt["total"], receipt["list_cost"], receipt["adjustment"]) == ([], "0.00", "0.00", "0.00")
    assert receipt["tokens"]["input_tokens"] == 900


def test_a_request_whose_server_died_has_a_receipt_too(alice: Tenant, shelf: Shelf) -> None:
    price = price_of(shelf)
    usage = TokenUsage(input_tokens=100, output_tokens=50, web_searches=2)
    owed = pricing.cost(price.frozen(), usage)
    owner = alice.desk.make_owner()
    about = {**alice.desk.request(1)["about"], "model": price.model.slug, "price": price.pk}
    request = alice.desk.hold(2 * owed, key=alice.key, owner=owner, about=about, started=timezone.now())
    alice.desk.grow({"id": request["id"], "amount": 2 * owed, "accrued": owed, "input_tokens": 100, "output_tokens": 50, "web_searches": 2})
    alice.desk.kill_owner(owner)
    alice.desk.sweep()
    receipt = alice.get("/v1/generation", id=request["id"]).body["data"]["receipt"]
    assert (receipt["rule"]["name"], receipt["status"], receipt["charged"]) == ("swept_partial", "swept", usd(owed))
    assert recomputed(receipt) == Decimal(receipt["list_cost"])
    assert (receipt["tokens"]["web_searches"], receipt["adjustment"]) == (2, "0.00")
    # It had not died: it comes back and tells that less was used than it noted. The charge stays, as an adjustment.
    alice.desk.settle(alice.desk.record(request, 1, input_tokens=1, price=price.pk, model=price.model.slug, list_cost=1))
    receipt = alice.get("/v1/generation", id=request["id"]).body["data"]["receipt"]
    assert receipt["rule"]["name"] == "overrun"
    assert recomputed(receipt) + Decimal(receipt["adjustment"]) == Decimal(receipt["list_cost"]) == Decimal(receipt["charged"])


def test_a_receipt_without_a_price_version_has_its_amounts_but_no_lines(alice: Tenant) -> None:
    receipt = alice.get("/v1/generation", id=alice.spend(7)).body["data"]["receipt"]
    assert (receipt["price_version"], receipt["markup"], receipt["lines"]) == (None, None, [])
    assert (receipt["charged"], receipt["adjustment"]) == ("0.000000007", "0.000000007")


def test_the_cache_discount_is_what_the_same_tokens_would_have_cost_more(alice: Tenant, shelf: Shelf) -> None:
    price = price_of(shelf, input=3 * USD, cached_input=USD, request=0, markup_ppm=500_000)
    receipt = alice.get("/v1/generation", id=alice.settle(TokenUsage(cached_input_tokens=1_000_000), price)).body["data"]["receipt"]
    assert receipt["cache_discount"] == "3.00"


def test_every_rule_that_charges_has_its_explanation() -> None:
    decided = set(re.findall(r"\| `(\w+)` \|", charging.__doc__ or ""))
    written = set(re.findall(r"'(swept_\w+|overrun)'", sql.read_functions()))
    assert decided | written == set(receipts.RULES)


def test_a_request_that_is_still_under_way_has_no_receipt_yet(alice: Tenant) -> None:
    request = alice.desk.hold(5, key=alice.key)
    assert (alice.get("/v1/generation", id=request["id"]).status, alice.get("/v1/generation").status) == (404, 400)


@pytest.mark.parametrize("text", ["gen-123", "x" * 5000, "\x00", "00000000-0000-0000-0000-000000000000", "'; --"])
def test_a_malformed_or_unknown_id_is_404(alice: Tenant, text: str) -> None:
    answer = alice.get("/v1/generation", id=text)
    assert (answer.status, answer.code) == (404, "request_not_found")


# -- GET /v1/models ----------------------------------------------------------------------------------------------------------------------


def test_models_have_openais_shape_with_openrouters_prices(alice: Tenant, shelf: Shelf) -> None:
    model = shelf.model(
        "one",
        rates={"input": 150_000_000, "cached_input": 75_000_000, "output": 600_000_000, "image": 40_000_000_000_000, "markup_ppm": 100_000},
        context=128_000,
        max_output=4096,
        capabilities=["tools"],
        description="A model.",
    )
    alias = shelf.alias(model)
    answer = alice.get("/v1/models")
    assert answer.body["object"] == "list"
    (entry,) = [entry for entry in answer.body["data"] if entry["id"] == model.slug]
    assert entry == alice.get(f"/v1/models/{model.slug}").body == alice.get(f"/v1/models/{alias}").body
    assert (entry["object"], entry["owned_by"], entry["created"]) == ("model", "gateway", int(model.created_at.timestamp()))
    assert (entry["context_length"], entry["max_output_tokens"], entry["kind"]) == (128_000, 4096, "text")
    assert (entry["capabilities"], entry["aliases"], entry["description"], entry["name"]) == (["tools"], [alias], "A model.", model.slug)
    assert entry["pricing"]["prompt"] == "0.000000165"
    assert entry["pricing"]["completion"] == "0.00000066"
    assert entry["pricing"]["input_cache_read"] == "0.0000000825"
    assert entry["pricing"]["input_cache_write"] == "0.000000165"
    assert (entry["pricing"]["image"], entry["pricing"]["request"]) == ("0.044", "0")
    assert {name: entry["prices_per_million"][name] for name in ("input", "cached_input", "output")} == {
        "input": "0.165",
        "cached_input": "0.0825",
        "output": "0.66",
    }
    assert "overrides" not in entry["pricing"]


def test_the_price_of_long_prompts_is_shown(alice: Tenant, shelf: Shelf) -> None:
    model = shelf.model("one", rates={"input": USD, "output": USD, "long_prompt": {"above": 200_000, "input": 2 * USD}})
    (override,) = alice.get(f"/v1/models/{model.slug}").body["pricing"]["overrides"]
    assert (override["min_prompt_tokens"], override["prompt"]) == (200_001, "0.000002")


def test_only_what_can_be_called_is_listed(alice: Tenant, shelf: Shelf) -> None:
    rates = {"input": 1, "output": 1}
    shelf.model("demo", rates=rates)
    shelf.model("company", rates=rates, provider=shelf.company())
    shelf.model("company without key", rates=rates, provider=shelf.company(with_key=False))
    closed_key = shelf.company()
    closed_key.keys.update(is_enabled=False)
    shelf.model("company with a closed key", rates=rates, provider=closed_key)
    shelf.model("closed company", rates=rates, provider=shelf.company(is_enabled=False))
    shelf.model("closed", rates=rates, is_enabled=False)
    shelf.model("unpriced")
    tomorrow = shelf.model("tomorrow")
    Price.objects.create(model=tomorrow, input=1, output=1, effective_from=timezone.now() + timedelta(days=1))
    shelf.model("closed route", rates=rates).routes.update(is_enabled=False)
    two_routes = shelf.model("two routes", rates=rates, provider=shelf.company(is_enabled=False))
    two_routes.routes.create(provider=shelf.provider, upstream_model="again")
    assert shelf.listed(alice.get("/v1/models")) == ["company", "demo", "two routes"]
    for name in ("company without key", "closed company", "closed", "unpriced", "tomorrow", "closed route"):
        assert alice.get(f"/v1/models/{shelf.prefix}/{name}").code == "model_not_found"


def test_the_price_in_effect_is_the_latest_that_has_begun(alice: Tenant, shelf: Shelf) -> None:
    model = shelf.model("one", rates={"input": USD})
    Price.objects.create(model=model, input=2 * USD, effective_from=timezone.now() - timedelta(minutes=1))
    Price.objects.create(model=model, input=3 * USD, effective_from=timezone.now() + timedelta(days=1))
    assert alice.get(f"/v1/models/{model.slug}").body["prices_per_million"]["input"] == "2.00"


def test_a_list_holds_only_what_key_and_plan_both_let_through(open_tenant: OpenTenant, shelf: Shelf) -> None:
    for name in ("a1", "a2", "b1"):
        shelf.model(name, rates={"input": 1})
    alice = open_tenant(allowed_models=[f"{shelf.prefix}/a*"])
    assert shelf.listed(alice.get("/v1/models")) == ["a1", "a2"]
    alice.put_on_plan(allowed_models=[f"{shelf.prefix}/*1"])
    assert shelf.listed(alice.get("/v1/models")) == ["a1"]
    for name, status in (("a1", 200), ("a2", 404), ("b1", 404)):
        assert alice.get(f"/v1/models/{shelf.prefix}/{name}").status == status


def test_a_test_key_sees_only_what_the_demo_provider_serves(open_tenant: OpenTenant, shelf: Shelf) -> None:
    shelf.model("demo", rates={"input": 1})
    shelf.model("company", rates={"input": 1}, provider=shelf.company())
    assert shelf.listed(open_tenant(kind="test").get("/v1/models")) == ["demo"]


def test_a_name_comes_before_an_alias_of_another_model(alice: Tenant, shelf: Shelf) -> None:
    first, second = shelf.model("a", rates={"input": 1}), shelf.model("b", rates={"input": 1})
    first.aliases.create(name=second.slug)
    assert alice.get(f"/v1/models/{second.slug}").body["id"] == second.slug


def test_limit_shortens_the_list(alice: Tenant, shelf: Shelf) -> None:
    for name in "abc":
        shelf.model(name, rates={"input": 1})
    assert len(alice.get("/v1/models", limit="2").body["data"]) == 2
    for limit in ("0", "-1", "x", "1001", "٣"):
        assert alice.get("/v1/models", limit=limit).body["error"]["param"] == "limit"


@pytest.mark.parametrize("name", ["nothing/of-this-name", "a%00b", "%ff", "x" * 3000, "'"])
def test_an_unknown_model_is_404(alice: Tenant, name: str) -> None:
    answer = alice.get(f"/v1/models/{name}")
    assert (answer.status, answer.code, answer.body["error"]["param"]) == (404, "model_not_found", "model")


def test_listing_takes_as_many_queries_for_many_models_as_for_one(
    alice: Tenant, shelf: Shelf, django_assert_max_num_queries: Callable[[int], Any]
) -> None:
    for number in range(12):
        shelf.alias(shelf.model(str(number), rates={"input": 1}, provider=shelf.company()))
    with django_assert_max_num_queries(6):
        assert len(shelf.listed(alice.get("/v1/models"))) == 12


# -- All of it ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["models", "usage", "credits", "key"])
def test_every_report_is_served_under_api_v1_too(alice: Tenant, path: str) -> None:
    one, other = alice.get(f"/v1/{path}"), alice.get(f"/api/v1/{path}")
    assert (one.status, other.status, set(one.body)) == (200, 200, set(other.body))


@pytest.mark.parametrize("path", ["models", "models/demo/echo", "usage", "credits", "key", "generation"])
def test_only_reading_is_served_and_a_wrong_address_is_json(alice: Tenant, path: str) -> None:
    answer = Client(headers={"X-API-Key": alice.secret}).post(f"/v1/{path}", {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert get(f"/v1/{path}/", alice.secret).status == 404


def test_a_stranger_sees_nothing_of_alices(alice: Tenant, charlie: Tenant) -> None:
    request_id = alice.spend(USD, model="alices/model", user_tag="alices-user", input_tokens=77)
    assert alice.get("/v1/generation", id=request_id).status == 200
    refused = charlie.get("/v1/generation", id=request_id)
    unknown = charlie.get("/v1/generation", id=str(uuid7(0)))
    assert (refused.status, refused.body["error"]["message"]) == (404, unknown.body["error"]["message"])
    assert charlie.get("/v1/usage", key=alice.key.pk).body["error"]["param"] == "key"
    for grouping in reports.GROUPINGS:
        answer = charlie.get("/v1/usage", group_by=grouping)
        assert answer.body["totals"]["requests"] == 0
        for secret_of_alice in ("alices/model", "alices-user", alice.key.start, str(alice.account.slug)):
            assert secret_of_alice not in answer.raw
    assert charlie.get("/v1/credits").body["data"]["total_usage"] == 0


def test_when_the_database_is_away_the_answer_is_a_503_that_may_be_retried(alice: Tenant) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('statement_timeout', '1', false)")
    try:
        with connection.execute_wrapper(_slowly):
            answer = alice.get("/v1/credits")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('statement_timeout', '0', false)")
    assert (answer.status, answer.code) == (503, "billing_unavailable")


def _slowly(execute: Any, sql: str, params: Any, many: Any, context: Any) -> Any:
    return execute("SELECT pg_sleep(5)", [], many, context)
