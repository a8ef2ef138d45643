"""Rotation of the encryption key: re-seals provider keys under the first of ENCRYPTION_KEYS, batch by batch, resumable at any point."""

import uuid
from dataclasses import dataclass

from django.db import transaction

from catalog import vault
from catalog.models import ProviderKey
from gateway_site import changes


@dataclass(frozen=True, slots=True)
class Batch:
    """What one batch did. `last` is where the next one begins; None: there is nothing after it. `unopened` names what does not open."""

    resealed: int
    unopened: tuple[str, ...]
    last: uuid.UUID | None


@transaction.atomic
def reseal_batch(*, after: uuid.UUID | None, limit: int) -> Batch:
    """Re-seal up to `limit` provider keys that are sealed under another version than the current one, in the order of their ids.

    A row is locked while it is re-sealed, so a secret that is set meanwhile is not lost. What does not open is left as it is.

    Raises: vault.NoEncryptionKey.
    """
    rows = ProviderKey.objects.select_for_update(of=("self",)).select_related("provider").order_by("pk")
    rows = rows.exclude(sealed_secret__startswith=f"v1.{vault.current_version()}.")
    if after is not None:
        rows = rows.filter(pk__gt=after)
    found = list(rows[:limit])
    resealed: list[ProviderKey] = []
    unopened: list[str] = []
    for row in found:
        try:
            row.set_secret(row.secret())
        except vault.CannotOpen:
            unopened.append(f"{row.provider.slug}:{row.name}")
        else:
            resealed.append(row)
    if resealed:
        ProviderKey.objects.bulk_update(resealed, ["sealed_secret"])
        transaction.on_commit(lambda: changes.publish("catalog"))
    return Batch(len(resealed), tuple(unopened), found[-1].pk if len(found) == limit else None)
