"""Proves who calls: reads the key from a request's headers, checks its shape, and finds the grant behind it, from a cache in memory.

The cache is keyed by the full digest (a cache keyed by a prefix is CVE-2026-35030). It is made fresh by `gateway_site.changes` and by age;
revocation does not rely on it, because a hold refuses a revoked key under the wallet's lock.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings

from catalog.matching import ModelPatterns
from gateway_site.batches import Batcher
from gateway_site.clients import Lane
from keys import secret

FRESH_SECONDS = 30.0
UNKNOWN_FRESH_SECONDS = 5.0
CACHE_SIZE = 50_000
STALE_FROM = 1_000  # so many are kept before it is worth looking which of them nobody has asked for


class NoKey(Exception):
    """The request carries no key."""


class TwoKeys(Exception):
    """The request carries two different keys: which one should pay is not ours to guess."""


class InvalidKey(Exception):
    """The key is malformed, unknown, revoked or expired. Which of them is not told to strangers."""


class KeyDisabled(Exception):
    """The key exists and was switched off, or its account was."""


class WrongKeyKind(Exception):
    """A management key was used for inference, or the other way round."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class AddressNotAllowed(Exception):
    """The key may not be used from this address."""


@dataclass(frozen=True, slots=True)
class KeyGrant:
    """What a key stands for: whose it is and what it may do."""

    id: int
    account_id: int
    account_slug: str
    timezone: str
    name: str
    kind: str
    models: ModelPatterns
    endpoints: frozenset[str]
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    rpm: int | None
    tpm: int | None
    concurrency: int | None
    budget_nano: int | None
    budget_window: str
    expires_at: datetime | None
    revoked_at: datetime | None
    is_disabled: bool
    account_active: bool
    content_days: int = 0  # how long what is asked and answered is stored (`billing.stored_content`); 0: not at all

    @property
    def is_test(self) -> bool:
        """Whether this key reaches the demo provider only and is never billed."""
        return self.kind == "test"

    def check(self, now: datetime) -> None:
        """Raises: InvalidKey, KeyDisabled."""
        if (self.revoked_at is not None and self.revoked_at <= now) or (self.expires_at is not None and self.expires_at <= now):
            raise InvalidKey
        if self.is_disabled or not self.account_active:
            raise KeyDisabled

    def check_address(self, address: str) -> None:
        """Raises: AddressNotAllowed."""
        if not self.networks:
            return
        try:
            caller = ipaddress.ip_address(address)
        except ValueError as error:
            raise AddressNotAllowed from error
        if not any(caller in network for network in self.networks):
            raise AddressNotAllowed


