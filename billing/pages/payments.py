"""The pages of payments: starting one, what became of it (which finds out by itself when the webhook is late), and all there were."""

import uuid
from typing import Any

import structlog
from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe

from accounts.models import Account, Membership
from accounts.pages import account_page
from accounts.permissions import Permission
from billing.models import TopUp
from billing.pages import figures, frame
from billing.pages.forms import TopUpForm
from billing.payments import top_ups
from billing.payments.stripe_client import NotConfigured, StripeRefused, StripeUnavailable

log = structlog.get_logger(__name__)

PAGE = 50
LOOKS = 8  # so often the page asks by itself before it lets the webhook take its time
UNSURE = (TopUp.State.OPEN, TopUp.State.PROCESSING, TopUp.State.ACTION_NEEDED)


@account_page(Permission.READ, post=Permission.MANAGE_BILLING)
def payments_page(request: HttpRequest, account: Account, membership: Membership) -> HttpResponseBase:
    """GET: every payment, the latest first. POST: start one, and go where it is paid."""
    if request.method == "POST":
        return _start(request, account, membership)
    wallet = frame.wallet_of(account)
    try:
        page = figures.latest_payments(wallet, limit=PAGE + 1, before=request.GET.get("before", ""))
    except figures.NoSuchPlace:
        raise Http404 from None
    older = f"?before={page[PAGE - 1].pk}" if len(page) > PAGE else ""
    newer = "?" if request.GET.get("before") else ""
    context = {"payments": page[:PAGE], "older_url": older, "newer_url": newer}
    return frame.show(request, account, membership, "billing/payments.html", context)


@require_safe
@account_page(Permission.READ)
def payment_page(request: HttpRequest, account: Account, membership: Membership, top_up_id: uuid.UUID) -> HttpResponseBase:
    """Where a customer comes back to. While Stripe has not said the last word, each look asks it (`converge`), a few of them by themselves."""
    known = TopUp.objects.filter(pk=top_up_id, wallet__account=account).first()
    if known is None:
        raise Http404
    top_up, problem = known, ""
    if known.paid_minor is None and known.state in UNSURE:
        try:
            top_up = top_ups.converge(top_up_id=known.pk, now=timezone.now())
        except NotConfigured:
            problem = "Payments are switched off here at the moment."
        except (StripeUnavailable, StripeRefused) as error:
            log.warning("payment_not_looked_up", top_up=str(known.pk), error=str(error))
            problem = "Stripe cannot be asked at the moment. What is paid is credited as soon as it can."
    came_back = "cancelled" in request.GET
    looks = _looks(request)
    asks_again = top_up.state == TopUp.State.OPEN and not came_back and looks < LOOKS
    context: dict[str, Any] = {
        "top_up": top_up,
        "wallet": frame.wallet_of(account),
        "reversals": list(top_up.reversals.order_by("created_at", "pk")),
        "paid_nano": (top_up.paid_minor or 0) * top_ups.NANO_PER_MINOR,
        "charge_nano": top_up.charge_minor * top_ups.NANO_PER_MINOR,
        "came_back": came_back,
        "problem": problem,
        "next_look": f"?looks={looks + 1}" if asks_again else "",
        "wait_seconds": 1 + looks // 2,
    }
    return frame.show(request, account, membership, "billing/payment.html", context, part="billing/payment_state.html")


def _start(request: HttpRequest, account: Account, membership: Membership) -> HttpResponseBase:
    form = TopUpForm(request.POST)
    if form.is_valid():
        amount, saves = form.cleaned_data["amount_nano"], form.cleaned_data["save_card"]
        # One form and one wish are one payment, however often they are sent; another wish by the same form is another payment.
        top_up_id = uuid.uuid5(form.cleaned_data["form_id"], f"{account.pk}:{amount}:{saves}")
        page = request.build_absolute_uri(reverse("billing_top_up", args=[account.slug, top_up_id]))
        try:
            checkout = top_ups.start_checkout(
                account=account,
                user=frame.visitor(request),
                amount_nano=amount,
                success_url=page,
                cancel_url=f"{page}?cancelled",
                now=timezone.now(),
                top_up_id=top_up_id,
                save_card=saves,
            )
        except top_ups.TopUpTaken:  # it was paid, or has ended: its page says so
            return redirect("billing_top_up", account.slug, top_up_id)
        except (top_ups.AmountOutOfRange, NotConfigured, StripeUnavailable, StripeRefused) as error:
            form.add_error(None, _refusal(error))
            if isinstance(error, StripeRefused):  # that payment is over: the next try is another one
                form.data = {**request.POST.dict(), "form_id": str(uuid.uuid4())}
        else:
            return redirect(checkout.url)
    context = {**figures.facts(account, now=timezone.now()), "form": form}
    return frame.show(request, account, membership, "billing/home.html", context, status=400)


def _refusal(error: Exception) -> str:
    match error:
        case top_ups.AmountOutOfRange():
            return "This amount cannot be paid here."
        case NotConfigured():
            return "This installation takes no payments."
        case StripeRefused():
            return f"Stripe refused: {error.message}"
        case _:
            return "Stripe cannot be reached at the moment. Nothing was charged; please try again."


def _looks(request: HttpRequest) -> int:
    text = request.GET.get("looks", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 4 else 0
