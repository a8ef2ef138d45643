"""What every billing page has around its own content: the tabs, what the visitor may do, and the banner when no money moves."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse

from accounts.models import Account, Membership, User
from accounts.pages import render_page
from accounts.permissions import Permission
from billing.models import Wallet
from billing.payments import stripe_client

TABS = (
    ("Balance", "billing", ()),
    ("Plan", "billing_plan", ("billing_plan_",)),
    ("Automatic top-up", "billing_auto", ()),
    ("Payments", "billing_payments", ("billing_top_up",)),
    ("Credits", "billing_credits", ()),
    ("Ledger", "billing_ledger", ()),
    ("Statements", "statements", ("statement",)),
    ("Alerts", "billing_alerts", ()),
)


@dataclass(frozen=True, slots=True)
class Tab:
    """A tab as it stands on this page."""

    label: str
    href: str
    is_current: bool


def show(
    request: HttpRequest,
    account: Account,
    membership: Membership,
    template: str,
    context: Mapping[str, Any],
    *,
    part: str | None = None,
    status: int | None = None,
) -> HttpResponse:
    """Render a billing page with its frame."""
    match = request.resolver_match
    here = (match.url_name or "") if match else ""
    tabs = [Tab(label, reverse(name, args=[account.slug]), here == name or here.startswith(under)) for label, name, under in TABS]
    framed = {
        "account": account,
        "tabs": tabs,
        "is_simulated": bool(settings.STRIPE_SIMULATED),
        "can_pay": stripe_client.is_configured(),
        "may_manage": membership.may(Permission.MANAGE_BILLING),
        "support_email": settings.SUPPORT_EMAIL,
        **context,
    }
    return render_page(request, template, framed, part=part, status=status)


def wallet_of(account: Account) -> Wallet:
    """The account's wallet. Raises: Http404 for an account that was never given one."""
    wallet = Wallet.objects.filter(account=account).first()
    if wallet is None:
        raise Http404
    return wallet


def visitor(request: HttpRequest) -> User:
    """Who asks; the pages let nobody in who is not signed in."""
    assert isinstance(request.user, User)  # noqa: S101 - `account_page` asks for a person
    return request.user


def address(request: HttpRequest) -> str | None:
    """Where the visitor calls from, for the audit log."""
    return request.META.get("REMOTE_ADDR") or None
