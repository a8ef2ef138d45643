-- Ends the holds whose owner is dead (its lease ran out) or which outlived their own limit: charges what the heartbeats say was delivered,
-- gives the rest back, and leaves a usage record that says so. Answers how many were charged and how many were given back.

CREATE OR REPLACE FUNCTION billing_sweep(moment timestamptz, batch uuid, at_most integer)
RETURNS TABLE (charged_count bigint, voided_count bigint)
LANGUAGE plpgsql AS $$
DECLARE
    wallets bigint[];
    records jsonb;
BEGIN
    -- Read again under the locks: a heartbeat or a renewed lease that came first counts.
    SELECT array_agg(DISTINCT dead.wallet_id) INTO wallets FROM (
        SELECT h.wallet_id FROM billing_hold h LEFT JOIN billing_holdowner o ON o.boot_id = h.owner_id
        WHERE h.expires_at < moment OR o.boot_id IS NULL OR o.lease_until < moment
        ORDER BY h.started_at LIMIT at_most) dead;
    PERFORM 1 FROM billing_wallet w WHERE w.id = ANY (wallets) ORDER BY w.id FOR UPDATE;
    -- What a record cannot do without stands first: one hold that says too little about itself must not keep all others from being swept.
    SELECT jsonb_agg(jsonb_build_object('model', '', 'provider', '', 'upstream_model', '', 'endpoint', '', 'format', '', 'streamed', false,
            'user_tag', '') || jsonb_strip_nulls(h.about) || jsonb_build_object(
            'id', h.request_id, 'account', h.account_id, 'key', h.key_id, 'swept', true,
            'input_tokens', CASE WHEN h.accrued > 0 THEN h.input_tokens ELSE 0 END, 'cached_input_tokens', 0, 'cache_write_tokens', 0,
            'cache_write_1h_tokens', 0, 'audio_input_tokens', 0, 'output_tokens', CASE WHEN h.accrued > 0 THEN h.output_tokens ELSE 0 END,
            'reasoning_tokens', 0, 'audio_output_tokens', 0, 'images', 0,
            'web_searches', CASE WHEN h.accrued > 0 THEN h.web_searches ELSE 0 END,
            'cost', LEAST(h.accrued, h.amount), 'list_cost', h.accrued, 'upstream_cost', h.accrued, 'reported_cost', NULL,
            'usage_source', CASE WHEN h.accrued > 0 THEN 'partial' ELSE 'none' END, 'status', 'swept',
            'rule', CASE WHEN h.accrued > 0 THEN 'swept_partial' ELSE 'swept_void' END, 'finish_reason', '', 'error_code', 'process_died',
            'status_code', 500, 'attempts', '[]'::jsonb, 'flags', '[]'::jsonb, 'started', h.started_at, 'ended', moment))
        INTO records
        FROM (
            SELECT h.* FROM billing_hold h LEFT JOIN billing_holdowner o ON o.boot_id = h.owner_id
            WHERE h.wallet_id = ANY (wallets) AND (h.expires_at < moment OR o.boot_id IS NULL OR o.lease_until < moment)
            ORDER BY h.started_at LIMIT at_most) h;
    IF records IS NULL THEN
        RETURN QUERY SELECT 0::bigint, 0::bigint;
        RETURN;
    END IF;
    RETURN QUERY SELECT COUNT(*) FILTER (WHERE s.charged > 0), COUNT(*) FILTER (WHERE s.charged = 0)
        FROM billing_settle(records, batch, moment) s WHERE s.outcome = 'settled';
END $$;
