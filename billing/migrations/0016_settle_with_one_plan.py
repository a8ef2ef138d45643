"""Installs `billing_settle` anew: it keeps one plan for all calls."""

from django.db import migrations

from billing import sql


class Migration(migrations.Migration):
    dependencies = [("billing", "0015_reported_in_slots_filled")]
    operations = [migrations.RunSQL(sql.read_functions(), migrations.RunSQL.noop)]
