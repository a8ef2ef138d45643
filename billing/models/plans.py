"""Plans and who is on which from when on."""

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone

from accounts.models import Account


class Plan(models.Model):
    """What an account may use: models, tokens a month, and rates. Empty limits mean unlimited."""

    slug = models.SlugField(max_length=50, unique=True)
    name = models.CharField(max_length=100, blank=True)
    monthly_input_tokens = models.BigIntegerField(null=True, blank=True, validators=[MinValueValidator(0)])
    monthly_output_tokens = models.BigIntegerField(null=True, blank=True, validators=[MinValueValidator(0)])
    allowed_models = models.JSONField(default=list, blank=True, help_text='Names or patterns such as "openai/*"; ["*"] or empty: all.')
    rpm = models.PositiveIntegerField("requests per minute", null=True, blank=True, help_text="Of the account's keys together.")
    tpm = models.PositiveIntegerField("tokens per minute", null=True, blank=True)
    concurrency = models.PositiveIntegerField("requests at once", null=True, blank=True)
    price_nano = models.BigIntegerField("price a month (nano-USD)", default=0, validators=[MinValueValidator(0)])
    included_credit_nano = models.BigIntegerField(
        "included credit (nano-USD)",
        default=0,
        validators=[MinValueValidator(0)],
        help_text="Granted each period; it ends with the period.",
    )
    stripe_price_id = models.CharField(
        max_length=100, blank=True, help_text="The monthly price at Stripe. Empty: not sold, staff assigns it."
    )
    is_default = models.BooleanField(default=False, help_text="New accounts start on this plan.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["is_default"], condition=models.Q(is_default=True), name="one_default_plan")]

    def __str__(self) -> str:
        return self.slug


class PlanAssignment(models.Model):
    """The plan of an account from a moment on; it ends where the account's next assignment begins."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="plan_assignments")
    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="assignments")
    starts_at = models.DateTimeField(default=timezone.now)
    subscription = models.ForeignKey(
        "billing.Subscription", null=True, blank=True, editable=False, on_delete=models.SET_NULL, related_name="assignments"
    )
    anchor_day = models.PositiveSmallIntegerField(
        default=1,
        validators=[MinValueValidator(1), MaxValueValidator(31)],
        help_text="The day of the month on which the quota begins anew (the 31st is clamped to the month's last day).",
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account", "starts_at"], name="assignment_begins_once"),
            models.CheckConstraint(condition=models.Q(anchor_day__gte=1, anchor_day__lte=31), name="assignment_anchor_is_a_day"),
        ]
        ordering = ["account", "-starts_at"]

    def __str__(self) -> str:
        return f"{self.account} on {self.plan} from {self.starts_at:%Y-%m-%d}"
