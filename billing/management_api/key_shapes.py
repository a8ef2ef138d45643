"""Keys and budgets as the management API answers and reads them: OpenRouter's names, and the gateway's own beside them."""

from datetime import datetime
from typing import Any

from rest_framework import serializers

from billing.key_totals import Standing
from billing.management_api.shapes import PageQuery, Strict, UsdField, answers, moment, number
from catalog import money
from keys.issuing import LARGEST_LIMIT
from keys.models import ApiKey

RESETS = {"daily": "day", "weekly": "week", "monthly": "month", None: "total"}
RESET_NAMES = {window: name for name, window in RESETS.items()}
KINDS = ("live", "test")
LONGEST_OVERLAP = 30 * 24 * 3600
USUAL_OVERLAP = 24 * 3600


class KeyQuery(PageQuery):
    """Which keys."""

    include_ended = serializers.BooleanField(default=False, help_text="Revoked and expired ones too.")
    name = serializers.CharField(
        max_length=100, required=False, allow_blank=True, default="", help_text="Part of the name, or how the key is recognised."
    )


def _limit(what: str) -> serializers.IntegerField:
    return serializers.IntegerField(
        min_value=1, max_value=LARGEST_LIMIT, allow_null=True, required=False, help_text=f"{what}; null: no limit of its own."
    )


def _words(what: str) -> serializers.ListField:
    return serializers.ListField(child=serializers.CharField(max_length=150), max_length=200, required=False, help_text=what)


class KeyChange(Strict):
    """What can be changed of a key; what is not named stays."""

    name = serializers.CharField(max_length=100, required=False)
    disabled = serializers.BooleanField(required=False)
    limit = UsdField(allow_null=True, required=False, help_text="The budget in dollars; null: none.")
    limit_reset = serializers.ChoiceField(
        choices=["daily", "weekly", "monthly"], allow_null=True, required=False, help_text="When the budget begins anew; null: never."
    )
    expires_at = serializers.DateTimeField(allow_null=True, required=False)
    allowed_models = _words('Models or patterns such as "openai/*"; empty: all of the plan.')
    allowed_endpoints = _words('Such as "chat" or "embeddings"; empty: all.')
    allowed_ips = _words("Addresses or networks; empty: any.")
    rpm = _limit("Requests a minute")
    tpm = _limit("Tokens a minute")
    concurrency = _limit("Requests at once")


class NewKey(KeyChange):
    """A key to issue."""

    name = serializers.CharField(max_length=100)
    kind = serializers.ChoiceField(choices=KINDS, default="live", help_text="A test key reaches the demo models only and is never billed.")


class Reroll(Strict):
    """How long the old key still works."""

    overlap_seconds = serializers.IntegerField(min_value=0, max_value=LONGEST_OVERLAP, default=USUAL_OVERLAP)


class Budget(serializers.Serializer[Any]):
    """What a key may spend in a window, and what it has. Dollars as exact decimal strings."""

    limit = serializers.CharField()
    spent = serializers.CharField()
    held = serializers.CharField(help_text="For requests under way.")
    remaining = serializers.CharField()
    window = serializers.ChoiceField(choices=ApiKey.Window.values)
    starts_at = serializers.DateTimeField(allow_null=True)
    resets_at = serializers.DateTimeField(allow_null=True)


class Key(serializers.Serializer[Any]):
    """A key. Its secret is not kept anywhere."""

    id = serializers.IntegerField()
    hash = serializers.CharField(help_text="The id as text: what stands in the address of a key.")
    label = serializers.CharField(help_text="How it is recognised.")  # type: ignore[assignment]  # hides the framework's
    name = serializers.CharField()
    kind = serializers.ChoiceField(choices=ApiKey.Kind.values)
    state = serializers.ChoiceField(choices=["active", "disabled", "expired", "revoked"])
    disabled = serializers.BooleanField()
    limit = serializers.FloatField(allow_null=True)
    limit_remaining = serializers.FloatField(allow_null=True)
    limit_reset = serializers.ChoiceField(choices=["daily", "weekly", "monthly"], allow_null=True)
    include_byok_in_limit = serializers.BooleanField()
    usage = serializers.FloatField(help_text="What it was charged in all, in dollars.")
    usage_daily = serializers.FloatField()
    usage_weekly = serializers.FloatField()
    usage_monthly = serializers.FloatField()
    budget = Budget(allow_null=True)
    allowed_models = serializers.ListField(child=serializers.CharField())
    allowed_endpoints = serializers.ListField(child=serializers.CharField())
    allowed_ips = serializers.ListField(child=serializers.CharField())
    rpm = serializers.IntegerField(allow_null=True)
    tpm = serializers.IntegerField(allow_null=True)
    concurrency = serializers.IntegerField(allow_null=True)
    replaces = serializers.IntegerField(allow_null=True, help_text="The key in whose place it was issued.")
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True)
    revoked_at = serializers.DateTimeField(allow_null=True)
    last_used_at = serializers.DateTimeField(allow_null=True)


