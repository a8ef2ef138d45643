"""The account's ledger over the management API."""

from typing import Any, ClassVar

from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request

from accounts.permissions import Permission
from billing import reports
from billing.management_api import shapes
from billing.management_api.door import ManagementView, answer
from billing.pages import entries
from catalog import money


class LedgerQuery(shapes.PageQuery):
    """Which entries."""

    start = serializers.CharField(
        max_length=40, required=False, default=None, allow_null=True, help_text="From this day or moment on, as for /v1/usage."
    )
    end = serializers.CharField(max_length=40, required=False, default=None, allow_null=True, help_text="Before this day or moment.")


class Entry(serializers.Serializer[Any]):
    """An entry of the ledger: what moved in or out of the wallet, and what was in it then. Dollars as exact decimal strings."""

    id = serializers.UUIDField()
    version = serializers.IntegerField(help_text="Its place in the wallet's chain: without gaps, beginning with 1.")
    booked_at = serializers.DateTimeField()
    kind = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]  # hides the framework's
    description = serializers.CharField(allow_blank=True)
    amount = serializers.CharField(help_text="Negative for what left the wallet.")
    balance_after = serializers.CharField()


EntryList = shapes.answers(
    "EntryList",
    "Some entries, the latest first.",
    data=Entry(many=True),
    next=serializers.CharField(allow_null=True, help_text="Send it as `before` for the next page; null on the last."),
)


class Ledger(ManagementView):
    """/v1/ledger."""

    needs: ClassVar = {"GET": Permission.READ}

    @extend_schema(
        operation_id="listLedger",
        summary="Read the ledger",
        tags=["money"],
        parameters=[LedgerQuery],
        responses={200: EntryList, **shapes.REFUSALS},
    )
    def get(self, request: Request) -> HttpResponse:  # noqa: ARG002 - the framework's signature
        """The wallet's entries, the latest first; of all time, unless `start` or `end` is given."""
        asked = self.asked(LedgerQuery)
        period = None
        if asked["start"] or asked["end"]:
            period = reports.read_period(asked["start"], asked["end"], timezone=self.account.timezone, now=timezone.now())
        try:
            page = entries.page(account=self.account, period=period, before=asked["before"], rows=asked["limit"])
        except entries.NoSuchPlace as error:
            raise reports.InvalidParameter("before", "Is not a place in this list.") from error
        return answer({"data": [_show(entry) for entry in page.entries], "next": page.older or None})


def _show(entry: entries.Entry) -> dict[str, Any]:
    transfer = entry.transfer
    return {
        "id": str(transfer.pk),
        "version": transfer.wallet_version,
        "booked_at": shapes.moment(transfer.created_at),
        "kind": transfer.kind,
        "label": entry.label,
        "description": entry.about,
        "amount": money.usd(entry.amount),
        "balance_after": money.usd(int(transfer.balance_after or 0)),
    }
