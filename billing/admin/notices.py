"""What people were told, in the admin: alerts, what accounts want to be told, and the endpoints of their webhooks."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from billing.admin.tables import WalletTableAdmin
from billing.models import Alert, AlertSettings, WebhookEndpoint
from billing.notices import alerts
from gateway_site.admin_base import ModelAdmin, ReadOnlyAdmin, badge


class AlertKindFilter(admin.SimpleListFilter):
    """The kinds of alerts that the project raises; the list is not read from the table."""

    title = "kind"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:  # noqa: ARG002 - the signature is Django's
        """The kinds."""
        return [(kind, kind.replace("_", " ")) for kind in alerts.DESCRIBED]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:  # noqa: ARG002 - the signature is Django's
        """Those of the kind."""
        return queryset.filter(kind=self.value()) if self.value() else queryset


@admin.register(Alert)
class AlertAdmin(WalletTableAdmin):
    """Every threshold that was crossed."""

    empty_text = "An alert appears when a budget, a quota or a balance passes a threshold."
    owner = "account"
    list_display = ("created_at", "account", "kind", "subject", "threshold", "limit", "value", "state")
    list_select_related = ("account",)
    list_filter = (AlertKindFilter,)
    ordering = ("-id",)
    fields = ("account", "kind", "subject", "window", "limit", "threshold", "value", "created_at", "told_at")

    @admin.display(description="state")
    def state(self, obj: Alert) -> Any:
        """Whether it has become messages."""
        return badge("told", "success") if obj.told_at else badge("waiting", "warning")


@admin.register(AlertSettings)
class AlertSettingsAdmin(ModelAdmin):
    """When accounts are warned. One without a row has the defaults."""

    empty_text = "Accounts without a row are warned as by default."
    list_display = ("account", "low_balance_nano", "days_left", "limits", "receipts")
    list_select_related = ("account",)
    search_fields = ("account__slug",)
    autocomplete_fields = ("account",)
    ordering = ("account__slug",)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Whose they are is said once."""
        return (*super().get_readonly_fields(request, obj), *(() if obj is None else ("account",)))


@admin.register(WebhookEndpoint)
class WebhookEndpointAdmin(ReadOnlyAdmin):
    """Where customers' programs are told. Their secrets are sealed and shown to nobody."""

    empty_text = "Customers add their own, on the pages of their account."
    list_display = ("url", "account", "is_enabled", "failures", "disabled_reason", "created_at")
    list_select_related = ("account",)
    list_filter = ("is_enabled",)
    search_fields = ("url", "account__slug")
    ordering = ("-created_at",)
    fields = ("id", "account", "url", "events", "is_enabled", "failures", "disabled_reason", "previous_until", "created_at")