KeyAnswer = answers("KeyAnswer", "One key.", data=Key())


IssuedKey = answers(
    "IssuedKey", "A key that was issued now.", data=Key(), key=serializers.CharField(help_text="The secret: shown this once.")
)


RevokedKey = answers("RevokedKey", "A key that was revoked.", data=Key(), deleted=serializers.BooleanField())


_NEXT = "Send it as `before` for the next page; null on the last."
KeyList = answers(
    "KeyList", "Some keys, the newest first.", data=Key(many=True), next=serializers.CharField(allow_null=True, help_text=_NEXT)
)


class KeyBudget(Budget):
    """A key's budget."""

    id = serializers.IntegerField(help_text="The key's.")
    label = serializers.CharField()  # type: ignore[assignment]  # as above
    name = serializers.CharField()


BudgetList = answers(
    "BudgetList",
    "Budgets of some keys, the newest key first.",
    data=KeyBudget(many=True),
    next=serializers.CharField(allow_null=True, help_text=_NEXT),
)


def settings_of(said: dict[str, Any]) -> dict[str, Any]:
    """What was said of a key, in the words of `keys.issuing`."""
    renamed = {"limit": "budget_nano", "disabled": "is_disabled"}
    settings = {renamed.get(name, name): value for name, value in said.items() if name != "limit_reset"}
    if "limit_reset" in said:
        settings["budget_window"] = RESETS[said["limit_reset"]]
    return settings


def show_key(standing: Standing, *, now: datetime) -> dict[str, Any]:
    """A `Key`."""
    key, totals = standing.key, standing.totals
    has_budget = key.budget_nano is not None
    return {
        "id": key.pk,
        "hash": str(key.pk),
        "label": _label(key),
        "name": key.name,
        "kind": key.kind,
        "state": key.state(now),
        "disabled": key.is_disabled,
        "limit": number(key.budget_nano) if key.budget_nano is not None else None,
        "limit_remaining": number(standing.remaining) if has_budget else None,
        "limit_reset": RESET_NAMES[key.budget_window] if has_budget else None,
        "include_byok_in_limit": False,
        "usage": number(totals.in_all),
        "usage_daily": number(totals.this_day),
        "usage_weekly": number(totals.this_week),
        "usage_monthly": number(totals.this_month),
        "budget": show_budget(standing) if has_budget else None,
        "allowed_models": key.allowed_models,
        "allowed_endpoints": key.allowed_endpoints,
        "allowed_ips": key.allowed_ips,
        "rpm": key.rpm,
        "tpm": key.tpm,
        "concurrency": key.concurrency,
        "replaces": key.replaces_id,
        "created_at": moment(key.created_at),
        "expires_at": moment(key.expires_at),
        "revoked_at": moment(key.revoked_at),
        "last_used_at": moment(key.last_used_at),
    }


def show_budget(standing: Standing) -> dict[str, Any]:
    """A `Budget`."""
    window = standing.window
    ends = window.kind != "total"
    return {
        "limit": money.usd(standing.key.budget_nano or 0),
        "spent": money.usd(standing.spent),
        "held": money.usd(standing.held),
        "remaining": money.usd(standing.remaining),
        "window": window.kind,
        "starts_at": moment(window.starts_at) if ends else None,
        "resets_at": moment(window.ends_at) if ends else None,
    }


def show_key_budget(standing: Standing) -> dict[str, Any]:
    """A `KeyBudget`."""
    key = standing.key
    return {"id": key.pk, "label": _label(key), "name": key.name, **show_budget(standing)}


def _label(key: ApiKey) -> str:
    return f"{key.start}…{key.last_four}"
