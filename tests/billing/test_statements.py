"""Facts about statements and the files an account can take away: they add up to the ledger, and are nobody else's."""

import csv
import io
import json
import uuid
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from accounts.models import Membership, User
from billing import exports, request_log, statements
from billing.models import Transfer
from catalog.money import usd
from keys import budgets
from tests.billing.desk import MONTH, NOW, Desk, OpenDesk

pytestmark = pytest.mark.filterwarnings("ignore:No directory at")  # only a deployment has collected its static files

USD = 10**9
LAST_MONTH = (MONTH - timedelta(days=1)).replace(day=1)
NEW_YORK = budgets.zone("America/New_York")
# The months of New York: in the first hours of one of ours, the last one goes on there.
THERE = NOW.astimezone(NEW_YORK).replace(day=1, hour=0, minute=0, second=0, microsecond=0, tzinfo=UTC)
BEFORE_THERE = (THERE - timedelta(days=1)).replace(day=1)


def credit_at(desk: Desk, amount: int, moment: datetime, **details: Any) -> None:
    desk.credit(amount, now=moment, **details)


def settle_at(desk: Desk, cost: int, *, started: datetime, booked: datetime, **fields: Any) -> None:
    """A request whose charge is booked at `booked`."""
    request = desk.hold(cost, started=started)
    record = desk.record(request, cost, **fields)
    text = json.dumps([record], default=str)
    desk.sql.execute("SELECT * FROM billing_settle(%s::jsonb, %s, %s)", [text, uuid.uuid4(), booked])


def chain_of(desk: Desk, begin: datetime, end: datetime) -> list[Transfer]:
    found = Transfer.objects.filter(wallet_id=desk.wallet_id, wallet_version__isnull=False, created_at__gte=begin, created_at__lt=end)
    return list(found.order_by("wallet_version"))


def signed(desk: Desk, entries: list[Transfer]) -> int:
    return sum(-entry.amount if entry.debit_account == f"wallet:{desk.wallet_id}" else entry.amount for entry in entries)


@pytest.fixture
def two_months(open_desk: OpenDesk) -> Desk:
    """A desk with a history over two months of New York, whose months begin hours after UTC's."""
    desk = open_desk()
    desk.account.timezone = "America/New_York"
    desk.account.save()
    middle = BEFORE_THERE + timedelta(days=10)
    edge = datetime(THERE.year, THERE.month, 1, tzinfo=NEW_YORK).astimezone(UTC)
    hour = min(timedelta(hours=1), (NOW - edge) / 3)  # nothing of it is still to come
    credit_at(desk, 20 * USD, middle)
    credit_at(desk, 5 * USD, middle, kind="promo", debit_account="promo")
    for minute in range(4):
        settle_at(desk, 3, started=middle + timedelta(minutes=minute), booked=middle + timedelta(hours=1), model="house/a", input_tokens=10)
    desk.debit(USD, now=middle + timedelta(hours=2))
    settle_at(desk, 7, started=edge - timedelta(minutes=5), booked=edge - timedelta(minutes=4), model="house/b")
    settle_at(desk, 500, started=edge - timedelta(minutes=5), booked=edge + hour / 12, model="house/late")
    settle_at(desk, 11, started=edge + hour, booked=edge + hour, model="house/a")
    credit_at(desk, 2 * USD, edge + 2 * hour)
    return desk


def test_a_statement_adds_up_to_the_chain_of_the_ledger(two_months: Desk) -> None:
    months = statements.months_of(two_months.account, now=NOW)
    assert months == [THERE.date(), BEFORE_THERE.date()]
    made = [statements.statement(account=two_months.account, month=month, now=NOW) for month in reversed(months)]
    assert made[0].opening == 0
    assert made[0].closing == made[1].opening
    assert made[1].closing == two_months.balance
    for one in made:
        entries = chain_of(two_months, one.period.starts_at, one.period.ends_at)
        spent = sum(entry.amount for entry in entries if entry.kind in statements.USAGE_KINDS)
        assert one.closing - one.opening == signed(two_months, entries)
        assert one.used == spent
        assert sum(movement.amount for movement in one.movements) == signed(two_months, entries) + spent
        assert one.opening + sum(movement.amount for movement in one.movements) - one.used == one.closing
        assert sum(line.cost for line in one.usage) + one.carried == one.used
    assert [(one.used, one.carried) for one in made] == [(19, -500), (511, 500)]
    assert [(movement.kind, movement.amount) for movement in made[0].movements] == [
        ("paid", 20 * USD),
        ("promo", 5 * USD),
        ("clawback", -USD),
    ]


