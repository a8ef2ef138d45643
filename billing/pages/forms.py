"""The forms of the billing pages: what may be typed, and in which words it is refused. Amounts are typed in dollars and handed on in nano-USD."""

import uuid
from decimal import Decimal
from typing import Any, ClassVar

from django import forms
from django.conf import settings

from billing.models import AlertSettings, WebhookEndpoint
from billing.notices import telling
from billing.payments import top_ups
from catalog import money
from catalog.money import NANO_PER_USD

MOST_USD = Decimal(1_000_000_000)


def _is_offered(usd: int) -> bool:
    minimum, maximum = top_ups.limits()
    return minimum <= usd * NANO_PER_USD <= maximum


class DollarsField(forms.DecimalField):
    """An amount of dollars in whole cents, between two bounds of nano-USD; its value is nano-USD."""

    def __init__(self, *, minimum: int = 0, maximum: int | None = None, **kwargs: Any) -> None:
        most = MOST_USD if maximum is None else Decimal(maximum) / NANO_PER_USD
        super().__init__(min_value=Decimal(minimum) / NANO_PER_USD, max_value=most, decimal_places=2, **kwargs)
        self.widget.attrs |= {"inputmode": "decimal", "step": "0.01"}

    def clean(self, value: Any) -> Any:
        """Nano-USD of what was typed; None for nothing."""
        dollars = super().clean(value)
        return None if dollars is None else money.nano_from_usd(dollars)

    def prepare_value(self, value: Any) -> Any:
        """Dollars of an initial amount of nano-USD."""
        return money.usd(value) if isinstance(value, int) else value


class TopUpForm(forms.Form):
    """How much to pay. `form_id` is drawn with the page, so that the form sent twice is one payment."""

    form_id = forms.UUIDField(widget=forms.HiddenInput)
    preset = forms.TypedChoiceField(
        label="Amount", coerce=int, required=False, empty_value=None, widget=forms.RadioSelect(attrs={"class": "choices"})
    )
    save_card = forms.BooleanField(
        label="Save the card for automatic top-ups",
        required=False,
        help_text="Nothing is charged by itself until you turn automatic top-up on.",
    )

    def __init__(self, data: Any = None, **kwargs: Any) -> None:
        presets = [usd for usd in settings.TOP_UP_PRESETS_USD if _is_offered(usd)]
        initial = {"form_id": uuid.uuid4(), "preset": presets[min(1, len(presets) - 1)] if presets else None}
        super().__init__(data, initial=initial, **kwargs)
        minimum, maximum = top_ups.limits()
        choices = [(usd, f"${usd:,}") for usd in presets]
        self.fields["preset"].choices = choices  # type: ignore[attr-defined]
        self.fields["other"] = DollarsField(
            label="Another amount",
            minimum=minimum,
            maximum=maximum,
            required=False,
            help_text=f"In US dollars, from {money.usd_display(minimum)} to {money.usd_display(maximum)}. It counts instead of the choice.",
        )
        self.order_fields(["form_id", "preset", "other", "save_card"])

    def clean(self) -> dict[str, Any]:
        """Settle on one amount: what was typed before what was chosen."""
        cleaned = super().clean() or {}
        chosen = cleaned.get("preset")
        if "other" in self.errors:
            return cleaned
        cleaned["amount_nano"] = cleaned.get("other") or (chosen * NANO_PER_USD if chosen else None)
        if cleaned["amount_nano"] is None and "preset" not in self.errors:
            self.add_error("preset", "Choose an amount, or type one.")
        return cleaned


class AutoTopUpForm(forms.Form):
    """When to refill by itself, and by how much. It is sent twice: once to be told in words what it means, and once to agree to that."""

    is_confirmed = forms.BooleanField(required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        minimum, maximum = top_ups.limits()
        self.fields["threshold_nano"] = DollarsField(label="When the balance falls below", minimum=0, maximum=maximum)
        self.fields["amount_nano"] = DollarsField(
            label="Charge the card",
            minimum=minimum,
            maximum=maximum,
            help_text=f"From {money.usd_display(minimum)} to {money.usd_display(maximum)} each time.",
        )
        self.fields["monthly_cap_nano"] = DollarsField(
            label="At most in a calendar month", minimum=minimum, required=False, help_text="Empty: no limit."
        )
        self.order_fields(["threshold_nano", "amount_nano", "monthly_cap_nano", "is_confirmed"])

    def clean(self) -> dict[str, Any]:
        """Refuse a cap that no refill would fit under."""
        cleaned = super().clean() or {}
        cap, amount = cleaned.get("monthly_cap_nano"), cleaned.get("amount_nano")
        if cap is not None and amount is not None and cap < amount:
            self.add_error("monthly_cap_nano", "This is less than one charge: it would never happen.")
        return cleaned


class RedeemForm(forms.Form):
    """A code, as somebody typed it."""

    code = forms.CharField(max_length=100, widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}))


class AlertSettingsForm(forms.ModelForm):  # type: ignore[type-arg]
    """What an account wants to be warned of."""

    low_balance_nano = DollarsField(label="Low balance", help_text="In US dollars. Warn when the balance falls below this. 0: never.")

    class Meta:
        model = AlertSettings
        fields = ("low_balance_nano", "days_left", "limits", "receipts")
        labels: ClassVar[dict[str, str]] = {"days_left": "Days left", "limits": "Budgets and quotas", "receipts": "Receipts"}


class EndpointForm(forms.Form):
    """Where to call, and of what."""

    url = forms.CharField(
        label="Address",
        max_length=WebhookEndpoint._meta.get_field("url").max_length,  # noqa: SLF001 - Django's own name for it
        widget=forms.URLInput(attrs={"placeholder": "https://example.com/webhooks/tollgate", "autocomplete": "off"}),
        help_text="An https:// address that answers with a 2xx status within 15 seconds.",
    )
    events = forms.MultipleChoiceField(
        required=False,
        choices=[(name, f"{name}: {telling.EVENTS[name].words}") for name in telling.FOR_WEBHOOKS if name != "webhook_endpoint.test"],
        widget=forms.CheckboxSelectMultiple(attrs={"class": "ticks"}),
        help_text="None ticked: all of them, and those to come.",
    )
