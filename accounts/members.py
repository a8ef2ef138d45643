"""Who belongs to an account and as what: roles change within what the one who changes them may do, and an owner always remains."""

from datetime import datetime

from django.db import transaction

from accounts import audit
from accounts.models import Account, Membership, User
from accounts.permissions import Permission

OWNER = Membership.Role.OWNER
# From the one who may most downwards: nobody gives, takes or changes a role above their own.
RANK = {role: rank for rank, role in enumerate(reversed(["owner", "admin", "billing", "developer", "viewer"]))}


class MemberNotFound(Exception):
    """The account has no such member."""


class RoleTooHigh(Exception):
    """The role is above that of the one who would give or change it."""


class LastOwner(Exception):
    """The account would be left without an owner."""


def check_may_give(by: Membership, role: str) -> None:
    """Refuse a role that `by` may not give. Raises: RoleTooHigh."""
    if role not in RANK or RANK[role] > RANK[by.role]:
        raise RoleTooHigh


def roles_to_give(by: Membership) -> list[str]:
    """The roles that `by` may give, in the order of the table."""
    if not by.may(Permission.MANAGE_MEMBERS):
        return []
    return [role for role in Membership.Role.values if RANK[role] <= RANK[by.role]]


def change_role(member_id: int, *, role: str, by: Membership, now: datetime, ip: str | None = None) -> Membership:
    """Give a member of the account another role. Raises: MemberNotFound, RoleTooHigh, LastOwner."""
    with transaction.atomic():
        actor, member = _locked(by, member_id)
        check_may_give(actor, role)
        check_may_give(actor, member.role)
        if member.role == OWNER and role != OWNER:
            _check_another_owner(member)
        if member.role != role:
            before, member.role = member.role, role
            member.save(update_fields=["role"])
            details = {"from": before, "to": role}
            audit.record(
                account=by.account, actor=by.user, action="member.role_changed", subject=member.user.email, details=details, now=now, ip=ip
            )
    return member


def remove(member_id: int, *, by: Membership, now: datetime, ip: str | None = None) -> User:
    """Take a member out of the account; oneself is leaving it. Raises: MemberNotFound, RoleTooHigh, LastOwner."""
    with transaction.atomic():
        actor, member = _locked(by, member_id)
        leaving = member.pk == actor.pk
        if not leaving:
            if not actor.may(Permission.MANAGE_MEMBERS):
                raise RoleTooHigh
            check_may_give(actor, member.role)
        if member.role == OWNER:
            _check_another_owner(member)
        member.delete()
        action = "member.left" if leaving else "member.removed"
        audit.record(
            account=by.account, actor=by.user, action=action, subject=member.user.email, details={"role": member.role}, now=now, ip=ip
        )
    return member.user


def _locked(by: Membership, member_id: int) -> tuple[Membership, Membership]:
    """The one who acts and the member, as they are now, with the account locked so that two owners cannot take each other's role."""
    Account.objects.select_for_update().get(pk=by.account_id)
    found = {each.pk: each for each in Membership.objects.select_related("user", "account").filter(account=by.account_id)}
    if by.pk not in found or member_id not in found:
        raise MemberNotFound
    return found[by.pk], found[member_id]


def _check_another_owner(member: Membership) -> None:
    if not Membership.objects.filter(account=member.account_id, role=OWNER, user__is_active=True).exclude(pk=member.pk).exists():
        raise LastOwner
