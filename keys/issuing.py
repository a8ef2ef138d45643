"""Issues, changes, rerolls, revokes, disables and enables keys. A key's secret leaves `issue` or `reroll` once and is kept nowhere.

Every rule is one transaction, and tells the other processes once it is committed (`gateway_site.changes`).
"""

import ipaddress
import re
import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import TypedDict, Unpack

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from accounts.models import Account, User
from gateway_site import changes
from keys import secret
from keys.models import ApiKey

LARGEST_LIMIT = 2_147_483_647
LARGEST_BUDGET = 2**63 - 1

_PATTERN = re.compile(r"[A-Za-z0-9*?\[][A-Za-z0-9._:/@+*?\[\]!-]{0,149}")
_ENDPOINT = re.compile(r"[a-z][a-z0-9_]{0,29}")
_RECOGNISED = re.compile(r"(sk-gw-[A-Za-z0-9-]{4,10})(?:…|\.\.\.)([0-9A-Za-z]{4})")


class InvalidSetting(ValueError):
    """A key cannot be issued with this setting; `field` names it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class BadName(InvalidSetting):
    """The name is empty or longer than 100 characters."""


class BadChoice(InvalidSetting):
    """There is no such kind of key, or no such budget window."""


class BadModelPattern(InvalidSetting):
    """An allowed model is neither a model's name nor a pattern such as "openai/*"."""


class BadEndpoint(InvalidSetting):
    """An allowed endpoint is no endpoint's name."""


class BadNetwork(InvalidSetting):
    """An allowed address is neither an IP address nor a network."""


class BadLimit(InvalidSetting):
    """A limit is negative, nothing at all, or more than its column holds."""


class ExpiryInThePast(InvalidSetting):
    """The key would be expired before it is used."""


class BadOverlap(InvalidSetting):
    """The overlap of a reroll is negative."""


class AlreadyIssued(Exception):
    """This form was sent before and issued `key`. Its secret was shown then and can never be shown again: reroll the key if it was missed."""

    def __init__(self, key: ApiKey) -> None:
        super().__init__(f"{key} was issued by this form before")
        self.key = key


class KeyEnded(Exception):
    """The key is revoked, expired, or replaced by another already: it cannot be changed, rerolled or enabled."""


class KeyNotFound(LookupError):
    """No key, or more than one, is meant by this text."""


class Settings(TypedDict, total=False):
    """What can be changed of a key; what is not named stays as it is."""

    name: str
    allowed_models: Iterable[str]
    allowed_endpoints: Iterable[str]
    allowed_ips: Iterable[str]
    rpm: int | None
    tpm: int | None
    concurrency: int | None
    budget_nano: int | None
    budget_window: str
    expires_at: datetime | None
    is_disabled: bool


@transaction.atomic
def issue(
    *,
    account: Account,
    name: str,
    now: datetime,
    kind: str = "live",
    created_by: User | None = None,
    allowed_models: Iterable[str] = (),
    allowed_endpoints: Iterable[str] = (),
    allowed_ips: Iterable[str] = (),
    rpm: int | None = None,
    tpm: int | None = None,
    concurrency: int | None = None,
    budget_nano: int | None = None,
    budget_window: str = "month",
    expires_at: datetime | None = None,
    form_token: uuid.UUID | None = None,
) -> tuple[ApiKey, str]:
    """Issue a key of `account`; return its row and its secret, which nothing can show again.

    Empty lists and None limit nothing. `budget_nano` is nano-USD per `budget_window` ("day", "week", "month", "total"). Of all
    calls with the same `form_token` (two clicks, a request that is repeated) one issues a key.

    Raises: AlreadyIssued, InvalidSetting (one of BadName, BadChoice, BadModelPattern, BadEndpoint, BadNetwork, BadLimit, ExpiryInThePast).
    """
    if form_token is not None:
        # Of two at once the second waits here for the end of the first.
        Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        known = ApiKey.objects.filter(form_token=form_token, account=account).first()
        if known is not None:
            raise AlreadyIssued(known)
    key = ApiKey(
        account=account,
        name=_checked_name(name),
        kind=_checked_choice("kind", kind, ApiKey.Kind.values),
        allowed_models=_checked_models(allowed_models),
        allowed_endpoints=_checked_endpoints(allowed_endpoints),
        allowed_ips=_checked_networks(allowed_ips),
        rpm=_checked_limit("rpm", rpm, lowest=1, highest=LARGEST_LIMIT),
        tpm=_checked_limit("tpm", tpm, lowest=1, highest=LARGEST_LIMIT),
        concurrency=_checked_limit("concurrency", concurrency, lowest=1, highest=LARGEST_LIMIT),
        budget_nano=_checked_limit("budget_nano", budget_nano, lowest=0, highest=LARGEST_BUDGET),
        budget_window=_checked_choice("budget_window", budget_window, ApiKey.Window.values),
        expires_at=_checked_expiry(expires_at, now),
        form_token=form_token,
        created_by=created_by,
        created_at=now,
    )
    return key, _seal_and_save(key)


