from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0009_slots_filled")]

    operations = [
        migrations.AddField(
            model_name="walletarming",
            name="seen_version",
            field=models.BigIntegerField(default=0, help_text="How far the wallet's ledger was followed."),
        ),
        migrations.AddField(
            model_name="webhookendpoint",
            name="previous_sealed_secret",
            field=models.TextField(
                blank=True, default="", editable=False, help_text="Calls are signed with it too until `previous_until`."
            ),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="webhookendpoint",
            name="previous_until",
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
    ]
