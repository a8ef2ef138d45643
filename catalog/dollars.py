"""Dollars at the edge of the admin: the form fields that read them as nano-USD, and the HTML that shows nano-USD as dollars.

What is shown is rounded for people (`money.usd_display`); the exact amount is the element's title.
"""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from django import forms
from django.utils.html import format_html
from django.utils.safestring import SafeString

from catalog import money

_PLAIN = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,18})?")


class UsdField(forms.Field):
    """An amount of dollars, such as 12.50; its value is nano-USD times `units` (an integer), or None when left empty."""

    def __init__(self, *, units: int = 1, lowest: int | None = 0, **kwargs: Any) -> None:
        for bound in ("min_value", "max_value"):  # what a model's integer field would ask of its own form field
            kwargs.pop(bound, None)
        widget = forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off", "placeholder": "USD"})
        super().__init__(**{"widget": widget, **kwargs})
        self._units = units
        self._lowest = lowest

    def to_python(self, value: Any) -> int | None:
        """Read dollars. Raises: ValidationError."""
        text = str(value if value is not None else "").strip().removeprefix("$").strip()
        if not text:
            return None
        if not _PLAIN.fullmatch(text):
            raise forms.ValidationError("Enter dollars in plain digits, such as 12.50.")
        try:
            nano = money.nano_from_usd(Decimal(text) * self._units)
        except money.NotAnAmount:
            raise forms.ValidationError("This has more decimals than a billionth of a dollar, or is too large.") from None
        if self._lowest is not None and nano < self._lowest:
            raise forms.ValidationError("Enter more than nothing." if self._lowest else "Enter no negative amount.")
        return nano

    def clean(self, value: Any) -> Any:
        """Read and check what was typed."""
        nano = self.to_python(value)
        if nano is None and self.required:
            raise forms.ValidationError(self.error_messages["required"], code="required")
        return nano

    def prepare_value(self, value: Any) -> Any:
        """Show nano-USD as the dollars that would be typed for them."""
        return format((Decimal(value) / money.NANO_PER_USD / self._units).normalize(), "f") if isinstance(value, int) else value

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Whether another amount is meant."""
        try:
            return bool(self.to_python(data) != initial)
        except forms.ValidationError:
            return True


class PercentField(forms.DecimalField):
    """A percentage whose value is an integer in millionths (5 % is 50,000)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"min_value": 0, "max_value": 1000, "decimal_places": 4, **kwargs})

    def clean(self, value: Any) -> Any:
        """Read and check what was typed."""
        percent = super().clean(value)
        return 0 if percent is None else int(percent * 10_000)

    def prepare_value(self, value: Any) -> Any:
        """Show millionths as percent."""
        return format((Decimal(value) / 10_000).normalize(), "f") if isinstance(value, int) else value

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Whether another percentage is meant."""
        return super().has_changed(self.prepare_value(initial), data)


def show(nano: int | None, *, empty: str = "-") -> SafeString | str:
    """An amount of nano-USD as dollars, the exact amount in the title."""
    return empty if nano is None else format_html('<span title="${} exactly">{}</span>', money.usd(nano), money.usd_display(nano))


def show_parts(amount: int, *, per_nano: int) -> SafeString:
    """An amount in fractions of a nano-USD (`per_nano` of them are one), as a receipt's lines have it."""
    exact = Decimal(amount) / per_nano / money.NANO_PER_USD
    return format_html('<span title="${} exactly">${}</span>', format(exact, "f"), format(Decimal(format(exact, ".6g")), "f"))


def column(field: str, description: str = "", *, empty: str = "-") -> Callable[[Any, Any], SafeString | str]:
    """A column or read-only field of an admin class that shows the nano-USD of `field`."""

    def amount(_admin: Any, obj: Any) -> SafeString | str:
        return show(getattr(obj, field), empty=empty)

    amount.short_description = description or field.replace("_", " ")  # type: ignore[attr-defined]
    amount.admin_order_field = field  # type: ignore[attr-defined]
    return amount
