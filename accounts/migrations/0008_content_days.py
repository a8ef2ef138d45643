from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("accounts", "0007_sample_accounts")]

    operations = [
        migrations.AddField(
            model_name="account",
            name="content_days",
            field=models.PositiveSmallIntegerField(
                default=0, editable=False, help_text="How long what is asked and answered is stored (`billing.stored_content`); 0: never."
            ),
        ),
        migrations.AddConstraint(
            model_name="account",
            constraint=models.CheckConstraint(
                condition=models.Q(("content_days__gte", 0), ("content_days__lte", 30)), name="account_content_days"
            ),
        ),
    ]
