"""manage.py rotate_encryption: re-seal every provider key, second factor and key of stored content under the first of ENCRYPTION_KEYS."""

from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing import stored_content
from catalog import rotation, vault
from gateway_site import second_factors

Reseal = Callable[..., rotation.Batch | second_factors.Batch | stored_content.Batch]


class Command(BaseCommand):
    help = (
        "Re-seal every provider key, second factor and key of stored content under the first of ENCRYPTION_KEYS. Put the new key first, restart, run this, "
        "then drop the old key. It can be stopped and run again at any time."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--batch", type=int, default=100, help="rows to a transaction (default 100)")

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["batch"] < 1:
            raise CommandError("--batch must be at least 1")
        try:
            keys, unopened_keys = self._run(rotation.reseal_batch, options["batch"])
            factors, unopened_factors = self._run(second_factors.reseal_batch, options["batch"])
            contents, unopened_contents = self._run(stored_content.reseal_batch, options["batch"])
            version = vault.current_version()
        except vault.NoEncryptionKey as error:
            raise CommandError(str(error)) from None
        self.stdout.write(
            f"{keys} provider keys, {factors} second factors and {contents} keys of stored content re-sealed under version {version}."
        )
        unopened = unopened_keys + unopened_factors + unopened_contents
        if unopened:
            raise CommandError(
                f"{len(unopened)} did not open and were left as they are ({', '.join(unopened)}): "
                "their key version is missing from ENCRYPTION_KEYS, or they are damaged"
            )
        self.stdout.write("Every secret is sealed under it: older versions may be dropped from ENCRYPTION_KEYS.")

    @staticmethod
    def _run(reseal: Reseal, limit: int) -> tuple[int, list[str]]:
        """Re-seal batch by batch until there is nothing left."""
        resealed, last = 0, None
        unopened: list[str] = []
        while True:
            batch = reseal(after=last, limit=limit)
            resealed += batch.resealed
            unopened += batch.unopened
            last = batch.last
            if last is None:
                return resealed, unopened
