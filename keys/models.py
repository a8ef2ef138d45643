"""The table of API keys: digests, what each key may do, and its budget. The key itself is never stored."""

from django.db import models
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
        indexes = [models.Index(fields=["account", "-created_at"], name="key_by_account")]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(budget_nano__isnull=True) | models.Q(budget_nano__gte=0), name="key_budget_not_negative"
            )
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.start}…{self.last_four})"
