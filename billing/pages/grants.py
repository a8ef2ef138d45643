"""What a wallet's balance is made of: its grants in the order in which spending burns them, and codes that become grants."""

from django.contrib import messages
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.utils import timezone

from accounts.models import Account, Membership
from accounts.pages import account_page
from accounts.permissions import Permission
from billing.gifts import codes
from billing.models import CreditGrant
from billing.pages import figures, frame
from billing.pages.forms import RedeemForm
from catalog import money

MOST = 200
SPENT = 20


@account_page(Permission.READ, post=Permission.MANAGE_BILLING)
def credits_page(request: HttpRequest, account: Account, membership: Membership) -> HttpResponseBase:
    """The grants, and the form for a code: POST redeems it, which happens once however often it is asked for."""
    form = RedeemForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        try:
            transfer = codes.redeem(account=account, code=form.cleaned_data["code"], user=frame.visitor(request), now=timezone.now())
        except codes.CodeAlreadyRedeemed as error:
            messages.info(request, f"This account has had this code: {money.usd_display(error.transfer.amount)} were credited for it.")
            return redirect("billing_credits", account.slug)
        except (codes.CodeUnknown, codes.CodeUsedUp, codes.CodeExpired, codes.TooManyTries) as error:
            form.add_error("code", _words(error))
        else:
            messages.success(request, f"{money.usd_display(transfer.amount)} are in the balance.")
            return redirect("billing_credits", account.slug)
    wallet = frame.wallet_of(account)
    context = {
        "form": form,
        "wallet": wallet,
        "grants": figures.unspent(wallet, limit=MOST),
        "spent": CreditGrant.objects.filter(wallet=wallet, remaining=0).select_related("transfer").order_by("-id")[:SPENT],
    }
    return frame.show(request, account, membership, "billing/credits.html", context, status=400 if form.errors else None)


def _words(error: Exception) -> str:
    match error:
        case codes.CodeExpired():
            return f"This code expired on {timezone.localtime(error.expired_at):%Y-%m-%d}."
        case codes.CodeUsedUp():
            return "This code has been used as often as it may be."
        case codes.TooManyTries():
            return f"Too many codes that do not exist. Try again after {timezone.localtime(error.again_at):%H:%M}."
        case _:
            return "There is no such code. It looks like TG-XXXX-XXXX-XXXX, without the digits 0 and 1 and the letters O and I."
