"""The pages of the plan: what it gives and how much of it is used, the plans for sale, and each change with what it means before it is made."""

import uuid
from datetime import datetime
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.views.decorators.http import require_POST, require_safe

from accounts.models import Account, Membership
from accounts.pages import account_page
from accounts.permissions import Permission
from billing import assignments, reports
from billing.models import Plan, Subscription
from billing.pages import frame
from billing.payments import plan_changes, subscriptions
from billing.payments.stripe_client import NotConfigured, StripeRefused, StripeUnavailable

LOOKS = 8
PROBLEMS = (
    assignments.NoDefaultPlan,
    assignments.SubscriptionRunning,
    subscriptions.NotForSale,
    subscriptions.NoSubscription,
    subscriptions.ChangeScheduled,
    subscriptions.CancelsAtEnd,
    subscriptions.PaymentMissing,
    subscriptions.PaymentRefused,
    plan_changes.SecondSubscription,
    plan_changes.UnknownSubscription,
    NotConfigured,
    StripeUnavailable,
    StripeRefused,
)


@require_safe
@account_page(Permission.READ)
def plan_page(request: HttpRequest, account: Account, membership: Membership) -> HttpResponseBase:
    """GET /a/<slug>/billing/plan: the plan in effect, its quotas, and what else can be had."""
    now = timezone.now()
    assignment, subscription = reports.plan_of(account, now=now), subscriptions.current(account)
    use = reports.quota_use(account, anchor_day=assignment.anchor_day, now=now) if assignment else None
    context: dict[str, Any] = {
        "assignment": assignment,
        "plan": assignment.plan if assignment else None,
        "use": use,
        "meters": _meters(assignment.plan, use) if assignment and use else [],
        "subscription": subscription,
        "plans": list(subscriptions.for_sale()),
        "falls_back_at": (subscription.past_due_since + plan_changes.grace()) if subscription and subscription.past_due_since else None,
    }
    return frame.show(request, account, membership, "billing/plan.html", context)


@account_page(Permission.MANAGE_BILLING)
def change_page(request: HttpRequest, account: Account, membership: Membership, plan_slug: str) -> HttpResponseBase:
    """GET says what buying or changing to a plan means: what is charged now, and when it begins. POST does it."""
    plan = subscriptions.for_sale().filter(slug=plan_slug).first() or _plan_in_effect(account, plan_slug)
    subscription, now = subscriptions.current(account), timezone.now()
    try:
        if request.method == "POST":
            return _subscribe(request, account, plan, now) if subscription is None else _change(request, account, plan, now)
        quote = subscriptions.quote(account=account, plan=plan, now=now) if subscription else None
    except subscriptions.NothingToChange:  # it was sent twice
        messages.info(request, f"{plan.name or plan.slug} is the plan of this account, or will be.")
    except PROBLEMS as error:
        messages.error(request, words(error))
    else:
        context = {"plan": plan, "quote": quote, "subscription": subscription, "quoted_at": quote.quoted_at.isoformat() if quote else ""}
        return frame.show(request, account, membership, "billing/plan_change.html", context)
    return redirect("billing_plan", account.slug)


@require_POST
@account_page(Permission.MANAGE_BILLING)
def cancel(request: HttpRequest, account: Account, membership: Membership) -> HttpResponseBase:  # noqa: ARG001
    """Let the plan end with its period."""
    try:
        changed = subscriptions.cancel(account=account, user=frame.visitor(request), now=timezone.now())
    except PROBLEMS as error:
        messages.error(request, words(error))
    else:
        until = changed.period_end if changed.status == Subscription.Status.ACTIVE else None
        messages.success(request, f"The plan ends on {timezone.localtime(until):%Y-%m-%d}." if until else "The plan has ended.")
    return redirect("billing_plan", account.slug)


@require_POST
@account_page(Permission.MANAGE_BILLING)
def resume(request: HttpRequest, account: Account, membership: Membership) -> HttpResponseBase:  # noqa: ARG001
    """Let a plan that was to end go on."""
    try:
        subscriptions.resume(account=account, user=frame.visitor(request), now=timezone.now())
    except PROBLEMS as error:
        messages.error(request, words(error))
    else:
        messages.success(request, "The plan goes on.")
    return redirect("billing_plan", account.slug)


