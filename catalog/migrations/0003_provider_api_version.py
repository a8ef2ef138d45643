"""Adds the API version that Azure's addresses by deployment are called with."""

import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("catalog", "0002_versions")]
    operations = [
        migrations.AddField(
            model_name="provider",
            name="api_version",
            field=models.CharField(
                blank=True,
                default="",
                max_length=40,
                validators=[
                    django.core.validators.RegexValidator(
                        "^[A-Za-z0-9][A-Za-z0-9.-]*\\Z", "Use a version such as 2024-10-21 or 2025-04-01-preview."
                    )
                ],
                help_text="Azure only, for addresses like https://name.openai.azure.com: such as 2024-10-21. Empty: the address ends in /openai/v1.",
            ),
        ),
    ]
