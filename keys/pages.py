"""The pages where members make, change, reroll and stop keys. Their list, and the page of one, show money and live in `billing.key_pages`.

A secret is rendered into the one answer that made it, which nothing may store. It never enters the session, a message, an address or a log.
"""

from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST

from accounts import form_tokens
from accounts.models import Account, Membership
from accounts.pages import account_page, render_page
from accounts.permissions import Permission
from keys import custody, issuing, snippets
from keys.forms import OVERLAPS, ChangeForm, IssueForm, RerollForm, settings_of
from keys.models import ApiKey


@account_page(Permission.MANAGE_KEYS)
def new_key(request: HttpRequest, account: Account, membership: Membership) -> HttpResponse:
    """Issue a key: the form, then its secret, once."""
    form = IssueForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        token = form_tokens.identify(request, about=f"key of account {account.pk}")
        said: Any = dict(form.cleaned_data)
        try:
            key, secret = custody.issue(
                account=account, by=membership.user, now=timezone.now(), form_token=token, ip=_address(request), **said
            )
        except issuing.AlreadyIssued as done:
            messages.warning(
                request, "This form was sent before and its key made then. Its secret cannot be shown again: reroll it if you missed it."
            )
            return redirect("key_page", account.slug, done.key.pk)
        except issuing.InvalidSetting as problem:
            form.explain(problem)
        else:
            return _show_once(request, account, key, secret, title="Your new key")
    return render_page(request, "keys/form.html", {"form": form}, status=400 if form.errors else None)


@account_page(Permission.MANAGE_KEYS)
def change_key(request: HttpRequest, account: Account, membership: Membership, key_id: int) -> HttpResponse:
    """Change what a key may do and spend."""
    key = _find(account, key_id)
    if key.revoked_at is not None:
        messages.error(request, "This key is deleted: nothing of it can be changed any more.")
        return redirect("key_page", account.slug, key.pk)
    form = ChangeForm(request.POST or None, initial=settings_of(key))
    if request.method == "POST" and form.is_valid():
        try:
            custody.change(key=key, by=membership.user, now=timezone.now(), ip=_address(request), **form.changes())
        except issuing.InvalidSetting as problem:
            form.explain(problem)
        except issuing.KeyEnded:
            messages.error(request, "This key was deleted in the meantime.")
            return redirect("key_page", account.slug, key.pk)
        else:
            messages.success(request, "The key is changed. Requests under way go on with what they were let in with.")
            return redirect("key_page", account.slug, key.pk)
    return render_page(request, "keys/form.html", {"form": form, "key": key}, status=400 if form.errors else None)


@require_POST
@account_page(Permission.MANAGE_KEYS)
def switch_key(request: HttpRequest, account: Account, membership: Membership, key_id: int) -> HttpResponse:
    """Stop a key for the time being (`to=off`), or let it work again."""
    key, is_disabled = _find(account, key_id), request.POST.get("to") == "off"
    try:
        custody.switch(key=key, is_disabled=is_disabled, by=membership.user, now=timezone.now(), ip=_address(request))
    except issuing.KeyEnded:
        messages.error(request, "This key is deleted: it cannot work again.")
    else:
        messages.success(
            request, f"{key.name} is disabled: it works again when you enable it." if is_disabled else f"{key.name} works again."
        )
    return redirect("key_page", account.slug, key.pk)


@require_POST
@account_page(Permission.MANAGE_KEYS)
def reroll_key(request: HttpRequest, account: Account, membership: Membership, key_id: int) -> HttpResponse:
    """Issue a key in place of another and show its secret, once."""
    key, form = _find(account, key_id), RerollForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Choose when the old key stops.")
        return redirect("key_page", account.slug, key.pk)
    overlap = form.cleaned_data["overlap"]
    try:
        new, secret = custody.reroll(
            key=key, overlap=timedelta(seconds=overlap), by=membership.user, now=timezone.now(), ip=_address(request)
        )
    except issuing.KeyEnded:
        messages.error(
            request,
            "This key is deleted, expired, or was rerolled before. The secret of a rerolled key is shown only once: reroll the new one.",
        )
        return redirect("key_page", account.slug, key.pk)
    stops = dict(OVERLAPS)[str(overlap)]
    note = f"It takes the place of {custody.recognised(key)}, which stops {stops}. Its settings are the same; its budget begins empty."
    return _show_once(request, account, new, secret, title="Your rerolled key", note=note)


@require_POST
@account_page(Permission.MANAGE_KEYS)
def revoke_key(request: HttpRequest, account: Account, membership: Membership, key_id: int) -> HttpResponse:
    """Delete a key: it never works again, and what it did stays in the books."""
    key = custody.revoke(key=_find(account, key_id), by=membership.user, now=timezone.now(), ip=_address(request))
    messages.success(request, f"{key.name} ({custody.recognised(key)}) is deleted.")
    return redirect("keys", account.slug)


def _show_once(request: HttpRequest, account: Account, key: ApiKey, secret: str, *, title: str, note: str = "") -> HttpResponse:
    now = timezone.now()
    shown = snippets.for_key(key, origin=snippets.origin_of(request), secret=secret, now=now)
    context = {"account": account, "key": key, "secret": secret, "title": title, "note": note, "snippets": shown}
    context["waits_since"] = int(now.timestamp())
    response = render(request, "keys/secret.html", context)
    response.headers["Cache-Control"] = "no-store"
    return response


def _find(account: Account, key_id: int) -> ApiKey:
    try:
        return custody.find(key_id, account=account)
    except issuing.KeyNotFound:
        raise Http404 from None


def _address(request: HttpRequest) -> str | None:
    return request.META.get("REMOTE_ADDR") or None
