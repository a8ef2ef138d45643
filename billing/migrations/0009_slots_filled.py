"""Count the records that were there before slots were.

A migration of its own, after the one that changed the functions: whoever settles from now on counts for itself. The lock waits for those who
are settling still, and keeps others out while everything is counted anew (seconds for a million records).
"""

from django.db import migrations

REFILL = """
LOCK TABLE billing_wallet IN EXCLUSIVE MODE;
DELETE FROM billing_usageslot;
INSERT INTO billing_usageslot (account_id, key_id, model, provider, starts_at, requests, errors, input_tokens, cached_input_tokens,
        cache_write_tokens, audio_input_tokens, output_tokens, reasoning_tokens, audio_output_tokens, images, cost, upstream_cost, reported_cost,
        written_off, latency_ms, timed, first_token_ms, first_timed)
    SELECT account_id, key_id, model, provider, date_bin('15 minutes', started_at, '2000-01-01T00:00:00Z'), COUNT(*),
        COUNT(*) FILTER (WHERE status IN ('error', 'cut', 'swept')), SUM(input_tokens), SUM(cached_input_tokens),
        SUM(cache_write_tokens + cache_write_1h_tokens), SUM(audio_input_tokens), SUM(output_tokens), SUM(reasoning_tokens),
        SUM(audio_output_tokens), SUM(images), SUM(cost), SUM(upstream_cost), COALESCE(SUM(reported_cost), 0), SUM(written_off),
        COALESCE(SUM(latency_ms), 0), COUNT(latency_ms), COALESCE(SUM(first_token_ms), 0), COUNT(first_token_ms)
    FROM billing_usagerecord GROUP BY 1, 2, 3, 4, 5;
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0008_slots_counted")]
    operations = [migrations.RunSQL([(REFILL, None)], migrations.RunSQL.noop)]
