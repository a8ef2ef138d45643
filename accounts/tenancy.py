"""What an account says of itself, and its end: its settings, and closing it."""

from datetime import datetime

from django.db import transaction

from accounts import audit
from accounts.models import Account, Membership
from gateway_site import changes

SETTINGS = ("name", "slug", "timezone", "billing_email")


def change_settings(account: Account, *, before: dict[str, str], by: Membership, now: datetime, ip: str | None = None) -> None:
    """Keep what was changed of `account`'s settings; `before` says what they were."""
    changed = {name: {"from": before[name], "to": getattr(account, name)} for name in SETTINGS if before[name] != getattr(account, name)}
    if not changed:
        return
    with transaction.atomic():
        account.save(update_fields=list(changed))
        audit.record(account=account, actor=by.user, action="account.changed", subject=account.slug, details=changed, now=now, ip=ip)
        transaction.on_commit(lambda: changes.publish(f"account:{account.pk}"))


def close(account: Account, *, by: Membership, now: datetime, balance: str, ip: str | None = None) -> None:
    """Close the account: from now on no key of it works. Its ledger stays, and what is left in its wallet (`balance`, in dollars) with it."""
    with transaction.atomic():
        if Account.objects.filter(pk=account.pk, is_active=True).update(is_active=False):
            details = {"balance_usd": balance}
            audit.record(account=account, actor=by.user, action="account.closed", subject=account.slug, details=details, now=now, ip=ip)
            transaction.on_commit(lambda: changes.publish(f"account:{account.pk}"))
