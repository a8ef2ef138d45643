"""manage.py revoke_key: stop a key for ever."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from keys import issuing


class Command(BaseCommand):
    help = "Stop a key for ever, everywhere."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("key", metavar="KEY", help="its id, its start…end, or the key itself")

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            key = issuing.find(options["key"])
        except issuing.KeyNotFound as error:
            raise CommandError(str(error)) from None
        issuing.revoke(key=key, now=timezone.now())
        self.stdout.write(
            f"Key {key.pk} ({key.start}…{key.last_four}) of {key.account} is revoked since {key.revoked_at:%Y-%m-%d %H:%M:%S %Z}."
        )