def test_entries_that_were_booked_out_of_order_at_the_edge_are_in_one_month_each(open_desk: OpenDesk) -> None:
    desk = open_desk()
    credit_at(desk, USD, LAST_MONTH)
    for cost, seconds in ((1, -3), (20, 2), (300, -1), (4000, 1), (50_000, 9)):
        moment = MONTH + timedelta(seconds=seconds)
        settle_at(desk, cost, started=moment, booked=moment)
    earlier, later = (statements.statement(account=desk.account, month=month.date(), now=NOW) for month in (LAST_MONTH, MONTH))
    assert (earlier.opening, earlier.closing, later.closing) == (0, later.opening, desk.balance)
    assert earlier.used + later.used == 54_321


def test_usage_is_itemised_by_model_and_key(two_months: Desk) -> None:
    made = statements.statement(account=two_months.account, month=BEFORE_THERE.date(), now=NOW)
    lines = {line.model: (line.key, line.requests, line.input_tokens, line.cost) for line in made.usage}
    assert lines == {"house/a": ("key", 4, 40, 12), "house/b": ("key", 1, 0, 7), "house/late": ("key", 1, 0, 500)}


def test_write_offs_are_not_the_accounts(open_desk: OpenDesk) -> None:
    desk = open_desk(usd=1)
    desk.settle(desk.record(desk.hold(USD), 50 * USD))
    made = statements.statement(account=desk.account, month=MONTH.date(), now=NOW)
    assert (made.used, made.closing, [movement.kind for movement in made.movements]) == (USD, 0, ["paid"])


def test_a_month_without_a_statement(open_desk: OpenDesk) -> None:
    desk = open_desk()
    assert statements.months_of(desk.account, now=NOW) == []
    desk.credit(1)
    for month in (LAST_MONTH.date(), MONTH.date() + timedelta(days=32), date(1999, 1, 1)):
        with pytest.raises(statements.NoSuchMonth):
            statements.statement(account=desk.account, month=month, now=NOW)


# -- Pages and files ---------------------------------------------------------------------------------------------------------------------


def browser(desk: Desk, role: str | None = "owner") -> Client:
    """Somebody's browser, who has `role` in the desk's account (None: is a stranger)."""
    user = User.objects.create_user(f"{uuid.uuid4().hex}@example.com")
    if role is not None:
        Membership.objects.create(account=desk.account, user=user, role=role)
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


def text_of(answer: Any) -> str:
    return (b"".join(answer.streaming_content) if answer.streaming else answer.content).decode()


PAGES = (
    "billing/statements",
    "billing/statements/{month}",
    "billing/ledger.csv",
    "billing/ledger.jsonl",
    "usage.csv",
    "usage.jsonl",
)


@pytest.mark.parametrize("page", PAGES)
def test_a_stranger_finds_no_such_account(two_months: Desk, page: str) -> None:
    address = f"/a/{two_months.slug}/{page.format(month=f'{THERE:%Y-%m}')}"
    assert browser(two_months).get(address).status_code == 200
    assert browser(two_months, None).get(address).status_code == 404
    assert Client().get(address).status_code == 302


