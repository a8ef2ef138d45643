"""How people sign up and sign in: who may, and which mails they get. allauth asks here."""

import uuid
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import structlog
from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.models import EmailAddress
from allauth.core import ratelimit
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter, get_adapter
from allauth.socialaccount.helpers import render_authentication_error
from django import forms
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone

from accounts import invitations, outbox
from accounts.models import User
from accounts.pages import origin_of

log = structlog.get_logger(__name__)

INVITATION = "invitation"  # in the session: the secret of the link that somebody followed before they had signed up
_MAILS = {
    "account/email/email_confirmation_signup": "verify_email",
    "account/email/email_confirmation": "verify_email",
    "account/email/password_reset_key": "reset_password",
    "account/email/account_already_exists": "address_known",
    "account/email/unknown_account": "address_unknown",
}


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    """Sign-up as SIGN_UP says; mails through the outbox."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """Whether whoever asks may sign up."""
        if settings.SIGN_UP == "invite":
            return _invitation_of(request) is not None
        return bool(settings.SIGN_UP == "open")

    def clean_email(self, email: str) -> str:
        """Hold who was invited to the address that was, where only the invited may sign up."""
        email = email.strip().lower()
        if settings.SIGN_UP == "invite" and self.request is not None and not self.request.user.is_authenticated:
            invited = _invitation_of(self.request)
            signing_up = self.request.path in (reverse("account_signup"), reverse("socialaccount_signup"))
            if invited is not None and invited != email and signing_up:
                raise forms.ValidationError("Sign up with the address that the invitation went to.")
        return email

    def is_email_verified(self, request: HttpRequest, email: str) -> bool:
        """An address that a link was sent to is verified by whoever follows it."""
        return _invitation_of(request) == email.lower() or bool(super().is_email_verified(request, email))

    def pre_login(self, request: HttpRequest, user: User, **kwargs: Any) -> HttpResponse | None:
        """Take an operator's word for the address of somebody whom they made: who signs up has a row here, unverified at first."""
        if user.has_usable_password() and not EmailAddress.objects.filter(user=user).exists():
            EmailAddress.objects.get_or_create(user=user, email=user.email, defaults={"verified": True, "primary": True})
        answer: HttpResponse | None = super().pre_login(request, user, **kwargs)
        return answer

    def send_mail(self, template_prefix: str, email: str, context: Mapping[str, Any]) -> None:
        """Write the mail down for the outbox. What has no words of ours is a notice in allauth's.

        Of what anybody can ask for by typing somebody's address, no more than a few an hour are sent to it, whoever asks from wherever.
        """
        template = _MAILS.get(template_prefix)
        if template is not None and not ratelimit.consume(self.request, action="mail", key=email.lower()):
            log.warning("mail_not_sent", template=template, reason="this address was sent too many within the hour")
            return
        told: dict[str, Any] = {"email": email, **{name: value for name, value in context.items() if isinstance(value, str | int)}}
        for name in (name for name in told if name.endswith("_url")):  # at our own address, whatever host the request said it came to
            told[name] = origin_of(self.request) + urlsplit(told[name])._replace(scheme="", netloc="").geturl()
        if template is None:
            rendered = self.render_mail(template_prefix, email, {"email": email, "current_site": _Site, "request": self.request, **context})
            template = "sign_in_notice"
            told = {"title": str(rendered.subject), "body": str(rendered.body)}
        outbox.queue_mail(
            dedupe_key=f"sign-in:{uuid.uuid4().hex}", to=email, template=template, context=told, account=None, now=timezone.now()
        )

    def get_login_redirect_url(self, request: HttpRequest) -> str:
        """To the invitation that somebody came with, else to their account."""
        secret = request.session.get(INVITATION)
        if secret and _invitation_of(request) is not None:
            return reverse("invitation", args=[secret])
        return reverse("landing")

    def get_signup_redirect_url(self, request: HttpRequest) -> str:
        """As after signing in."""
        return self.get_login_redirect_url(request)


class SocialAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
    """Google and GitHub: signing up with them is signing up."""

    def is_open_for_signup(self, request: HttpRequest, sociallogin: Any) -> bool:
        """As for everybody; where only the invited may, with the address that was."""
        address = str(sociallogin.user.email or "").lower()
        if settings.SIGN_UP == "invite" and address:
            return _invitation_of(request) == address
        return AccountAdapter(request).is_open_for_signup(request)

    def on_authentication_error(self, request: HttpRequest, provider: Any, **about: Any) -> None:  # noqa: ARG002 - the signature is allauth's
        """Tell the operator why: a wrong client secret looks to people like any other failure."""
        problem = about.get("exception")
        said = f"{type(problem).__name__}: {problem}"[:300] if problem is not None else ""
        log.warning("sign_in_elsewhere_failed", provider=provider.id, code=str(about.get("error", "")), error=said)

    def populate_user(self, request: HttpRequest, sociallogin: Any, data: Mapping[str, Any]) -> Any:
        """Take the name that the provider tells."""
        user = super().populate_user(request, sociallogin, data)
        user.name = str(data.get("name") or f"{data.get('first_name') or ''} {data.get('last_name') or ''}".strip())[:150]
        return user


class UnreadableAnswerMiddleware:
    """Shows the page of a failed sign-in where Google or GitHub answered what allauth stumbles over: another shape than was agreed on."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, problem: Exception) -> HttpResponse | None:
        """Answer for the return from a provider's page, and for nothing else."""
        match = request.resolver_match
        name = (match.url_name or "") if match else ""
        if not name.endswith("_callback") or not isinstance(problem, LookupError | TypeError | ValueError | AttributeError):
            return None
        log.warning("sign_in_elsewhere_unreadable", view=name, exc_info=problem)
        provider = get_adapter(request).get_provider(request, provider=name.removesuffix("_callback"))
        answer: HttpResponse = render_authentication_error(request, provider, exception=problem)
        return answer


class _Site:
    """What allauth's own words call this site."""

    name = "Tollgate"
    domain = settings.PUBLIC_URL.partition("://")[2]


def _invitation_of(request: HttpRequest | None) -> str | None:
    """The address of the open invitation whose link was followed in this session."""
    secret = request.session.get(INVITATION) if request is not None and hasattr(request, "session") else None
    if not secret:
        return None
    try:
        return invitations.find(secret, now=timezone.now()).email
    except invitations.InvitationNotFound:
        return None
