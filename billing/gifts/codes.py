"""Redemption codes: made by staff, typed by customers, each turned into promo credit once an account and never more often than it may be.

Redeeming locks in one order: the account's count of wrong tries, then the code, then the wallet. Everything else that locks a wallet locks
nothing more after it, and nothing that holds a code's lock waits for another account's tries, so there is no circle to wait in. The wallet
comes last because it is on the path of every request: it is held for the booking alone, not while a popular code is queued for.
"""

import re
import secrets
from datetime import datetime, timedelta

import structlog
from django.db import transaction

from accounts import audit
from accounts.models import Account, User
from billing import ledger
from billing.models import CodeTries, Redemption, RedemptionCode, Transfer
from catalog import money

log = structlog.get_logger(__name__)

PREFIX = "TG"
ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # without 0, O, 1 and I: 32 characters, five bits each
GROUPS, GROUP_LENGTH = 3, 4  # twelve characters: 60 bits
MOST_AT_ONCE = 1000
WRONG_TRIES = 10
TRIES_WINDOW = timedelta(hours=1)
_SEPARATORS = re.compile(r"[\s\-\u2010-\u2015]+")


class BadTerms(ValueError):
    """Codes cannot be made on these terms; `field` names what is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class CodeUnknown(Exception):
    """There is no such code, or it was switched off."""


class CodeUsedUp(Exception):
    """The code was used as often as it may be."""


class CodeExpired(Exception):
    """The code's own end has come."""

    def __init__(self, expired_at: datetime) -> None:
        super().__init__(expired_at)
        self.expired_at = expired_at


class CodeAlreadyRedeemed(Exception):
    """This account has used this code: `transfer` is what it got for it."""

    def __init__(self, transfer: Transfer) -> None:
        super().__init__(transfer.pk)
        self.transfer = transfer


class TooManyTries(Exception):
    """The account typed too many codes that do not exist; it may try again at `again_at`."""

    def __init__(self, again_at: datetime) -> None:
        super().__init__(again_at)
        self.again_at = again_at


def create_codes(
    *,
    count: int,
    amount_nano: int,
    most_uses: int = 1,
    expires_at: datetime | None = None,
    credit_days: int | None = None,
    note: str = "",
    user: User | None,
    now: datetime,
) -> list[RedemptionCode]:
    """Make `count` codes of `amount_nano` nano-USD each. The credit of one expires `credit_days` after it is redeemed, or never.

    Raises: BadTerms.
    """
    if not 1 <= count <= MOST_AT_ONCE:
        raise BadTerms("count", f"must be between 1 and {MOST_AT_ONCE}")
    if not 0 < amount_nano <= money.LARGEST:
        raise BadTerms("amount_nano", "must be more than nothing")
    if not 1 <= most_uses <= 1_000_000:
        raise BadTerms("most_uses", "must be between 1 and 1000000")
    if credit_days is not None and not 1 <= credit_days <= 36_500:
        raise BadTerms("credit_days", "must be between 1 and 36500, or nothing")
    if expires_at is not None and expires_at <= now:
        raise BadTerms("expires_at", "is not in the future")
    codes = [
        RedemptionCode(
            code=_new_code(),
            amount_nano=amount_nano,
            most_uses=most_uses,
            expires_at=expires_at,
            credit_days=credit_days,
            note=note[:200],
            created_by=user,
            created_at=now,
        )
        for _ in range(count)
    ]
    return RedemptionCode.objects.bulk_create(codes)


def set_enabled(*, code_ids: list[int], is_enabled: bool) -> int:
    """Switch codes off or on; returns how many changed. What was redeemed stays."""
    return RedemptionCode.objects.filter(pk__in=code_ids).exclude(is_enabled=is_enabled).update(is_enabled=is_enabled)


def redeem(*, account: Account, code: str, user: User | None, now: datetime) -> Transfer:
    """Turn `code`, typed in any case and with or without hyphens, into promo credit of `account`.

    Asking again after an answer was lost raises CodeAlreadyRedeemed with the transfer: nothing is credited twice.

    Raises: CodeUnknown, CodeUsedUp, CodeExpired, CodeAlreadyRedeemed, TooManyTries.
    """
    transfer = _redeem(account, normalise(code), user, now)
    if transfer is None:  # raised out here, so that the wrong try is committed
        raise CodeUnknown
    return transfer


def normalise(text: str) -> str:
    """A code as it is stored, from what a person typed; empty when that cannot be a code."""
    letters = _SEPARATORS.sub("", text.strip()[:100]).upper()
    groups = letters[len(PREFIX) :] if len(letters) == len(PREFIX) + GROUPS * GROUP_LENGTH else letters
    return _spell(groups) if len(groups) == GROUPS * GROUP_LENGTH and set(groups) <= set(ALPHABET) else ""


@transaction.atomic
def _redeem(account: Account, text: str, user: User | None, now: datetime) -> Transfer | None:
    tries = _lock_tries(account, now)
    code = RedemptionCode.objects.select_for_update().filter(code=text, is_enabled=True).first()
    if code is None:
        tries.wrong += 1
        tries.save(update_fields=["wrong", "since"])
        log.info("code_unknown", account=account.pk, wrong_tries=tries.wrong)
        return None
    known = Redemption.objects.select_related("transfer").filter(code=code, account=account).first()
    if known is not None:
        raise CodeAlreadyRedeemed(known.transfer)
    if code.expires_at is not None and code.expires_at <= now:
        raise CodeExpired(code.expires_at)
    if code.uses >= code.most_uses:
        raise CodeUsedUp
    code.uses += 1
    code.save(update_fields=["uses"])
    transfer = ledger.credit(
        wallet_id=ledger.open_wallet(account=account).pk,
        amount=code.amount_nano,
        kind="promo",
        debit_account="promo",
        source_type="code",
        source_id=f"{code.pk}:{account.pk}",
        actor=user.email if user is not None else "",
        note=f"code {code.code}",
        now=now,
        expires_at=now + timedelta(days=code.credit_days) if code.credit_days else None,
    )
    Redemption.objects.create(code=code, account=account, transfer=transfer, redeemed_by=user, created_at=now)
    audit.record(
        account=account,
        actor=user,
        action="wallet.code_redeemed",
        subject=code.code,
        details={"amount_usd": money.usd(code.amount_nano)},
        now=now,
    )
    return transfer


def _lock_tries(account: Account, now: datetime) -> CodeTries:
    """The account's count of wrong tries, locked, and begun anew when its hour is over. Raises: TooManyTries."""
    CodeTries.objects.get_or_create(account=account, defaults={"since": now})
    tries = CodeTries.objects.select_for_update().get(account=account)
    if now - tries.since >= TRIES_WINDOW:
        tries.wrong, tries.since = 0, now
    if tries.wrong >= WRONG_TRIES:
        raise TooManyTries(tries.since + TRIES_WINDOW)
    return tries


def _new_code() -> str:
    return _spell("".join(secrets.choice(ALPHABET) for _ in range(GROUPS * GROUP_LENGTH)))


def _spell(letters: str) -> str:
    return "-".join([PREFIX, *(letters[start : start + GROUP_LENGTH] for start in range(0, len(letters), GROUP_LENGTH))])
