"""Seals provider secrets with AES-256-GCM: bound to their row, under a key that the operator can rotate.

A sealed secret reads `v1.<key version>.<nonce>.<ciphertext>` (base64url). The associated data names table, row and field, so a ciphertext
moved to another row does not open.
"""

import base64
import os
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings


class CannotOpen(Exception):
    """The sealed text does not belong to this place, is damaged, or its key version is not configured."""


class NoEncryptionKey(Exception):
    """ENCRYPTION_KEYS is empty or malformed."""


@lru_cache(maxsize=8)
def _ring(configured: tuple[str, ...]) -> dict[str, AESGCM]:
    ring: dict[str, AESGCM] = {}
    for entry in configured:
        version, _, key = entry.partition(":")
        try:
            ring[version] = AESGCM(bytes.fromhex(key))
        except ValueError as error:
            raise NoEncryptionKey("ENCRYPTION_KEYS must be a list of version:64-hex-digits") from error
    if not ring:
        raise NoEncryptionKey("ENCRYPTION_KEYS is empty: set it to version:64-hex-digits (`openssl rand -hex 32` makes one)")
    return ring


def current_version() -> str:
    """The version that new secrets are sealed under: the first of ENCRYPTION_KEYS."""
    return next(iter(_ring(tuple(settings.ENCRYPTION_KEYS))))


def seal(secret: str, *, place: str) -> str:
    """Encrypt `secret` for `place` ("provider_key:<id>:secret")."""
    version = current_version()
    nonce = os.urandom(12)
    ciphertext = _ring(tuple(settings.ENCRYPTION_KEYS))[version].encrypt(nonce, secret.encode(), place.encode())
    return ".".join(("v1", version, base64.urlsafe_b64encode(nonce).decode(), base64.urlsafe_b64encode(ciphertext).decode()))


def open_sealed(sealed: str, *, place: str) -> str:
    """Decrypt what `seal` made for the same `place`.

    Raises: CannotOpen.
    """
    try:
        scheme, version, nonce, ciphertext = sealed.split(".")
        if scheme != "v1":
            raise CannotOpen(f"unknown scheme {scheme!r}")
        cipher = _ring(tuple(settings.ENCRYPTION_KEYS))[version]
        return cipher.decrypt(base64.urlsafe_b64decode(nonce), base64.urlsafe_b64decode(ciphertext), place.encode()).decode()
    except (ValueError, KeyError, InvalidTag) as error:
        raise CannotOpen("the secret does not open here: wrong row, damaged, or its key version is missing from ENCRYPTION_KEYS") from error


def sealed_under(sealed: str) -> str:
    """The key version a sealed secret needs."""
    return sealed.split(".", 2)[1]
