"""The admin as a whole: its first page, its sidebar, the log of what staff did, and what must ask several apps (a provider's address)."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from django.conf import settings
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.db import OperationalError, connection, transaction
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from catalog import admin as catalog_admin
from catalog import money
from catalog.models import Provider
from gateway_site.admin_base import BigTableAdmin, link_to
from gateway_site.identifiers import lowest_uuid7
from proxy import egress

Counted = TypeVar("Counted")
FIGURE_MILLISECONDS = 700  # a figure that takes longer is left out: the first page must open on a busy day too
SOME_FAILED = 0.05  # from this share of failures on, a provider is shown in red

admin.site.site_header = admin.site.site_title = "Tollgate"
admin.site.index_title = "Overview"


class ProviderForm(catalog_admin.ProviderForm):
    """A provider whose address the proxy would send to."""

    def problem_with_url(self, url: str, *, allow_private: bool) -> str:
        """What the proxy has against `url`."""
        try:
            egress.check_base_url(url, allow_private=allow_private)
        except (egress.AddressForbidden, ValueError) as error:
            return f"{error}."
        return ""


@admin.register(Provider)
class ProviderAdmin(catalog_admin.ProviderAdmin):
    """Providers, with the proxy's word on their addresses."""

    form = ProviderForm


@admin.register(LogEntry)
class LogEntryAdmin(BigTableAdmin):
    """What staff did here. It holds names of fields and reasons, never a secret."""

    list_display = ("action_time", "user", "content_type", "object_link", "action_flag", "change_text")
    list_filter = ("action_flag",)
    list_select_related = ("user", "content_type")
    search_fields = ("user__email", "object_repr")
    ordering = ("-id",)
    fields = ("action_time", "user", "content_type", "object_link", "object_repr", "action_flag", "change_text")
    readonly_fields = ("object_link", "change_text")

    @admin.display(description="object")
    def object_link(self, obj: LogEntry) -> Any:
        """What it was done to, if it is there still."""
        if obj.content_type is None or obj.content_type.model_class() is None or obj.is_deletion():
            return obj.object_repr
        try:
            found = obj.get_edited_object()
        except Exception:  # whatever the row's own model raises for "gone"
            return obj.object_repr
        return link_to(found, obj.object_repr)

    @admin.display(description="what")
    def change_text(self, obj: LogEntry) -> str:
        """The change in words."""
        return obj.get_change_message() or "-"


# -- The sidebar ---------------------------------------------------------------------------------------------------------------------

SIDEBAR: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    (
        "Customers",
        (
            ("Accounts", "domain", "accounts.account"),
            ("Keys", "vpn_key", "keys.apikey"),
            ("Plans", "workspace_premium", "billing.plan"),
            ("People", "group", "accounts.user"),
        ),
    ),
    (
        "Money",
        (
            ("Wallets", "account_balance_wallet", "billing.wallet"),
            ("Top-ups", "payments", "billing.topup"),
            ("Refunds and disputes", "undo", "billing.reversal"),
            ("Ledger", "receipt_long", "billing.transfer"),
            ("Grants", "redeem", "billing.creditgrant"),
            ("Adjustments", "approval", "billing.adjustment"),
            ("Codes", "confirmation_number", "billing.redemptioncode"),
            ("Redemptions", "local_activity", "billing.redemption"),
            ("Holds", "lock_clock", "billing.hold"),
            ("Spend windows", "date_range", "billing.spendwindow"),
            ("Margins and invoices", "monitoring", "billing.providerinvoice"),
        ),
    ),
    (
        "Traffic",
        (
            ("Requests", "query_stats", "billing.usagerecord"),
            ("Serving processes", "memory", "billing.holdowner"),
            ("Tasks", "schedule", "billing.taskrun"),
            ("Stripe's events", "inbox", "billing.stripeevent"),
            ("Stripe's customers", "contact_page", "billing.stripecustomer"),
        ),
    ),
    (
        "Catalog",
        (
            ("Models", "smart_toy", "catalog.model"),
            ("Prices", "sell", "catalog.price"),
            ("Routes", "alt_route", "catalog.route"),
            ("Aliases", "label", "catalog.alias"),
            ("Providers", "cloud", "catalog.provider"),
            ("Provider keys", "passkey", "catalog.providerkey"),
            ("Default model", "star", "catalog.catalogversion"),
        ),
    ),
    (
        "Notices",
        (
            ("Outbox", "outbox", "accounts.outboxmessage"),
            ("Alerts", "notifications", "billing.alert"),
            ("Alert settings", "tune", "billing.alertsettings"),
            ("Webhook endpoints", "webhook", "billing.webhookendpoint"),
            ("Audit events", "history_edu", "accounts.auditevent"),
        ),
    ),
    ("Staff", (("Groups", "shield_person", "auth.group"), ("Log", "history", "admin.logentry"))),
)


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """The sidebar, in groups, of what this person may see."""
    groups: list[dict[str, Any]] = [{"title": "", "items": [{"title": "Overview", "icon": "dashboard", "link": reverse("admin:index")}]}]
    for title, entries in SIDEBAR:
        items = [
            {"title": name, "icon": icon, "link": reverse(f"admin:{model.replace('.', '_')}_changelist")}
            for name, icon, model in entries
            if _may_see(request, model)
        ]
        groups += [{"title": title, "items": items}] if items else []
    return groups


