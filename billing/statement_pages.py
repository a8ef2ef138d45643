"""The pages of monthly statements: the list of months, and one month, which also prints well."""

from datetime import date

from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.views.decorators.http import require_safe

from accounts.models import Account, Membership
from accounts.pages import account_page
from accounts.permissions import Permission
from billing import statements
from billing.pages import frame


@require_safe
@account_page(Permission.READ)
def months(request: HttpRequest, account: Account, membership: Membership) -> HttpResponseBase:
    """GET /a/<slug>/billing/statements: the months that there are statements of."""
    found = statements.months_of(account, now=timezone.now())
    return frame.show(request, account, membership, "billing/statements.html", {"months": found})


@require_safe
@account_page(Permission.READ)
def month(request: HttpRequest, account: Account, membership: Membership, month: str) -> HttpResponseBase:
    """GET /a/<slug>/billing/statements/2026-11: one of them."""
    try:
        found = statements.statement(account=account, month=date.fromisoformat(f"{month}-01"), now=timezone.now())
    except (ValueError, statements.NoSuchMonth):
        raise Http404 from None
    return frame.show(request, account, membership, "billing/statement.html", {"statement": found})
