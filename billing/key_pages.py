"""The list of an account's keys with what each spends, and the page of one. Where keys are made and changed is `keys.pages`."""

from dataclasses import dataclass
from urllib.parse import urlencode

from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.http import require_safe

from accounts.models import Account, Membership
from accounts.pages import account_page, render_page
from accounts.permissions import Permission
from billing import key_spending
from billing.key_spending import Spending
from billing.reports import InvalidParameter, WindowUse
from catalog import money
from keys import custody, issuing
from keys.forms import KINDS, RerollForm
from keys.models import ApiKey

_WINDOWS = {"day": "today", "week": "this week", "month": "this month", "total": "in all"}


@dataclass(frozen=True, slots=True)
class Row:
    """A key as the list shows it."""

    key: ApiKey
    state: str
    spent: int
    told: str
    limits: list[str]


@require_safe
@account_page(Permission.READ)
def keys(request: HttpRequest, account: Account, membership: Membership) -> HttpResponse:
    """GET /a/<slug>/keys: the account's keys, the newest first."""
    now, asked = timezone.now(), request.GET
    text, ended = asked.get("q", "").replace("\x00", "").strip()[:100], asked.get("show") == "all"
    try:
        page = key_spending.page(account=account, now=now, text=text, ended=ended, before=asked.get("before", ""))
    except InvalidParameter:
        raise Http404 from None
    kept = {"q": text, "show": "all" if ended else ""}
    context = {
        "rows": [Row(each.key, each.key.state(now), each.spent, tell(each), limits_of(each.key)) for each in page.rows],
        "q": text,
        "show_all": ended,
        "may_manage": membership.may(Permission.MANAGE_KEYS),
        "older_url": f"?{urlencode({**kept, 'before': page.older})}" if page.older else "",
        "newer_url": f"?{urlencode(kept)}" if asked.get("before") else "",
    }
    return render_page(request, "keys/list.html", context)


@require_safe
@account_page(Permission.READ)
def key_page(request: HttpRequest, account: Account, membership: Membership, key_id: int) -> HttpResponse:
    """GET /a/<slug>/keys/<id>: what one key may do, what it spent, and what can be done with it."""
    now = timezone.now()
    try:
        key = custody.find(key_id, account=account)
    except issuing.KeyNotFound:
        raise Http404 from None
    spending = key_spending.spending_of([key], now=now)[0]
    window = spending.window
    context = {
        "account": account,
        "key": key,
        "state": key.state(now),
        "kind": dict(KINDS)[key.kind],
        "use": WindowUse(spending.spent, spending.held, 0, 0, window.starts_at, None if window.kind == "total" else window.ends_at),
        "told": tell(spending),
        "limits": limits_of(key),
        "replaced_by": ApiKey.objects.filter(replaces=key).order_by("-pk").first(),
        "reroll_form": RerollForm(),
        "may_manage": membership.may(Permission.MANAGE_KEYS),
    }
    return render_page(request, "keys/key.html", context)


def tell(spending: Spending) -> str:
    """What was spent, of what, and since when, in words."""
    spent, budget = money.usd_display(spending.spent), spending.key.budget_nano
    of = "" if budget is None else f" of {money.usd_display(budget)}"
    return f"{spent}{of} {_WINDOWS[spending.key.budget_window]}"


def limits_of(key: ApiKey) -> list[str]:
    """A key's limits and scopes in few words."""
    limits = [
        f"{limit:,} {what}"
        for limit, what in ((key.rpm, "requests a minute"), (key.tpm, "tokens a minute"), (key.concurrency, "at once"))
        if limit is not None
    ]
    scopes = ((key.allowed_models, "model"), (key.allowed_endpoints, "endpoint"), (key.allowed_ips, "network"))
    return limits + [f"{len(allowed)} {what}{'s' if len(allowed) > 1 else ''}" for allowed, what in scopes if allowed]
