"""What members do with their account's keys: each deed is written in the account's audit log, in the transaction that does it.

A deed over the management API is its maker's, and says `through` which key it was done.
"""

import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Unpack

from django.db import transaction

from accounts import audit
from accounts.models import Account, User
from catalog import money
from keys import issuing
from keys.models import ApiKey


def find(key_id: int, *, account: Account) -> ApiKey:
    """The account's key of this id. Raises: issuing.KeyNotFound, also for another account's."""
    key = ApiKey.objects.filter(pk=key_id, account=account).select_related("account", "created_by", "replaces").first()
    if key is None:
        raise issuing.KeyNotFound("there is no such key")
    return key


@transaction.atomic
def issue(
    *,
    account: Account,
    kind: str,
    by: User | None,
    now: datetime,
    form_token: uuid.UUID | None = None,
    ip: str | None = None,
    through: ApiKey | None = None,
    **settings: Unpack[issuing.Settings],
) -> tuple[ApiKey, str]:
    """Issue a key; return its row and its secret, which nothing can show again.

    Raises: issuing.AlreadyIssued when this form was sent before; issuing.InvalidSetting.
    """
    name = settings.pop("name", "")
    settings.pop("is_disabled", None)
    key, secret = issuing.issue(account=account, name=name, kind=kind, created_by=by, now=now, form_token=form_token, **settings)  # type: ignore[misc]
    _write_down(
        "key.issued",
        key,
        by=by,
        now=now,
        ip=ip,
        through=through,
        details={"kind": kind, **_told({name: getattr(key, name) for name in settings})},
    )
    return key, secret


@transaction.atomic
def change(
    *,
    key: ApiKey,
    by: User | None,
    now: datetime,
    ip: str | None = None,
    through: ApiKey | None = None,
    **settings: Unpack[issuing.Settings],
) -> ApiKey:
    """Change what is named of `settings`, as far as it is another value. Raises: issuing.KeyEnded, issuing.InvalidSetting."""
    before = ApiKey.objects.select_for_update(no_key=True).get(pk=key.pk)
    different: Any = {name: value for name, value in settings.items() if getattr(before, name) != value}
    if not different:
        return before
    changed = issuing.change(key=before, now=now, **different)
    was, now_is = ({name: getattr(row, name) for name in different} for row in (before, changed))
    told_before, told_after = _told(was), _told(now_is)
    details = {name: {"from": told_before[name], "to": told_after[name]} for name in told_after}
    _write_down("key.changed", changed, by=by, now=now, ip=ip, through=through, details=details)
    return changed


@transaction.atomic
def reroll(
    *, key: ApiKey, overlap: timedelta, by: User | None, now: datetime, ip: str | None = None, through: ApiKey | None = None
) -> tuple[ApiKey, str]:
    """Issue a key in place of `key`, which works for `overlap` longer; return the new row and its secret.

    Raises: issuing.KeyEnded (also when it was rerolled before), issuing.BadOverlap.
    """
    new, secret = issuing.reroll(key=key, overlap=overlap, now=now, created_by=by)
    details = {"new": recognised(new), "overlap_seconds": int(overlap.total_seconds())}
    _write_down("key.rerolled", key, by=by, now=now, ip=ip, through=through, details=details)
    return new, secret


@transaction.atomic
def revoke(*, key: ApiKey, by: User | None, now: datetime, ip: str | None = None, through: ApiKey | None = None) -> ApiKey:
    """Stop `key` for ever. One that is revoked already stays as it was, and nothing is written down."""
    locked = ApiKey.objects.select_for_update().get(pk=key.pk)
    if locked.revoked_at is not None:
        return locked
    issuing.revoke(key=locked, now=now)
    _write_down("key.revoked", locked, by=by, now=now, ip=ip, through=through)
    return locked


@transaction.atomic
def switch(
    *, key: ApiKey, is_disabled: bool, by: User | None, now: datetime, ip: str | None = None, through: ApiKey | None = None
) -> ApiKey:
    """Stop `key` for the time being, or let it work again. Nothing is written down if it does so already. Raises: issuing.KeyEnded."""
    locked = ApiKey.objects.select_for_update(no_key=True).get(pk=key.pk)
    if locked.revoked_at is not None:
        raise issuing.KeyEnded(f"{locked} is revoked")
    if locked.is_disabled != is_disabled:
        issuing.disable(key=locked) if is_disabled else issuing.enable(key=locked)
        _write_down("key.disabled" if is_disabled else "key.enabled", locked, by=by, now=now, ip=ip, through=through)
    return locked


def recognised(key: ApiKey) -> str:
    """What people know a key by: sk-gw-1a2B…9xYz."""
    return f"{key.start}…{key.last_four}"


def _write_down(
    action: str,
    key: ApiKey,
    *,
    by: User | None,
    now: datetime,
    ip: str | None,
    through: ApiKey | None,
    details: Mapping[str, object] | None = None,
) -> None:
    told = {"key": recognised(key), **(details or {})}
    actor_text = ""
    if through is not None:
        told["through"] = recognised(through)
        actor_text = "" if by is not None else f"management key {recognised(through)}"
    audit.record(account=key.account, actor=by, action=action, subject=key.name, details=told, now=now, ip=ip, actor_text=actor_text)


def _told(settings: dict[str, Any]) -> dict[str, object]:
    """Settings as the log has them: dollars for nano-USD, ISO 8601 for moments; at issuing, what limits nothing is left out."""
    told: dict[str, object] = {}
    for name, value in settings.items():
        if name == "budget_nano":
            told["budget_usd"] = None if value is None else money.usd(value)
        else:
            told[name] = value.isoformat() if isinstance(value, datetime) else value
    return told
