"""Money from outside: the customer at Stripe, top-ups, what was reversed of them, the inbox of events, auto top-up, subscriptions.

What Stripe is to be asked for, and what is credited, always comes from these rows, never from an event. Amounts of Stripe are minor
units (cents) and end in `_minor`; amounts of wallets are nano-USD and end in `_nano`.
"""

import uuid

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from accounts.models import Account, User
from billing.models.plans import Plan
from billing.models.wallet import Wallet


class StripeCustomer(models.Model):
    """An account's customer record at Stripe, and the card that may be charged when nobody is there."""

    account = models.OneToOneField(Account, on_delete=models.PROTECT, related_name="stripe_customer")
    customer_id = models.CharField(max_length=100, unique=True)
    is_live = models.BooleanField(help_text="Of Stripe's live mode; test and live customers are strangers to each other.")
    payment_method_id = models.CharField(max_length=100, blank=True, help_text="The saved card; empty: none.")
    card_brand = models.CharField(max_length=30, blank=True)
    card_last_four = models.CharField(max_length=4, blank=True)
    card_expires = models.CharField(max_length=7, blank=True, help_text="As 2029-07.")
    is_deleted = models.BooleanField(default=False, help_text="Deleted at Stripe: a new one is made when it is needed.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name = "Stripe customer"

    def __str__(self) -> str:
        return self.customer_id


class TopUp(models.Model):
    """One intended payment into a wallet. Its id is Stripe's `client_reference_id` and the idempotency key of every call about it.

    `credit_nano` was decided when the row was made. A credit happens once: when `state` becomes paid, in the same transaction.
    """

    class Kind(models.TextChoices):
        CHECKOUT = "checkout"
        AUTO = "auto"
        MANUAL = "manual"

    class State(models.TextChoices):
        OPEN = "open", "waiting for the customer"
        PROCESSING = "processing", "paid by a slow method, money under way"
        ACTION_NEEDED = "action", "the bank wants the customer's consent"
        PAID = "paid"
        FAILED = "failed"
        EXPIRED = "expired"
        QUARANTINED = "quarantined", "what was paid is not what was asked: staff decides"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    wallet = models.ForeignKey(Wallet, on_delete=models.PROTECT, related_name="top_ups")
    kind = models.CharField(max_length=8, choices=Kind.choices)
    state = models.CharField(max_length=11, choices=State.choices, default=State.OPEN)
    is_live = models.BooleanField(default=False)
    credit_nano = models.BigIntegerField()
    charge_minor = models.BigIntegerField(help_text="What is asked for, before tax.")
    paid_minor = models.BigIntegerField(null=True, help_text="What the customer paid, tax included.")
    currency = models.CharField(max_length=3, default="usd", editable=False)
    session_id = models.CharField(max_length=100, null=True, blank=True, unique=True)
    payment_intent_id = models.CharField(max_length=100, null=True, blank=True, unique=True)
    charge_id = models.CharField(max_length=100, blank=True)
    clawed_nano = models.BigIntegerField(default=0, help_text="What was taken back of the credit so far, given back parts deducted.")
    failure = models.CharField(max_length=300, blank=True, help_text="Why it failed or was quarantined, in words for the customer.")
    receipt_url = models.URLField(max_length=1000, blank=True)
    action_url = models.URLField(max_length=1000, blank=True, help_text="Where the customer gives the bank's consent.")
    requested_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    sent_at = models.DateTimeField(null=True, help_text="When Stripe was first asked: its idempotency keys last a day from then.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    paid_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name = "top-up"
        constraints = [
            models.CheckConstraint(condition=Q(credit_nano__gt=0, charge_minor__gt=0), name="top_up_positive"),
            models.CheckConstraint(condition=Q(currency="usd"), name="top_up_is_usd"),
            models.CheckConstraint(condition=Q(clawed_nano__gte=0) & Q(clawed_nano__lte=F("credit_nano")), name="top_up_clawed_within"),
            models.UniqueConstraint(
                fields=["wallet"],
                condition=Q(kind="auto", state__in=["open", "processing", "action"]),
                name="one_auto_top_up_in_flight",
            ),
        ]
        indexes = [
            models.Index(fields=["wallet", "-created_at"], name="top_up_by_wallet"),
            models.Index(fields=["created_at"], condition=Q(state__in=["open", "processing", "action"]), name="top_up_unfinished"),
        ]

    def __str__(self) -> str:
        return str(self.id)


class Reversal(models.Model):
    """A refund or dispute that takes part of a top-up's payment away, as Stripe says it stands. A won dispute or failed refund is inactive.

    What is to be clawed back is computed from the active rows of a top-up, so the order in which Stripe tells of them does not matter.
    """

    class Kind(models.TextChoices):
        REFUND = "refund"
        DISPUTE = "dispute"

    id = models.CharField(primary_key=True, max_length=100, help_text="Stripe's id of the refund or dispute.")
    top_up = models.ForeignKey(TopUp, on_delete=models.PROTECT, related_name="reversals")
    kind = models.CharField(max_length=7, choices=Kind.choices)
    amount_minor = models.BigIntegerField(validators=[MinValueValidator(0)])
    status = models.CharField(max_length=40, help_text="As Stripe names it.")
    is_active = models.BooleanField(help_text="The money is (being) taken away.")
    reason = models.CharField(max_length=100, blank=True)
    evidence_due_at = models.DateTimeField(null=True, blank=True)
    requested_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes = [models.Index(fields=["top_up"], name="reversal_by_top_up")]

    def __str__(self) -> str:
        return self.id


class StripeEvent(models.Model):
    """The inbox: every event that came, once, as it came. What is to be done about it is found out from Stripe, not from the payload."""

    class State(models.TextChoices):
        RECEIVED = "received"
        DONE = "done"
        IGNORED = "ignored"
        FAILED = "failed", "failed: tried again by itself"
        QUARANTINED = "quarantined", "staff decides"

    id = models.CharField(primary_key=True, max_length=100)
    type = models.CharField(max_length=100)
    object_id = models.CharField(max_length=100, blank=True, db_index=True)
    api_version = models.CharField(max_length=40, blank=True)
    is_live = models.BooleanField()
    payload = models.JSONField()
    source = models.CharField(max_length=8, choices=[("webhook", "webhook"), ("backfill", "backfill")], default="webhook")
    state = models.CharField(max_length=11, choices=State.choices, default=State.RECEIVED)
    attempts = models.PositiveIntegerField(default=0)
    next_try_at = models.DateTimeField(default=timezone.now)
    last_error = models.TextField(blank=True)
    created_at = models.DateTimeField(help_text="When Stripe made it.")
    received_at = models.DateTimeField(default=timezone.now)
    done_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = "Stripe event"
        indexes = [
            models.Index(fields=["next_try_at"], condition=Q(state__in=["received", "failed"]), name="stripe_event_due"),
            models.Index(fields=["-received_at"], name="stripe_event_by_time"),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.id}"


class AutoTopUp(models.Model):
    """What an account agreed to: refill the wallet from the saved card when little is free. Nothing of this is on unless they said so."""

    wallet = models.OneToOneField(Wallet, on_delete=models.PROTECT, related_name="auto_top_up")
    is_enabled = models.BooleanField(default=False)
    threshold_nano = models.BigIntegerField(validators=[MinValueValidator(0)], help_text="Refill when the balance is below this.")
    amount_nano = models.BigIntegerField(validators=[MinValueValidator(1)])
    monthly_cap_nano = models.BigIntegerField(null=True, blank=True, help_text="At most so much a calendar month; empty: no cap.")
    strikes = models.PositiveSmallIntegerField(default=0, help_text="Failures in a row; the third turns it off.")
    disabled_reason = models.CharField(max_length=200, blank=True)
    not_before = models.DateTimeField(default=timezone.now, help_text="The cooldown after an attempt.")
    agreed_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    agreed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(amount_nano__gt=0, threshold_nano__gte=0), name="auto_top_up_amounts")]
        indexes = [models.Index(fields=["not_before"], condition=Q(is_enabled=True), name="auto_top_up_due")]

    def __str__(self) -> str:
        return f"auto top-up of {self.wallet}"


class Subscription(models.Model):
    """A plan bought at Stripe. What the account may do follows from its plan assignments, which this one writes."""

    class Status(models.TextChoices):
        INCOMPLETE = "incomplete", "the first payment is missing"
        ACTIVE = "active"
        PAST_DUE = "past_due", "a payment failed, Stripe tries again"
        CANCELED = "canceled"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="subscriptions")
    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="subscriptions")
    next_plan = models.ForeignKey(
        Plan, null=True, blank=True, on_delete=models.PROTECT, related_name="+", help_text="From the period's end on: a downgrade."
    )
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.INCOMPLETE)
    stripe_id = models.CharField(max_length=100, null=True, blank=True, unique=True)
    stripe_item_id = models.CharField(max_length=100, blank=True)
    session_id = models.CharField(max_length=100, null=True, blank=True, unique=True)
    period_start = models.DateTimeField(null=True)
    period_end = models.DateTimeField(null=True)
    cancels_at_end = models.BooleanField(default=False)
    past_due_since = models.DateTimeField(null=True, blank=True)
    requested_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account"], condition=Q(status__in=["active", "past_due"]), name="one_subscription_at_a_time")
        ]

    def __str__(self) -> str:
        return f"{self.account} buys {self.plan}"
