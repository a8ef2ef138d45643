"""What is under way at providers, in the admin: videos whose end nobody has seen yet."""

from django.contrib import admin
from django.utils.safestring import SafeString

from billing.admin.tables import WalletTableAdmin
from billing.models import UsageRecord
from gateway_site.admin_base import link_to
from proxy.models import OpenOperation


@admin.register(OpenOperation)
class OpenOperationAdmin(WalletTableAdmin):
    """Operations that were paid when they were accepted, until what was not delivered is paid back. Their names are their accounts' alone."""

    empty_text = "A video is here from its order until its end was seen, three days at most."
    own_id = "request_id"
    owner = "account"
    list_display = ("request_id", "account", "created_at", "looks", "next_look_at")
    list_select_related = ("account",)
    ordering = ("next_look_at",)
    fields = ("request_id", "account", "record", "created_at", "looks", "next_look_at")
    readonly_fields = ("record",)

    @admin.display(description="charged as")
    def record(self, obj: OpenOperation) -> SafeString | str:
        """The record of its order."""
        return link_to(UsageRecord.objects.filter(pk=obj.pk).first())
