"""Who has an account at the fake identity provider, and what goes wrong for them there."""

import secrets
from dataclasses import dataclass, field

# What a step answers instead of what it should: a status and a body; 0 hangs up, -1 takes longer than anybody waits.
FAULTS: dict[str, tuple[int, str]] = {
    "500": (500, "<html>Unicorn!</html>"),
    "403": (403, '{"message": "Resource not accessible by integration"}'),
    "words": (200, "certainly"),
    "nothing": (200, ""),
    "half": (200, '{"id": 1, "na'),
    "a list": (200, "[]"),
    "a list of words": (200, '["a", "b"]'),
    "a number": (200, "5"),
    "null": (200, "null"),
    "an empty object": (200, "{}"),
    "an error": (200, '{"error": "incorrect_client_credentials", "error_description": "The client_id and/or client_secret are wrong."}'),
    "hangs up": (0, ""),
    "slow": (-1, ""),
}


@dataclass(frozen=True)
class Person:
    """Somebody at the provider. `emails`: (address, whether it is verified), the primary one first. `email`: what the profile shows."""

    emails: tuple[tuple[str, bool], ...] = ()
    name: str | None = "Grace Hopper"
    email: str | None = None
    login: str = field(default_factory=lambda: f"u-{secrets.token_hex(8)}")
    uid: int = field(default_factory=lambda: secrets.randbelow(10**12) + 1)
    faults: dict[str, str] = field(default_factory=dict)
    claims: dict[str, object] = field(default_factory=dict)  # what Google's id_token says otherwise
    has_id_token: bool = True
