"""The shape of an API key: `sk-gw-`, 43 base62 digits (256 bits), and 6 base62 digits of CRC32 over everything before them.

A typo or a made-up key is refused by the checksum alone, without a look-up. Test keys read `sk-gw-test-`, management keys `sk-gw-admin-`.
"""

import hashlib
import hmac
import re
import secrets
import zlib
from dataclasses import dataclass

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
RANDOM_DIGITS = 43
CHECK_DIGITS = 6
PREFIXES = {"live": "sk-gw-", "test": "sk-gw-test-", "management": "sk-gw-admin-"}
_SHAPE = re.compile(r"sk-gw-(?:test-|admin-)?[0-9A-Za-z]{49}")


@dataclass(frozen=True, slots=True)
class Pepper:
    """A secret of the installation that digests are keyed with; its version is stored beside each digest."""

    version: int
    secret: bytes


class NoPepper(Exception):
    """KEY_PEPPERS is empty or malformed."""


def _base62(number: int, digits: int) -> str:
    out = []
    for _ in range(digits):
        number, digit = divmod(number, 62)
        out.append(ALPHABET[digit])
    return "".join(reversed(out))


def generate(kind: str = "live") -> str:
    """Make a new key of `kind` ("live", "test" or "management")."""
    body = PREFIXES[kind] + _base62(secrets.randbits(256), RANDOM_DIGITS)
    return body + _base62(zlib.crc32(body.encode()), CHECK_DIGITS)


def is_well_formed(text: str) -> bool:
    """Whether `text` has the shape and the checksum of a key: cheap, and no proof that the key exists."""
    if len(text) > 70 or not _SHAPE.fullmatch(text):
        return False
    return _base62(zlib.crc32(text[:-CHECK_DIGITS].encode()), CHECK_DIGITS) == text[-CHECK_DIGITS:]


def digest(text: str, pepper: Pepper) -> bytes:
    """What is stored of a key: HMAC-SHA256 under the pepper (32 bytes)."""
    return hmac.new(pepper.secret, text.encode(), hashlib.sha256).digest()


def recognisable(text: str) -> tuple[str, str]:
    """What people recognise a key by: its prefix with four digits, and its last four."""
    prefix = max((prefix for prefix in PREFIXES.values() if text.startswith(prefix)), key=len)
    return text[: len(prefix) + 4], text[-4:]


def read_peppers(configured: list[str]) -> list[Pepper]:
    """Read KEY_PEPPERS ("version:hex", the first is current).

    Raises: NoPepper.
    """
    peppers = []
    for entry in configured:
        version, _, value = entry.partition(":")
        try:
            pepper = Pepper(int(version), bytes.fromhex(value))
        except ValueError as error:
            raise NoPepper("KEY_PEPPERS must be a list of version:hex") from error
        if len(pepper.secret) < 16:
            raise NoPepper("a pepper needs at least 16 bytes")
        peppers.append(pepper)
    if not peppers:
        raise NoPepper("KEY_PEPPERS is empty: set it to version:hex (`openssl rand -hex 32` makes one)")
    return peppers
