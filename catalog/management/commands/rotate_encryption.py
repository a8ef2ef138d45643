"""manage.py rotate_encryption: re-seal every provider key under the first of ENCRYPTION_KEYS."""

import uuid
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from catalog import rotation, vault


class Command(BaseCommand):
    help = (
        "Re-seal every provider key under the first of ENCRYPTION_KEYS. Put the new key first, restart, run this, then drop the old key. "
        "It can be stopped and run again at any time."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--batch", type=int, default=100, help="rows to a transaction (default 100)")

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["batch"] < 1:
            raise CommandError("--batch must be at least 1")
        resealed = 0
        unopened: list[str] = []
        last: uuid.UUID | None = None
        try:
            while True:
                batch = rotation.reseal_batch(after=last, limit=options["batch"])
                resealed += batch.resealed
                unopened += batch.unopened
                last = batch.last
                if last is None:
                    break
            version = vault.current_version()
        except vault.NoEncryptionKey as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"{resealed} provider keys re-sealed under version {version}.")
        if unopened:
            raise CommandError(
                f"{len(unopened)} did not open and were left as they are ({', '.join(unopened)}): "
                "their key version is missing from ENCRYPTION_KEYS, or they are damaged"
            )
        self.stdout.write("Every provider key is sealed under it: older versions may be dropped from ENCRYPTION_KEYS.")
