"""manage.py grant: credit an account by hand, through the ledger."""

import getpass
import os
import uuid
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from billing import ledger
from billing.models import CreditGrant, Wallet
from catalog import money

DEBIT_ACCOUNTS = {"paid": "manual", "promo": "promo", "plan": "plan"}


class Command(BaseCommand):
    help = "Credit an account with US dollars. Each run is a new grant, unless --reference names one that was made before."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("account", metavar="ACCOUNT", help="the account's slug")
        parser.add_argument("usd", metavar="USD", help="dollars, such as 25 or 0.5")
        parser.add_argument("--reason", required=True, help="why; it stands in the ledger")
        parser.add_argument("--kind", choices=CreditGrant.Kind.values, default="promo", help="paid: money was received outside Stripe")
        parser.add_argument("--expires", metavar="DATE", type=date.fromisoformat, help="the last day (YYYY-MM-DD, the account's time zone)")
        parser.add_argument("--reference", help="your own name for this grant: a second run with it credits nothing")

    def handle(self, *_args: Any, **options: Any) -> None:
        wallet = Wallet.objects.select_related("account").filter(account__slug=options["account"]).first()
        if wallet is None:
            raise CommandError(f"there is no account {options['account']!r} with a wallet")
        try:
            amount = money.nano_from_usd(options["usd"])
            transfer = ledger.credit(
                wallet_id=wallet.pk,
                amount=amount,
                kind=options["kind"],
                debit_account=DEBIT_ACCOUNTS[options["kind"]],
                source_type="command",
                source_id=options["reference"] or str(uuid.uuid4()),
                actor=_operator(),
                note=options["reason"],
                now=timezone.now(),
                expires_at=_end_of(options["expires"], wallet.account.timezone),
            )
        except (money.NotAnAmount, ledger.NotPositive, ledger.SourceConflict) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(
            f"{options['account']}: credited ${money.usd(transfer.amount)} ({transfer.kind}, transfer {transfer.pk}); "
            f"the balance then was ${money.usd(transfer.balance_after or 0)}"
        )


def _operator() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return f"uid {os.getuid()}"


def _end_of(day: date | None, zone: str) -> datetime | None:
    return None if day is None else datetime.combine(day + timedelta(days=1), time(), tzinfo=ZoneInfo(zone))
