"""Stored content: what was asked and answered, kept for accounts that want it, for as many days as they say, and sealed for them alone.

It is compressed, then sealed by AES-256-GCM under a key that the account has of its own, bound to account and request: a row that is moved to
another account or request does not open. The account's key lies sealed in the vault, so that rotating the installation's key means sealing
anew one short text an account. When the account wants nothing stored any more, its key is destroyed: what was sealed with it is lost at that
moment, and the rows go as fast as they can be deleted.

The data plane writes (`proxy.content`); here is what is asked about it, and its end.
"""

import os
import uuid
import zlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from accounts import audit
from accounts.models import Account, AuditEvent, User
from billing.models import ContentKey, StoredContent
from catalog import vault
from gateway_site import changes

NONCE_BYTES: Final = 12
KEY_BYTES: Final = 32
DROPPED_AT_ONCE: Final = 500
COMPRESSION: Final = 1  # zlib's fastest: prose gets to half of its size by it, a stream's events to a tenth
Part = Literal["request", "answer"]

# Rows of keys that have ended, and those older than their account wants it now (or the operator allows), whatever it wanted then.
UNWANTED = """SELECT unwanted.request_id FROM billing_contentkey k JOIN accounts_account a ON a.id = k.account_id
    CROSS JOIN LATERAL (
        SELECT c.request_id FROM billing_storedcontent c WHERE c.key_id = k.id AND c.at <= CASE WHEN k.ended_at IS NOT NULL
            THEN 'infinity' ELSE %(now)s::timestamptz - make_interval(days => LEAST(a.content_days, %(most_days)s)) END
        LIMIT %(limit)s) unwanted
    LIMIT %(limit)s"""
DROP = f"""DELETE FROM billing_storedcontent WHERE request_id IN (
    (SELECT request_id FROM billing_storedcontent WHERE expires_at <= %(now)s ORDER BY expires_at LIMIT %(limit)s) UNION ({UNWANTED}))"""  # noqa: S608 - constants
DROP_KEYS = """DELETE FROM billing_contentkey k WHERE k.ended_at IS NOT NULL
    AND NOT EXISTS (SELECT FROM billing_storedcontent c WHERE c.key_id = k.id)"""


class TooManyDays(ValueError):
    """Content cannot be stored for so long here (or for less than no time)."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit


@dataclass(frozen=True, slots=True)
class Content:
    """What was asked and answered in one request, as its bytes were."""

    request: bytes
    answer: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """What one batch of re-sealing did. `last` is where the next one begins; None: there is nothing after it."""

    resealed: int
    unopened: tuple[str, ...]
    last: int | None


# -- What an account wants ---------------------------------------------------------------------------------------------------------------


def days_of(account: Account) -> int:
    """For how many days content of `account` is stored: what it chose, as far as the operator allows it; 0: it is not."""
    return int(min(account.content_days, settings.CONTENT_MAX_DAYS))


@transaction.atomic
def choose(account: Account, *, days: int, by: User, now: datetime, ip: str | None = None) -> None:
    """Store the account's content for `days` from now on; with 0 store none, and destroy what there is.

    Raises: TooManyDays.
    """
    if days and not 0 < days <= settings.CONTENT_MAX_DAYS:
        raise TooManyDays(settings.CONTENT_MAX_DAYS)
    before = Account.objects.select_for_update().get(pk=account.pk).content_days
    if days == before:
        return
    if days == 0:
        # Whoever is writing under the key has its row locked: what they write is there to be deleted, and nobody writes after us.
        ContentKey.objects.filter(account=account, ended_at=None).update(sealed="", ended_at=now)
    elif before == 0:
        ContentKey.objects.create(account=account, sealed=_sealed_key(os.urandom(KEY_BYTES).hex(), account.pk), created_at=now)
    account.content_days = days
    account.save(update_fields=["content_days"])
    action = "content.turned_on" if before == 0 else "content.turned_off" if days == 0 else "content.changed"
    audit.record(account=account, actor=by, action=action, subject=account.slug, details={"from": before, "to": days}, now=now, ip=ip)
    transaction.on_commit(lambda: changes.publish(f"account:{account.pk}"))
    if days == 0:
        _drop_of(account, limit=DROPPED_AT_ONCE)  # of more than that, the task takes the rest


# -- Reading -----------------------------------------------------------------------------------------------------------------------------


def find(request_id: uuid.UUID, *, account: Account, now: datetime) -> StoredContent | None:
    """What is stored of the account's request, without the content itself; None where there is nothing, or not any more."""
    stored = StoredContent.objects.filter(
        pk=request_id,
        account=account,
        key__account=account,
        key__ended_at=None,
        expires_at__gt=now,
        at__gt=now - timedelta(days=days_of(account)),
    )
    return stored.select_related("key").defer("request", "answer").first()


