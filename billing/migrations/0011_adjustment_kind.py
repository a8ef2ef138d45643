"""An adjustment says what kind of credit it is, or that it is a debit."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0010_notices_watermarks")]

    operations = [
        migrations.AddField(
            model_name="adjustment",
            name="kind",
            field=models.CharField(
                choices=[
                    ("promo", "promo: a gift, burned first"),
                    ("paid", "paid: money was received outside Stripe, burned last"),
                    ("debit", "debit: out of the wallet"),
                ],
                default="promo",
                max_length=5,
            ),
        ),
        migrations.AddConstraint(
            model_name="adjustment",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("amount_nano__lt", 0), ("kind", "debit")),
                    models.Q(models.Q(("kind", "debit"), _negated=True), ("amount_nano__gt", 0)),
                    _connector="OR",
                ),
                name="adjustment_direction",
            ),
        ),
    ]
