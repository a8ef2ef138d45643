"""Where a person lands: in the account used last, in any of theirs, or in their first, which is opened for them."""

import re
import secrets
from datetime import datetime

from django.db import transaction

from accounts import audit, outbox
from accounts.models import Account, Membership, User
from billing import opening

_NO_SLUG = re.compile(r"[^a-z0-9]+")


def account_for(user: User, *, last: int | None, now: datetime) -> Account:
    """The account that `user` lands in, `last` (an account's id) if they are still a member; opens their first one.

    Arriving twice at the same moment opens one account.
    """
    found = _best(user, last)
    if found is not None:
        return found
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        found = _best(user, last)
        if found is None:
            found = open_for(user, name=_name_for(user), now=now)
            outbox.queue_mail(
                dedupe_key=f"welcome:{user.pk}", to=user.email, template="welcome", context={"name": user.name}, account=found, now=now
            )
        return found


def open_for(user: User, *, name: str, now: datetime) -> Account:
    """Open another account that `user` owns. Raises: django.core.exceptions.ValidationError for a name that is too long or empty."""
    with transaction.atomic():
        account = opening.open_account(slug=_new_slug(name), name=name, owner_email=user.email, now=now)
        audit.record(account=account, actor=user, action="account.opened", subject=account.slug, now=now)
    return account


def _best(user: User, last: int | None) -> Account | None:
    memberships = list(Membership.objects.filter(user=user).select_related("account").order_by("-account__is_active", "created_at", "pk"))
    chosen = next((each for each in memberships if each.account_id == last), memberships[0] if memberships else None)
    return chosen.account if chosen else None


def _name_for(user: User) -> str:
    return user.name.strip() or user.email.partition("@")[0]


def _new_slug(name: str) -> str:
    """A slug that nobody has: opening one that exists would complete it, and make a stranger its owner."""
    while True:
        start = _NO_SLUG.sub("-", name.lower()).strip("-")[:30].strip("-") or "account"
        slug = f"{start}-{secrets.token_hex(4)}"
        if not Account.objects.filter(slug=slug).exists():
            return slug
