"""What the admin calls these tables."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("proxy", "0003_open_operations"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="openoperation",
            options={"verbose_name": "open video"},
        ),
    ]
