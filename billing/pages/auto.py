"""The page of automatic top-up: the saved card, what was agreed to, and the form to agree to something else or to nothing."""

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST

from accounts.models import Account, Membership
from accounts.pages import account_page
from accounts.permissions import Permission
from billing.models import AutoTopUp, TopUp
from billing.pages import frame
from billing.pages.forms import AutoTopUpForm
from billing.payments import auto_top_up, cards, top_ups
from billing.payments.stripe_client import NotConfigured, StripeRefused, StripeUnavailable
from catalog.money import NANO_PER_USD

LATEST = 5


@account_page(Permission.READ, post=Permission.MANAGE_BILLING)
def auto_page(request: HttpRequest, account: Account, membership: Membership) -> HttpResponseBase:
    """GET shows the agreement and the card. POST says in words what is being agreed to, and with `is_confirmed` agrees."""
    wallet, now = frame.wallet_of(account), timezone.now()
    auto = AutoTopUp.objects.filter(wallet=wallet).select_related("wallet__account", "agreed_by").first()
    form = AutoTopUpForm(request.POST if request.method == "POST" else None, initial=_figures(auto))
    card = cards.of(account)
    if request.method == "POST" and form.is_valid() and form.cleaned_data["is_confirmed"]:
        figures = {name: form.cleaned_data[name] for name in ("threshold_nano", "amount_nano", "monthly_cap_nano")}
        try:
            auto_top_up.agree(account=account, user=frame.visitor(request), **figures, now=now)
        except (auto_top_up.NotOffered, auto_top_up.BadThreshold, auto_top_up.CapTooLow, cards.NoCard, top_ups.AmountOutOfRange) as error:
            form.add_error(None, _words(error))
        else:
            messages.success(request, "Automatic top-up is on.")
            return redirect("billing_auto", account.slug)
    context: dict[str, Any] = {
        "form": form,
        "auto": auto,
        "card": card,
        "wallet": wallet,
        "used": auto_top_up.used_this_month(auto, now=now) if auto else 0,
        "to_confirm": form.cleaned_data if request.method == "POST" and form.is_valid() and card else None,
        "is_offered": not settings.STRIPE_TAX,
        "payments": list(
            TopUp.objects.filter(wallet=wallet, kind=TopUp.Kind.AUTO).prefetch_related("reversals").order_by("-created_at")[:LATEST]
        ),
    }
    return frame.show(request, account, membership, "billing/auto.html", context, status=400 if form.errors else None)


@require_POST
@account_page(Permission.MANAGE_BILLING)
def turn_off(request: HttpRequest, account: Account, membership: Membership) -> HttpResponseBase:  # noqa: ARG001
    """Turn automatic top-up off."""
    auto_top_up.turn_off(account=account, user=frame.visitor(request), now=timezone.now())
    messages.success(request, "Automatic top-up is off. Nothing is charged by itself.")
    return redirect("billing_auto", account.slug)


@require_POST
@account_page(Permission.MANAGE_BILLING)
def add_card(request: HttpRequest, account: Account, membership: Membership) -> HttpResponseBase:  # noqa: ARG001
    """Go to Stripe to save a card, or another one in its place."""
    back = request.build_absolute_uri(reverse("billing_auto", args=[account.slug]))
    user, now = frame.visitor(request), timezone.now()
    try:
        url = cards.start_card_setup(account=account, user=user, success_url=f"{back}?saved", cancel_url=back, now=now)
    except (NotConfigured, StripeUnavailable, StripeRefused) as error:
        messages.error(request, _words(error))
        return redirect("billing_auto", account.slug)
    return redirect(url)


@require_POST
@account_page(Permission.MANAGE_BILLING)
def remove_card(request: HttpRequest, account: Account, membership: Membership) -> HttpResponseBase:  # noqa: ARG001
    """Take the card away; asked for twice, it is gone all the same."""
    try:
        cards.remove(account=account, user=frame.visitor(request), now=timezone.now())
    except (cards.CardInUse, NotConfigured, StripeUnavailable, StripeRefused) as error:
        messages.error(request, _words(error))
        return redirect("billing_auto", account.slug)
    except cards.NoCard:
        pass  # it was removed already
    messages.success(request, "The card is removed.")
    return redirect("billing_auto", account.slug)


def _figures(auto: AutoTopUp | None) -> dict[str, Any]:
    """What the form starts with: what was agreed to, else something reasonable."""
    if auto is None:
        least = top_ups.limits()[0]
        return {"threshold_nano": least, "amount_nano": max(least, 25 * NANO_PER_USD)}
    return {name: getattr(auto, name) for name in ("threshold_nano", "amount_nano", "monthly_cap_nano")}


def _words(error: Exception) -> str:
    match error:
        case auto_top_up.NotOffered():
            return "Automatic top-up is not offered here, because tax can only be worked out on the payment page."
        case cards.NoCard():
            return "Save a card first."
        case cards.CardInUse():
            return "Your plan is paid with this card. Save another one in its place, or cancel the plan first."
        case auto_top_up.CapTooLow():
            return "The monthly limit is less than one charge."
        case auto_top_up.BadThreshold() | top_ups.AmountOutOfRange():
            return "This amount cannot be charged here."
        case NotConfigured():
            return "This installation takes no payments."
        case StripeRefused():
            return f"Stripe refused: {error.message}"
        case _:
            return "Stripe cannot be reached at the moment; please try again."
