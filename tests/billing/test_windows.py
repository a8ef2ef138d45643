"""Facts about what quotas and budgets count when the calendar, the account's time zone or its plan changes under them."""

from datetime import timedelta
from typing import Any

import pytest

from billing import reconciliation
from billing.models import PlanAssignment
from tests.billing.desk import MONTH, NEXT_MONTH, NOW, Desk, OpenDesk


@pytest.fixture
def desk(open_desk: OpenDesk) -> Desk:
    return open_desk(usd=10)


def use(desk: Desk, tokens: int, **fields: Any) -> None:
    """Use input tokens, held and settled."""
    request = desk.hold(1, tokens_in=tokens, **fields)
    desk.settle(desk.record(request, 1, input_tokens=tokens))


def test_another_plan_in_mid_month_counts_what_was_used_before(desk: Desk) -> None:
    """An upgrade does not give the month's tokens anew, and a downgrade does not take back what was used: it only admits no more."""
    desk.make_plan(input_tokens=100, output_tokens=None)
    use(desk, 90)
    PlanAssignment.objects.filter(account=desk.account).update(starts_at=MONTH - timedelta(seconds=1))
    desk.make_plan(input_tokens=200, output_tokens=None)
    (answer,) = desk.place(desk.request(1, tokens_in=111))
    assert (answer.outcome, answer.available) == ("quota_spent", 110)
    use(desk, 110)
    PlanAssignment.objects.filter(account=desk.account, starts_at=MONTH).update(starts_at=MONTH - timedelta(microseconds=1))
    desk.make_plan(input_tokens=50, output_tokens=None)
    assert desk.place(desk.request(1, tokens_in=1))[0].outcome == "quota_spent"
    assert not reconciliation.audit(now=NOW, accounts=[desk.account.pk])


@pytest.mark.parametrize("hours", [-14, -5, 1, 12])
def test_another_time_zone_moves_the_window_and_counts_what_began_in_it(desk: Desk, hours: int) -> None:
    """Neither is what was used forgotten, nor is anything counted that began before the window (langwatch#6255)."""
    desk.make_plan(input_tokens=100, output_tokens=None)
    use(desk, 30, started=MONTH + timedelta(hours=20))
    starts, ends = MONTH + timedelta(hours=hours), NEXT_MONTH + timedelta(hours=hours)
    moved: dict[str, Any] = {"quota_start": starts, "quota_end": ends, "started": MONTH + timedelta(hours=21)}
    (answer,) = desk.place(desk.request(1, tokens_in=71, **moved))
    assert (answer.outcome, answer.available, answer.resets_at) == ("quota_spent", 70, ends)
    assert desk.place(desk.request(1, tokens_in=70, **moved))[0].outcome == "placed"


def test_another_anchor_counts_only_what_began_since_that_day(desk: Desk) -> None:
    desk.make_plan(input_tokens=100, output_tokens=None)
    use(desk, 90, started=MONTH + timedelta(hours=1))
    anchored: dict[str, Any] = {"quota_start": MONTH + timedelta(days=1), "quota_end": NEXT_MONTH + timedelta(days=1)}
    assert desk.place(desk.request(1, tokens_in=100, started=MONTH + timedelta(days=1), **anchored))[0].outcome == "placed"


def test_the_month_that_ends_counts_nothing_of_the_next(desk: Desk) -> None:
    """A request on the last moment is the old month's, one on the first the new one's, without anything having to be reset."""
    desk.make_plan(input_tokens=100, output_tokens=None)
    use(desk, 100, started=MONTH + timedelta(hours=1))
    assert desk.place(desk.request(1, tokens_in=1, started=NEXT_MONTH - timedelta(microseconds=1)))[0].outcome == "quota_spent"
    after: dict[str, Any] = {"quota_start": NEXT_MONTH, "quota_end": NEXT_MONTH + timedelta(days=31)}
    assert desk.place(desk.request(1, tokens_in=100, started=NEXT_MONTH, **after))[0].outcome == "placed"