def environment(_request: HttpRequest) -> list[str] | None:
    """The label at the top: that this is no production."""
    return ["Debug", "warning"] if settings.DEBUG else None


def _may_see(request: HttpRequest, model: str) -> bool:
    app, name = model.split(".")
    return request.user.has_perm(f"{app}.view_{name}") or request.user.has_perm(f"{app}.change_{name}")


# -- The first page ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of the first page; `value` is None when it took too long to count."""

    title: str
    value: str | None
    note: str = ""
    address: str = ""
    is_bad: bool = False


def overview(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Add the live figures that this person may see to the first page."""
    now = timezone.now()
    figures: list[Figure] = []
    providers: list[dict[str, Any]] | None = []
    if _may_see(request, "billing.usagerecord"):
        figures += _within_time(lambda: _today(now)) or [Figure("Requests today", None), Figure("Revenue today", None)]
        providers = _within_time(lambda: _providers(now - timedelta(hours=1)))
    if _may_see(request, "billing.wallet"):
        figures += _within_time(_wallets) or [Figure("Wallets", None)]
    return {**context, "figures": figures, "providers": providers}


def _within_time(count: Callable[[], Counted]) -> Counted | None:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = {FIGURE_MILLISECONDS}")
            return count()
    except OperationalError:
        return None


def _today(now: datetime) -> list[Figure]:
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    ((requests, revenue, open_now),) = _rows(
        "SELECT COUNT(*), COALESCE(SUM(cost), 0), (SELECT COUNT(*) FROM billing_hold) FROM billing_usagerecord WHERE request_id >= %s",
        lowest_uuid7(midnight),
    )
    usage = reverse("admin:billing_usagerecord_changelist")
    return [
        Figure("Requests today", f"{requests:,}", f"{open_now:,} under way · since midnight UTC", f"{usage}?period=24h"),
        Figure("Revenue today", money.usd_display(int(revenue)), "charged to wallets", f"{usage}?period=24h"),
    ]


def _wallets() -> list[Figure]:
    ((balance, held, holding, frozen),) = _rows(
        "SELECT COALESCE(SUM(balance), 0), COALESCE(SUM(held), 0), COUNT(*) FILTER (WHERE held > 0), "
        "COUNT(*) FILTER (WHERE status <> 'active') FROM billing_wallet"
    )
    # The two books of what is held, read in one statement: they are equal at every moment.
    ((drifts,),) = _rows(
        "SELECT COUNT(*) FROM (SELECT wallet_id, SUM(amount) AS amount FROM billing_hold GROUP BY wallet_id) h "
        "FULL JOIN (SELECT id, held FROM billing_wallet WHERE held > 0) w ON w.id = h.wallet_id "
        "WHERE COALESCE(h.amount, 0) <> COALESCE(w.held, 0)"
    )
    wallets = reverse("admin:billing_wallet_changelist")
    return [
        Figure("In all wallets", money.usd_display(int(balance)), f"{frozen:,} frozen or closed", wallets),
        Figure("Held now", money.usd_display(int(held)), f"in {holding:,} wallets", reverse("admin:billing_hold_changelist")),
        Figure(
            "Books",
            "agree" if not drifts else f"{drifts} drifts",
            "holds against wallets; the audit checks everything",
            reverse("admin:billing_wallet_audit"),
            is_bad=bool(drifts),
        ),
    ]


def _providers(since: datetime) -> list[dict[str, Any]]:
    """How each provider did since then, the worst first. What a client broke off is not the provider's failure."""
    rows = _rows(
        "SELECT provider, COUNT(*), COUNT(*) FILTER (WHERE status IN ('error', 'cut')) FROM billing_usagerecord "
        "WHERE request_id >= %s AND provider <> '' GROUP BY provider ORDER BY 3 DESC, 2 DESC LIMIT 10",
        lowest_uuid7(since),
    )
    return [{"name": name, "requests": total, "failed": failed, "is_bad": failed > total * SOME_FAILED} for name, total, failed in rows]


def _rows(query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return list(cursor.fetchall())
