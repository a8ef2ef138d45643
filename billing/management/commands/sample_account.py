"""manage.py sample_account: make the account with invented usage, or remove it."""

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from billing import sample


class Command(BaseCommand):
    help = "Make an account with thirty days of invented usage, to look at, or remove it with all that belongs to it."

    def add_arguments(self, parser: CommandParser) -> None:
        deeds = parser.add_subparsers(dest="deed", required=True)
        deeds.add_parser("make", help="make it").add_argument("--owner", required=True, metavar="EMAIL", help="who may see it")
        deeds.add_parser("remove", help="remove it, its ledger included")

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["deed"] == "make":
            try:
                account = sample.make(owner_email=options["owner"], now=timezone.now())
            except (sample.NothingForSale, sample.SlugTaken, ValidationError) as error:
                raise CommandError(_why(error)) from error
            self.stdout.write(f"{account.slug} is there, and its figures are invented. `manage.py sample_account remove` removes it.")
            return
        account_ = sample.find()
        if account_ is None:
            self.stdout.write("There is no sample account.")
            return
        try:
            sample.remove(account_)
        except sample.StillBusy as error:
            raise CommandError("A request of the sample account is under way. Try again in a moment.") from error
        self.stdout.write("The sample account is removed.")


def _why(error: Exception) -> str:
    if isinstance(error, sample.NothingForSale):
        return "The catalog has no model with a price: apply a manifest first."
    if isinstance(error, sample.SlugTaken):
        return f"An account called {sample.SLUG} is somebody's own."
    return str(error)
