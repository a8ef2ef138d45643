"""The read API for key holders: models, usage, credits, the key itself, receipts. Each view asks one question and writes out the answer.

Shapes: `/v1/models` is OpenAI's, Anthropic's or Gemini's, as the client's headers say; `/v1/usage` is HaioAI's; `/v1/credits`, `/v1/key` and
`/v1/generation` are OpenRouter's; each with additions. Where those have amounts as JSON numbers there is an exact decimal string beside them.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from typing import Any, Literal

from django.conf import settings
from django.http import HttpRequest, JsonResponse, QueryDict, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.views.decorators.http import require_safe

from accounts.models import Account
from billing import receipts, reports, streaming
from billing.models import PlanAssignment, UsageRecord
from catalog import listing, money, pricing
from catalog.usage import BUCKETS
from keys.http import KeyedRequest, with_key
from keys.models import ApiKey

MOST_MODELS = 1000
ANTHROPIC_PAGE, GEMINI_PAGE = 20, 50  # where the client does not say
COUNT_COLUMNS = (
    "requests",
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cached_input_tokens",
    "reasoning_tokens",
    "cost_usd",
)
RESET_NAMES = {"day": "daily", "week": "weekly", "month": "monthly", "total": None}


# -- Models ---------------------------------------------------------------------------------------------------------------------------


@require_safe
@with_key()
def models(request: KeyedRequest) -> HttpResponseBase:
    """GET /v1/models: what this key can call, in the caller's own shape."""
    dialect, asked = _dialect(request), request.GET
    offers = reports.models_for(account=request.key.account, grant=request.grant, now=timezone.now())
    if dialect == "anthropic":
        return _anthropic_page([offer for offer in offers if offer.kind == "text"], asked)
    if dialect == "gemini":
        return _gemini_page(offers, asked)
    return JsonResponse(listing.openai_list(offers[: _read_limit(asked.get("limit"))]))


@require_safe
@with_key()
def model(request: KeyedRequest, name: str) -> HttpResponseBase:
    """GET /v1/models/{id}: one of them, by its name or an alias."""
    offer = reports.model_for(name, account=request.key.account, grant=request.grant, now=timezone.now())
    return JsonResponse(_MODEL_RENDERERS[_dialect(request)](offer))


_MODEL_RENDERERS = {"openai": listing.openai_model, "anthropic": listing.anthropic_model, "gemini": listing.gemini_model}


def _dialect(request: HttpRequest) -> Literal["openai", "anthropic", "gemini"]:
    """Whose client asks: the SDKs share addresses and are told apart by their headers."""
    if request.path.startswith("/v1beta/"):
        return "gemini"
    if "HTTP_ANTHROPIC_VERSION" in request.META:
        return "anthropic"
    return "gemini" if "HTTP_X_GOOG_API_KEY" in request.META else "openai"


def _anthropic_page(offers: Sequence[listing.Offer], asked: QueryDict) -> HttpResponseBase:
    limit = _read_limit(asked.get("limit")) or ANTHROPIC_PAGE
    after, before = asked.get("after_id"), asked.get("before_id")
    if after and before:
        raise reports.InvalidParameter("before_id", "Give after_id or before_id, not both.")
    if before:
        rest = offers[: _place_of(before, offers, "before_id")]
        page, has_more = rest[-limit:], len(rest) > limit
    else:
        rest = offers[_place_of(after, offers, "after_id") + 1 :] if after else offers
        page, has_more = rest[:limit], len(rest) > limit
    return JsonResponse(listing.anthropic_list(page, has_more=has_more))


def _gemini_page(offers: Sequence[listing.Offer], asked: QueryDict) -> HttpResponseBase:
    limit = _read_limit(asked.get("pageSize"), "pageSize") or GEMINI_PAGE
    token = asked.get("pageToken")
    rest = offers[_place_of(token, offers, "pageToken") + 1 :] if token else offers
    page = rest[:limit]
    return JsonResponse(listing.gemini_list(page, next_page=page[-1].slug if len(rest) > limit else None))


def _place_of(slug: str, offers: Sequence[listing.Offer], param: str) -> int:
    for index, offer in enumerate(offers):
        if offer.slug == slug:
            return index
    raise reports.InvalidParameter(param, "Is not a model of this list.")


def _read_limit(text: str | None, param: str = "limit") -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 4 and 1 <= int(text) <= MOST_MODELS):
        raise reports.InvalidParameter(param, f"Must be a number from 1 to {MOST_MODELS}.")
    return int(text)


