"""Credit that nobody bought: redemption codes, who used them, and adjustments by staff that wait for a second person."""

import uuid

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from accounts.models import Account, User
from billing.models.wallet import Transfer, Wallet


class RedemptionCode(models.Model):
    """A code that turns into promo credit, once for each account and at most `most_uses` times."""

    code = models.CharField(max_length=40, unique=True, help_text="Upper case; typed in any case, with or without hyphens.")
    amount_nano = models.BigIntegerField(validators=[MinValueValidator(1)])
    most_uses = models.PositiveIntegerField(default=1)
    uses = models.PositiveIntegerField(default=0, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True, help_text="The code's own end.")
    credit_days = models.PositiveIntegerField(null=True, blank=True, help_text="The credit expires so many days after it is redeemed.")
    note = models.CharField(max_length=200, blank=True)
    is_enabled = models.BooleanField(default=True)
    created_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+", editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(amount_nano__gt=0), name="code_is_worth_something"),
            models.CheckConstraint(condition=Q(uses__lte=F("most_uses")), name="code_not_overused"),
        ]

    def __str__(self) -> str:
        return self.code


class Redemption(models.Model):
    """A code used by an account: once."""

    code = models.ForeignKey(RedemptionCode, on_delete=models.PROTECT, related_name="redemptions")
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="redemptions")
    transfer = models.OneToOneField(Transfer, on_delete=models.PROTECT, related_name="+")
    redeemed_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["code", "account"], name="code_once_an_account")]

    def __str__(self) -> str:
        return f"{self.code} by {self.account}"


class CodeTries(models.Model):
    """How often an account typed a code that does not exist, since when: what guessing is limited by. Its row is the lock of redeeming."""

    account = models.OneToOneField(Account, primary_key=True, on_delete=models.CASCADE, related_name="+")
    wrong = models.PositiveIntegerField(default=0)
    since = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name_plural = "code tries"

    def __str__(self) -> str:
        return f"{self.wrong} wrong tries by {self.account}"


class WelcomeGift(models.Model):
    """A welcome credit that was given: once an account, and once a person, however many accounts they open."""

    account = models.OneToOneField(Account, on_delete=models.PROTECT, related_name="+")
    person = models.OneToOneField(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    transfer = models.OneToOneField(Transfer, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return f"welcome of {self.account}"


class Adjustment(models.Model):
    """A credit or debit by staff. Above the limit that the settings give, somebody other than who asked has to approve it."""

    class State(models.TextChoices):
        WAITING = "waiting", "waiting for a second person"
        DONE = "done"
        REJECTED = "rejected"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)

    class Kind(models.TextChoices):
        PROMO = "promo", "promo: a gift, burned first"
        PAID = "paid", "paid: money was received outside Stripe, burned last"
        DEBIT = "debit", "debit: out of the wallet"

    wallet = models.ForeignKey(Wallet, on_delete=models.PROTECT, related_name="adjustments")
    kind = models.CharField(max_length=5, choices=Kind.choices, default=Kind.PROMO)
    amount_nano = models.BigIntegerField(help_text="Positive: into the wallet. Negative: out of it.")
    reason = models.CharField(max_length=400)
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Of the credit.")
    state = models.CharField(max_length=8, choices=State.choices, default=State.WAITING)
    requested_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    decided_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    transfer = models.OneToOneField(Transfer, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    decided_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=~Q(amount_nano=0), name="adjustment_moves"),
            models.CheckConstraint(
                condition=Q(kind="debit", amount_nano__lt=0) | (~Q(kind="debit") & Q(amount_nano__gt=0)), name="adjustment_direction"
            ),
            models.CheckConstraint(condition=Q(state="done", transfer__isnull=False) | ~Q(state="done"), name="adjustment_done_is_booked"),
        ]

    def __str__(self) -> str:
        return f"{self.amount_nano} for {self.wallet}"
