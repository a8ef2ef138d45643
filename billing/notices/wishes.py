"""What an account wants to be told: read with its defaults, and changed. A change is audited, and says what was before."""

from datetime import datetime

from django.db import transaction

from accounts import audit
from accounts.models import Account, User
from billing.models import AlertSettings

FIELDS = ("low_balance_nano", "days_left", "limits", "receipts")


def of(account: Account) -> AlertSettings:
    """The account's settings; an account that never changed them has the defaults, in a row that is not saved."""
    return AlertSettings.objects.filter(account=account).first() or AlertSettings(account=account)


@transaction.atomic
def change(*, account: Account, wanted: AlertSettings, actor: User | None, now: datetime, ip: str | None = None) -> AlertSettings:
    """Make the account's settings those of `wanted`; the same again changes nothing, and is not written down."""
    Account.objects.select_for_update().get(pk=account.pk)  # two at once must not both make the first row
    saved = of(account)
    changed = {name: [getattr(saved, name), getattr(wanted, name)] for name in FIELDS if getattr(saved, name) != getattr(wanted, name)}
    for name in FIELDS:
        setattr(saved, name, getattr(wanted, name))
    saved.save()
    if changed:
        audit.record(account=account, actor=actor, action="alerts.changed", subject=account.slug, details=changed, now=now, ip=ip)
    return saved
