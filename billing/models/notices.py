"""What accounts want to be told, where to, and each alert that was raised: once for every crossing."""

import uuid

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from accounts.models import Account
from billing.models.wallet import Wallet


class AlertSettings(models.Model):
    """When an account is warned. An account without a row has these defaults."""

    account = models.OneToOneField(Account, on_delete=models.CASCADE, related_name="alert_settings")
    low_balance_nano = models.BigIntegerField(
        default=5_000_000_000, validators=[MinValueValidator(0)], help_text="Warn when the balance falls below this; 0: never."
    )
    days_left = models.PositiveSmallIntegerField(default=3, help_text="Warn when the balance lasts fewer days than this; 0: never.")
    limits = models.BooleanField(default=True, help_text="Warn at 50, 80 and 100 % of budgets and quotas.")
    receipts = models.BooleanField(default=True, help_text="Send a receipt for every payment.")

    class Meta:
        verbose_name_plural = "alert settings"

    def __str__(self) -> str:
        return f"alerts of {self.account}"


class Alert(models.Model):
    """A threshold that was crossed. The unique row is the memory that it was told; a raised limit or a new window is another row.

    `billing_settle` writes the crossings of budgets, quotas and balances in the transaction that charges; tasks write the others. Rows
    whose `told_at` is empty wait to be turned into messages.
    """

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="alerts")
    kind = models.CharField(max_length=20, help_text="budget, quota_input, quota_output, low_balance, days_left, key_expiring, …")
    subject = models.CharField(max_length=100, help_text="Which one: `key:17`, `account`.")
    window = models.CharField(max_length=60, help_text="In which window or arming: its start, or the wallet's arming number.")
    limit = models.BigIntegerField(help_text="The limit at that time: a changed one arms anew.")
    threshold = models.SmallIntegerField(help_text="Per cent of the limit; 0 where there is none.")
    value = models.BigIntegerField(help_text="What it stood at.")
    created_at = models.DateTimeField(default=timezone.now)
    told_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account", "kind", "subject", "window", "limit", "threshold"], name="alert_once")]
        indexes = [models.Index(fields=["created_at"], condition=Q(told_at__isnull=True), name="alert_untold")]

    def __str__(self) -> str:
        return f"{self.kind} {self.threshold} of {self.subject}"


class WalletArming(models.Model):
    """How often a wallet's low-balance alert was armed: each top-up that lifts it above the threshold counts one."""

    wallet = models.OneToOneField(Wallet, on_delete=models.CASCADE, related_name="arming")
    number = models.BigIntegerField(default=1)
    is_armed = models.BooleanField(default=True)
    seen_version = models.BigIntegerField(default=0, help_text="How far the wallet's ledger was followed.")

    def __str__(self) -> str:
        return f"arming {self.number} of {self.wallet}"


class WebhookEndpoint(models.Model):
    """An address of the customer's that is told what happens, with a signature made from its own sealed secret."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="webhook_endpoints")
    url = models.URLField(max_length=500)
    events = models.JSONField(default=list, blank=True, help_text="Kinds of events; empty: all.")
    sealed_secret = models.TextField(editable=False)
    previous_sealed_secret = models.TextField(blank=True, editable=False, help_text="Calls are signed with it too until `previous_until`.")
    previous_until = models.DateTimeField(null=True, blank=True, editable=False)
    is_enabled = models.BooleanField(default=True)
    failures = models.PositiveIntegerField(default=0, help_text="Deliveries in a row that failed for good.")
    disabled_reason = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return self.url
