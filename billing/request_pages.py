"""The log of an account's requests and the receipt of each: what it used, what it cost and why, who was tried, and how it ended."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.http import require_safe

from accounts.models import Account, Membership
from accounts.pages import account_page, render_page
from accounts.permissions import Permission
from billing import content_pages, periods, receipts, request_log, stored_content
from billing.models import Hold, Transfer
from billing.periods import Chosen
from billing.receipts import Receipt
from billing.reports import InvalidParameter
from billing.request_log import Search
from billing.usage_pages import read_key
from catalog import money, pricing
from catalog.models import Model
from keys.models import ApiKey

MOST_KEYS = 300  # in the choice of keys; further ones are reached from their own pages
STATUSES = (
    ("ok", "OK"),
    ("error", "Failed"),
    ("cut", "Cut short by the provider"),
    ("aborted", "Aborted by the client"),
    ("stopped", "Stopped: money or budget spent"),
    ("swept", "The serving process died"),
)
_NUMBER, _RATE = 15, 9  # a line's amount is in 10^-15 dollars, a rate in 10^-9 for a million units


@dataclass(frozen=True, slots=True)
class Asked:
    """What the address asks for; `chosen` is None for any time."""

    search: Search
    chosen: Chosen | None
    address: dict[str, str]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a receipt in words: what, how much of it, at which rate, which comes to what."""

    name: str
    quantity: int
    rate: str
    amount: str


@require_safe
@account_page(Permission.READ)
def requests(request: HttpRequest, account: Account, membership: Membership) -> HttpResponse:  # noqa: ARG001 - the decorator's signature
    """GET /a/<slug>/requests: the log, newest first, narrowed as asked."""
    now, problem, after = timezone.now(), "", request.GET.get("after") or None
    try:
        asked = read(request.GET, account, now=now)
        page = request_log.page(account=account, search=asked.search, after=after)
    except InvalidParameter as error:
        if error.param == "after":
            raise Http404 from None
        problem, asked, page = error.message, Asked(request_log.EVERYTHING, None, {}), request_log.Page([], None)
    keys = list(ApiKey.objects.filter(account=account).order_by("name", "pk")[:MOST_KEYS])
    search = asked.search
    if search.key_id is not None and all(key.pk != search.key_id for key in keys):
        keys += ApiKey.objects.filter(account=account, pk=search.key_id)
    context = {
        "account": account,
        "content_days": stored_content.days_of(account),
        "problem": problem,
        "asked": asked,
        "search": search,
        "records": page.records,
        "presets": periods.PRESETS.items(),
        "statuses": STATUSES,
        "keys": keys,
        "newer_url": f"?{urlencode(asked.address)}" if after else "",
        "older_url": f"?{urlencode({**asked.address, 'after': page.next})}" if page.next else "",
        "file_address": urlencode(_file_address(asked)),
    }
    return render_page(request, "requests/log.html", context, status=400 if problem else None)


@require_safe
@account_page(Permission.READ)
def receipt(request: HttpRequest, account: Account, membership: Membership, request_id: str) -> HttpResponse:
    """GET /a/<slug>/requests/<id>: its receipt; while the request is under way, that it is."""
    try:
        record = receipts.find(request_id, account=account)
    except receipts.RequestNotFound:
        return _under_way(request, account, request_id)
    explained = receipts.explain(record)
    kind = Model.objects.filter(slug=record.model).values_list("kind", flat=True).first()
    usage, entry = receipts.usage_of(record), Transfer.objects.filter(pk=record.transfer_id).first() if record.transfer_id else None
    context = {
        "account": account,
        "record": record,
        "content": content_pages.tell(request, membership, record),
        "receipt": explained,
        "kind": kind,
        "is_video": kind == Model.Kind.VIDEO,
        "lines": lines(explained, kind=kind),
        "markup": None if explained.price is None else f"{explained.price.markup_ppm / 10_000:g} %",
        "subtotal": money.exact(explained.subtotal, places=_NUMBER),
        "total": money.exact(explained.total, places=_NUMBER + 6),
        "cache_discount": _whole(receipts.cache_discount(explained)),
        "computed": _computed(explained),
        "input_tokens": usage.total_input_tokens,
        "output_tokens": usage.total_output_tokens,
        "rule": receipts.RULES.get(record.rule, record.rule),
        "ending": dict(STATUSES).get(record.status, record.status),
        "source": SOURCES.get(record.usage_source, record.usage_source),
        "flags": [(flag, receipts.FLAGS.get(flag, "")) for flag in record.flags],
        "attempts": [(attempt, tell_attempt(str(attempt.get("result", "")))) for attempt in record.attempts],
        "entry": entry,
        "before_entry": entry.wallet_version + 1 if entry is not None and entry.wallet_version is not None else "",
    }
    return render_page(request, "requests/receipt.html", context)


