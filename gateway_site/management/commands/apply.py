"""manage.py apply: make the catalog and the plans as manifests say, and print what changed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.utils import timezone

from billing import plan_manifest
from billing.payments import plan_prices, stripe_client
from catalog import manifest


class Command(BaseCommand):
    help = "Apply manifests (providers, models, prices, routes, aliases, plans), all in one transaction. Applying again changes nothing."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("files", nargs="+", metavar="FILE", type=Path)
        parser.add_argument("--dry-run", action="store_true", help="print the diff and change nothing")
        parser.add_argument("--sync-stripe", action="store_true", help="make the plans' prices at Stripe, and sell the plans at them")

    def handle(self, *_args: Any, **options: Any) -> None:
        now, found = timezone.now(), []
        documents = [(path, *_read(path)) for path in options["files"]]
        with transaction.atomic():
            for path, catalog, plans in documents:
                try:
                    found += manifest.apply(catalog, now=now, dry_run=False, default_markup_ppm=settings.DEFAULT_MARKUP_PPM)
                except manifest.InvalidDocument as error:
                    raise _refusal(path, error) from None
                found += plan_manifest.apply(plans, now=now, dry_run=False)
            if options["dry_run"]:  # not dry for each file: a file may build on the one before it
                transaction.set_rollback(True)
        if options["sync_stripe"] and not options["dry_run"]:  # after the commit: Stripe is not asked in a transaction
            found += _sync(entry for _, _, plans in documents for entry in plans)
        for change in found:
            self.stdout.write(str(change))
        count = sum(not change.is_note for change in found)
        if not count:
            self.stdout.write("= nothing to change")
        elif options["dry_run"]:
            self.stdout.write(f"{count} to change. Nothing was: this was a dry run.")
        else:
            self.stdout.write(f"{count} changed.")


def _sync(entries: Iterable[plan_manifest.PlanEntry]) -> list[manifest.Change]:
    """Sell the manifest's plans at Stripe, but those for which it names a price itself."""
    try:
        return plan_prices.sync(slugs=[entry.slug for entry in entries if "stripe_price_id" not in entry.said])
    except stripe_client.NotConfigured:
        raise CommandError("The plans are applied. Stripe was not asked: STRIPE_SECRET_KEY is not set.") from None
    except (plan_prices.NotInCents, stripe_client.StripeRefused, stripe_client.StripeUnavailable) as error:
        raise CommandError(f"The plans are applied, their prices at Stripe not all: {error}. Run it again to go on.") from None


def _read(path: Path) -> tuple[manifest.Manifest, tuple[plan_manifest.PlanEntry, ...]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CommandError(f"{path} cannot be read: {reason}") from None
    problems: list[object] = []
    try:
        catalog = manifest.read(text)
    except manifest.InvalidDocument as error:
        problems += error.problems
    try:
        plans = plan_manifest.read(text)
    except manifest.InvalidDocument as error:
        problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise CommandError("\n".join(f"{path}: {problem}" for problem in problems))
    return catalog, plans


def _refusal(path: Path, error: manifest.InvalidDocument) -> CommandError:
    return CommandError("\n".join(f"{path}: {problem}" for problem in error.problems))
