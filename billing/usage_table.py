"""What the page of usage shows of one question: a table by time, model, key, provider or end user, and the series its chart is drawn from.

A table has few rows whatever an account uses: the dearest, and the totals of everything. Who the end users were is not in the slots, which
would be as many as the requests if it were: that is read from the requests themselves, only of a short period, and for a page after the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime, timedelta
from typing import Any

from accounts.models import Account
from billing import periods, reports, usage_reports
from billing.reports import ID_MARGIN, InvalidParameter, Period
from billing.usage_reports import Filters, Slice, Step, Sums
from gateway_site.identifiers import lowest_uuid7
from keys.models import ApiKey

BY: Mapping[str, str] = {"model": "Model", "key": "Key", "provider": "Provider", "user": "End user", "time": "Time"}
IN_CHART = 5  # groups with a colour of their own; the rest is one more
LONGEST_BY_USER = timedelta(days=32)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: usage of an account in a period, in steps (of `periods.STEPS`), by one of BY, narrowed by filters."""

    account: Account
    period: Period
    step: str
    by: str = "model"
    filters: Filters = usage_reports.EVERYTHING


@dataclass(frozen=True, slots=True)
class Answer:
    """The totals; every step of the period in order, empty ones too; the groups, the dearest first; the steps of the first few of them; and
    what the filters can be set to.
    """

    totals: Sums
    steps: list[Step]
    groups: list[Slice]
    parts: dict[Any, dict[datetime, Sums]]
    choices: Mapping[str, Sequence[Any]]


def answer(question: Question, *, with_end_users: bool = True) -> Answer:
    """Look up what is asked; without its groups if these are end users and `with_end_users` is not set.

    Raises: InvalidParameter for a period that is too long to be shown by end user.
    """
    account, period, filters = question.account, question.period, question.filters
    _check_length(question)
    found = usage_reports.breakdown(
        account=account,
        period=period,
        step=question.step,
        dimension=question.by if question.by in usage_reports.DIMENSIONS else "",
        filters=filters,
        parts=IN_CHART,
    )
    known = {each.starts_at: each.sums for each in found.steps}
    steps = [Step(moment, known.get(moment, Sums())) for moment in periods.steps_of(period, question.step, timezone=account.timezone)]
    groups = found.groups
    if question.by == "user" and with_end_users:
        groups = end_users(account=account, period=period, filters=filters)
    return Answer(
        add(each.sums for each in steps),
        steps,
        groups,
        {each.name: found.parts[each.name] for each in groups if each.name in found.parts},
        found.choices,
    )


def answer_end_users(question: Question) -> Answer:
    """The end users, and the totals that their shares are of; nothing else. Raises: InvalidParameter, as `answer`."""
    _check_length(question)
    asked: dict[str, Any] = {"account": question.account, "period": question.period, "filters": question.filters}
    totals = add(each.sums for each in usage_reports.series(**asked, step=question.step))
    return Answer(totals, [], end_users(**asked), {}, {})


def _check_length(question: Question) -> None:
    if question.by == "user" and question.period.ends_at - question.period.starts_at > LONGEST_BY_USER:
        raise InvalidParameter("by", "End users are shown for at most 31 days: choose a shorter period.")


def end_users(*, account: Account, period: Period, filters: Filters, limit: int = usage_reports.MOST_ROWS) -> list[Slice]:
    """The end users (`user` of the requests) that cost most, the dearest first. Read from records: ask for few days."""
    narrowed = "".join(
        f" AND u.{column} = ANY(%({column})s)"
        for column, chosen in (("model", filters.models), ("key_id", filters.keys), ("provider", filters.providers))
        if chosen
    )
    with reports.summing() as cursor:
        cursor.execute(
            f"""SELECT u.user_tag, COUNT(*), COUNT(*) FILTER (WHERE u.status IN ('error', 'cut', 'swept')), SUM({reports.TOKENS_IN}),
                SUM({reports.TOKENS_OUT}), SUM(u.cached_input_tokens), SUM(u.reasoning_tokens), SUM(u.images), SUM(u.cost),
                COALESCE(SUM(u.latency_ms), 0), COUNT(u.latency_ms), COALESCE(SUM(u.first_token_ms), 0), COUNT(u.first_token_ms),
                SUM(u.cache_write_tokens + u.cache_write_1h_tokens), SUM(u.audio_input_tokens), SUM(u.audio_output_tokens), SUM(u.web_searches)
            FROM billing_usagerecord u
            WHERE u.account_id = %(account)s AND u.user_tag <> '' AND u.started_at >= %(starts_at)s AND u.started_at < %(ends_at)s
                AND u.request_id >= %(first_id)s AND u.request_id < %(last_id)s{narrowed}
            GROUP BY 1 ORDER BY SUM(u.cost) DESC, COUNT(*) DESC, 1 LIMIT %(limit)s""",  # noqa: S608 - constants
            {
                "account": account.pk,
                "starts_at": period.starts_at,
                "ends_at": period.ends_at,
                "first_id": lowest_uuid7(period.starts_at - ID_MARGIN),
                "last_id": lowest_uuid7(period.ends_at + ID_MARGIN),
                "model": list(filters.models),
                "key_id": list(filters.keys),
                "provider": list(filters.providers),
                "limit": limit,
            },
        )
        return [Slice(name, Sums(*map(int, counts))) for name, *counts in cursor.fetchall()]


def names_of(by: str, groups: Sequence[Slice], *, account: Account) -> dict[Any, str]:
    """What people call the groups: a key by its name and how it is recognised, everything else by itself."""
    if by != "key":
        return {group.name: str(group.name) or "none answered" for group in groups}
    keys = ApiKey.objects.filter(account=account, pk__in=[group.name for group in groups])
    known = {pk: f"{name} ({start}…{last})" for pk, name, start, last in keys.values_list("pk", "name", "start", "last_four")}
    return {group.name: known.get(group.name, str(group.name)) for group in groups}


def add(every: Any) -> Sums:
    """The sum of some sums."""
    rows = [astuple(sums) for sums in every]
    return Sums(*map(sum, zip(*rows, strict=True))) if rows else Sums()
