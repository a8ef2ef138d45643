"""What a management key may do: as much as who made it may do now.

A key that a member made is that member's hand: it may what their role grants at the moment, and nothing once they have left. One that the
operator issued has no member behind it: it may do everything but manage members, because a member answers for who is let in.
"""

from dataclasses import dataclass

from accounts.models import Membership
from accounts.permissions import Permission
from keys.models import ApiKey

OF_THE_OPERATOR = frozenset(Permission) - {Permission.MANAGE_MEMBERS, Permission.MANAGE_ACCOUNT}


class NotPermitted(Exception):
    """Who made the key may not do this (any more)."""

    def __init__(self, permission: Permission) -> None:
        super().__init__(permission)
        self.permission = permission


@dataclass(frozen=True, slots=True)
class Authority:
    """What one management key may do; `membership` is that of the member who made it, None for the operator's."""

    permissions: frozenset[Permission]
    membership: Membership | None

    def check(self, permission: Permission) -> None:
        """Refuse what is not granted. Raises: NotPermitted."""
        if permission not in self.permissions:
            raise NotPermitted(permission)

    def member(self, permission: Permission) -> Membership:
        """The member in whose name something is done that only members do. Raises: NotPermitted."""
        self.check(permission)
        if self.membership is None:
            raise NotPermitted(permission)
        return self.membership


def of(key: ApiKey) -> Authority:
    """What a management key may do now."""
    maker = key.created_by
    if maker is None:
        return Authority(OF_THE_OPERATOR, None)
    membership = Membership.objects.select_related("account", "user").filter(account=key.account_id, user=maker).first()
    if membership is None:
        return Authority(OF_THE_OPERATOR if maker.is_staff and maker.is_active else frozenset(), None)
    if not maker.is_active:
        return Authority(frozenset(), membership)
    return Authority(frozenset(permission for permission in Permission if membership.may(permission)), membership)
