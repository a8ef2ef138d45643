"""manage.py billing_audit: every invariant of money; exit code 1 and a list on drift."""

import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from accounts.models import Account
from billing import reconciliation


class Command(BaseCommand):
    help = "Check every invariant of the wallets and the ledger. Nothing is repaired. Exit code 1 when one does not hold."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--account", metavar="SLUG", help="only this account")
        parser.add_argument("--json", action="store_true", help="print the drifts as JSON")

    def handle(self, *_args: Any, **options: Any) -> None:
        accounts = None
        if options["account"]:
            accounts = list(Account.objects.filter(slug=options["account"]).values_list("pk", flat=True))
            if not accounts:
                raise CommandError(f"there is no account {options['account']!r}", returncode=2)
        drifts = reconciliation.audit(now=timezone.now(), accounts=accounts)
        if options["json"]:
            self.stdout.write(json.dumps([drift.as_dict() for drift in drifts], indent=2))
        else:
            for drift in drifts:
                self.stdout.write(str(drift))
            self.stdout.write(f"{len(drifts)} drifts" if drifts else "Every invariant holds.")
        if drifts:
            sys.exit(1)
