"""What is under way, in the admin: holds and their owners, spend windows, and the tasks that Celery wakes."""

from django.contrib import admin
from django.utils import timezone

from billing.admin.tables import WalletTableAdmin
from billing.models import Hold, HoldOwner, SpendWindow, TaskRun
from catalog import dollars
from gateway_site.admin_base import BigTableAdmin, ReadOnlyAdmin


@admin.register(Hold)
class HoldAdmin(WalletTableAdmin):
    """Money set aside for requests under way."""

    empty_text = "A hold is there while its request is under way."
    own_id = "request_id"
    owner = "account"
    list_display = ("request_id", "account", "key", "amount_usd", "accrued_usd", "started_at", "expires_at")
    list_select_related = ("account", "key")
    ordering = ("-request_id",)
    fields = (
        "request_id",
        "account",
        "wallet",
        "key",
        "owner",
        "amount_usd",
        "accrued_usd",
        "free_after_usd",
        "input_tokens",
        "output_tokens",
        "web_searches",
        "quota_input_tokens",
        "quota_output_tokens",
        "about",
        "started_at",
        "expires_at",
    )
    readonly_fields = ("amount_usd", "accrued_usd", "free_after_usd")
    amount_usd = dollars.column("amount")
    accrued_usd = dollars.column("accrued")
    free_after_usd = dollars.column("free_after", "free once it was placed")


@admin.register(HoldOwner)
class HoldOwnerAdmin(BigTableAdmin):
    """The processes that place holds."""

    list_display = ("boot_id", "host", "pid", "started_at", "lease_until", "alive")
    search_fields = ("host",)
    ordering = ("-lease_until",)

    @admin.display(description="alive", boolean=True)
    def alive(self, obj: HoldOwner) -> bool:
        """Whether its lease runs."""
        return obj.lease_until > timezone.now()


@admin.register(TaskRun)
class TaskRunAdmin(ReadOnlyAdmin):
    """What Celery's tasks have done last."""

    list_display = ("name", "last_started_at", "last_finished_at", "runs", "findings", "last_error")
    ordering = ("name",)


@admin.register(SpendWindow)
class SpendWindowAdmin(WalletTableAdmin):
    """What budgets and quotas have counted."""

    empty_text = "A window appears with the first request of a key or a plan that has a limit."
    owner = "account"
    list_display = ("id", "subject_kind", "subject_id", "account", "window_start", "window_end", "spent_usd", "held_usd", "requests")
    list_filter = ("subject_kind",)
    list_select_related = ("account",)
    search_help_text = "An account's slug."
    ordering = ("-id",)
    fields = (
        "subject_kind",
        "subject_id",
        "account",
        "window_start",
        "window_end",
        "spent_usd",
        "held_usd",
        "input_tokens",
        "output_tokens",
        "held_input_tokens",
        "held_output_tokens",
        "requests",
    )
    readonly_fields = ("spent_usd", "held_usd")
    spent_usd = dollars.column("spent")
    held_usd = dollars.column("held")