@transaction.atomic
def change(*, key: ApiKey, now: datetime, **settings: Unpack[Settings]) -> ApiKey:
    """Change what `key` may do; only what is named changes. An expiry that stays is not looked at, even if it has passed.

    A budget counts what was spent in its window before it was set. Requests under way go on with what they were let in with.

    Raises: KeyEnded when the key is revoked; InvalidSetting as `issue`.
    """
    found = ApiKey.objects.select_for_update(no_key=True).get(pk=key.pk)
    if found.revoked_at is not None:
        raise KeyEnded(f"{found} is revoked")
    for field, value in _checked(settings, now=now).items():
        setattr(found, field, value)
    if settings:
        found.save(update_fields=list(settings))
        _announce(found)
    return found


@transaction.atomic
def reroll(*, key: ApiKey, overlap: timedelta, now: datetime, created_by: User | None = None) -> tuple[ApiKey, str]:
    """Issue a key with the settings of `key` in its place; return the new row and its secret. `key` works for `overlap` longer.

    The old key expires then (or earlier, if it was to); without an overlap it is revoked at once, which a hold checks under the wallet's
    lock, so a leaked key spends nothing more from that moment. The new key `replaces` it and keeps its name, scopes, limits and own expiry.

    The budget is copied, not split: windows are counted by key, so each key answers for its own spending. The new key's current window
    begins empty, and until the overlap ends the old one may still spend what is left of its own. In the window of a reroll the two together
    can thus spend at most two budgets, afterwards one per window; whoever may not set budgets should not be given the right to reroll.

    Raises: BadOverlap, KeyEnded.
    """
    if overlap < timedelta():
        raise BadOverlap("overlap", "is negative")
    old = ApiKey.objects.select_for_update().get(pk=key.pk)
    if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
        raise KeyEnded(f"{old} is revoked or expired")
    if ApiKey.objects.filter(replaces=old, revoked_at=None).exists():
        raise KeyEnded(f"{old} is replaced already: reroll the key that replaced it")
    new = ApiKey(
        account_id=old.account_id,
        name=old.name,
        kind=old.kind,
        allowed_models=old.allowed_models,
        allowed_endpoints=old.allowed_endpoints,
        allowed_ips=old.allowed_ips,
        rpm=old.rpm,
        tpm=old.tpm,
        concurrency=old.concurrency,
        budget_nano=old.budget_nano,
        budget_window=old.budget_window,
        expires_at=old.expires_at,
        is_disabled=old.is_disabled,
        replaces=old,
        created_by=created_by,
        created_at=now,
    )
    text = _seal_and_save(new)
    if overlap:
        until = now + overlap
        old.expires_at = until if old.expires_at is None else min(old.expires_at, until)
    else:
        old.revoked_at = now
    old.save(update_fields=["expires_at", "revoked_at"])
    _announce(old)
    return new, text


@transaction.atomic
def revoke(*, key: ApiKey, now: datetime) -> ApiKey:
    """Stop `key` for ever. A key that is revoked already keeps its moment."""
    ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=now)
    _announce(key)
    key.refresh_from_db(fields=["revoked_at"])
    return key


@transaction.atomic
def disable(*, key: ApiKey) -> ApiKey:
    """Stop `key` until it is enabled again."""
    return _switch(key, is_disabled=True)


@transaction.atomic
def enable(*, key: ApiKey) -> ApiKey:
    """Let a disabled key work again.

    Raises: KeyEnded when it is revoked.
    """
    if ApiKey.objects.filter(pk=key.pk, revoked_at__isnull=False).exists():
        raise KeyEnded(f"{key} is revoked")
    return _switch(key, is_disabled=False)


