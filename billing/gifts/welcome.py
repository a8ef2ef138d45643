"""The welcome credit: given once an account and once a person, when the settings name an amount.

Whoever learns that an owner's address is verified, or opens an account for a customer, calls `grant_welcome`; asking again gives nothing more.
"""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction

from accounts.models import Account, Membership, User
from billing import ledger
from billing.models import Transfer, WelcomeGift
from catalog import money


def grant_welcome(*, account: Account, now: datetime) -> Transfer | None:
    """Give `account` its welcome credit; None when there is none to give: none is set, or it or its owner had one.

    The person is the first owner of the account. An account without an owner gets it for itself.
    """
    amount = money.nano_from_usd(settings.WELCOME_CREDIT_USD)
    if amount <= 0:
        return None
    return _grant(account, amount, now)


@transaction.atomic
def _grant(account: Account, amount: int, now: datetime) -> Transfer | None:
    # The account's row, then the person's, then the wallet's: everybody who asks for this credit locks in this order.
    Account.objects.select_for_update(no_key=True).get(pk=account.pk)
    if WelcomeGift.objects.filter(account=account).exists():
        return None
    person = _first_owner(account)
    if person is not None and WelcomeGift.objects.filter(person=person).exists():
        return None
    days = settings.WELCOME_CREDIT_DAYS
    transfer = ledger.credit(
        wallet_id=ledger.open_wallet(account=account).pk,
        amount=amount,
        kind="promo",
        debit_account="promo",
        source_type="welcome",
        source_id=f"welcome:{account.pk}",
        actor="",
        note="welcome credit",
        now=now,
        expires_at=now + timedelta(days=days) if days else None,
    )
    WelcomeGift.objects.create(account=account, person=person, transfer=transfer, created_at=now)
    return transfer


def _first_owner(account: Account) -> User | None:
    """The account's first owner, locked: of five accounts that one person verifies at the same time, one is credited."""
    owner = Membership.objects.filter(account=account, role=Membership.Role.OWNER).order_by("created_at", "pk").first()
    return None if owner is None else User.objects.select_for_update(no_key=True).get(pk=owner.user_id)
