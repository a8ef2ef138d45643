"""The end of looking at an account as a member, from the banner of every page. It begins at the account's page (`billing.admin.accounts`)."""

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_POST

from accounts import impersonation
from accounts.models import User


@require_POST
def end_view(request: HttpRequest) -> HttpResponse:
    """Stop looking, and go back to the admin."""
    assert isinstance(request.user, User)  # noqa: S101 - the admin lets nobody else in
    if impersonation.end(session=request.session, staff=request.user, now=timezone.now(), ip=request.META.get("REMOTE_ADDR") or None):
        messages.success(request, "You look as yourself again.")
    return redirect(admin.site.name + ":index")
