"""A Google service account as its key file says it: the one provider secret that is more than a line of text. Pure."""

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


class NotAServiceAccount(ValueError):
    """The text looks like a key file and cannot be used as one; says why."""


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """What signing in needs. The private key is in PEM and stays out of every representation."""

    email: str
    key_id: str
    token_uri: str
    private_key: str = field(repr=False)


def looks_like_one(secret: str) -> bool:
    """Whether a secret is meant as a key file: a JSON object, where any other secret is one word."""
    return secret.lstrip().startswith("{")


def find(secret: str) -> ServiceAccount | None:
    """The service account that a secret is; None for one that is a plain key, or a broken file."""
    try:
        return read(secret) if looks_like_one(secret) else None
    except NotAServiceAccount:
        return None


def read(secret: str) -> ServiceAccount:
    """Read a key file.

    Raises: NotAServiceAccount.
    """
    try:
        given: Any = json.loads(secret)
    except ValueError:
        raise NotAServiceAccount("it is not JSON") from None
    if not isinstance(given, dict) or given.get("type") != "service_account":
        raise NotAServiceAccount("its 'type' is not 'service_account'")
    for name in ("client_email", "private_key", "token_uri"):
        if not isinstance(given.get(name), str) or not given[name]:
            raise NotAServiceAccount(f"it has no {name!r}")
    if "-----BEGIN PRIVATE KEY-----" not in given["private_key"]:
        raise NotAServiceAccount("its 'private_key' is no private key in PEM")
    if not _is_url(given["token_uri"]):
        raise NotAServiceAccount("its 'token_uri' is not a URL")
    return ServiceAccount(given["client_email"], str(given.get("private_key_id") or ""), given["token_uri"], given["private_key"])


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("https", "http") and bool(parts.hostname)
