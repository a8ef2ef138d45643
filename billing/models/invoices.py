"""What providers billed the operator, month by month, to be held against what our records say their usage cost."""

from django.core.validators import MinValueValidator
from django.db import models
from django.utils import timezone


class ProviderInvoice(models.Model):
    """The total of one provider's invoice for one calendar month (UTC), entered by staff. Nano-USD, without taxes."""

    provider = models.CharField(max_length=50, help_text="The provider's name in the catalog.")
    month = models.DateField(help_text="The first day of the month.")
    amount_nano = models.BigIntegerField("amount (nano-USD)", validators=[MinValueValidator(0)])
    note = models.CharField(max_length=500, blank=True, help_text="Such as the invoice's number.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["provider", "month"], name="provider_invoice_once"),
            models.CheckConstraint(condition=models.Q(amount_nano__gte=0), name="provider_invoice_not_negative"),
        ]
        ordering = ["-month", "provider"]

    def __str__(self) -> str:
        return f"{self.provider} {self.month:%Y-%m}"
