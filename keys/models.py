"""The table of API keys: digests, what each key may do, and its budget. The key itself is never stored."""

from datetime import datetime
from typing import Literal

from django.db import connection, models
from django.utils import timezone

from accounts.models import Account, User


class ApiKey(models.Model):
    """One key of an account. Recognised by `start`…`last_four`; proven by its digest."""

    class Kind(models.TextChoices):
        LIVE = "live"
        TEST = "test", "test (demo provider only, never billed)"
        MANAGEMENT = "management", "management (no inference)"

    class Window(models.TextChoices):
        DAY = "day"
        WEEK = "week"
        MONTH = "month"
        TOTAL = "total", "total (never resets)"

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="keys")
    name = models.CharField(max_length=100)
    kind = models.CharField(max_length=10, choices=Kind.choices, default=Kind.LIVE)
    digest = models.BinaryField(unique=True, editable=False, max_length=32)
    pepper_version = models.PositiveSmallIntegerField(editable=False)
    start = models.CharField(max_length=16, editable=False, db_index=True)
    last_four = models.CharField(max_length=4, editable=False)

    allowed_models = models.JSONField(
        default=list, blank=True, help_text='Model names or patterns such as "openai/*". Empty: all of the plan.'
    )
    allowed_endpoints = models.JSONField(default=list, blank=True, help_text='Such as "chat", "embeddings". Empty: all.')
    allowed_ips = models.JSONField(default=list, blank=True, help_text="Networks such as 203.0.113.0/24. Empty: any.")
    rpm = models.PositiveIntegerField("requests per minute", null=True, blank=True)
    tpm = models.PositiveIntegerField("tokens per minute", null=True, blank=True)
    concurrency = models.PositiveIntegerField("requests at once", null=True, blank=True)
    budget_nano = models.BigIntegerField("budget (nano-USD)", null=True, blank=True)
    budget_window = models.CharField(max_length=5, choices=Window.choices, default=Window.MONTH)

    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    is_disabled = models.BooleanField(default=False, help_text="Stops the key; it can be switched on again.")
    created_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+", editable=False)
    replaces = models.ForeignKey("self", null=True, blank=True, on_delete=models.SET_NULL, related_name="replaced_by", editable=False)
    form_token = models.UUIDField(
        null=True, unique=True, editable=False, help_text="Of the form it was issued by: sending that again issues none."
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        verbose_name = "API key"
        indexes = [models.Index(fields=["account", "-created_at"], name="key_by_account")]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(budget_nano__isnull=True) | models.Q(budget_nano__gte=0), name="key_budget_not_negative"
            )
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.start}…{self.last_four})"

    def state(self, now: datetime) -> Literal["active", "disabled", "expired", "revoked"]:
        """Whether it works at `now`, and why not."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        return "disabled" if self.is_disabled else "active"


class ManagementCallManager(models.Manager["ManagementCall"]):
    def begin(self, *, account: Account, token: str, fingerprint: str, now: datetime) -> bool:
        """Take a token; False when it is taken already. Waits for whoever is taking the same one just now."""
        with connection.cursor() as cursor:
            cursor.execute(
                """INSERT INTO keys_managementcall (account_id, token, fingerprint, status, answer, made, created_at)
                VALUES (%s, %s, %s, 0, '{}', '', %s) ON CONFLICT (account_id, token) DO NOTHING""",
                [account.pk, token, fingerprint, now],
            )
            return bool(cursor.rowcount == 1)


class ManagementCall(models.Model):
    """A call of the management API that made something under an idempotency key (`keys.repeats`)."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+")
    token = models.CharField(max_length=64, help_text="SHA-256 of the idempotency key.")
    fingerprint = models.CharField(max_length=64, help_text="SHA-256 of the call.")
    status = models.PositiveSmallIntegerField()
    answer = models.JSONField(help_text="Without secrets.")
    made = models.CharField(max_length=40, blank=True, help_text="The id of what was made, where its secret was shown.")
    created_at = models.DateTimeField()

    objects = ManagementCallManager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account", "token"], name="management_call_once")]

    def __str__(self) -> str:
        return f"a call of {self.account}"
