"""The one table that says what each role of an account may do."""

from enum import StrEnum


class Permission(StrEnum):
    READ = "read"  # see usage, requests, keys without their secrets, the balance
    READ_CONTENT = "read_content"  # and delete: what was asked and answered, where the account has it stored
    MANAGE_KEYS = "manage_keys"
    MANAGE_BILLING = "manage_billing"
    MANAGE_MEMBERS = "manage_members"
    MANAGE_ACCOUNT = "manage_account"


_EVERYTHING = frozenset(Permission)
GRANTS: dict[str, frozenset[Permission]] = {
    "owner": _EVERYTHING,
    "admin": _EVERYTHING - {Permission.MANAGE_ACCOUNT},
    "billing": frozenset({Permission.READ, Permission.MANAGE_BILLING}),
    "developer": frozenset({Permission.READ, Permission.READ_CONTENT, Permission.MANAGE_KEYS}),
    "viewer": frozenset({Permission.READ}),
}

# What staff who looks at an account with a member's eyes (`accounts.impersonation`) does not see all the same.
MEMBERS_ALONE = frozenset({Permission.READ_CONTENT})


def role_grants(role: str, permission: Permission) -> bool:
    """Whether `role` grants `permission`; an unknown role grants nothing."""
    return permission in GRANTS.get(role, frozenset())
