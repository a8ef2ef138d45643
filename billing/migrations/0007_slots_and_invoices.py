import django.core.validators
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0006_payments_and_people")]

    operations = [
        migrations.CreateModel(
            name="ProviderInvoice",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("provider", models.CharField(help_text="The provider's name in the catalog.", max_length=50)),
                ("month", models.DateField(help_text="The first day of the month.")),
                (
                    "amount_nano",
                    models.BigIntegerField(validators=[django.core.validators.MinValueValidator(0)], verbose_name="amount (nano-USD)"),
                ),
                ("note", models.CharField(blank=True, help_text="Such as the invoice's number.", max_length=500)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
            ],
            options={"ordering": ["-month", "provider"]},
        ),
        migrations.AddIndex(
            model_name="transfer",
            index=models.Index(
                condition=models.Q(("kind__in", ("usage", "overrun")), _negated=True),
                fields=["wallet", "created_at"],
                include=("kind", "debit_account", "amount"),
                name="transfer_not_usage",
            ),
        ),
        migrations.AddIndex(
            model_name="usagerecord",
            index=models.Index(
                condition=models.Q(("user_tag", ""), _negated=True), fields=["account", "user_tag", "-started_at"], name="usage_by_user"
            ),
        ),
        migrations.AddConstraint(
            model_name="providerinvoice",
            constraint=models.UniqueConstraint(fields=("provider", "month"), name="provider_invoice_once"),
        ),
        migrations.AddConstraint(
            model_name="providerinvoice",
            constraint=models.CheckConstraint(condition=models.Q(("amount_nano__gte", 0)), name="provider_invoice_not_negative"),
        ),
    ]
