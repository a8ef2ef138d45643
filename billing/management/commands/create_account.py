"""manage.py create_account: open a tenant with its wallet, plan and owner."""

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from billing import opening


class Command(BaseCommand):
    help = "Open an account. Running it again completes what is missing and changes nothing else."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("slug", metavar="SLUG")
        parser.add_argument("--name", default="", help="default: the slug")
        parser.add_argument("--owner", metavar="EMAIL", help="made without a password when nobody has this address")
        parser.add_argument("--plan", metavar="SLUG", help="default: the default plan")

    def handle(self, *_args: Any, **options: Any) -> None:
        slug = options["slug"]
        try:
            account = opening.open_account(
                slug=slug,
                name=options["name"] or slug,
                owner_email=options["owner"],
                plan_slug=options["plan"],
                now=timezone.now(),
                welcome=True,
            )
        except (opening.PlanNotFound, ValidationError) as error:
            raise CommandError("; ".join(error.messages) if isinstance(error, ValidationError) else str(error)) from error
        self.stdout.write(f"account {account.slug} is open")
