"""Plans in the admin, and which account was on which."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from billing.models import Plan, PlanAssignment
from catalog import dollars
from gateway_site.admin_base import LinesField, ModelAdmin, ModelForm, TabularInline


class PlanAssignmentInline(TabularInline):
    """Which plan from when on. An assignment stays; the next one ends it."""

    model = PlanAssignment
    fields = ("plan", "starts_at", "anchor_day")
    ordering = ("-starts_at",)
    can_delete = False
    per_page = 10

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002 - the signature is Django's
        """Nobody: quotas were counted by it."""
        return False


class PlanForm(ModelForm):
    allowed_models = LinesField(help_text='One a line: a model, or a pattern such as "openai/*". Empty: all.')
    price_nano = dollars.UsdField(label="price a month, USD", required=False)

    class Meta:
        model = Plan
        fields = "__all__"

    def clean_price_nano(self) -> int:
        """Left empty, the plan costs nothing."""
        return int(self.cleaned_data["price_nano"] or 0)


@admin.register(Plan)
class PlanAdmin(ModelAdmin):
    """Plans. One that was ever assigned cannot be deleted."""

    form = PlanForm
    list_display = ("slug", "name", "price", "monthly_input_tokens", "monthly_output_tokens", "rpm", "tpm", "is_default")
    search_fields = ("slug", "name")
    ordering = ("slug",)
    readonly_fields = ("created_at",)
    fieldsets = (
        (None, {"fields": ("slug", "name", "price_nano", "is_default")}),
        ("Quota", {"fields": (("monthly_input_tokens", "monthly_output_tokens"), "allowed_models")}),
        ("Rates", {"fields": (("rpm", "tpm", "concurrency"), "created_at")}),
    )
    price = dollars.column("price_nano", "price a month")

    def topics(self, obj: Plan) -> tuple[str, ...]:  # noqa: ARG002 - whoever is on it
        """Every account may be on it."""
        return ("account",)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Only a plan nobody was ever on."""
        return super().has_delete_permission(request, obj) and (obj is None or not obj.assignments.exists())