# -- Usage ----------------------------------------------------------------------------------------------------------------------------


@require_safe
@with_key()
def usage(request: KeyedRequest) -> HttpResponseBase:
    """GET /v1/usage: what the account used, by model and as asked, with its limits and its wallet."""
    now = timezone.now()
    account = request.key.account
    asked = request.GET
    period = reports.read_period(asked.get("start"), asked.get("end"), timezone=account.timezone, now=now)
    grouping = reports.read_grouping(asked.get("group_by"))
    key_id = reports.read_key_choice(asked.get("key"), request.key)
    if asked.get("format", "json") not in ("json", "csv"):
        raise reports.InvalidParameter("format", "Must be json or csv.")
    if asked.get("format") == "csv":
        return _usage_csv(request, account, period, grouping, key_id)
    report = reports.usage(account=account, period=period, grouping=grouping, key_id=key_id)
    plan = reports.plan_of(account, now=now)
    answer = {
        "object": "usage",
        "period": {"start": _moment(period.starts_at), "end": _moment(period.ends_at)},
        "totals": _totals(report.totals),
        "plan_limits": _plan_limits(plan),
        "by_model": [{"model": row.names[0], "provider": row.names[1], **_shortened(row.counts)} for row in report.by_model],
        "wallet": _wallet(reports.purse_of(account)),
        "budget": _budget(request.key, now),
        "quota": _quota(account, plan, now),
    }
    if grouping != "model":
        keys = reports.key_names(account) if grouping == "key" else {}
        answer[f"by_{grouping}"] = [{**_group_name(grouping, row.names[0], keys), **_shortened(row.counts)} for row in report.by_group]
    return JsonResponse(answer)


def _totals(counts: reports.Counts) -> dict[str, Any]:
    return {
        "input_tokens": counts.input_tokens,
        "output_tokens": counts.output_tokens,
        "total_tokens": counts.total_tokens,
        "cached_input_tokens": counts.cached_input_tokens,
        "reasoning_tokens": counts.reasoning_tokens,
        "requests": counts.requests,
        "cost": money.usd(counts.cost),
    }


def _shortened(counts: reports.Counts) -> dict[str, Any]:
    return {
        "inp": counts.input_tokens,
        "out": counts.output_tokens,
        "total": counts.total_tokens,
        "cached_input_tokens": counts.cached_input_tokens,
        "reasoning_tokens": counts.reasoning_tokens,
        "requests": counts.requests,
        "cost": money.usd(counts.cost),
    }


def _group_name(grouping: str, name: Any, keys: dict[int, tuple[str, str]]) -> dict[str, Any]:
    if grouping == "key":
        recognised, called = keys.get(name, ("", ""))
        return {"key_id": name, "key": recognised, "name": called}
    return {grouping: _cell(name)}


def _plan_limits(assignment: PlanAssignment | None) -> dict[str, Any]:
    plan = assignment.plan if assignment is not None else None
    return {
        "monthly_input_tokens": plan.monthly_input_tokens if plan else None,
        "monthly_output_tokens": plan.monthly_output_tokens if plan else None,
        "allowed_models": (plan.allowed_models if plan else None) or ["*"],
    }


def _wallet(purse: reports.Purse) -> dict[str, str]:
    return {
        "balance": money.usd(purse.balance),
        "held": money.usd(purse.held),
        "free": money.usd(purse.free),
        "currency": purse.currency,
    }


def _budget(key: ApiKey, now: datetime) -> dict[str, Any] | None:
    if key.budget_nano is None:
        return None
    use = reports.budget_use(key, now=now)
    return {
        "limit": money.usd(key.budget_nano),
        "spent": money.usd(use.spent),
        "held": money.usd(use.held),
        "remaining": money.usd(max(0, key.budget_nano - use.spent)),
        "window": key.budget_window,
        "resets_at": _moment(use.resets_at),
    }


def _quota(account: Account, assignment: PlanAssignment | None, now: datetime) -> dict[str, Any] | None:
    if assignment is None or (assignment.plan.monthly_input_tokens is None and assignment.plan.monthly_output_tokens is None):
        return None
    use = reports.quota_use(account, anchor_day=assignment.anchor_day, now=now)
    return {
        "used_input": use.input_tokens,
        "used_output": use.output_tokens,
        "starts_at": _moment(use.starts_at),
        "resets_at": _moment(use.resets_at),
    }


