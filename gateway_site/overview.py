"""The first page of an account: what is left, what is under way, and what happened last."""

from django.http import HttpRequest, HttpResponse

from accounts.models import Account, Membership
from accounts.pages import account_page, render_page
from accounts.permissions import Permission
from billing.models import UsageRecord, Wallet
from keys.models import ApiKey

RECENT = 10


@account_page(Permission.READ)
def overview(request: HttpRequest, account: Account, membership: Membership) -> HttpResponse:
    """Show the balance and the latest requests; without a key yet, how to begin."""
    context = {
        "wallet": Wallet.objects.get(account=account),
        "recent": UsageRecord.objects.filter(account=account).order_by("-request_id")[:RECENT],
        "has_keys": ApiKey.objects.filter(account=account).exists(),
        "may_make_keys": membership.may(Permission.MANAGE_KEYS),
        "base_url": request.build_absolute_uri("/v1"),
    }
    return render_page(request, "accounts/overview.html", context)
