"""manage.py reroll_key: issue a key in another one's place and print it, once."""

import json
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from keys import issuing
from keys.management import arguments
from keys.management.commands.issue_key import describe


class Command(BaseCommand):
    help = "Issue a key with the settings of KEY in its place. KEY keeps working for the overlap; 0 stops it at once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("key", metavar="KEY", help="its id, its start…end, or the key itself")
        parser.add_argument(
            "--overlap", type=arguments.duration, default=timedelta(hours=24), metavar="24h", help="such as 30m, 24h, 7d or 0"
        )
        parser.add_argument("--json", action="store_true")

    def handle(self, *_args: Any, **options: Any) -> None:
        now = timezone.now()
        try:
            old = issuing.find(options["key"])
            key, text = issuing.reroll(key=old, overlap=options["overlap"], now=now)
        except (issuing.KeyNotFound, issuing.KeyEnded, issuing.InvalidSetting) as error:
            raise CommandError(str(error)) from None
        if options["json"]:
            self.stdout.write(json.dumps(describe(key.pk, text)))
            return
        old.refresh_from_db()
        ends = f"works until {old.expires_at:%Y-%m-%d %H:%M:%S %Z}" if old.revoked_at is None else "is revoked"
        self.stderr.write(f"Key {key.pk} replaces key {old.pk}, which {ends}. It is shown this once:")
        self.stdout.write(text)