def find(text: str) -> ApiKey:
    """Find the key that a person means: by its id, by how it is recognised (`sk-gw-1a2B…9xYz`), or by the key itself.

    Raises: KeyNotFound.
    """
    text = text.strip()
    if text.isdecimal() and len(text) < 19:
        wanted = Q(pk=int(text))
    elif match := _RECOGNISED.fullmatch(text):
        wanted = Q(start=match[1], last_four=match[2])
    elif secret.is_well_formed(text):
        wanted = Q(digest__in=[secret.digest(text, pepper) for pepper in secret.read_peppers(settings.KEY_PEPPERS)])
    else:
        raise KeyNotFound("that is neither a key's id, nor its start…end, nor a key")
    found = list(ApiKey.objects.filter(wanted).select_related("account")[:2])
    if len(found) != 1:
        raise KeyNotFound("more than one key looks like that: use its id" if found else "there is no such key")
    return found[0]


def _seal_and_save(key: ApiKey) -> str:
    pepper = secret.read_peppers(settings.KEY_PEPPERS)[0]
    text = secret.generate(key.kind)
    key.digest = secret.digest(text, pepper)
    key.pepper_version = pepper.version
    key.start, key.last_four = secret.recognisable(text)
    key.save(force_insert=True)
    _announce(key)
    return text


def _switch(key: ApiKey, *, is_disabled: bool) -> ApiKey:
    ApiKey.objects.filter(pk=key.pk).update(is_disabled=is_disabled)
    key.is_disabled = is_disabled
    _announce(key)
    return key


def _announce(key: ApiKey) -> None:
    transaction.on_commit(partial(changes.publish, f"key:{key.pk}"))


def _checked(given: Settings, *, now: datetime) -> dict[str, object]:
    checked: dict[str, object] = {}
    if "name" in given:
        checked["name"] = _checked_name(given["name"])
    if "allowed_models" in given:
        checked["allowed_models"] = _checked_models(given["allowed_models"])
    if "allowed_endpoints" in given:
        checked["allowed_endpoints"] = _checked_endpoints(given["allowed_endpoints"])
    if "allowed_ips" in given:
        checked["allowed_ips"] = _checked_networks(given["allowed_ips"])
    for field in ("rpm", "tpm", "concurrency"):
        if field in given:
            checked[field] = _checked_limit(field, given[field], lowest=1, highest=LARGEST_LIMIT)
    if "budget_nano" in given:
        checked["budget_nano"] = _checked_limit("budget_nano", given["budget_nano"], lowest=0, highest=LARGEST_BUDGET)
    if "budget_window" in given:
        checked["budget_window"] = _checked_choice("budget_window", given["budget_window"], ApiKey.Window.values)
    if "expires_at" in given:
        checked["expires_at"] = _checked_expiry(given["expires_at"], now)
    if "is_disabled" in given:
        checked["is_disabled"] = given["is_disabled"]
    return checked


def _checked_expiry(value: datetime | None, now: datetime) -> datetime | None:
    if value is not None and value <= now:
        raise ExpiryInThePast("expires_at", "is not in the future")
    return value


def _checked_name(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= 100 or not name.isprintable():
        raise BadName("name", "must have 1 to 100 printable characters")
    return name


def _checked_choice(field: str, value: str, known: list[str]) -> str:
    if value not in known:
        raise BadChoice(field, f"{value!r} is none of {', '.join(known)}")
    return value


def _checked_models(patterns: Iterable[str]) -> list[str]:
    patterns = list(patterns)
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern):
            raise BadModelPattern("allowed_models", f'{pattern!r} is neither a model nor a pattern such as "openai/*"')
    return patterns


def _checked_endpoints(endpoints: Iterable[str]) -> list[str]:
    endpoints = list(endpoints)
    for endpoint in endpoints:
        if not _ENDPOINT.fullmatch(endpoint):
            raise BadEndpoint("allowed_endpoints", f'{endpoint!r} is not an endpoint such as "chat"')
    return endpoints


def _checked_networks(networks: Iterable[str]) -> list[str]:
    """The networks in their shortest spelling: 203.0.113.7/24 is 203.0.113.0/24."""
    checked = []
    for network in networks:
        try:
            checked.append(str(ipaddress.ip_network(network.strip(), strict=False)))
        except ValueError:
            raise BadNetwork("allowed_ips", f"{network!r} is neither an IP address nor a network such as 203.0.113.0/24") from None
    return checked


def _checked_limit(field: str, value: int | None, *, lowest: int, highest: int) -> int | None:
    if value is not None and not lowest <= value <= highest:
        raise BadLimit(field, f"must be between {lowest} and {highest}, or nothing for no limit")
    return value
