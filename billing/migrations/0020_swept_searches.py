"""What was searched for a stream is noted with its hold, so that a swept record counts what it charges for."""

from django.db import migrations, models

from billing import sql


class Migration(migrations.Migration):
    dependencies = [("billing", "0019_web_searches")]

    operations = [
        migrations.AddField(
            model_name="hold",
            name="web_searches",
            field=models.BigIntegerField(db_default=0, default=0),
        ),
        migrations.RunSQL([(sql.read_functions(), None)], migrations.RunSQL.noop),
    ]
