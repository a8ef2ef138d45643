"""The button on every page of the sample account that removes it."""

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from accounts.models import Account, Membership
from accounts.pages import account_page
from accounts.permissions import Permission
from billing import sample


@require_POST
@account_page(Permission.MANAGE_ACCOUNT)
def remove_sample(request: HttpRequest, account: Account, membership: Membership) -> HttpResponse:  # noqa: ARG001 - the decorator's signature
    """POST /a/<slug>/remove-sample: remove the sample account for good; 404 for any other account."""
    try:
        sample.remove(account)
    except sample.NotASample:
        raise Http404 from None
    except sample.StillBusy:
        messages.error(request, "A request of the sample account is under way. Try again in a moment.")
        return redirect("overview", account.slug)
    messages.success(request, "The sample account is removed.")
    return redirect("landing")
