"""The ledger: every movement of money that is not usage. Beside the SQL functions this is the only writer of transfers, grants and wallets.

Each rule is one transaction under the wallet's row lock, and idempotent: a transfer's id is made from its kind and source, so asking again
returns what was booked the first time. Amounts are nano-USD. A wallet's account in the ledger is `wallet:<id>`.

The lock leaves the wallet's key alone (NO KEY UPDATE): whoever holds another lock and inserts a row that refers to the wallet need not wait
for it, so that no two can wait for each other.
"""

import uuid
from datetime import datetime

import structlog
from django.db import transaction
from django.db.models import F

from accounts.models import Account
from billing.models import CreditGrant, Transfer, Wallet
from catalog.money import LARGEST

log = structlog.get_logger(__name__)

NAMESPACE = uuid.UUID("5b0f8f2e-3c1d-5a7e-9a44-6f6c6e0d1b57")
PRIORITIES = {CreditGrant.Kind.PROMO: 10, CreditGrant.Kind.PLAN: 20, CreditGrant.Kind.PAID: 50}  # gifts burn first, bought money last
BREAKAGE = "breakage"


class InsufficientBalance(Exception):
    """More was to be taken than is free (both nano-USD)."""

    def __init__(self, *, free: int, wanted: int) -> None:
        super().__init__(f"{wanted} nano-USD wanted, {free} free")
        self.free = free
        self.wanted = wanted


class SourceConflict(Exception):
    """The same kind and source is booked already, for another wallet, amount or direction: one of the two callers is wrong."""

    def __init__(self, booked: Transfer) -> None:
        super().__init__(
            f"{booked.kind} of {booked.source_type} {booked.source_id} is booked as transfer {booked.pk} for {booked.amount} nano-USD"
        )
        self.booked = booked


class NotPositive(ValueError):
    """A transfer moves more than nothing, and no more than a BIGINT holds."""


def wallet_code(wallet_id: int) -> str:
    """The name of a wallet's account in the ledger."""
    return f"wallet:{wallet_id}"


def transfer_id(*, kind: str, source_type: str, source_id: str) -> uuid.UUID:
    """The id that a transfer of this kind and source has, whenever it is booked."""
    return uuid.uuid5(NAMESPACE, f"{kind}|{source_type}|{source_id}")


def open_wallet(*, account: Account) -> Wallet:
    """Give `account` its wallet, empty and active; the one it has if it has one."""
    wallet, _ = Wallet.objects.get_or_create(account=account)
    return wallet


@transaction.atomic
def credit(
    *,
    wallet_id: int,
    amount: int,
    kind: str,
    debit_account: str,
    source_type: str,
    source_id: str,
    actor: str,
    note: str,
    now: datetime,
    priority: int | None = None,
    expires_at: datetime | None = None,
    reverses: Transfer | None = None,
    grant_kind: CreditGrant.Kind | None = None,
) -> Transfer:
    """Put `amount` nano-USD into a wallet, as a grant that spending will burn.

    A debt is paid first: the grant starts with what is left above it. A kind that is not a grant's own (a won dispute, say)
    makes a paid grant, unless `grant_kind` says what it gives back.

    Raises: NotPositive, SourceConflict, Wallet.DoesNotExist.
    """
    wallet = _lock(wallet_id, amount)
    code = wallet_code(wallet_id)
    booked = _find(kind, source_type, source_id)
    if booked is not None:
        return _same(booked, debit_account=debit_account, credit_account=code, amount=amount)
    if grant_kind is None:
        grant_kind = CreditGrant.Kind(kind) if kind in CreditGrant.Kind.values else CreditGrant.Kind.PAID
    debt = max(0, -int(wallet.balance))
    wallet.credits += amount
    transfer = _book(
        wallet,
        kind=kind,
        debit_account=debit_account,
        credit_account=code,
        amount=amount,
        source_type=source_type,
        source_id=source_id,
        actor=actor,
        note=note,
        now=now,
        reverses=reverses,
    )
    CreditGrant.objects.create(
        wallet=wallet,
        kind=grant_kind,
        amount=amount,
        remaining=max(0, amount - debt),
        priority=PRIORITIES[grant_kind] if priority is None else priority,
        expires_at=expires_at,
        transfer=transfer,
        created_at=now,
    )
    return transfer


@transaction.atomic
def debit(
    *,
    wallet_id: int,
    amount: int,
    kind: str,
    credit_account: str,
    source_type: str,
    source_id: str,
    actor: str,
    note: str,
    now: datetime,
    allow_debt: bool = False,
    reverses: Transfer | None = None,
) -> Transfer:
    """Take `amount` nano-USD out of a wallet by hand or as a clawback; usage is charged by settling, never here.

    Without `allow_debt` only what is free can be taken. With it, held money goes too and the balance may fall below zero. The grant of the
    transfer that is reversed burns first: a refund takes back what was bought, not a gift.

    Raises: InsufficientBalance, NotPositive, SourceConflict, Wallet.DoesNotExist.
    """
    wallet = _lock(wallet_id, amount)
    code = wallet_code(wallet_id)
    booked = _find(kind, source_type, source_id)
    if booked is not None:
        return _same(booked, debit_account=code, credit_account=credit_account, amount=amount)
    if amount > wallet.free and not allow_debt:
        raise InsufficientBalance(free=max(0, wallet.free), wanted=amount)
    _burn(wallet, min(amount, max(0, int(wallet.balance))), first=reverses)
    wallet.debits += amount
    return _book(
        wallet,
        kind=kind,
        debit_account=code,
        credit_account=credit_account,
        amount=amount,
        source_type=source_type,
        source_id=source_id,
        actor=actor,
        note=note,
        now=now,
        reverses=reverses,
    )


