"""The link in a mail that turns mails of its kind off, without signing in: it says which account and which switch, and it is signed."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, cast

from django.conf import settings
from django.core import signing
from django.db import transaction

from accounts import audit
from accounts.models import Account
from billing.models import AlertSettings

Setting = Literal["low_balance", "days_left", "limits", "receipts"]
COLUMNS: Mapping[Setting, str] = {
    "low_balance": "low_balance_nano",
    "days_left": "days_left",
    "limits": "limits",
    "receipts": "receipts",
}
WORDS: Mapping[Setting, str] = {
    "low_balance": "warnings about a low balance",
    "days_left": "warnings that the balance ends soon",
    "limits": "warnings about budgets and quotas",
    "receipts": "receipts of payments",
}
_SALT = "billing.notices.unsubscribing"


class BadLink(Exception):
    """The link was not made here, or what it names is gone."""


def link(*, account: Account, setting: Setting) -> str:
    """The address that turns `setting` off for the account."""
    return f"{settings.PUBLIC_URL}/unsubscribe/{signing.dumps([account.pk, setting], salt=_SALT)}"


def read(token: str) -> tuple[Account, Setting]:
    """What a link's token is about. Raises: BadLink."""
    try:
        account_id, setting = signing.loads(token, salt=_SALT)
        return Account.objects.get(pk=account_id), cast("Setting", setting)
    except (signing.BadSignature, ValueError, TypeError, Account.DoesNotExist) as error:
        raise BadLink from error


@transaction.atomic
def turn_off(token: str, *, now: datetime) -> tuple[Account, Setting]:
    """Turn off what the link is about; doing so again changes nothing. Raises: BadLink."""
    account, setting = read(token)
    AlertSettings.objects.get_or_create(account=account)
    wishes = AlertSettings.objects.select_for_update().get(account=account)
    column = COLUMNS[setting]
    if getattr(wishes, column):
        setattr(wishes, column, type(getattr(wishes, column))(0))
        wishes.save(update_fields=[column])
        audit.record(account=account, actor=None, actor_text="unsubscribe link", action="alerts.turned_off", subject=setting, now=now)
    return account, setting
