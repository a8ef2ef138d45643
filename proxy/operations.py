"""The names that clients get for what a provider keeps under a name of its own: long-running operations, and the files that they made.

A provider's own name is never shown: whoever knows it and has a key at the same provider could ask for it. The gateway's name holds all that
is needed to ask again (which provider, which key, what was paid for), encrypted for the account, so that asking looks nothing up and another
account's key opens nothing. A file's name is made of small letters and digits alone, because Google's SDKs cut it off at anything else.
"""

import base64
import binascii
import re
import uuid
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, Final

import orjson

from proxy.envelopes import Envelopes

LONGEST_NAME: Final = 4096  # characters of what a client may send as a name
_PROVIDERS_NAME = re.compile(r"(?:[A-Za-z0-9._~@-]+/)*operations/[A-Za-z0-9._~-]{1,200}")


@dataclass(frozen=True, slots=True)
class Operation:
    """A long-running operation at a provider: under which key it was begun, and what was paid for (`videos` of `seconds` each)."""

    request_id: str
    model: str  # as the client called it
    provider: str  # its slug
    key: str | None
    upstream_model: str
    name: str  # the provider's
    videos: int
    seconds: int


@dataclass(frozen=True, slots=True)
class File:
    """A file at a provider, by its whole address."""

    provider: str
    key: str | None
    url: str


class Names:
    """Gives names and reads them. `keys` are (version, 256-bit key), as for envelopes.

    Raises: proxy.envelopes.BadKeys.
    """

    def __init__(self, keys: Sequence[tuple[str, bytes]]) -> None:
        self._operations = Envelopes(keys, domain=b"operation name v1")
        self._files = Envelopes(keys, domain=b"file name v1")

    def name_operation(self, operation: Operation, *, account_id: int) -> str:
        """The last part of an operation's name: for this account, in the place of the provider's."""
        return self._operations.lock(orjson.dumps(astuple(operation)), account_id=account_id)

    def read_operation(self, name: str, *, account_id: int) -> Operation | None:
        """What a name stands for; None when it is not one that this account was given."""
        plain = _unlock(self._operations, name, account_id)
        return None if plain is None else Operation(*plain)

    def name_file(self, file: File, *, account_id: int) -> str:
        """A file's name for this account, of `a-z` and `2-7`."""
        return base64.b32encode(self._files.lock(orjson.dumps(astuple(file)), account_id=account_id).encode()).decode().rstrip("=").lower()

    def read_file(self, name: str, *, account_id: int) -> File | None:
        """What a file's name stands for; None when it is not one that this account was given."""
        try:
            locked = base64.b32decode(name.upper() + "=" * (-len(name) % 8)).decode("ascii")
        except (binascii.Error, ValueError):
            return None
        plain = _unlock(self._files, locked, account_id)
        return None if plain is None else File(*plain)


def is_operation_name(name: Any) -> bool:
    """Whether this is a provider's name of an operation, fit to stand in an address."""
    return isinstance(name, str) and len(name) <= 500 and ".." not in name and _PROVIDERS_NAME.fullmatch(name) is not None


def source_of(operation: Operation) -> uuid.UUID:
    """The request that began the operation and paid for it."""
    return uuid.UUID(operation.request_id)


def _unlock(envelopes: Envelopes, name: str, account_id: int) -> list[Any] | None:
    plain = envelopes.unlock(name, account_id=account_id) if len(name) <= LONGEST_NAME else None
    return None if plain is None else orjson.loads(plain)