def ends_at(stored: StoredContent, *, account: Account) -> datetime:
    """When it is deleted, as things are."""
    return min(stored.expires_at, stored.at + timedelta(days=days_of(account)))


def read(stored: StoredContent, *, by: User, now: datetime, ip: str | None = None) -> Content:
    """Open what is stored; that `by` has read it is written down, once a day for each request.

    Raises: vault.CannotOpen.
    """
    account = stored.account
    key = open_key(stored.key.sealed, account_id=account.pk)
    content = Content(*(unseal(getattr(stored, part), key=key, account_id=account.pk, request_id=stored.pk, part=part) for part in _PARTS))
    today = timezone.localtime(now).replace(hour=0, minute=0, second=0, microsecond=0)
    told = AuditEvent.objects.filter(account=account, actor=by, action="content.read", subject=str(stored.pk), at__gte=today)
    if not told.exists():
        audit.record(account=account, actor=by, action="content.read", subject=str(stored.pk), now=now, ip=ip)
    return content


@transaction.atomic
def delete(request_id: uuid.UUID, *, account: Account, by: User, now: datetime, ip: str | None = None) -> bool:
    """Delete what is stored of one request; False when there was nothing."""
    if not StoredContent.objects.filter(pk=request_id, account=account).delete()[0]:
        return False
    audit.record(account=account, actor=by, action="content.deleted", subject=str(request_id), now=now, ip=ip)
    return True


# -- Its end -----------------------------------------------------------------------------------------------------------------------------


def drop(*, now: datetime, limit: int = DROPPED_AT_ONCE) -> int:
    """Delete some of what is not to be there any more, about `limit` rows at most, and keys that nothing is sealed with; returns how many rows."""
    with connection.cursor() as cursor:
        cursor.execute(DROP, {"now": now, "most_days": settings.CONTENT_MAX_DAYS, "limit": limit})
        dropped = int(cursor.rowcount)
        if dropped == 0:
            cursor.execute(DROP_KEYS)
    return dropped


def _drop_of(account: Account, *, limit: int) -> None:
    some = StoredContent.objects.filter(key__account=account, key__ended_at__isnull=False).values("pk")[:limit]
    StoredContent.objects.filter(pk__in=some).delete()


# -- Sealing -----------------------------------------------------------------------------------------------------------------------------

_PARTS: tuple[Part, Part] = ("request", "answer")


def open_key(sealed: str, *, account_id: int) -> AESGCM:
    """The key of an account, from `ContentKey.sealed`. Raises: vault.CannotOpen."""
    return AESGCM(bytes.fromhex(vault.open_sealed(sealed, place=_place(account_id))))


def seal(plain: bytes | bytearray, *, key: AESGCM, account_id: int, request_id: uuid.UUID, part: Part) -> bytes:
    """Compress and encrypt one part of a request's content for this account and request."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + key.encrypt(nonce, zlib.compress(plain, COMPRESSION), _bound_to(account_id, request_id, part))


def unseal(sealed: bytes | memoryview, *, key: AESGCM, account_id: int, request_id: uuid.UUID, part: Part) -> bytes:
    """What `seal` made for the same account, request and part. Raises: vault.CannotOpen."""
    raw = bytes(sealed)
    try:
        return zlib.decompress(key.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], _bound_to(account_id, request_id, part)))
    except (InvalidTag, ValueError, zlib.error) as error:
        raise vault.CannotOpen("this content was not stored for this request of this account, or is damaged") from error


@transaction.atomic
def reseal_batch(*, after: int | None, limit: int) -> Batch:
    """Re-seal the keys of up to `limit` accounts under the current version of the vault; what does not open is left as it is.

    Raises: vault.NoEncryptionKey.
    """
    rows = ContentKey.objects.select_for_update(of=("self",)).select_related("account").filter(ended_at=None).order_by("pk")
    rows = rows.exclude(sealed__startswith=f"v1.{vault.current_version()}.")
    found = list((rows if after is None else rows.filter(pk__gt=after))[:limit])
    resealed, unopened = 0, []
    for row in found:
        try:
            row.sealed = _sealed_key(vault.open_sealed(row.sealed, place=_place(row.account_id)), row.account_id)
        except vault.CannotOpen:
            unopened.append(f"stored content of {row.account}")
            continue
        row.save(update_fields=["sealed"])
        resealed += 1
    return Batch(resealed, tuple(unopened), found[-1].pk if len(found) == limit else None)


def _sealed_key(key: str, account_id: int) -> str:
    return vault.seal(key, place=_place(account_id))


def _place(account_id: int) -> str:
    return f"content_key:{account_id}:sealed"


def _bound_to(account_id: int, request_id: uuid.UUID, part: Part) -> bytes:
    return f"stored content v1\0{account_id}\0{request_id}\0{part}".encode()
