"""The admin as a whole: its sidebar, the log of what staff did, and the pages that belong to no table (`PAGES`)."""

from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import URLPattern, path, reverse

from accounts import impersonation
from gateway_site.admin import impersonating, manifests, markups, providers, search, system  # noqa: F401 - providers are registered by being imported
from gateway_site.admin_base import BigTableAdmin, link_to, may_see

admin.site.site_header = admin.site.site_title = "Tollgate"
admin.site.index_title = "Overview"


def pages() -> list[URLPattern]:
    """The pages of the admin that belong to no table."""
    view = admin.site.admin_view
    return [
        path("find/", view(search.search_view), name="find"),
        path("system/", view(system.system_view), name="system"),
        path("catalog/manifest/", view(manifests.manifest_view), name="manifest"),
        path("catalog/markups/", view(markups.markup_view), name="markups"),
        path("impersonation/end/", view(impersonating.end_view), name="end_impersonation"),
    ]


admin.site.extra_urls = pages  # type: ignore[attr-defined]  # where the theme asks for more addresses


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
            ("Subscriptions", "autorenew", "billing.subscription"),
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
            ("Open videos", "movie", "proxy.openoperation"),
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
            ("Announcements", "campaign", "accounts.announcement"),
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
    if system.may_look(request):
        groups[0]["items"].append({"title": "System", "icon": "monitor_heart", "link": reverse("admin:system")})
    for title, entries in SIDEBAR:
        items = [
            {"title": name, "icon": icon, "link": reverse(f"admin:{model.replace('.', '_')}_changelist")}
            for name, icon, model in entries
            if may_see(request, model)
        ]
        groups += [{"title": title, "items": items}] if items else []
    return groups


def style_sheet(request: HttpRequest) -> str:  # noqa: ARG001 - the theme passes it
    """What we mend of the theme's looks."""
    return static("admin.css")


def script(request: HttpRequest) -> str:  # noqa: ARG001 - the theme passes it
    """What we mend for keyboards and screen readers."""
    return static("admin.js")


def environment(request: HttpRequest) -> list[str] | None:
    """The label at the top: whom somebody is looking as, or that this is no production."""
    looking: impersonation.Looking | None = getattr(request, "impersonation", None)
    if looking is not None:
        return [f"You look at {looking.slug} as {looking.email}", "danger"]
    return ["Debug", "warning"] if settings.DEBUG else None
