"""Count in the slots what providers reported with the records that were there before.

A migration of its own, as `0009_slots_filled` is and for the same reason: whoever settles from now on counts for itself, and the lock waits for
those who are settling still.
"""

from django.db import migrations

REFILL = """
LOCK TABLE billing_wallet IN EXCLUSIVE MODE;
UPDATE billing_usageslot s SET reported = u.reported, reported_upstream_cost = u.upstream_cost
    FROM (SELECT account_id, key_id, model, provider, date_bin('15 minutes', started_at, '2000-01-01T00:00:00Z') AS starts_at,
            COUNT(*) AS reported, SUM(upstream_cost) AS upstream_cost
        FROM billing_usagerecord WHERE reported_cost IS NOT NULL GROUP BY 1, 2, 3, 4, 5) u
    WHERE s.account_id = u.account_id AND s.starts_at = u.starts_at AND s.key_id = u.key_id AND s.model = u.model AND s.provider = u.provider;
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0014_reported_in_slots")]
    operations = [migrations.RunSQL([(REFILL, None)], migrations.RunSQL.noop)]
