"""Invitations to an account: the link's secret is in the mail alone, its digest here; open for seven days, taken once."""

import hashlib
import secrets
import uuid
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import QuerySet

from accounts import audit, members, outbox
from accounts.models import Account, Invitation, Membership, User

OPEN_FOR = timedelta(days=7)
DAY = timedelta(days=1)
MOST_A_DAY = 50  # invitations by one person, whatever their accounts: nobody sends the world mails in our name
MOST_TO_ONE_A_DAY = 5  # of those, to the same address


class InvitationNotFound(Exception):
    """No open invitation has this secret: it is unknown, taken, revoked or expired."""


class WrongAddress(Exception):
    """The invitation went to another address than the person's."""

    def __init__(self, email: str) -> None:
        super().__init__(f"the invitation went to {email}")
        self.email = email


class AlreadyMember(Exception):
    """Who is invited is a member."""


class TooManyInvitations(Exception):
    """Who invites has sent as many within a day as one may, or as many to this address."""


def invite(*, by: Membership, email: str, role: str, link: str, now: datetime, ip: str | None = None) -> Invitation:
    """Invite `email`; the mail has `link` with `{secret}` filled in. An open invitation of the same address is replaced: its link dies.

    Raises: AlreadyMember, TooManyInvitations, members.RoleTooHigh.
    """
    account, email = by.account, email.strip().lower()
    members.check_may_give(by, role)
    secret = secrets.token_urlsafe(32)
    with transaction.atomic():
        Account.objects.select_for_update().get(pk=account.pk)
        if Membership.objects.filter(account=account, user__email=email).exists():
            raise AlreadyMember
        _check_not_too_many(by.user, email, now)
        _open_ones(account).filter(email=email).update(revoked_at=now)
        invitation = Invitation.objects.create(
            account=account, email=email, role=role, digest=_digest(secret), invited_by=by.user, created_at=now, expires_at=now + OPEN_FOR
        )
        audit.record(account=account, actor=by.user, action="member.invited", subject=email, details={"role": role}, now=now, ip=ip)
        outbox.queue_mail(
            dedupe_key=f"invitation:{uuid.uuid4().hex}",
            to=email,
            template="invitation",
            context={
                "account_name": account.name,
                "inviter": by.user.name or by.user.email,
                "role": invitation.get_role_display().lower(),
                "link": link.replace("{secret}", secret),
                "days": OPEN_FOR.days,
            },
            account=account,
            now=now,
        )
    return invitation


def find(secret: str, *, now: datetime) -> Invitation:
    """Find the open invitation of a link. Raises: InvitationNotFound."""
    found = Invitation.objects.select_related("account", "invited_by").filter(digest=_digest(secret), **_OPEN, expires_at__gt=now).first()
    if found is None or not found.account.is_active:
        raise InvitationNotFound
    return found


def accept(secret: str, *, user: User, addresses: set[str], now: datetime, ip: str | None = None) -> Membership:
    """Make `user` a member; `addresses` are those that they have proved to be theirs. A member already keeps their role.

    Raises: InvitationNotFound, WrongAddress.
    """
    with transaction.atomic():
        invitation = Invitation.objects.select_for_update().filter(digest=_digest(secret), **_OPEN, expires_at__gt=now).first()
        if invitation is None or not invitation.account.is_active:
            raise InvitationNotFound
        if invitation.email not in addresses:
            raise WrongAddress(invitation.email)
        invitation.accepted_at = now
        invitation.save(update_fields=["accepted_at"])
        membership, _ = Membership.objects.get_or_create(
            account=invitation.account, user=user, defaults={"role": invitation.role, "created_at": now}
        )
        audit.record(
            account=invitation.account,
            actor=user,
            action="member.joined",
            subject=user.email,
            details={"role": membership.role},
            now=now,
            ip=ip,
        )
    return membership


def revoke(invitation_id: int, *, by: Membership, now: datetime, ip: str | None = None) -> Invitation:
    """Take back an open invitation of the account. Raises: InvitationNotFound."""
    with transaction.atomic():
        invitation = _open_ones(by.account).select_for_update().filter(pk=invitation_id).first()
        if invitation is None:
            raise InvitationNotFound
        invitation.revoked_at = now
        invitation.save(update_fields=["revoked_at"])
        audit.record(account=by.account, actor=by.user, action="member.invitation_revoked", subject=invitation.email, now=now, ip=ip)
    return invitation


def listed(account: Account) -> list[Invitation]:
    """The invitations that were neither taken nor taken back, the latest first; those past their days among them."""
    return list(_open_ones(account).select_related("invited_by").order_by("-created_at", "-pk"))


def _check_not_too_many(inviter: User, email: str, now: datetime) -> None:
    User.objects.select_for_update(no_key=True).get(pk=inviter.pk)  # of many at once, and of many accounts, each is counted
    sent = list(Invitation.objects.filter(invited_by=inviter, created_at__gt=now - DAY).values_list("email", flat=True)[:MOST_A_DAY])
    if len(sent) >= MOST_A_DAY or sent.count(email) >= MOST_TO_ONE_A_DAY:
        raise TooManyInvitations


_OPEN = {"accepted_at": None, "revoked_at": None}


def _open_ones(account: Account) -> QuerySet[Invitation]:
    return Invitation.objects.filter(account=account, **_OPEN)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