@require_POST
@account_page(Permission.MANAGE_BILLING)
def pay(request: HttpRequest, account: Account, membership: Membership) -> HttpResponseBase:  # noqa: ARG001
    """Go where the open invoice of a plan that is past due can be paid."""
    subscription = subscriptions.current(account)
    try:
        url = subscriptions.pay_url(subscription) if subscription else ""
    except PROBLEMS as error:
        messages.error(request, words(error))
        return redirect("billing_plan", account.slug)
    if not url:
        messages.info(request, "There is no open invoice.")
        return redirect("billing_plan", account.slug)
    return redirect(url)


@require_safe
@account_page(Permission.READ)
def bought_page(request: HttpRequest, account: Account, membership: Membership, subscription_id: uuid.UUID) -> HttpResponseBase:
    """Where a customer comes back to: asks Stripe (`converge_session`), a few times by itself, until the plan has begun."""
    found = Subscription.objects.filter(pk=subscription_id, account=account).select_related("plan").first()
    if found is None:
        raise Http404
    problem = ""
    if found.status == Subscription.Status.INCOMPLETE:
        try:
            found = plan_changes.converge_session(subscription_id=found.pk, now=timezone.now())
        except PROBLEMS as error:
            problem = words(error)
    text = request.GET.get("looks", "")
    looks = int(text) if text.isascii() and text.isdecimal() and len(text) < 4 else 0
    waits = found.status == Subscription.Status.INCOMPLETE and looks < LOOKS and not problem
    context = {
        "subscription": found,
        "problem": problem,
        "next_look": f"?looks={looks + 1}" if waits else "",
        "wait_seconds": 1 + looks // 2,
    }
    return frame.show(request, account, membership, "billing/plan_bought.html", context, part="billing/plan_state.html")


def words(error: Exception) -> str:
    """What went wrong with a plan, for its customer."""
    match error:
        case subscriptions.NotForSale() | assignments.NoDefaultPlan():
            return "This plan cannot be bought here at the moment."
        case assignments.SubscriptionRunning():
            return "This account buys a plan already: change it instead."
        case subscriptions.NoSubscription():
            return "This account buys no plan."
        case subscriptions.ChangeScheduled():
            return "A change is scheduled for the end of the period. Undo it first."
        case subscriptions.CancelsAtEnd():
            return "The plan ends with its period. Resume it first."
        case subscriptions.PaymentMissing():
            return "A payment for the plan is missing. Pay it first."
        case subscriptions.PaymentRefused():
            return f"The change was not paid, so nothing has changed: {error.message}"
        case plan_changes.SecondSubscription() | plan_changes.UnknownSubscription():
            return "Something about this plan needs a person, who has been told. You need not pay again."
        case NotConfigured():
            return "This installation takes no payments."
        case StripeRefused():
            return f"Stripe refused: {error.message}"
        case _:
            return "Stripe cannot be reached at the moment; please try again."


def _meters(plan: Plan, use: reports.WindowUse) -> list[tuple[str, int, int | None, str]]:
    """What is drawn of each quota: its name, what is used, the limit, and both in words."""
    kinds = (
        ("Input tokens", use.input_tokens, plan.monthly_input_tokens),
        ("Output tokens", use.output_tokens, plan.monthly_output_tokens),
    )
    return [(name, used, limit, f"{used:,}, unlimited" if limit is None else f"{used:,} of {limit:,}") for name, used, limit in kinds]


def _plan_in_effect(account: Account, slug: str) -> Plan:
    """The plan that the account buys, which it may come back to though it is not sold any more. Raises: Http404."""
    subscription = subscriptions.current(account)
    if subscription is None or subscription.plan.slug != slug:
        raise Http404
    return subscription.plan


def _subscribe(request: HttpRequest, account: Account, plan: Plan, now: datetime) -> HttpResponseBase:
    back = request.build_absolute_uri(reverse("billing_plan", args=[account.slug]))
    url = subscriptions.subscribe(
        account=account,
        plan=plan,
        user=frame.visitor(request),
        success_url=f"{back}/purchases/{{SUBSCRIPTION}}",
        cancel_url=back,
        now=now,
    )
    return redirect(url)


def _change(request: HttpRequest, account: Account, plan: Plan, now: datetime) -> HttpResponseBase:
    quoted_at = _moment(request.POST.get("quoted_at", ""))
    subscriptions.change_plan(account=account, plan=plan, user=frame.visitor(request), now=now, quoted_at=quoted_at)
    messages.success(request, "The plan is changed.")
    return redirect("billing_plan", account.slug)


def _moment(text: str) -> datetime | None:
    try:
        found = parse_datetime(text)
    except ValueError:
        return None
    return found if found is not None and found.tzinfo is not None else None
