"""The forms of keys: what may be typed. Whether a key can be issued or changed so is asked of `keys.issuing`, which names the field it refuses."""

import re
from datetime import datetime
from typing import Any

from django import forms

from catalog import dollars
from keys import issuing
from keys.models import ApiKey

ENDPOINTS = (
    ("chat", "Chat Completions"),
    ("responses", "Responses"),
    ("messages", "Messages (Anthropic)"),
    ("gemini", "generateContent (Gemini)"),
    ("completions", "Completions"),
    ("embeddings", "Embeddings"),
    ("images", "Images"),
)
KINDS = (
    ("live", "Live: every model of the plan, paid from the balance"),
    ("test", "Test: the built-in demo models, never charged"),
    ("management", "Management: manages keys and reads usage over the API, calls no model"),
)
WINDOWS = (("day", "a day"), ("week", "a week"), ("month", "a month"), ("total", "in all"))
OVERLAPS = (("0", "at once"), ("3600", "after an hour"), ("86400", "after a day"), ("604800", "after a week"))
MOMENT = "%Y-%m-%dT%H:%M"
_BETWEEN = re.compile(r"[\s,;]+")


class WordsField(forms.CharField):
    """A list of words, written one a line or with commas between."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"required": False, "widget": forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}), **kwargs})

    def clean(self, value: Any) -> Any:
        """Split what was typed."""
        return [word for word in _BETWEEN.split(str(value or "")) if word]

    def prepare_value(self, value: Any) -> str:
        """The list as lines."""
        return "\n".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _limit(label: str) -> forms.IntegerField:
    return forms.IntegerField(
        label=label,
        required=False,
        min_value=1,
        max_value=issuing.LARGEST_LIMIT,
        widget=forms.NumberInput(attrs={"placeholder": "no limit"}),
    )


class ChangeForm(forms.Form):
    """What can be changed of a key: never whose it is, nor its kind."""

    name = forms.CharField(
        max_length=100, widget=forms.TextInput(attrs={"autocomplete": "off"}), help_text="What it is for, such as a program or a team."
    )
    budget_nano = dollars.UsdField(
        label="Budget in USD", required=False, help_text="What it may spend in each window. Empty: what the balance has."
    )
    budget_window = forms.ChoiceField(label="Budget for", choices=WINDOWS, initial="month")
    allowed_models = WordsField(
        label="Models", help_text="One a line: a model, or a pattern such as <code>openai/*</code>. Empty: all of the plan."
    )
    allowed_endpoints = forms.MultipleChoiceField(
        label="Endpoints", choices=ENDPOINTS, required=False, widget=forms.CheckboxSelectMultiple, help_text="None ticked: all of them."
    )
    allowed_ips = WordsField(
        label="IP addresses", help_text="One a line: addresses or networks such as <code>203.0.113.0/24</code>. Empty: any."
    )
    rpm = _limit("Requests a minute")
    tpm = _limit("Tokens a minute")
    concurrency = _limit("Requests at once")
    expires_at = forms.DateTimeField(
        label="Expires",
        required=False,
        input_formats=[MOMENT, "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d"],
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format=MOMENT),
        help_text="By the account's clock. Empty: never.",
    )

    def __init__(self, data: Any = None, *, initial: dict[str, Any] | None = None) -> None:
        super().__init__(data, initial=initial)
        known = [name for name, _ in ENDPOINTS]
        # What was allowed over the API and is not among the ticks stays allowed.
        more = [name for name in (initial or {}).get("allowed_endpoints", []) if name not in known]
        self.fields["allowed_endpoints"].choices = [*ENDPOINTS, *((name, name) for name in more)]  # type: ignore[attr-defined]

    def clean_expires_at(self) -> datetime | None:
        """Shown to the minute, so what comes back unchanged is the exact moment there was."""
        said: datetime | None = self.cleaned_data["expires_at"]
        before = (self.initial or {}).get("expires_at")
        return before if before is not None and said == before.replace(second=0, microsecond=0) else said

    def changes(self) -> dict[str, Any]:
        """What was typed differently from what there was."""
        return {name: value for name, value in self.cleaned_data.items() if value != self.initial.get(name)}

    def explain(self, problem: issuing.InvalidSetting) -> None:
        """Say at its field what a rule refused."""
        self.add_error(
            problem.field if problem.field in self.fields else None,
            f"It {problem.message}." if _is_verb(problem.message) else problem.message,
        )


class IssueForm(ChangeForm):
    """A new key."""

    kind = forms.ChoiceField(choices=KINDS, initial="live", widget=forms.RadioSelect)
    field_order = ("name", "kind")


class RerollForm(forms.Form):
    """How long the old key still works."""

    overlap = forms.TypedChoiceField(label="The old key stops", choices=OVERLAPS, coerce=int, initial="86400")


def settings_of(key: ApiKey) -> dict[str, Any]:
    """What `ChangeForm` shows of a key at first. The expiry is shown to the minute."""
    return {name: getattr(key, name) for name in ChangeForm.base_fields}


def _is_verb(message: str) -> bool:
    return message.startswith(("must ", "is "))
