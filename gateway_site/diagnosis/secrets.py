"""The secrets: whether those that are configured are strong, and whether what is stored opens with them."""

from collections.abc import Iterator, Sequence

from django.conf import settings

from catalog import vault
from catalog.models import ProviderKey
from gateway_site.diagnosis.findings import Finding, counted, error, some, warning
from keys import secret
from keys.models import ApiKey

SECRET_KEY_CHARACTERS = 50
SECRET_BYTES = 32
LEAST_DIFFERENT_BYTES = 10  # 16 random bytes have 15 or 16 different ones


def check_secrets() -> Iterator[Finding]:
    """The strength of SECRET_KEY, and whether the lists of peppers and encryption keys can be read."""
    if len(settings.SECRET_KEY) < SECRET_KEY_CHARACTERS or len(set(settings.SECRET_KEY)) < LEAST_DIFFERENT_BYTES:
        yield error(
            "secrets",
            f"SECRET_KEY is weak: {len(settings.SECRET_KEY)} characters, {len(set(settings.SECRET_KEY))} of them different.",
            f"Set it to {SECRET_KEY_CHARACTERS} random characters or more (`openssl rand -base64 48`); everybody signs in again.",
        )
    try:
        secret.read_peppers(settings.KEY_PEPPERS)
    except secret.NoPepper as problem:
        yield error("secrets", f"KEY_PEPPERS cannot be read: {problem}.", "Set it as .env.example says; no API key works until then.")
    else:
        yield from _check_list("KEY_PEPPERS", settings.KEY_PEPPERS, "put a new one first and reroll the API keys")
    try:
        vault.current_version()
    except vault.NoEncryptionKey as problem:
        yield error(
            "secrets", f"ENCRYPTION_KEYS cannot be read: {problem}.", "Set it as .env.example says; no provider key opens until then."
        )
    else:
        yield from _check_list("ENCRYPTION_KEYS", settings.ENCRYPTION_KEYS, "put a new one first and run `manage.py rotate_encryption`")
    if {_value(entry) for entry in settings.KEY_PEPPERS} & {_value(entry) for entry in settings.ENCRYPTION_KEYS}:
        yield warning(
            "secrets",
            "KEY_PEPPERS and ENCRYPTION_KEYS share a secret, so whoever learns one knows both.",
            "Make another one (`openssl rand -hex 32`), put it first in ENCRYPTION_KEYS and run `manage.py rotate_encryption`.",
        )


def _check_list(name: str, entries: Sequence[str], replace: str) -> Iterator[Finding]:
    versions = [entry.partition(":")[0] for entry in entries]
    if len(versions) != len(set(versions)):
        yield error(
            "secrets", f"{name} has the same version twice.", "Give each entry a version of its own; the older one keeps its number."
        )
    for version, value in zip(versions, map(_value, entries), strict=True):
        if len(set(value)) < LEAST_DIFFERENT_BYTES:
            yield error("secrets", f"Version {version} of {name} is no random value.", f"`openssl rand -hex 32` makes one: {replace}.")
        elif len(value) < SECRET_BYTES:
            yield warning(
                "secrets",
                f"Version {version} of {name} has only {len(value)} bytes.",
                f"`openssl rand -hex {SECRET_BYTES}` makes a longer one: {replace}.",
            )


def _value(entry: str) -> bytes:
    try:
        return bytes.fromhex(entry.partition(":")[2])
    except ValueError:
        return b""


def check_provider_keys() -> Iterator[Finding]:
    """Every stored secret opens with what is configured: providers' with ENCRYPTION_KEYS, customers' with KEY_PEPPERS."""
    try:
        closed = [str(key) for key in ProviderKey.objects.select_related("provider").order_by("pk") if not opens(key)]
        peppers = {pepper.version for pepper in secret.read_peppers(settings.KEY_PEPPERS)}
    except (vault.NoEncryptionKey, secret.NoPepper):
        return  # told already
    if closed:
        yield error(
            "secrets",
            f"ENCRYPTION_KEYS does not open {counted(len(closed), 'provider key')}: {some(closed)}.",
            "Put the encryption key of that time back into ENCRYPTION_KEYS (after the current one), or enter the provider keys anew.",
        )
    lost = ApiKey.objects.filter(revoked_at__isnull=True).exclude(pepper_version__in=peppers)
    if count := lost.count():
        versions = sorted(set(lost.values_list("pepper_version", flat=True)))
        yield error(
            "secrets",
            f"{counted(count, 'API key')} made with a pepper that KEY_PEPPERS lacks (version {some([str(number) for number in versions])}): refused as unknown.",
            "Put that pepper back into KEY_PEPPERS, after the current one.",
        )


def opens(key: ProviderKey) -> bool:
    try:
        key.secret()
    except vault.CannotOpen:
        return False
    return True
