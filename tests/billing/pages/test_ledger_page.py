"""Facts about the page of the ledger: it shows every entry once, in words, by kind and by the account's days."""

import re
from datetime import datetime
from typing import Any

import pytest
from django.utils import timezone

from billing.models import Transfer
from billing.pages import entries
from tests.billing.desk import Desk
from tests.billing.pages.conftest import Purse
from tests.conftest import make_customer


def shown(content: str) -> list[int]:
    """The versions of the entries on a page."""
    return [int(version) for version in re.findall(r'<td class="muted">(\d+)</td>', content)]


def test_pages_follow_the_chain_and_show_each_entry_once(purse: Purse) -> None:
    for _ in range(7):
        purse.give("1")
    seen: list[Any] = []
    before = ""
    for _ in range(3):
        page = entries.page(account=purse.account, before=before, rows=3)
        seen += [entry.transfer.wallet_version for entry in page.entries]
        purse.give("1")  # what is booked meanwhile does not shift the pages
        before = page.older
    assert seen == [7, 6, 5, 4, 3, 2, 1]
    assert before == ""


def test_the_kind_narrows_and_the_links_keep_it(purse: Purse) -> None:
    for _ in range(52):
        purse.give("1")
    purse.take("1", kind="refund")
    purse.take("1", kind="strange")
    client, address = purse.browser("viewer"), f"{purse.base}/billing/ledger"
    first = client.get(address, {"kind": "given"}).content.decode()
    assert shown(first) == list(range(52, 2, -1))
    older = re.search(r'rel="next" href="\?([^"]+)"', first)
    assert older is not None
    assert shown(client.get(f"{address}?{older[1].replace('&amp;', '&')}").content.decode()) == [2, 1]
    assert shown(client.get(address, {"kind": "reversed"}).content.decode()) == [53]
    assert shown(client.get(address, {"kind": "other"}).content.decode()) == [54]
    assert shown(client.get(address, {"kind": "usage"}).content.decode()) == []


def test_every_kind_that_has_a_name_is_under_one_choice_at_most() -> None:
    kinds = [kind for _, named in entries.CHOICES.values() for kind in named]
    assert len(kinds) == len(set(kinds))


def test_days_are_those_of_the_accounts_clock(purse: Purse) -> None:
    purse.account.timezone = "Pacific/Auckland"  # thirteen hours ahead in January
    purse.account.save(update_fields=["timezone"])
    for moment in ("2026-01-09T10:59", "2026-01-09T11:00", "2026-01-10T10:59", "2026-01-10T11:00"):
        purse.give("1", now=datetime.fromisoformat(f"{moment}+00:00"))
    client, address = purse.browser("owner"), f"{purse.base}/billing/ledger"
    one_day = client.get(address, {"from": "2026-01-10", "to": "2026-01-10"}).content.decode()
    assert shown(one_day) == [3, 2]
    assert "start=2026-01-09T11%3A00%3A00%2B00%3A00&amp;end=2026-01-10T11" in one_day
    assert shown(client.get(address, {"from": "2026-01-11"}).content.decode()) == [4]
    assert shown(client.get(address, {"to": "2026-01-09"}).content.decode()) == [1]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"from": "soon"}, 400),
        ({"to": "9999-12-31"}, 400),
        ({"from": "2026-01-02", "to": "2026-01-01"}, 400),
        ({"kind": "nothing"}, 404),
        ({"before": "x"}, 404),
        ({"before": "9" * 30}, 404),
        ({"before": "5"}, 200),
    ],
)
def test_what_cannot_be_shown_is_refused(purse: Purse, query: dict[str, str], status: int) -> None:
    assert purse.browser("owner").get(f"{purse.base}/billing/ledger", query).status_code == status


def test_usage_says_how_many_requests_it_settles_and_gifts_say_why(desk: Desk) -> None:
    desk.spend(1_000_000, key=make_key(desk), started=timezone.now())
    (used, given) = entries.page(account=desk.account, rows=2).entries[:2]
    assert (used.label, used.about, used.amount) == ("Usage", "1 request to demo/echo", -1_000_000)
    assert given.amount > 0
    assert Transfer.objects.filter(pk=used.transfer.pk).exists()


def make_key(desk: Desk) -> Any:
    from keys import issuing

    return issuing.issue(account=desk.account, name="k", now=timezone.now())[0]


def test_an_account_without_entries_has_an_empty_ledger() -> None:
    assert entries.page(account=make_customer(usd="0").account) == entries.Page([], "")
