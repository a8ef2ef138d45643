"""What the admin calls these tables."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("keys", "0003_management_call"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="apikey",
            options={"verbose_name": "API key"},
        ),
    ]
