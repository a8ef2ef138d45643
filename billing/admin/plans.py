"""Plans in the admin, and which account was on which."""

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest
from django.utils import timezone

from billing import assignments, business
from billing.models import Plan, PlanAssignment
from catalog import dollars
from gateway_site.admin_base import LinesField, ModelAdmin, ModelForm, TabularInline


class PlanAssignmentForm(ModelForm):
    """A plan given for free: not beside one that is bought, which would undo it."""

    class Meta:
        model = PlanAssignment
        fields = ("plan", "starts_at", "anchor_day")

    def clean(self) -> dict[str, Any]:
        """Refuse it while a subscription decides."""
        said = super().clean() or self.cleaned_data
        try:
            if self.instance.pk is None and self.instance.account_id is not None:
                assignments.check_no_subscription(self.instance.account)
        except assignments.SubscriptionRunning as running:
            raise forms.ValidationError(
                f"This account buys the plan {running.subscription.plan}. It has to end first, on the account's plan page or at Stripe."
            ) from running
        return said


class PlanAssignmentInline(TabularInline):
    """Which plan from when on. An assignment stays; the next one ends it."""

    model = PlanAssignment
    form = PlanAssignmentForm
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
    included_credit_nano = dollars.UsdField(
        label="included credit, USD", required=False, help_text="Granted each period; it ends with the period."
    )
    confirmed_for = forms.IntegerField(required=False, widget=forms.HiddenInput)

    class Meta:
        model = Plan
        fields = "__all__"

    def clean(self) -> dict[str, Any]:
        """A change of a plan that accounts are on is asked for twice, the second time knowing how many they are."""
        said = super().clean() or self.cleaned_data
        changed = [name for name in self.changed_data if name not in ("confirmed_for", "name", "is_default")]
        if self.errors or not changed or self.instance.pk is None:
            return said
        count = business.accounts_on(self.instance, now=timezone.now())
        if count and said.get("confirmed_for") != count:
            self.data = {**self.data.dict(), self.add_prefix("confirmed_for"): str(count)}  # type: ignore[attr-defined]
            raise forms.ValidationError(
                f"{count} account{'s are' if count > 1 else ' is'} on this plan and {'get' if count > 1 else 'gets'} what you have changed "
                "within seconds. Save again to do it."
            )
        return said

    def clean_included_credit_nano(self) -> int:
        """Left empty, nothing is included."""
        return int(self.cleaned_data["included_credit_nano"] or 0)

    def clean_price_nano(self) -> int:
        """Left empty, the plan costs nothing."""
        return int(self.cleaned_data["price_nano"] or 0)


def _limit(field: str, description: str) -> Callable[[Any, Plan], str]:
    """A column that shows the limit of `field` with commas."""

    def limit(_admin: Any, obj: Plan) -> str:
        value = getattr(obj, field)
        return "no limit" if value is None else f"{value:,}"

    limit.short_description = description  # type: ignore[attr-defined]
    limit.admin_order_field = field  # type: ignore[attr-defined]
    return limit


@admin.register(Plan)
class PlanAdmin(ModelAdmin):
    """Plans. One that was ever assigned cannot be deleted."""

    empty_text = "Plans come from a manifest, or are added here. Without one, accounts pay for each request."
    form = PlanForm
    list_display = ("slug", "name", "price", "input_tokens", "output_tokens", "requests", "tokens", "is_default")
    search_fields = ("slug", "name")
    ordering = ("slug",)
    readonly_fields = ("created_at", "accounts_now")
    fieldsets = (
        (None, {"fields": ("slug", "name", "accounts_now", "is_default", "confirmed_for")}),
        ("Price", {"fields": (("price_nano", "included_credit_nano"), "stripe_price_id")}),
        ("Quota", {"fields": (("monthly_input_tokens", "monthly_output_tokens"), "allowed_models")}),
        ("Rates", {"fields": (("rpm", "tpm", "concurrency"), "created_at")}),
    )
    price = dollars.column("price_nano", "price a month")
    input_tokens = _limit("monthly_input_tokens", "input tokens a month")
    output_tokens = _limit("monthly_output_tokens", "output tokens a month")
    requests = _limit("rpm", "requests a minute")
    tokens = _limit("tpm", "tokens a minute")

    @admin.display(description="accounts on it now")
    def accounts_now(self, obj: Plan) -> str:
        """How many open accounts a change of it changes."""
        return "-" if obj.pk is None else f"{business.accounts_on(obj, now=timezone.now()):,}"

    def topics(self, obj: Plan) -> tuple[str, ...]:  # noqa: ARG002 - whoever is on it
        """Every account may be on it."""
        return ("account",)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Only a plan nobody was ever on."""
        return super().has_delete_permission(request, obj) and (obj is None or not obj.assignments.exists())
