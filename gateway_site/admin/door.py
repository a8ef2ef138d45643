"""The door of the admin: staff signs in where everybody does, and with a second factor where ADMIN_MFA asks for it."""

from collections.abc import Callable

from allauth.account.decorators import secure_admin_login
from allauth.mfa.utils import is_mfa_enabled
from django.conf import settings
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]


class AdminMfaMiddleware:
    """Sends staff without a second factor to where they enrol one.

    Who has enrolled one was asked for it at sign-in, or has proved it when enrolling.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if settings.ADMIN_MFA and request.path.startswith(f"/{settings.ADMIN_PATH}/"):
            user = request.user
            if user.is_authenticated and user.is_staff and not is_mfa_enabled(user):
                messages.warning(request, "The administration asks for two-step sign-in: add an authenticator app or a passkey first.")
                return redirect("mfa_index")
        return self._get_response(request)
