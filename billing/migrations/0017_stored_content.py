import django.db.models.deletion
from django.db import migrations, models

# What is sealed does not get smaller: PostgreSQL need not try.
EXTERNAL = "ALTER TABLE billing_storedcontent ALTER COLUMN request SET STORAGE EXTERNAL, ALTER COLUMN answer SET STORAGE EXTERNAL"


class Migration(migrations.Migration):
    dependencies = [("accounts", "0008_content_days"), ("billing", "0016_settle_with_one_plan")]

    operations = [
        migrations.CreateModel(
            name="ContentKey",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("sealed", models.CharField(blank=True, max_length=250)),
                ("created_at", models.DateTimeField()),
                ("ended_at", models.DateTimeField(null=True)),
                ("account", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="+", to="accounts.account")),
            ],
        ),
        migrations.CreateModel(
            name="StoredContent",
            fields=[
                ("request_id", models.UUIDField(primary_key=True, serialize=False)),
                ("at", models.DateTimeField(help_text="When the request began.")),
                ("expires_at", models.DateTimeField(help_text="When it is deleted, unless the account asks for less by then.")),
                ("format", models.CharField(max_length=20)),
                ("request", models.BinaryField()),
                ("answer", models.BinaryField()),
                ("request_cut", models.BooleanField()),
                ("answer_cut", models.BooleanField()),
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
                (
                    "key",
                    models.ForeignKey(
                        db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name="+", to="billing.contentkey"
                    ),
                ),
            ],
        ),
        migrations.AddConstraint(
            model_name="contentkey",
            constraint=models.UniqueConstraint(
                condition=models.Q(("ended_at__isnull", True)), fields=("account",), name="content_key_one_live"
            ),
        ),
        migrations.AddConstraint(
            model_name="contentkey",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("ended_at__isnull", True), models.Q(("sealed", ""), _negated=True)),
                    models.Q(("ended_at__isnull", False), ("sealed", "")),
                    _connector="OR",
                ),
                name="content_key_ended_destroyed",
            ),
        ),
        migrations.AddIndex(model_name="storedcontent", index=models.Index(fields=["expires_at"], name="content_by_expiry")),
        migrations.AddIndex(model_name="storedcontent", index=models.Index(fields=["key", "at"], name="content_by_key")),
        migrations.RunSQL(EXTERNAL, migrations.RunSQL.noop),
    ]
