"""The pages that belong to no app: the landing page, and the pages for what went wrong."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.csrf import requires_csrf_token

from accounts.models import User
from accounts.pages import LAST_ACCOUNT
from gateway_site import front_door
from keys.snippets import origin_of


def landing(request: HttpRequest) -> HttpResponse:
    """What this is and where to go; whoever is signed in goes on to their account."""
    if isinstance(request.user, User):
        account = front_door.account_for(request.user, last=request.session.get(LAST_ACCOUNT), now=timezone.now())
        return redirect("overview", account.slug)
    return render(request, "landing.html", {"base_url": f"{origin_of(request)}/v1"})


@requires_csrf_token
def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:  # noqa: ARG001 - the signature is Django's
    """The page of status 400."""
    return _problem(request, 400)


@requires_csrf_token
def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:  # noqa: ARG001 - the signature is Django's
    """The page of status 403."""
    return _problem(request, 403)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:  # noqa: ARG001 - the signature is Django's
    """The page for a form that was not made for this session."""
    return _problem(
        request, 403, reason="The form is too old, or was not made for you. Go back, load the page again, and send it once more."
    )


@requires_csrf_token
def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:  # noqa: ARG001 - the signature is Django's
    """The page of status 404."""
    return _problem(request, 404)


def server_error(request: HttpRequest) -> HttpResponse:
    """The page of status 500."""
    return _problem(request, 500)


def _problem(request: HttpRequest, status: int, **context: str) -> HttpResponse:
    """Render without context processors: they may be what failed."""
    return render(None, f"{status}.html", {"request_id": request.META.get("tollgate.request_id", ""), **context}, status=status)
