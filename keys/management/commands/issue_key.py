"""manage.py issue_key: issue a key and print it, once."""

import json
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from accounts.models import Account
from catalog import money
from keys import issuing
from keys.management import arguments
from keys.models import ApiKey


class Command(BaseCommand):
    help = (
        "Issue a key. It is printed to standard output, this once; what is known of it goes to standard error (or, with --json, beside it)."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--account", required=True, metavar="SLUG")
        parser.add_argument("--name", default="issued by command")
        parser.add_argument(
            "--models", type=arguments.names, default=[], metavar="A,B/*", help="names and patterns; default: all of the plan"
        )
        parser.add_argument("--endpoints", type=arguments.names, default=[], metavar="chat,…", help="default: all")
        parser.add_argument("--ips", type=arguments.names, default=[], metavar="NET,…", help="networks it may be used from; default: any")
        parser.add_argument("--rpm", type=int, help="requests per minute")
        parser.add_argument("--tpm", type=int, help="tokens per minute")
        parser.add_argument("--concurrency", type=int, help="requests at once")
        parser.add_argument("--budget", metavar="USD", help="what it may spend in each window")
        parser.add_argument("--window", default="month", help="day, week, month (default) or total")
        parser.add_argument("--expires", type=arguments.moment, metavar="WHEN", help="2027-01-31, a moment with time, or 90d from now")
        kind = parser.add_mutually_exclusive_group()
        kind.add_argument("--test", action="store_const", const="test", dest="kind", help="reaches the demo provider only, never billed")
        kind.add_argument("--management", action="store_const", const="management", dest="kind", help="manages keys, no inference")
        parser.add_argument("--json", action="store_true")

    def handle(self, *_args: Any, **options: Any) -> None:
        now = timezone.now()
        account = Account.objects.filter(slug=options["account"]).first()
        if account is None:
            raise CommandError(f"there is no account {options['account']!r}: `manage.py create_account` makes one")
        expires = options["expires"]
        try:
            key, text = issuing.issue(
                account=account,
                name=options["name"],
                kind=options["kind"] or "live",
                now=now,
                allowed_models=options["models"],
                allowed_endpoints=options["endpoints"],
                allowed_ips=options["ips"],
                rpm=options["rpm"],
                tpm=options["tpm"],
                concurrency=options["concurrency"],
                budget_nano=None if options["budget"] is None else money.nano_from_usd(options["budget"]),
                budget_window=options["window"],
                expires_at=now + expires if isinstance(expires, timedelta) else expires,
            )
        except (issuing.InvalidSetting, money.NotAnAmount) as error:
            raise CommandError(str(error)) from None
        if options["json"]:
            self.stdout.write(json.dumps(describe(key.pk, text)))
        else:
            self.stderr.write(f"Key {key.pk} ({key.kind}) of {account}, recognised by {key.start}…{key.last_four}. It is shown this once:")
            self.stdout.write(text)


def describe(key_id: int, text: str) -> dict[str, Any]:
    """What `--json` prints of a key that has just been made, its secret included."""
    key = ApiKey.objects.select_related("account").get(pk=key_id)
    return {
        "key": text,
        "id": key.pk,
        "account": key.account.slug,
        "name": key.name,
        "kind": key.kind,
        "start": key.start,
        "last_four": key.last_four,
        "allowed_models": key.allowed_models,
        "allowed_endpoints": key.allowed_endpoints,
        "allowed_ips": key.allowed_ips,
        "rpm": key.rpm,
        "tpm": key.tpm,
        "concurrency": key.concurrency,
        "budget_usd": None if key.budget_nano is None else money.usd(key.budget_nano),
        "budget_window": key.budget_window,
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
        "replaces": key.replaces_id,
    }
