"""Coming into an account and closing one: the pages of an invitation, of a new account and of the end of one.

They ask for more than one app: sign-in and invitations, accounts and their wallets.
"""

from allauth.account.decorators import reauthentication_required
from allauth.account.models import EmailAddress
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.utils import timezone

from accounts import form_tokens, invitations, tenancy
from accounts.forms import AccountForm, CloseAccountForm
from accounts.models import Account, Membership, User
from accounts.pages import account_page
from accounts.permissions import Permission
from billing import stored_content
from billing.models import Wallet
from catalog import money
from gateway_site import front_door
from gateway_site.sign_up import INVITATION


def invitation(request: HttpRequest, secret: str) -> HttpResponse:
    """Show an invitation, and take it when its button is pressed: signed in, with the address that it went to."""
    now = timezone.now()
    try:
        found = invitations.find(secret, now=now)
    except invitations.InvitationNotFound:
        request.session.pop(INVITATION, None)
        return render(request, "accounts/invitation_gone.html", status=404)
    user = request.user
    if not isinstance(user, User):
        request.session[INVITATION] = secret  # sign-up and sign-in lead back here
        return render(request, "accounts/invitation.html", {"invitation": found})
    addresses = set(EmailAddress.objects.filter(user=user, verified=True).values_list("email", flat=True))
    if request.method == "POST":
        try:
            membership = invitations.accept(secret, user=user, addresses=addresses, now=now, ip=request.META.get("REMOTE_ADDR") or None)
        except (invitations.InvitationNotFound, invitations.WrongAddress):
            return redirect("invitation", secret)  # says what is the case by now
        request.session.pop(INVITATION, None)
        messages.success(request, f"Welcome to {membership.account.name}.")
        return redirect("overview", membership.account.slug)
    return render(request, "accounts/invitation.html", {"invitation": found, "fits": found.email in addresses})


@login_required
def new_account(request: HttpRequest) -> HttpResponse:
    """Open another account."""
    assert isinstance(request.user, User)  # noqa: S101 - the decorator asks for a person
    form = AccountForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        now = timezone.now()
        with form_tokens.once(request, now=now) as fresh:
            account = front_door.open_for(request.user, name=form.cleaned_data["name"], now=now) if fresh else None
        if account is None:
            return redirect("landing")
        messages.success(request, f"{account.name} is open.")
        return redirect("overview", account.slug)
    return render(request, "accounts/new_account.html", {"form": form})


@account_page(Permission.MANAGE_ACCOUNT)
def close_account(request: HttpRequest, account: Account, membership: Membership) -> HttpResponseBase:
    """Close an account, once the person has just signed in or does so anew."""
    page: HttpResponseBase = reauthentication_required(_close_page)(request, account, membership)
    return page


def _close_page(request: HttpRequest, account: Account, membership: Membership) -> HttpResponse:
    wallet = Wallet.objects.get(account=account)
    form = CloseAccountForm(request.POST or None, account=account)
    if request.method == "POST" and form.is_valid():
        address = request.META.get("REMOTE_ADDR") or None
        now = timezone.now()
        with transaction.atomic():
            tenancy.close(account, by=membership, now=now, balance=money.usd(wallet.balance), ip=address)
            stored_content.choose(account, days=0, by=membership.user, now=now, ip=address)
        messages.success(request, f"{account.name} is closed. Its keys no longer work.")
        return redirect("overview", account.slug)
    return render(request, "accounts/close.html", {"form": form, "wallet": wallet})
