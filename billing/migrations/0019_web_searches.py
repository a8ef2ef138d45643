"""Searches that providers run themselves are counted from here on, by request and in the slots."""

from django.db import migrations, models

from billing import sql


class Migration(migrations.Migration):
    dependencies = [("billing", "0018_alert_settings_plural")]

    operations = [
        migrations.AddField(
            model_name="usagerecord",
            name="web_searches",
            field=models.BigIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name="usageslot",
            name="web_searches",
            field=models.BigIntegerField(db_default=0, default=0),
        ),
        migrations.RunSQL([(sql.read_functions(), None)], migrations.RunSQL.noop),
    ]
