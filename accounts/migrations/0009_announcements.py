import accounts.models
import django.core.validators
import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0008_content_days"),
        ("auth", "0012_alter_user_first_name_max_length"),
    ]

    operations = [
        migrations.CreateModel(
            name="Announcement",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(
                        choices=[("info", "information"), ("warning", "Warning"), ("maintenance", "Maintenance")],
                        default="info",
                        help_text="Maintenance stands on the status page as well, and is shown from a day before it begins.",
                        max_length=11,
                    ),
                ),
                ("title", models.CharField(max_length=120)),
                (
                    "text",
                    models.TextField(
                        blank=True,
                        help_text="Markdown: paragraphs, lists, [links](https://…), **strong** and `code`. Whoever has dismissed it sees it again when it is changed.",
                        validators=[django.core.validators.MaxLengthValidator(2000), accounts.models.check_announcement],
                    ),
                ),
                (
                    "audience",
                    models.CharField(
                        choices=[
                            ("everybody", "everybody, strangers too"),
                            ("signed_in", "people who are signed in"),
                            ("account", "members of one account"),
                        ],
                        default="everybody",
                        max_length=9,
                    ),
                ),
                ("starts_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("ends_at", models.DateTimeField(blank=True, help_text="Empty: until it is ended.", null=True)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                (
                    "account",
                    models.ForeignKey(
                        blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name="+", to="accounts.account"
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("ends_at", None), ("ends_at__gt", models.F("starts_at")), _connector="OR"),
                        name="announcement_ends_after_it_starts",
                        violation_error_message="It has to end after it starts.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("account__isnull", False), ("audience", "account")),
                            models.Q(models.Q(("audience", "account"), _negated=True), ("account", None)),
                            _connector="OR",
                        ),
                        name="announcement_names_its_account",
                        violation_error_message="Choose the account of an announcement to one account's members, and none for others.",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="UsualPermission",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("group", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="+", to="auth.group")),
                ("permission", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="+", to="auth.permission")),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("group", "permission"), name="usual_permission_once")],
            },
        ),
    ]
