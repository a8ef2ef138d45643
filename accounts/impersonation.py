"""Looking at an account as one of its members does: for staff who may, with a reason, for half an hour, and without changing anything.

It is kept in the session of whoever looks. Only the account's own pages are seen with the member's eyes, and only by requests that read;
everything else stays the staff's own. Beginning and end stand in the account's audit log, which its members can read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone

from accounts import audit
from accounts.models import Account, Membership, User

PERMISSION: Final = "accounts.impersonate"
LASTS: Final = timedelta(minutes=30)
_KEY = "impersonation"
_READING = ("GET", "HEAD", "OPTIONS")


class CannotLook(ValueError):
    """Nobody may look as this member: the reason is the message."""


@dataclass(frozen=True, slots=True)
class Looking:
    """Somebody of the staff looks at an account as a member of it."""

    membership: Membership
    until: datetime

    @property
    def slug(self) -> str:
        """The account's."""
        return self.membership.account.slug

    @property
    def email(self) -> str:
        """The member's."""
        return self.membership.user.email

    def covers(self, path: str) -> bool:
        """Whether this address is one of the account's own pages."""
        return path == f"/a/{self.slug}" or path.startswith(f"/a/{self.slug}/")


def begin(*, session: SessionBase, staff: User, membership: Membership, reason: str, now: datetime, ip: str | None = None) -> Looking:
    """Let `staff`, whose session this is, look as this member from now on.

    Raises: CannotLook.
    """
    if not staff.has_perm(PERMISSION) or not staff.is_staff:
        raise CannotLook("You may not do this.")
    if not membership.user.is_active:
        raise CannotLook("This person cannot sign in themselves.")
    if (membership.user.is_staff or membership.user.is_superuser) and not staff.is_superuser:
        raise CannotLook("This person is of the staff.")
    until = now + LASTS
    details = {"reason": reason, "until": until.isoformat(timespec="seconds")}
    with transaction.atomic():
        _record(membership.account, staff, "staff.looking_began", membership.user.email, details, now, ip)
    session[_KEY] = {"membership": membership.pk, "staff": staff.pk, "until": until.isoformat()}
    return Looking(membership, until)


def end(*, session: SessionBase, staff: User, now: datetime, ip: str | None = None) -> bool:
    """Stop looking; False when it was over already."""
    looking = current(session=session, staff=staff, now=now)
    session.pop(_KEY, None)
    if looking is None:
        return False
    _record(looking.membership.account, staff, "staff.looking_ended", looking.email, {}, now, ip)
    return True


def current(*, session: SessionBase, staff: Any, now: datetime) -> Looking | None:
    """Whom the owner of this session looks as; None when nobody, when it is over, or when it is not allowed any more."""
    said: dict[str, Any] | None = session.get(_KEY)
    if said is None:
        return None
    until = datetime.fromisoformat(said["until"])
    if now < until and isinstance(staff, User) and staff.pk == said["staff"] and staff.is_staff and staff.has_perm(PERMISSION):
        found = Membership.objects.select_related("account", "user").filter(pk=said["membership"], user__is_active=True).first()
        if found is not None:
            return Looking(found, until)
    session.pop(_KEY, None)
    return None


def is_looking(request: HttpRequest) -> bool:
    """Whether this page is seen by staff with a member's eyes."""
    looking: Looking | None = getattr(request, "impersonation", None)
    return looking is not None and looking.covers(request.path)


def _record(account: Account, staff: User, action: str, email: str, details: Mapping[str, object], now: datetime, ip: str | None) -> None:
    audit.record(account=account, actor=staff, actor_text="staff", action=action, subject=email, details=details, now=now, ip=ip)


class ImpersonationMiddleware:
    """Shows the account's pages with the member's eyes, refuses there whatever would write, and lets every page say so."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if settings.SESSION_COOKIE_NAME not in request.COOKIES or _KEY not in request.session:
            return self._get_response(request)
        staff = request.user
        # The lazy user of the request is not an instance of User itself; what it wraps is.
        person = User.objects.filter(pk=staff.pk).first() if staff.is_authenticated else None
        looking = current(session=request.session, staff=person, now=timezone.now())
        if looking is None:
            return self._get_response(request)
        request.impersonation = looking  # type: ignore[attr-defined]
        if looking.covers(request.path):
            if request.method not in _READING:
                return render(request, "accounts/read_only.html", status=403)
            request.user = looking.membership.user
        return self._get_response(request)