def test_the_page_of_a_month_shows_every_figure(two_months: Desk) -> None:
    client = browser(two_months, "viewer")
    assert f"/a/{two_months.slug}/billing/statements/{BEFORE_THERE:%Y-%m}" in text_of(
        client.get(f"/a/{two_months.slug}/billing/statements")
    )
    page = text_of(client.get(f"/a/{two_months.slug}/billing/statements/{BEFORE_THERE:%Y-%m}"))
    made = statements.statement(account=two_months.account, month=BEFORE_THERE.date(), now=NOW)
    for amount in (made.closing, made.used, *(movement.amount for movement in made.movements), *(line.cost for line in made.usage)):
        assert usd(abs(amount)) in page
    for month in ("1999-01", "2026-13", "nonsense", "2026-1"):
        assert client.get(f"/a/{two_months.slug}/billing/statements/{month}").status_code == 404


def test_the_ledger_file_is_the_chain(two_months: Desk) -> None:
    query = {"start": BEFORE_THERE.isoformat(), "end": (NOW + timedelta(days=1)).isoformat()}
    client = browser(two_months, "billing")
    rows = list(csv.DictReader(io.StringIO(text_of(client.get(f"/a/{two_months.slug}/billing/ledger.csv", query)), newline="")))
    entries = chain_of(two_months, BEFORE_THERE, NOW + timedelta(days=1))
    assert [row["id"] for row in rows] == [str(entry.pk) for entry in entries]
    assert rows[0]["amount_usd"] == "20.00"
    assert rows[-1]["balance_after_usd"] == usd(two_months.balance)
    lines = text_of(client.get(f"/a/{two_months.slug}/billing/ledger.jsonl", query)).splitlines()
    assert [json.loads(line)["balance_after_usd"] for line in lines] == [row["balance_after_usd"] for row in rows]
    assert browser(two_months, "viewer").get(f"/a/{two_months.slug}/billing/ledger.csv").status_code == 403


def test_files_are_whole_however_small_the_pieces_they_are_read_in(two_months: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    query = {"start": BEFORE_THERE.isoformat(), "end": (NOW + timedelta(days=1)).isoformat()}
    addresses = [f"/a/{two_months.slug}/{page}" for page in ("billing/ledger.csv", "usage.csv", "usage.jsonl")]
    client = browser(two_months)
    whole = [text_of(client.get(address, query)) for address in addresses]
    for size in (1, 3, 7):
        monkeypatch.setattr(exports, "ROWS_AT_ONCE", size)
        monkeypatch.setattr(request_log, "MOST_ROWS", size)
        assert [text_of(client.get(address, query)) for address in addresses] == whole


def test_the_usage_file_has_every_request_and_no_formula(two_months: Desk) -> None:
    two_months.spend(1, user_tag="=HYPERLINK(1)", started=NOW)
    client, query = browser(two_months, "viewer"), {"start": BEFORE_THERE.isoformat(), "end": (NOW + timedelta(days=1)).isoformat()}
    text = text_of(client.get(f"/a/{two_months.slug}/usage.csv", query))
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert (len(rows), rows[0]["user"]) == (8, "'=HYPERLINK(1)")
    some = list(
        csv.DictReader(io.StringIO(text_of(client.get(f"/a/{two_months.slug}/usage.csv", {**query, "model": "house/b"})), newline=""))
    )
    assert [row["cost_usd"] for row in some] == [usd(7)]
    sums = text_of(client.get(f"/a/{two_months.slug}/usage.jsonl", {**query, "by": "model"})).splitlines()
    assert sum(json.loads(line)["requests"] for line in sums) == 8
    by_key = text_of(client.get(f"/a/{two_months.slug}/usage.csv", {**query, "by": "key"}))
    assert by_key.splitlines()[1].startswith(f"{two_months.key.pk},key,8,")


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"start": "x"}, "start"),
        ({"by": "account"}, "group_by"),
        ({"key": "1"}, "key"),
        ({"key": "x"}, "key"),
        ({"request_id": "x"}, "request_id"),
    ],
)
def test_a_file_of_what_cannot_be_read_is_refused(two_months: Desk, query: dict[str, str], param: str) -> None:
    answer = browser(two_months).get(f"/a/{two_months.slug}/usage.csv", query)
    assert (answer.status_code, answer.content.decode().split(":")[0]) == (400, param)