def _usage_csv(request: HttpRequest, account: Account, period: reports.Period, grouping: str, key_id: int | None) -> StreamingHttpResponse:
    keys = reports.key_names(account) if grouping == "key" else {}
    names: tuple[str, ...] = reports.GROUPINGS[grouping][1]
    if grouping == "key":
        names = ("key_id", "key", "name")

    def rows() -> Iterator[list[Any]]:
        for row in reports.usage_rows(account=account, period=period, grouping=grouping, key_id=key_id):
            cells = [row.names[0], *keys.get(row.names[0], ("", ""))] if grouping == "key" else [_cell(name) for name in row.names]
            counts = row.counts
            yield [
                *cells,
                counts.requests,
                counts.input_tokens,
                counts.output_tokens,
                counts.total_tokens,
                counts.cached_input_tokens,
                counts.reasoning_tokens,
                money.usd(counts.cost),
            ]

    name = f"usage-{period.starts_at:%Y-%m-%d}-{period.ends_at:%Y-%m-%d}-by-{grouping}"
    return streaming.download(request, header=(*names, *COUNT_COLUMNS), rows=rows(), name=name)


# -- Money and the key ------------------------------------------------------------------------------------------------------------------


@require_safe
@with_key()
def credit(request: KeyedRequest) -> HttpResponseBase:
    """GET /v1/credits: what the account was credited and what it used; the difference is its balance."""
    found = reports.credits_of(request.key.account)
    return JsonResponse(
        {
            "data": {
                "total_credits": _number(found.total_credits),
                "total_usage": _number(found.total_usage),
                **_wallet(found.purse),
                "credited": money.usd(found.total_credits),
                "used": money.usd(found.total_usage),
                "grants": [
                    {
                        "kind": grant.kind,
                        "amount": money.usd(grant.amount),
                        "remaining": money.usd(grant.remaining),
                        "next_expires_at": _moment(grant.next_expires_at),
                    }
                    for grant in found.grants
                ],
            }
        }
    )


@require_safe
@with_key()
def key(request: KeyedRequest) -> HttpResponseBase:
    """GET /v1/key: what this key may do and what it has spent."""
    now = timezone.now()
    row = request.key
    spending = reports.key_spending(row, now=now)
    budget = _budget(row, now)
    is_management = row.kind == ApiKey.Kind.MANAGEMENT
    return JsonResponse(
        {
            "data": {
                "label": _recognised(row),
                "limit": _number(row.budget_nano) if row.budget_nano is not None else None,
                "limit_remaining": float(budget["remaining"]) if budget is not None else None,
                "limit_reset": RESET_NAMES[row.budget_window] if budget is not None else None,
                "include_byok_in_limit": False,
                "usage": _number(spending.in_all),
                "usage_daily": _number(spending.this_day),
                "usage_weekly": _number(spending.this_week),
                "usage_monthly": _number(spending.this_month),
                "byok_usage": 0,
                "byok_usage_daily": 0,
                "byok_usage_weekly": 0,
                "byok_usage_monthly": 0,
                "is_free_tier": not reports.has_paid(row.account),
                "is_management_key": is_management,
                "is_provisioning_key": is_management,
                "creator_user_id": None,
                "expires_at": _moment(row.expires_at),
                "rate_limit": _rate_limit(row, reports.plan_of(row.account, now=now)),
                "id": row.pk,
                "name": row.name,
                "account": row.account.slug,
                "kind": row.kind,
                "start": row.start,
                "last_four": row.last_four,
                "allowed_models": row.allowed_models or ["*"],
                "allowed_endpoints": row.allowed_endpoints or ["*"],
                "allowed_ips": row.allowed_ips,
                "budget": budget,
                "created_at": _moment(row.created_at),
                "last_used_at": _moment(row.last_used_at),
            }
        }
    )


def _rate_limit(key: ApiKey, assignment: PlanAssignment | None) -> dict[str, Any]:
    """The limits that requests of this key meet: its own and the plan's, whichever is lower. -1 is no limit."""
    plan = assignment.plan if assignment is not None else None

    def lower(name: str) -> int | None:
        limits = [limit for owner in (key, plan) if owner is not None and (limit := getattr(owner, name)) is not None]
        return min(limits, default=None)

    requests, tokens, concurrency = lower("rpm"), lower("tpm"), lower("concurrency")
    if requests is None:
        requests = settings.DEFAULT_RPM or None
    return {
        "requests": -1 if requests is None else requests,
        "interval": "1m",
        "tokens": -1 if tokens is None else tokens,
        "concurrency": -1 if concurrency is None else concurrency,
        "note": "Per minute; the plan's limits are shared by all keys of the account.",
    }


# -- Receipts -------------------------------------------------------------------------------------------------------------------------