def expire_grants(*, now: datetime, limit: int) -> list[Transfer]:
    """Take back what is left of grants that have expired, oldest first, at most `limit` grants; each in a transaction of its own.

    Money that requests hold stays until they are over: a later run takes the rest.
    """
    due = CreditGrant.objects.filter(remaining__gt=0, expires_at__lte=now, wallet__balance__gt=F("wallet__held")).order_by(
        "expires_at", "id"
    )
    return [
        transfer for pk, wallet_id in due.values_list("pk", "wallet_id")[:limit] if (transfer := _expire(pk, wallet_id, now)) is not None
    ]


@transaction.atomic
def set_status(*, wallet_id: int, status: Wallet.Status, actor: str, note: str) -> Wallet:
    """Freeze, close or reopen a wallet. Nothing is placed from then on; what is held is still settled.

    Raises: Wallet.DoesNotExist.
    """
    wallet = Wallet.objects.select_for_update(no_key=True).get(pk=wallet_id)
    if wallet.status != status:
        log.info("wallet_status_changed", wallet=wallet_id, before=wallet.status, after=str(status), actor=actor, note=note)
        wallet.status = status
        wallet.save(update_fields=["status"])
    return wallet


@transaction.atomic
def _expire(grant_id: int, wallet_id: int, now: datetime) -> Transfer | None:
    wallet = Wallet.objects.select_for_update(no_key=True).get(pk=wallet_id)
    grant = CreditGrant.objects.get(pk=grant_id)
    amount = min(grant.remaining, wallet.free)
    if amount <= 0 or grant.expires_at is None or grant.expires_at > now:
        return None
    source_id = f"{grant.pk}:{grant.remaining}"  # what remains only ever shrinks, so each part of an expiry has a name of its own
    grant.remaining -= amount
    grant.save(update_fields=["remaining"])
    wallet.debits += amount
    return _book(
        wallet,
        kind="expiry",
        debit_account=wallet_code(wallet_id),
        credit_account=BREAKAGE,
        amount=amount,
        source_type="grant",
        source_id=source_id,
        actor="",
        note=f"expired {grant.expires_at:%Y-%m-%d}",
        now=now,
        reverses=None,
    )


def _lock(wallet_id: int, amount: int) -> Wallet:
    if not 0 < amount <= LARGEST:
        raise NotPositive(f"{amount} nano-USD cannot be moved")
    return Wallet.objects.select_for_update(no_key=True).get(pk=wallet_id)


def _find(kind: str, source_type: str, source_id: str) -> Transfer | None:
    return Transfer.objects.filter(kind=kind, source_type=source_type, source_id=source_id).first()


def _same(booked: Transfer, *, debit_account: str, credit_account: str, amount: int) -> Transfer:
    if (booked.debit_account, booked.credit_account, booked.amount) != (debit_account, credit_account, amount):
        raise SourceConflict(booked)
    return booked


def _book(
    wallet: Wallet,
    *,
    kind: str,
    debit_account: str,
    credit_account: str,
    amount: int,
    source_type: str,
    source_id: str,
    actor: str,
    note: str,
    now: datetime,
    reverses: Transfer | None,
) -> Transfer:
    """Write the locked wallet, whose credits or debits are already raised, and the transfer that says why."""
    wallet.version += 1
    wallet.save(update_fields=["credits", "debits", "version"])
    return Transfer.objects.create(
        id=transfer_id(kind=kind, source_type=source_type, source_id=source_id),
        kind=kind,
        wallet=wallet,
        debit_account=debit_account,
        credit_account=credit_account,
        amount=amount,
        source_type=source_type,
        source_id=source_id,
        reverses=reverses,
        wallet_version=wallet.version,
        balance_after=wallet.credits - wallet.debits,
        actor=actor,
        note=note[:500],
        created_at=now,
    )


def _burn(wallet: Wallet, amount: int, *, first: Transfer | None) -> None:
    """Take `amount` from the wallet's grants in the order in which spending burns them, the grant of `first` before all others."""
    grants = list(
        CreditGrant.objects.filter(wallet=wallet, remaining__gt=0).order_by("priority", F("expires_at").asc(nulls_last=True), "id")
    )
    if first is not None:
        grants.sort(key=lambda grant: grant.transfer_id != first.pk)
    for grant in grants:
        if amount == 0:
            return
        part = min(amount, grant.remaining)
        grant.remaining -= part
        grant.save(update_fields=["remaining"])
        amount -= part
