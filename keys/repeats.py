"""Calls of the management API that may be sent twice and act once: by their `Idempotency-Key`, kept for a day with what was answered.

The row is written in the transaction of the deed, so a call that failed or died left neither. A secret is in no row: a call that showed one
is not answered again but refused, with the id of what it made.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from accounts.models import Account
from keys.models import ManagementCall

KEPT = timedelta(days=1)
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class BadIdempotencyKey(ValueError):
    """The key is not 1 to 255 visible ASCII characters."""


class UsedForAnother(Exception):
    """The key was used for another call."""


class SecretShownBefore(Exception):
    """The call was made before and showed a secret then, which is kept nowhere. `made` is the id of what it is the secret of."""

    def __init__(self, made: str) -> None:
        super().__init__(made)
        self.made = made


@dataclass(frozen=True, slots=True)
class Made:
    """What a call answered. `secrets` are shown beside `answer` this once and kept nowhere; `is_repeat`: it was answered before."""

    status: int
    answer: Mapping[str, Any]
    secrets: Mapping[str, str]
    is_repeat: bool = False


@transaction.atomic
def once(*, account: Account, key: str | None, call: str, body: bytes, now: datetime, act: Callable[[], Made]) -> Made:
    """Act, unless a call with this idempotency key did within a day: then give its answer. Without a key every call acts.

    `call` names what is called, with its address. Of two at once the second waits for the end of the first.

    Raises: BadIdempotencyKey, UsedForAnother, SecretShownBefore, and what `act` raises: then the key may be used again.
    """
    if key is None:
        return act()
    if not _KEY.fullmatch(key):
        raise BadIdempotencyKey
    token = hashlib.sha256(key.encode()).hexdigest()
    fingerprint = hashlib.sha256(call.encode() + b"\n" + body).hexdigest()
    calls = ManagementCall.objects.filter(account=account)
    calls.filter(created_at__lt=now - KEPT).delete()
    if not ManagementCall.objects.begin(account=account, token=token, fingerprint=fingerprint, now=now):
        before = calls.get(token=token)
        if before.fingerprint != fingerprint:
            raise UsedForAnother
        if before.made:
            raise SecretShownBefore(before.made)
        return Made(before.status, before.answer, {}, is_repeat=True)
    done = act()
    made = str(done.answer["data"]["id"]) if done.secrets else ""
    calls.filter(token=token).update(status=done.status, answer=dict(done.answer), made=made)
    return done