def read_key(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Find the key in ASGI headers: `Authorization: Bearer`, `X-API-Key` or `x-goog-api-key`.

    Raises: NoKey; TwoKeys when they differ.
    """
    found = ""
    for name, value in headers:
        if name == b"authorization":
            scheme, _, text = value.decode("latin-1").partition(" ")
            key = text.strip() if scheme.lower() == "bearer" else ""
        elif name in (b"x-api-key", b"x-goog-api-key"):
            key = value.decode("latin-1").strip()
        else:
            continue
        if key:
            if found and key != found:
                raise TwoKeys
            found = key
    if not found:
        raise NoKey
    return found


COLUMNS = """k.digest, k.id, k.account_id, a.slug, a.timezone, k.name, k.kind, k.allowed_models, k.allowed_endpoints, k.allowed_ips, k.rpm, k.tpm,
    k.concurrency, k.budget_nano, k.budget_window, k.expires_at, k.revoked_at, k.is_disabled, a.is_active, a.content_days"""
LOOK_UP = f"SELECT {COLUMNS} FROM keys_apikey k JOIN accounts_account a ON a.id = k.account_id WHERE k.digest = ANY(%s)"  # noqa: S608 - constants


def grant_from_row(row: Sequence[Any]) -> KeyGrant:
    """Build the grant from a row of `COLUMNS` (without the digest)."""
    return KeyGrant(
        id=row[0],
        account_id=row[1],
        account_slug=row[2],
        timezone=row[3],
        name=row[4],
        kind=row[5],
        models=ModelPatterns(row[6]),
        endpoints=frozenset(row[7]),
        networks=tuple(ipaddress.ip_network(network, strict=False) for network in row[8]),
        rpm=row[9],
        tpm=row[10],
        concurrency=row[11],
        budget_nano=row[12],
        budget_window=row[13],
        expires_at=row[14],
        revoked_at=row[15],
        is_disabled=row[16],
        account_active=row[17],
        content_days=min(row[18], settings.CONTENT_MAX_DAYS),
    )


class Authenticator:
    """Finds grants by key, one batched query for the keys not in memory."""

    def __init__(self, lane: Lane, peppers: Sequence[secret.Pepper]) -> None:
        self._peppers = tuple(peppers)
        self._lane = lane
        self._look_ups: Batcher[bytes, KeyGrant | None] = Batcher(self._look_up)
        self._cache: dict[bytes, tuple[KeyGrant | None, float]] = {}
        self._digests_by_key: dict[int, bytes] = {}
        self._room = STALE_FROM
        self.used: set[int] = set()

    async def find(self, key: str, *, now: datetime, clock: float) -> KeyGrant:
        """The grant of `key`; `clock` is a monotonic time in seconds.

        Raises: InvalidKey, KeyDisabled; gateway_site.clients.DatabaseUnavailable.
        """
        if not secret.is_well_formed(key):
            raise InvalidKey
        for pepper in self._peppers:
            digest = secret.digest(key, pepper)
            cached = self._cache.get(digest)
            if cached is None or cached[1] < clock:
                grant = await self._look_ups.submit(digest)
                self._remember(digest, grant, clock)
            else:
                grant = cached[0]
            if grant is not None:
                grant.check(now)
                self.used.add(grant.id)
                return grant
        raise InvalidKey

    def forget(self, key_id: int | None) -> None:
        """Drop one key's grant from memory; all of them when None."""
        if key_id is None:
            self._cache.clear()
            self._digests_by_key.clear()
        elif (digest := self._digests_by_key.pop(key_id, None)) is not None:
            self._cache.pop(digest, None)

    def forget_account(self, account_id: int | None) -> None:
        """Drop the grants of one account's keys from memory; all of them when None."""
        if account_id is None:
            self.forget(None)
            return
        for grant in [grant for grant, _ in self._cache.values() if grant is not None and grant.account_id == account_id]:
            self.forget(grant.id)

    def _remember(self, digest: bytes, grant: KeyGrant | None, clock: float) -> None:
        if len(self._cache) >= self._room:
            self._make_room(clock)
        self._cache[digest] = (grant, clock + (FRESH_SECONDS if grant is not None else UNKNOWN_FRESH_SECONDS))
        if grant is not None:
            self._digests_by_key[grant.id] = digest

    def _make_room(self, clock: float) -> None:
        """Drop what would be looked up again anyway: made-up keys, and those not used for a while."""
        self._cache = {digest: kept for digest, kept in self._cache.items() if kept[1] >= clock}
        if len(self._cache) > CACHE_SIZE // 2:
            self._cache.clear()  # rare and cheap: everyone in use is looked up once more, in batches
        self._digests_by_key = {grant.id: digest for digest, (grant, _) in self._cache.items() if grant is not None}
        self._room = max(STALE_FROM, 2 * len(self._cache))

    async def _look_up(self, digests: Sequence[bytes]) -> list[KeyGrant | Exception | None]:
        rows = await self._lane.fetch(LOOK_UP, [list(digests)])
        found = {bytes(row[0]): grant_from_row(row[1:]) for row in rows}
        return [found.get(digest) for digest in digests]
