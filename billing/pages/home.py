"""The billing home: what the account has, how long it lasts, what was paid last, and the form to pay more."""

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.views.decorators.http import require_safe

from accounts.models import Account, Membership
from accounts.pages import account_page
from accounts.permissions import Permission
from billing.pages import figures, frame
from billing.pages.forms import TopUpForm


@require_safe
@account_page(Permission.READ)
def home(request: HttpRequest, account: Account, membership: Membership) -> HttpResponseBase:
    """GET /a/<slug>/billing."""
    context = {**figures.facts(account, now=timezone.now()), "form": TopUpForm()}
    return frame.show(request, account, membership, "billing/home.html", context)
