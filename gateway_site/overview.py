"""The first page of an account: what is left and how long it lasts, what was spent and on what, what happened last, and the first steps."""

from typing import Any

from django.db.models import F
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from accounts.models import Account, Membership
from accounts.pages import account_page, is_part, render_page
from accounts.permissions import Permission
from billing import request_log, usage_charts, usage_reports, usage_table
from billing.models import Hold, Wallet
from billing.usage_table import Question
from gateway_site import first_steps
from keys import custody, issuing, snippets
from keys.models import ApiKey

LATEST = 8
DAYS = (7, 30)
WAITS_SECONDS = 900  # how long a page goes on looking by itself


@require_safe
@account_page(Permission.READ)
def overview(request: HttpRequest, account: Account, membership: Membership) -> HttpResponse:
    """GET /a/<slug>/: the account at a glance."""
    now = timezone.now()
    days = 7 if request.GET.get("days") == "7" else 30
    wallet = Wallet.objects.filter(account=account).first() or Wallet(account=account, balance=0)
    question = Question(account=account, period=usage_reports.latest_days(account=account, now=now, days=days), step="day", by="model")
    answer = usage_table.answer(question)
    context: dict[str, Any] = {
        "account": account,
        "wallet": wallet,
        "holds": Hold.objects.filter(wallet_id=wallet.pk).count() if wallet.held else 0,
        "burn": usage_reports.burn(account=account, now=now),
        "days": days,
        "day_choices": DAYS,
        "totals": answer.totals,
        "cost_chart": usage_charts.draw(question, "cost", answer, chart_id="cost"),
        "request_chart": usage_charts.draw(question, "requests", answer, chart_id="requests"),
        "top": answer.groups[: usage_table.IN_CHART],
        "records": request_log.page(account=account, rows=LATEST).records,
        **_steps(request, membership),
    }
    if context["steps"] is not None and context["steps"].are_done:
        context["steps"] = None  # shown done only to who saw it turn so
    return render_page(request, "overview/overview.html", context)


@require_safe
@account_page(Permission.READ)
def steps(request: HttpRequest, account: Account, membership: Membership) -> HttpResponse:
    """GET /a/<slug>/first-steps: the list alone, as the first page asks for it by itself; 204 while it is as the page has it (`mark`)."""
    if not is_part(request):
        return redirect("overview", account.slug)
    found = _steps(request, membership)
    if found["waits_since"] and found["steps"] is not None and found["steps"].mark == request.GET.get("mark"):
        return HttpResponse(status=204)
    return render(request, "overview/first_steps.html", {"account": account, **found})


@require_POST
@account_page(Permission.READ)
def hide_steps(request: HttpRequest, account: Account, membership: Membership) -> HttpResponse:  # noqa: ARG001 - the decorator's signature
    """POST /a/<slug>/first-steps/hide: show this member the list no more."""
    first_steps.hide(membership=membership, now=timezone.now())
    return redirect("overview", account.slug)


@require_safe
@account_page(Permission.READ)
def first_request(request: HttpRequest, account: Account, membership: Membership, key_id: int) -> HttpResponse:  # noqa: ARG001
    """GET /a/<slug>/keys/<id>/first-request: the first request with a key, as the page that shows its secret waits for it; 204 until then."""
    try:
        key = custody.find(key_id, account=account)
    except issuing.KeyNotFound:
        raise Http404 from None
    if not is_part(request):
        return redirect("key_page", account.slug, key.pk)
    found, waits_since = first_steps.first_request(account=account, key_id=key.pk), _waits_since(request)
    if found is None and waits_since:
        return HttpResponse(status=204)
    return render(request, "overview/first_request.html", {"account": account, "first": found})


def _steps(request: HttpRequest, membership: Membership) -> dict[str, Any]:
    now = timezone.now()
    found = first_steps.look(membership=membership, now=now)
    if found is None:
        return {"steps": None, "waits_since": None}
    key: ApiKey | None = found.key
    return {
        "steps": found,
        "first": found.first,
        "is_empty": found.first is None and not Wallet.objects.filter(account=membership.account, balance__gt=F("held")).exists(),
        "waits_since": None if found.are_done else _waits_since(request),
        "may_make_keys": membership.may(Permission.MANAGE_KEYS),
        "may_pay": membership.may(Permission.MANAGE_BILLING),
        "snippet": ""
        if found.first is not None
        else snippets.curl(
            origin=snippets.origin_of(request),
            secret=custody.recognised(key) if key else "sk-gw-…",
            model=snippets.example_model(key, now=now),
        ),
    }


def _waits_since(request: HttpRequest) -> int | None:
    """Since when the page has been waiting (seconds of the epoch); None when it has waited long enough."""
    now, text = int(timezone.now().timestamp()), request.GET.get("since", "")
    since = int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else now
    return since if now - since < WAITS_SECONDS else None
