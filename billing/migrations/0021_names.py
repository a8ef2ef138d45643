"""What the admin calls these tables."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0020_swept_searches"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="stripecustomer",
            options={"verbose_name": "Stripe customer"},
        ),
        migrations.AlterModelOptions(
            name="stripeevent",
            options={"verbose_name": "Stripe event"},
        ),
        migrations.AlterModelOptions(
            name="topup",
            options={"verbose_name": "top-up"},
        ),
    ]
