"""Stored content as members meet it: choosing in the account's settings whether there is any, and reading or deleting that of one request."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from accounts import form_tokens, pages
from accounts.models import Account, Membership
from accounts.pages import account_page, render_page
from accounts.permissions import Permission
from billing import receipts, stored_content
from billing.models import StoredContent, UsageRecord
from catalog import vault

MOST_PRETTY_CHARACTERS: Final = 2 * 1024 * 1024  # a small text may be a large one when each of its brackets gets a line


@dataclass(frozen=True, slots=True)
class Told:
    """What a receipt says of its request's content: `state` is off, missing, kept or shown (kept, and who asks may read it)."""

    state: str
    stored: StoredContent | None = None
    ends_at: datetime | None = None
    may_choose: bool = False


@require_POST
@account_page(Permission.MANAGE_ACCOUNT)
def choose_content(request: HttpRequest, account: Account, membership: Membership) -> HttpResponse:
    """POST /a/<slug>/settings/stored-content: for how many `days` content is stored; 0 stores none and deletes what there is."""
    if not (settings.CONTENT_MAX_DAYS and account.is_active):
        raise Http404
    said, now = request.POST.get("days", ""), timezone.now()
    try:
        days = int(said) if said.isdecimal() and len(said) < 5 else -1
        with form_tokens.once(request, now=now) as fresh:
            if fresh:
                stored_content.choose(account, days=days, by=membership.user, now=now, ip=_address(request))
    except stored_content.TooManyDays as problem:
        messages.error(request, f"Content can be stored for 1 to {problem.limit} days.")
    else:
        text = "What is asked and answered is stored from now on." if days else "Nothing is stored any more, and what was is deleted."
        messages.success(request, text)
    return redirect("account_settings", account.slug)


@require_safe
@account_page(Permission.READ_CONTENT)
def content(request: HttpRequest, account: Account, membership: Membership, request_id: str) -> HttpResponse:
    """GET /a/<slug>/requests/<id>/content: what was asked and answered, as text."""
    record, now = _record(request_id, account), timezone.now()
    stored = stored_content.find(record.pk, account=account, now=now)
    context: dict[str, object] = {"account": account, "record": record, "stored": stored}
    if stored is not None:
        try:
            found = stored_content.read(stored, by=membership.user, now=now, ip=_address(request))
        except vault.CannotOpen:
            context["problem"] = "It cannot be opened: the key that it was sealed with is not there."
        else:
            ends_at = stored_content.ends_at(stored, account=account)
            context |= {"asked": as_text(found.request), "answered": as_text(found.answer), "ends_at": ends_at}
    response = render_page(request, "requests/content.html", context, part="requests/content_part.html")
    response.headers["Cache-Control"] = "no-store"
    return response


@require_POST
@account_page(Permission.READ_CONTENT)
def delete_content(request: HttpRequest, account: Account, membership: Membership, request_id: str) -> HttpResponse:
    """POST /a/<slug>/requests/<id>/content/delete: delete what is stored of this request."""
    record, now = _record(request_id, account), timezone.now()
    with form_tokens.once(request, now=now) as fresh:
        if fresh and stored_content.delete(record.pk, account=account, by=membership.user, now=now, ip=_address(request)):
            messages.success(request, "What was asked and answered in this request is deleted.")
    return redirect("receipt", account.slug, record.pk)


def tell(request: HttpRequest, membership: Membership, record: UsageRecord) -> Told:
    """What the receipt of `record` says of its content to who asks for it."""
    account = membership.account
    if not stored_content.days_of(account):
        may_choose = bool(settings.CONTENT_MAX_DAYS) and pages.may(request, membership, Permission.MANAGE_ACCOUNT)
        return Told("off", may_choose=may_choose)
    stored = stored_content.find(record.pk, account=account, now=timezone.now())
    if stored is None:
        return Told("missing")
    state = "shown" if pages.may(request, membership, Permission.READ_CONTENT) else "kept"
    return Told(state, stored, stored_content.ends_at(stored, account=account))


def as_text(raw: bytes) -> str:
    """Bytes as people read them: JSON with a line for each value, anything else (a stream's events, a text that was cut) as it is."""
    try:
        lines, size = [], 0
        for piece in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(json.loads(raw)):
            lines.append(piece)
            size += len(piece)
            if size > MOST_PRETTY_CHARACTERS:
                break
        else:
            return "".join(lines).encode("utf-8", "backslashreplace").decode()  # half a surrogate pair is valid JSON, and no text
    except (ValueError, RecursionError):
        pass
    return raw.decode("utf-8", "replace")


def _record(request_id: str, account: Account) -> UsageRecord:
    try:
        return receipts.find(request_id, account=account)
    except receipts.RequestNotFound:
        raise Http404 from None


def _address(request: HttpRequest) -> str | None:
    return request.META.get("REMOTE_ADDR") or None
