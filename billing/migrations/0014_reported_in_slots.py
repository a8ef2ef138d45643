"""From here on a slot says of how many records providers told their own figure, and what we reckon these cost."""

from django.db import migrations, models

from billing import sql


class Migration(migrations.Migration):
    dependencies = [("billing", "0013_sample_accounts")]

    operations = [
        migrations.AddField(
            model_name="usageslot",
            name="reported",
            field=models.BigIntegerField(db_default=0, default=0, help_text="Records with which the provider told what it charges."),
        ),
        migrations.AddField(
            model_name="usageslot",
            name="reported_upstream_cost",
            field=models.BigIntegerField(db_default=0, default=0, help_text="Our upstream cost of `reported` records."),
        ),
        migrations.AlterField(
            model_name="usageslot",
            name="reported_cost",
            field=models.BigIntegerField(default=0, help_text="Sum over `reported` records."),
        ),
        migrations.RunSQL([(sql.read_functions(), None)], migrations.RunSQL.noop),
    ]
