"""The ledger in the admin: transfers and grants, shown and never written."""

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString

from billing.admin.tables import SHOWN, TONES, WalletTableAdmin, at
from billing.models import CreditGrant, Transfer, UsageRecord
from catalog import dollars
from gateway_site.admin_base import Table, badge, link_to

SHOWN_USAGE = 100


class KnownKindFilter(admin.SimpleListFilter):
    """Kinds of transfers that the project books; an open list is not read from the table."""

    title = "kind"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:  # noqa: ARG002 - the signature is Django's
        """The kinds."""
        return [
            (kind, kind)
            for kind in ("usage", "overrun", "writeoff", "paid", "promo", "plan", "debit", "expiry", "refund", "dispute", "reinstatement")
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:  # noqa: ARG002 - the signature is Django's
        """Those of the kind."""
        return queryset.filter(kind=self.value()) if self.value() else queryset


@admin.register(Transfer)
class TransferAdmin(WalletTableAdmin):
    """The ledger."""

    empty_text = "Every movement of money is one line here, beginning with the first credit."
    own_id = "id"
    list_display = (
        "short_id",
        "created_at",
        "kind",
        "wallet_link",
        "debit_account",
        "credit_account",
        "amount_usd",
        "balance_usd",
        "actor",
        "note",
    )
    list_filter = (KnownKindFilter,)
    list_select_related = ("wallet__account",)
    ordering = ("-created_at",)
    fields = (
        "id",
        "kind",
        "wallet_link",
        "debit_account",
        "credit_account",
        "amount_usd",
        "balance_usd",
        "wallet_version",
        "source_type",
        "source_id",
        "reverses",
        "actor",
        "note",
        "created_at",
    )
    readonly_fields = ("wallet_link", "amount_usd", "balance_usd")
    amount_usd = dollars.column("amount")
    balance_usd = dollars.column("balance_after", "balance after")

    @admin.display(description="transfer")
    def short_id(self, obj: Transfer) -> str:
        """Enough of the id to see which it is."""
        return f"{str(obj.pk)[:8]}…"

    @admin.display(description="wallet")
    def wallet_link(self, obj: Transfer) -> SafeString | str:
        """Whose money."""
        return "-" if obj.wallet is None else link_to(obj.wallet, obj.wallet.account.slug)

    def tables(self, request: HttpRequest, obj: Transfer) -> Iterable[Table]:  # noqa: ARG002 - the signature is the base's
        """What it was charged for."""
        records = UsageRecord.objects.filter(transfer=obj).select_related("key")[:SHOWN_USAGE]
        if records:
            yield Table(
                f"Requests it charges (at most {SHOWN_USAGE})",
                ("request", "started", "model", "key", "status", "cost"),
                [
                    (
                        link_to(one),
                        at(one.started_at),
                        one.model,
                        link_to(one.key),
                        badge(one.status, TONES.get(one.status, "")),
                        dollars.show(one.cost),
                    )
                    for one in records
                ],
                f"{reverse('admin:billing_usagerecord_changelist')}?transfer__id__exact={obj.pk}",
            )
        undone = Transfer.objects.filter(reverses=obj)[:SHOWN]
        if undone:
            yield Table("Reversed by", ("transfer", "amount"), [(link_to(one), dollars.show(one.amount)) for one in undone])


@admin.register(CreditGrant)
class CreditGrantAdmin(WalletTableAdmin):
    """Grants and what is left of them."""

    empty_text = "A grant appears with each credit of a wallet: paid, given, or redeemed."
    list_display = ("id", "wallet_link", "kind", "amount_usd", "remaining_usd", "priority", "expires_at", "created_at")
    list_filter = ("kind",)
    list_select_related = ("wallet__account",)
    search_help_text = "An account's slug."
    ordering = ("-id",)
    fields = ("wallet_link", "kind", "amount_usd", "remaining_usd", "priority", "expires_at", "transfer", "created_at")
    readonly_fields = ("wallet_link", "amount_usd", "remaining_usd")
    amount_usd = dollars.column("amount")
    remaining_usd = dollars.column("remaining", "left")

    @admin.display(description="wallet")
    def wallet_link(self, obj: CreditGrant) -> SafeString | str:
        """Whose money."""
        return link_to(obj.wallet, obj.wallet.account.slug)
