"""How second factors are kept: the secrets of authenticator apps and recovery codes are sealed as providers' keys are."""

from dataclasses import dataclass

from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.mfa.models import Authenticator
from allauth.usersessions.models import UserSession
from django.db import transaction

from accounts.models import User
from catalog import vault

_PLACE = "mfa"
_SEALED = ("secret", "seed")  # the fields of an authenticator's data that allauth hands over to be encrypted


@dataclass(frozen=True, slots=True)
class Batch:
    """What one batch did. `last` is where the next one begins; None: there is nothing after it. `unopened` names what does not open."""

    resealed: int
    unopened: tuple[str, ...]
    last: int | None


class MfaAdapter(DefaultMFAAdapter):  # type: ignore[misc]
    """Seals what allauth would keep in the clear."""

    def encrypt(self, text: str) -> str:
        """Seal a secret."""
        return vault.seal(text, place=_PLACE)

    def decrypt(self, encrypted_text: str) -> str:
        """Open a sealed secret. Raises: vault.CannotOpen."""
        return vault.open_sealed(encrypted_text, place=_PLACE)


@transaction.atomic
def reseal_batch(*, after: int | None, limit: int) -> Batch:
    """Re-seal the secrets of up to `limit` authenticators under the current version; what does not open is left as it is.

    Raises: vault.NoEncryptionKey.
    """
    rows = Authenticator.objects.select_for_update(of=("self",)).select_related("user").order_by("pk")
    found = list((rows if after is None else rows.filter(pk__gt=after))[:limit])
    current = f"v1.{vault.current_version()}."
    resealed, unopened = 0, []
    for row in found:
        old = {name: row.data[name] for name in _SEALED if isinstance(row.data.get(name), str) and not row.data[name].startswith(current)}
        try:
            new = {name: vault.seal(vault.open_sealed(sealed, place=_PLACE), place=_PLACE) for name, sealed in old.items()}
        except vault.CannotOpen:
            unopened.append(f"{row.type} of {row.user}")
            continue
        if new:
            row.data = {**row.data, **new}
            row.save(update_fields=["data"])
            resealed += 1
    return Batch(resealed, tuple(unopened), found[-1].pk if len(found) == limit else None)


def reset(user: User) -> int:
    """Take every second factor from a person who has lost theirs, and end their sessions; returns how many factors there were."""
    with transaction.atomic():
        taken: int = Authenticator.objects.filter(user=user).delete()[0]
        for session in UserSession.objects.filter(user=user):
            session.end()
    return taken
