"""The table of usage as a file: CSV for spreadsheets, JSON for programs. Exact decimal dollars, moments in UTC. Pure, but for the names of keys."""

from collections.abc import Iterator
from typing import Any

from billing import exports, usage_table
from billing.usage_reports import Sums
from billing.usage_table import Answer, Question
from catalog import money

COLUMNS = (
    "requests",
    "errors",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "audio_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "audio_output_tokens",
    "images",
    "web_searches",
    "cost_usd",
    "mean_latency_ms",
    "mean_first_token_ms",
)
_NAMES = {"model": ("model",), "key": ("key_id", "key"), "provider": ("provider",), "user": ("user",), "time": ("starts_at",)}


def table(question: Question, answer: Answer) -> tuple[tuple[str, ...], Iterator[tuple[Any, ...]]]:
    """The header and the rows: every group, or every step with usage."""
    return (*_NAMES[question.by], *COLUMNS), _rows(question, answer)


def document(question: Question, answer: Answer) -> dict[str, Any]:
    """The table with what was asked and its totals."""
    header, rows = table(question, answer)
    filters = question.filters
    return {
        "object": "usage_table",
        "account": question.account.slug,
        "period": {
            "start": exports.moment(question.period.starts_at),
            "end": exports.moment(question.period.ends_at),
            "timezone": question.account.timezone,
            "step": question.step,
        },
        "by": question.by,
        "filters": {"model": list(filters.models), "key": list(filters.keys), "provider": list(filters.providers)},
        "totals": dict(zip(COLUMNS, _counts(answer.totals), strict=True)),
        "rows": [dict(zip(header, row, strict=True)) for row in rows],
    }


def _rows(question: Question, answer: Answer) -> Iterator[tuple[Any, ...]]:
    if question.by == "time":
        for step in answer.steps:
            if step.sums.requests:
                yield (exports.moment(step.starts_at), *_counts(step.sums))
        return
    names = usage_table.names_of(question.by, answer.groups, account=question.account) if question.by == "key" else {}
    for group in answer.groups:
        yield (*([group.name, names[group.name]] if names else [group.name]), *_counts(group.sums))


def _counts(sums: Sums) -> tuple[Any, ...]:
    return (
        sums.requests,
        sums.errors,
        sums.input_tokens,
        sums.cached_input_tokens,
        sums.cache_write_tokens,
        sums.audio_input_tokens,
        sums.output_tokens,
        sums.reasoning_tokens,
        sums.audio_output_tokens,
        sums.images,
        sums.web_searches,
        money.usd(sums.cost),
        sums.mean_latency_ms,
        sums.mean_first_token_ms,
    )
