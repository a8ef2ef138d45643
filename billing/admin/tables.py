"""What the admin's pages of wallets' rows share: big tables found by an index and paged without counting, and a few words."""

import uuid
from datetime import UTC, datetime
from typing import Any

from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts.models import Account
from billing import ledger
from billing.models import Transfer, Wallet
from catalog import dollars
from gateway_site.admin_base import BigTableAdmin

SHOWN = 50  # rows of a table on another object's page
TONES = {"ok": "success", "error": "danger", "swept": "danger", "cut": "warning", "aborted": "warning", "stopped": "warning"}


class WalletTableAdmin(BigTableAdmin):
    """A big table of wallets' rows: found by its own id, or by the account it belongs to."""

    own_id = ""  # the UUID that a search may name
    owner = "wallet"  # or "account": which column says whose the row is
    search_help_text = "An id, or an account's slug."
    search_fields = ("pk",)  # shows the box; `get_search_results` reads it

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:  # noqa: ARG002 - Django's
        """Look the term up as what it is, so that an index answers."""
        term = search_term.strip()
        if not term:
            return queryset, False
        found = read_uuid(term)
        if found is not None and self.own_id:
            return queryset.filter(**{self.own_id: found}), False
        owner = Account.objects.filter(slug=term.lower()).values_list("wallet" if self.owner == "wallet" else "pk", flat=True).first()
        return (queryset.none() if owner is None else queryset.filter(**{self.owner: owner})), False


def related(record: Any, name: str) -> Any:
    """What `name` points at; None when there is nothing: the table has no foreign keys, a row may outlive what it names."""
    field = record._meta.get_field(name)  # noqa: SLF001 - Django's own name for it
    if field.is_cached(record):
        return getattr(record, name)
    return field.related_model.objects.filter(pk=getattr(record, field.attname)).first()


def wallet_of(account: Account) -> Wallet | None:
    """The account's wallet, if it has one."""
    return getattr(account, "wallet", None)


def signed(transfer: Transfer) -> SafeString | str:
    """The amount as the wallet sees it: no sign for what moved between other accounts on its behalf (a write-off)."""
    code = ledger.wallet_code(transfer.wallet_id or 0)
    sign = {transfer.debit_account: "-", transfer.credit_account: "+"}.get(code, "")
    return format_html("{}{}", sign, dollars.show(transfer.amount))


def at(moment: datetime | None) -> str:
    """A moment in UTC, to the second."""
    return "-" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def read_uuid(text: str) -> uuid.UUID | None:
    """The UUID that was typed, if it is one."""
    try:
        return uuid.UUID(text.strip())
    except ValueError:
        return None
