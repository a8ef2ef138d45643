"""Sealed provider keys: bound to their row, damaged by any change, and re-sealed when the operator rotates the encryption key."""

import base64
import io
import random
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from allauth.mfa.models import Authenticator
from django.core.management import CommandError, call_command
from django.db import transaction
from django.utils import timezone

from billing import stored_content
from billing.models import ContentKey, StoredContent
from billing.opening import open_account
from catalog import rotation, vault
from catalog.models import Provider, ProviderKey
from tests.accounts.people import new_person

OLD, NEW = f"{uuid4().hex[:8]}:{'a1' * 32}", f"{uuid4().hex[:8]}:{'b2' * 32}"


@pytest.fixture(autouse=True)
def _alone(settings: Any) -> Iterator[None]:
    """Encryption keys of the test's own, and nothing sealed but its own: rotation reaches all there is. Undone afterwards."""
    settings.ENCRYPTION_KEYS = [OLD]
    with transaction.atomic():
        ProviderKey.objects.all().delete()
        Authenticator.objects.all().delete()
        StoredContent.objects.all().delete()
        ContentKey.objects.all().delete()
        yield
        transaction.set_rollback(True)


def rotate_to_new(settings: Any) -> None:
    settings.ENCRYPTION_KEYS = [NEW, *settings.ENCRYPTION_KEYS]


def stored_keys(count: int) -> list[ProviderKey]:
    provider = Provider.objects.create(
        slug=f"vault-{uuid4().hex[:10]}", kind="custom", base_url="https://vault.example", created_at=timezone.now()
    )
    keys = []
    for number in range(count):
        key = ProviderKey(provider=provider, name=f"key-{number}")
        key.set_secret(f"sk-upstream-{number:04d}-secret")
        key.save()
        keys.append(key)
    return keys


def test_a_secret_opens_where_it_was_sealed() -> None:
    sealed = vault.seal("sk-upstream-ü", place="provider_key:1:secret")
    assert vault.open_sealed(sealed, place="provider_key:1:secret") == "sk-upstream-ü"
    assert "sk-upstream" not in sealed
    assert vault.sealed_under(sealed) == OLD.partition(":")[0]


def test_sealing_twice_never_gives_the_same_text() -> None:
    assert len({vault.seal("same", place="p") for _ in range(100)}) == 100


def test_a_ciphertext_moved_to_another_row_does_not_open() -> None:
    mine, other = stored_keys(2)
    other.sealed_secret = mine.sealed_secret
    other.save()
    with pytest.raises(vault.CannotOpen):
        ProviderKey.objects.get(pk=other.pk).secret()
    assert ProviderKey.objects.get(pk=mine.pk).secret() == "sk-upstream-0000-secret"


def test_a_changed_byte_does_not_open() -> None:
    scheme, version, nonce, ciphertext = vault.seal("secret", place="p").split(".")
    raw = bytearray(base64.urlsafe_b64decode(ciphertext))
    raw[random.Random(1).randrange(len(raw))] ^= 1
    with pytest.raises(vault.CannotOpen):
        vault.open_sealed(".".join((scheme, version, nonce, base64.urlsafe_b64encode(raw).decode())), place="p")


@pytest.mark.parametrize("sealed", ["", "v1", "v1.a.b", "v2.x.AAAA.AAAA", "v1.nobody.AAAA.AAAA", "v1.x.ü.ü"])
def test_what_was_never_sealed_does_not_open(sealed: str) -> None:
    with pytest.raises(vault.CannotOpen):
        vault.open_sealed(sealed, place="p")


def test_a_secret_needs_the_version_it_was_sealed_under(settings: Any) -> None:
    sealed = vault.seal("secret", place="p")
    rotate_to_new(settings)
    assert vault.open_sealed(sealed, place="p") == "secret"
    settings.ENCRYPTION_KEYS = [NEW]
    with pytest.raises(vault.CannotOpen):
        vault.open_sealed(sealed, place="p")


@pytest.mark.parametrize("configured", [[], ["1"], ["1:xyz"], ["1:abcd"]])
def test_encryption_keys_that_are_missing_or_malformed_are_refused(settings: Any, configured: list[str]) -> None:
    settings.ENCRYPTION_KEYS = configured
    with pytest.raises(vault.NoEncryptionKey):
        vault.seal("secret", place="p")


def test_rotation_reseals_batch_by_batch_and_can_be_resumed(settings: Any) -> None:
    keys = stored_keys(5)
    version = NEW.partition(":")[0]
    rotate_to_new(settings)
    rotation.reseal_batch(after=None, limit=2)  # stopped here
    call_command("rotate_encryption", "--batch", "2", stdout=io.StringIO())
    for number, key in enumerate(keys):
        key.refresh_from_db()
        assert vault.sealed_under(key.sealed_secret) == version
        assert key.secret() == f"sk-upstream-{number:04d}-secret"
    sealed = [key.sealed_secret for key in keys]
    call_command("rotate_encryption", stdout=io.StringIO())
    assert [ProviderKey.objects.get(pk=key.pk).sealed_secret for key in keys] == sealed


def test_rotation_reseals_the_keys_of_stored_content_and_the_old_one_may_go(settings: Any) -> None:
    owner, now = new_person(), timezone.now()
    account = open_account(slug=f"vault-{uuid4().hex[:10]}", name="vault", now=now)
    stored_content.choose(account, days=7, by=owner, now=now)
    request_id, row = uuid4(), ContentKey.objects.get(account=account)
    key = stored_content.open_key(row.sealed, account_id=account.pk)
    sealed = stored_content.seal(b"said", key=key, account_id=account.pk, request_id=request_id, part="answer")
    rotate_to_new(settings)
    call_command("rotate_encryption", stdout=io.StringIO())
    settings.ENCRYPTION_KEYS = [NEW]
    row.refresh_from_db()
    key = stored_content.open_key(row.sealed, account_id=account.pk)
    assert stored_content.unseal(sealed, key=key, account_id=account.pk, request_id=request_id, part="answer") == b"said"


def test_rotation_leaves_and_names_what_does_not_open(settings: Any) -> None:
    broken, whole = stored_keys(2)
    ProviderKey.objects.filter(pk=broken.pk).update(sealed_secret=whole.sealed_secret)
    rotate_to_new(settings)
    with pytest.raises(CommandError, match=f"{broken.provider.slug}:key-0"):
        call_command("rotate_encryption", "--batch", "1", stdout=io.StringIO())
    assert ProviderKey.objects.get(pk=broken.pk).sealed_secret == whole.sealed_secret
    assert ProviderKey.objects.get(pk=whole.pk).secret() == "sk-upstream-0001-secret"
    assert vault.sealed_under(ProviderKey.objects.get(pk=whole.pk).sealed_secret) == NEW.partition(":")[0]
