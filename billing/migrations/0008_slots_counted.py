"""From here on `billing_settle` counts each record in its slot and writes alerts."""

from django.db import migrations

from billing import sql


class Migration(migrations.Migration):
    dependencies = [("billing", "0007_slots_and_invoices")]
    operations = [
        migrations.RunSQL(
            [
                (
                    "ALTER TABLE billing_usageslot SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, "
                    "autovacuum_vacuum_threshold = 1000)",
                    None,
                ),
                (sql.read_functions(), None),
            ],
            migrations.RunSQL.noop,
        )
    ]
