"""Wallets, what is held of them, the ledger of transfers, grants, and the windows that budgets and quotas count in.

Only the functions in `billing/sql` and `billing.ledger` write these tables. All amounts are nano-USD.
"""

import uuid

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from accounts.models import Account
from keys.models import ApiKey


class Wallet(models.Model):
    """The prepaid money of one account. free = balance - held."""

    class Status(models.TextChoices):
        ACTIVE = "active"
        FROZEN = "frozen"
        CLOSED = "closed"

    account = models.OneToOneField(Account, on_delete=models.PROTECT, related_name="wallet")
    currency = models.CharField(max_length=3, default="usd", editable=False)
    status = models.CharField(max_length=6, choices=Status.choices, default=Status.ACTIVE)
    credits = models.BigIntegerField(default=0, editable=False)
    debits = models.BigIntegerField(default=0, editable=False)
    held = models.BigIntegerField(default=0, editable=False)
    balance = models.GeneratedField(expression=F("credits") - F("debits"), output_field=models.BigIntegerField(), db_persist=True)
    version = models.BigIntegerField(default=0, editable=False)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(currency="usd"), name="wallet_is_usd"),
            models.CheckConstraint(condition=Q(credits__gte=0), name="wallet_credits_not_negative"),
            models.CheckConstraint(condition=Q(debits__gte=0), name="wallet_debits_not_negative"),
            models.CheckConstraint(condition=Q(held__gte=0), name="wallet_held_not_negative"),
        ]

    def __str__(self) -> str:
        return f"wallet of {self.account}"

    @property
    def free(self) -> int:
        """What a new request may hold, in nano-USD."""
        return int(self.balance) - self.held


class HoldOwner(models.Model):
    """A process that places holds, and the lease it renews while it lives. A hold whose owner's lease has run out is swept."""

    boot_id = models.UUIDField(primary_key=True)
    host = models.CharField(max_length=200)
    pid = models.IntegerField()
    started_at = models.DateTimeField(default=timezone.now)
    lease_until = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


class Hold(models.Model):
    """Money set aside for one request that is under way. wallet.held is the sum of these, always."""

    request_id = models.UUIDField(primary_key=True)
    account = models.ForeignKey(Account, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+")
    wallet = models.ForeignKey(Wallet, on_delete=models.DO_NOTHING, db_constraint=False, related_name="holds")
    key = models.ForeignKey(ApiKey, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+")
    owner = models.ForeignKey(HoldOwner, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+")
    amount = models.BigIntegerField()
    accrued = models.BigIntegerField(default=0, help_text="What the delivered part costs so far: charged when the owner dies.")
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    web_searches = models.BigIntegerField(default=0, db_default=0)
    free_after = models.BigIntegerField(help_text="What was free once this hold was placed: the witness that it fitted.")
    key_window = models.BigIntegerField(null=True)
    quota_window = models.BigIntegerField(null=True)
    quota_input_tokens = models.BigIntegerField(default=0)
    quota_output_tokens = models.BigIntegerField(default=0)
    about = models.JSONField(default=dict, help_text="What the usage record will say of this request if its owner dies.")
    started_at = models.DateTimeField()
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(amount__gte=0), name="hold_not_negative"),
            models.CheckConstraint(condition=Q(accrued__gte=0), name="hold_accrued_not_negative"),
            models.CheckConstraint(condition=Q(free_after__gte=0) | Q(amount=0), name="hold_fitted"),
        ]

    def __str__(self) -> str:
        return str(self.request_id)


class Transfer(models.Model):
    """One entry of the ledger: an amount from one account to another, so it cannot be unbalanced. Never changed, never deleted.

    A wallet's account is `wallet:<id>`; the others are codes (revenue, promo, manual, writeoff, breakage, …) whose balance is a sum.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    kind = models.CharField(max_length=20)
    wallet = models.ForeignKey(Wallet, null=True, on_delete=models.PROTECT, related_name="transfers")
    debit_account = models.CharField(max_length=40)
    credit_account = models.CharField(max_length=40)
    amount = models.BigIntegerField()
    source_type = models.CharField(max_length=20)
    source_id = models.CharField(max_length=100)
    reverses = models.ForeignKey("self", null=True, blank=True, on_delete=models.PROTECT, related_name="reversed_by")
    wallet_version = models.BigIntegerField(null=True)
    balance_after = models.BigIntegerField(null=True)
    actor = models.CharField(max_length=150, blank=True)
    note = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="transfer_positive"),
            models.CheckConstraint(condition=~Q(debit_account=F("credit_account")), name="transfer_moves"),
            models.UniqueConstraint(fields=["kind", "source_type", "source_id"], name="transfer_once"),
            models.UniqueConstraint(fields=["wallet", "wallet_version"], name="transfer_version_once"),
        ]
        indexes = [
            models.Index(fields=["wallet", "-created_at"], name="transfer_by_wallet"),
            models.Index(fields=["-created_at"], name="transfer_by_time"),
            # The few that are not usage: what a wallet was credited and what was taken back is told without reading its whole ledger.
            models.Index(
                fields=["wallet", "created_at"],
                include=["kind", "debit_account", "amount"],
                condition=~Q(kind__in=("usage", "overrun")),
                name="transfer_not_usage",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


class CreditGrant(models.Model):
    """A credit and what is left of it. Spending burns grants in order: lowest priority number first, then the soonest to expire."""

    class Kind(models.TextChoices):
        PAID = "paid"
        PROMO = "promo"
        PLAN = "plan"

    wallet = models.ForeignKey(Wallet, on_delete=models.PROTECT, related_name="grants")
    kind = models.CharField(max_length=5, choices=Kind.choices)
    amount = models.BigIntegerField()
    remaining = models.BigIntegerField()
    priority = models.SmallIntegerField(default=50)
    expires_at = models.DateTimeField(null=True, blank=True)
    transfer = models.OneToOneField(Transfer, on_delete=models.PROTECT, related_name="grant")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(remaining__gte=0) & Q(remaining__lte=F("amount")), name="grant_remaining_within")]
        indexes = [
            models.Index(fields=["wallet", "priority", "expires_at", "id"], condition=Q(remaining__gt=0), name="grant_unspent"),
            models.Index(fields=["expires_at"], condition=Q(remaining__gt=0, expires_at__isnull=False), name="grant_expiring"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} grant {self.pk}"


class SpendWindow(models.Model):
    """What a subject (a key, or an account) used in one window. A reset is a new row: nothing runs, nothing races.

    A row equals the sum of the usage records that started in it; it is made when a budget or quota first asks for it, from those records.
    """

    subject_kind = models.CharField(max_length=7, choices=[("key", "key"), ("account", "account")])
    subject_id = models.BigIntegerField()
    account = models.ForeignKey(Account, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+")
    window_start = models.DateTimeField()
    window_end = models.DateTimeField()
    spent = models.BigIntegerField(default=0)
    held = models.BigIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    held_input_tokens = models.BigIntegerField(default=0)
    held_output_tokens = models.BigIntegerField(default=0)
    requests = models.BigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["subject_kind", "subject_id", "window_start", "window_end"], name="window_once"),
            models.CheckConstraint(condition=Q(spent__gte=0, held__gte=0), name="window_not_negative"),
            models.CheckConstraint(condition=Q(window_end__gt=F("window_start")), name="window_has_length"),
        ]

    def __str__(self) -> str:
        return f"{self.subject_kind} {self.subject_id} from {self.window_start:%Y-%m-%d}"
