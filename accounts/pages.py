"""The door of every account page: who is not a member finds nothing there, and a role that does not suffice is told which one would."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Concatenate, ParamSpec
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render, resolve_url
from django.utils import timezone

from accounts import impersonation, permissions
from accounts.models import Account, Membership
from accounts.permissions import Permission

P = ParamSpec("P")
AccountView = Callable[Concatenate[HttpRequest, Account, Membership, P], HttpResponseBase]
LAST_ACCOUNT = "last_account"  # in the session: where the site's front door leads to


def account_page(
    permission: Permission, *, post: Permission | None = None
) -> Callable[[AccountView[P]], Callable[Concatenate[HttpRequest, str, P], HttpResponseBase]]:
    """Make a view of `request, account, membership, …` the page at `/a/<slug>/…`.

    `permission` is what its visitor's role has to grant; `post` is asked instead for anything but GET and HEAD. A person who is not signed
    in is sent to do so and comes back; one who is no member gets the 404 of an account that does not exist. Inside, times are the account's.
    """

    def decorate(view: AccountView[P]) -> Callable[Concatenate[HttpRequest, str, P], HttpResponseBase]:
        @wraps(view)
        def page(request: HttpRequest, slug: str, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
            if not request.user.is_authenticated:
                return to_sign_in(request)
            membership = Membership.objects.select_related("account", "user").filter(account__slug=slug, user=request.user).first()
            if membership is None:
                raise Http404
            account = membership.account
            request.account, request.membership = account, membership  # type: ignore[attr-defined]
            needed = permission if post is None or request.method in ("GET", "HEAD", "OPTIONS") else post
            if not may(request, membership, needed):
                return forbidden(request, membership, needed)
            if request.session.get(LAST_ACCOUNT) != account.pk:
                request.session[LAST_ACCOUNT] = account.pk
            with timezone.override(account.timezone):
                return view(request, account, membership, *args, **kwargs)

        page.permission, page.post_permission = permission, post or permission  # type: ignore[attr-defined]
        return page  # type: ignore[return-value]  # `wraps` tells of the view's own parameters

    return decorate


def may(request: HttpRequest, membership: Membership, permission: Permission) -> bool:
    """Whether who asks may: the member's role grants it, and where it is for members alone, it is no staff that looks as them."""
    return membership.may(permission) and not (permission in permissions.MEMBERS_ALONE and impersonation.is_looking(request))


def forbidden(request: HttpRequest, membership: Membership, permission: Permission) -> HttpResponse:
    """Say that the member's role does not suffice and which roles do, or that this is for members alone."""
    granting = [label for role, label in Membership.Role.choices if permissions.role_grants(role, permission)]
    context = {"role": membership.get_role_display(), "granting": granting, "members_alone": membership.may(permission)}
    return render(request, "accounts/forbidden.html", context, status=403)


def to_sign_in(request: HttpRequest) -> HttpResponse:
    """Send a stranger to sign in and back here; a part of a page that is asked for by htmx makes the whole page go there."""
    if request.headers.get("HX-Request"):
        here = urlsplit(request.headers.get("HX-Current-URL", "")).path or resolve_url("landing")
        return HttpResponse(status=204, headers={"HX-Redirect": redirect_to_login(here, settings.LOGIN_URL).url})
    return redirect_to_login(request.get_full_path(), settings.LOGIN_URL)


def origin_of(request: HttpRequest) -> str:
    """Where this site is: PUBLIC_URL, whatever host a request says; when that names this machine only, which nobody has set, what it says."""
    if urlsplit(settings.PUBLIC_URL).hostname in ("127.0.0.1", "localhost", "::1", None):
        return request.build_absolute_uri("/").rstrip("/")
    return str(settings.PUBLIC_URL).rstrip("/")


def is_part(request: HttpRequest) -> bool:
    """Whether htmx asks for a part of the page rather than for the page."""
    headers = request.headers
    return "HX-Request" in headers and "HX-Boosted" not in headers and headers.get("HX-History-Restore-Request") != "true"


def render_page(
    request: HttpRequest, template: str, context: Mapping[str, Any], *, part: str | None = None, status: int | None = None
) -> HttpResponse:
    """Render the page, or only `part` (a template that the page includes) when htmx asks for it."""
    chosen = part if part is not None and is_part(request) else template
    response = render(request, chosen, dict(context), status=status)
    response.headers["Vary"] = "Cookie, HX-Request"  # the same address answers with either
    return response
