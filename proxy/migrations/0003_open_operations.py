"""Operations that a provider accepted are written down until their end was seen."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("proxy", "0002_items_of_responses")]

    operations = [
        migrations.CreateModel(
            name="OpenOperation",
            fields=[
                ("request_id", models.UUIDField(primary_key=True, serialize=False)),
                ("name", models.TextField()),
                ("created_at", models.DateTimeField()),
                ("next_look_at", models.DateTimeField()),
                ("looks", models.PositiveIntegerField(default=0)),
                (
                    "account",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="accounts.account",
                    ),
                ),
            ],
            options={"indexes": [models.Index(fields=["next_look_at"], name="open_operation_by_look")]},
        ),
    ]