SOURCES = {
    "provider": "counted by the provider",
    "estimated": "counted by us: the provider did not say",
    "partial": "counted by us, as far as it was delivered",
    "none": "nothing was used",
}
_ATTEMPTS = {
    "ok": "answered",
    "abandoned": "the client hung up before an answer",
    "cannot_carry": "passed over: its format cannot carry the request",
    "cannot_connect": "no connection",
    "upstream_timeout": "silent for too long",
    "broken_answer": "what came back was no answer",
    "provider_key_refused": "refused our own credential",
    "provider_error": "failed",
}


def tell_attempt(result: str) -> str:
    """How an attempt at a provider ended, in words."""
    if result in _ATTEMPTS:
        return _ATTEMPTS[result]
    what, _, status = result.rpartition("_")
    if status.isdecimal():
        return f"refused the request with status {status}" if what == "refused" else f"failed with status {status}"
    return result.replace("_", " ")


def lines(explained: Receipt, *, kind: str | None) -> list[Line]:
    """The receipt's lines with their rates per million units; of pictures, seconds, searches and requests per one."""
    found = []
    for line in explained.lines:
        single = line.bucket in pricing.PER_ONE
        name = "Seconds of video" if line.bucket == "image" and kind == Model.Kind.VIDEO else BUCKETS[line.bucket]
        rate = money.exact(line.rate, places=_NUMBER if single else _RATE)
        per = ("a second" if kind == Model.Kind.VIDEO and line.bucket == "image" else "each") if single else "a million"
        found.append(Line(name, line.quantity, f"${rate} {per}", f"${money.exact(line.amount, places=_NUMBER)}"))
    return found


BUCKETS = {
    "input": "Input tokens",
    "cached_input": "Input tokens read from the provider's cache",
    "cache_write": "Input tokens written to the cache (5 minutes)",
    "cache_write_1h": "Input tokens written to the cache (1 hour)",
    "audio_input": "Audio input tokens",
    "output": "Output tokens",
    "reasoning": "Reasoning tokens",
    "audio_output": "Audio output tokens",
    "image": "Images",
    "web_search": "Web searches by the provider",
    "request": "The request itself",
}


def read(given: Any, account: Account, *, now: Any) -> Asked:
    """Read the address of the log. Raises: InvalidParameter."""
    any_time = not (given.get("period") or given.get("from") or given.get("to"))
    chosen = None if any_time else periods.choose(given, timezone=account.timezone, now=now, default="30d")
    key_id = read_key(given.get("key", ""), account)
    text = {name: given.get(name, "").strip()[:200] for name in ("model", "provider", "status", "user", "request_id")}
    if text["status"] and text["status"] not in dict(STATUSES):
        raise InvalidParameter("status", f"Must be one of {', '.join(dict(STATUSES))}.")
    if "\x00" in "".join(text.values()):
        raise InvalidParameter("model", "Has a character in it that no name has.")
    search = Search(
        period=chosen.period if chosen else None,
        model=text["model"],
        key_id=key_id,
        provider=text["provider"],
        status=text["status"],
        user_tag=text["user"],
        request_id=text["request_id"],
    )
    request_log.matching(account=account, search=search)  # a request id that cannot be one is refused here
    address = (
        {} if chosen is None else ({"period": chosen.preset} if chosen.preset else {"from": f"{chosen.first}", "to": f"{chosen.last}"})
    )
    address |= {**text, "key": str(key_id or "")}
    return Asked(search, chosen, {name: value for name, value in address.items() if value})


def _under_way(request: HttpRequest, account: Account, request_id: str) -> HttpResponse:
    hold = Hold.objects.filter(pk=request_id, account=account).select_related("key").first() if _is_id(request_id) else None
    if hold is None:
        raise Http404
    return render_page(request, "requests/under_way.html", {"account": account, "hold": hold, "model": hold.about.get("model", "")})


def _is_id(text: str) -> bool:
    return len(text) == 36 and set(text) <= set("0123456789abcdef-")


def _computed(explained: Receipt) -> int:
    """The total rounded up to a nano-USD: what the list cost has to be, but for an adjustment."""
    return explained.list_cost - explained.adjustment


def _whole(amount: int) -> str:
    """An amount of 10^-21 dollars, exactly; nothing for nothing."""
    return money.exact(amount, places=_NUMBER + 6) if amount else ""


def _file_address(asked: Asked) -> dict[str, str]:
    """The same for the file of all requests (`billing.downloads`): without a period, the current month."""
    period = asked.search.period
    bounds = {"start": period.starts_at.isoformat(), "end": period.ends_at.isoformat()} if period else {}
    return {**bounds, **{name: value for name, value in asked.address.items() if name not in ("period", "from", "to")}}