@require_safe
@with_key()
def generation(request: KeyedRequest) -> HttpResponseBase:
    """GET /v1/generation?id=: the receipt of one request of the account, by the `x-request-id` of its answer."""
    text = request.GET.get("id")
    if not text:
        raise reports.InvalidParameter("id", "Is missing: send the x-request-id of the answer.")
    record = receipts.find(text, account=request.key.account)
    return JsonResponse({"data": {**_generation(record), "receipt": _receipt(record)}})


def _generation(record: UsageRecord) -> dict[str, Any]:
    usage = receipts.usage_of(record)
    first_token = record.first_token_ms
    return {
        "id": str(record.request_id),
        "request_id": str(record.request_id),
        "created_at": _moment(record.started_at),
        "model": record.model,
        "provider_name": record.provider or None,
        "api_type": record.endpoint,
        "streamed": record.streamed,
        "cancelled": record.status == UsageRecord.Status.ABORTED,
        "finish_reason": record.finish_reason or None,
        "native_finish_reason": record.finish_reason or None,
        "tokens_prompt": usage.total_input_tokens,
        "tokens_completion": usage.total_output_tokens,
        "native_tokens_prompt": usage.total_input_tokens,
        "native_tokens_completion": usage.total_output_tokens,
        "native_tokens_reasoning": usage.reasoning_tokens,
        "native_tokens_cached": usage.cached_input_tokens,
        "native_tokens_completion_images": usage.images,
        "total_cost": _number(record.cost),
        "usage": _number(record.cost),
        "upstream_inference_cost": None,  # as with OpenRouter: only where a customer brings a provider key
        "is_byok": False,
        "latency": first_token if first_token is not None else record.latency_ms,
        "generation_time": None if record.latency_ms is None else record.latency_ms - (first_token or 0),
        "external_user": record.user_tag or None,
    }


def _receipt(record: UsageRecord) -> dict[str, Any]:
    receipt = receipts.explain(record)
    price = receipt.price
    return {
        "currency": "usd",
        "price_version": {"id": price.id, "effective_from": _moment(price.effective_from)} if price is not None else None,
        "is_long_prompt": receipt.is_long_prompt,
        "lines": [_line(line) for line in receipt.lines],
        "subtotal": money.exact(receipt.subtotal, places=15),
        "markup": {"ppm": price.markup_ppm, "percent": money.exact(price.markup_ppm, places=4, least=0)} if price is not None else None,
        "total": money.exact(receipt.total, places=21),
        "adjustment": money.usd(receipt.adjustment),
        "list_cost": money.usd(receipt.list_cost),
        "written_off": money.usd(receipt.written_off),
        "not_charged": money.usd(receipt.not_charged),
        "charged": money.usd(receipt.charged),
        "hold": money.usd(record.hold_amount),
        "cache_discount": money.exact(receipts.cache_discount(receipt), places=21),
        "rule": {"name": record.rule, "explanation": receipts.RULES.get(record.rule, "")},
        "usage_source": record.usage_source,
        "tokens": {bucket: getattr(record, bucket) for bucket in BUCKETS},
        "status": record.status,
        "status_code": record.status_code,
        "error_code": record.error_code or None,
        "flags": record.flags,
        "attempts": [
            {"provider": tried.get("provider"), "result": tried.get("result"), "ms": tried.get("ms")} for tried in record.attempts
        ],
        "key": {"id": record.key.pk, "name": record.key.name, "label": _recognised(record.key)},
        "timings": {
            "started_at": _moment(record.started_at),
            "ended_at": _moment(record.ended_at),
            "first_token_ms": record.first_token_ms,
            "latency_ms": record.latency_ms,
        },
    }


def _line(line: pricing.Line) -> dict[str, Any]:
    return {
        "bucket": line.bucket,
        "quantity": line.quantity,
        "rate_per_million": money.usd(line.rate),
        "amount": money.exact(line.amount, places=15),
    }


# -- Words ------------------------------------------------------------------------------------------------------------------------------


def _recognised(key: ApiKey) -> str:
    return f"{key.start}…{key.last_four}"


def _number(nano: int) -> float:
    """Dollars as a JSON number, as OpenRouter has them; the nearest one to the exact amount."""
    return nano / money.NANO_PER_USD


def _cell(name: Any) -> Any:
    """A group's name as text: moments in UTC, days as they are."""
    if isinstance(name, datetime):
        return _moment(name)
    return name.isoformat() if isinstance(name, date) else name


def _moment(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z") if moment is not None else None
