-- Grows the holds of streams ahead of what they deliver, and notes what was delivered so far (what is charged if the owner dies).
--
-- `amount` is the new total wanted; the hold gets as much of it as is free in the wallet and left of the key's budget. Answers the new total,
-- or -1 where the hold is gone (swept: its owner was believed dead). Also refuses growth to a key, account or wallet that was stopped
-- meanwhile; a key whose revocation lies ahead (a reroll's overlap) still grows. Without `amount` only the delivery is noted.
--
-- The plan's tokens are held in step: at least what was delivered, and `tokens_out` (the stretch that is wanted) as far as the quota has room.
-- They never stop a stream: it was admitted, and what it delivers is counted; it is the next request that finds less left.

CREATE OR REPLACE FUNCTION billing_grow(requests jsonb)
RETURNS TABLE (ord bigint, granted bigint)
LANGUAGE plpgsql
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
    r record;
    walked bigint;
    free bigint := 0;
    more bigint := 0;
    extra bigint;
    left_of_budget bigint;
    quota_in bigint;
    quota_out bigint;
    grown uuid[] := '{}';
BEGIN
    PERFORM 1 FROM billing_wallet w
        WHERE w.account_id IN (SELECT (x ->> 'account')::bigint FROM jsonb_array_elements(requests) x) ORDER BY w.id FOR UPDATE;
    FOR r IN
        SELECT x.*, w.id AS wallet, w.status AS wallet_status, w.balance - w.held AS wallet_free, h.amount AS has, h.key_window,
            h.quota_window, k.id AS key_id, k.budget_nano, k.revoked_at, k.is_disabled, a.is_active AS account_active
        FROM ROWS FROM (jsonb_to_recordset(requests) AS (id uuid, account bigint, amount bigint, accrued bigint, input_tokens bigint,
                output_tokens bigint, web_searches bigint, tokens_out bigint))
            WITH ORDINALITY AS x (id, account, amount, accrued, input_tokens, output_tokens, web_searches, tokens_out, n)
        LEFT JOIN billing_wallet w ON w.account_id = x.account
        LEFT JOIN billing_hold h ON h.request_id = x.id AND h.wallet_id = w.id
        LEFT JOIN accounts_account a ON a.id = x.account
        LEFT JOIN keys_apikey k ON k.id = h.key_id
        ORDER BY w.id, x.n
    LOOP
        IF walked IS DISTINCT FROM r.wallet THEN
            IF more > 0 THEN
                UPDATE billing_wallet SET held = held + more WHERE id = walked;
            END IF;
            walked := r.wallet;
            free := r.wallet_free;
            more := 0;
        END IF;
        ord := r.n;
        IF r.has IS NULL THEN
            granted := -1; RETURN NEXT; CONTINUE;
        END IF;
        IF r.id = ANY (grown) THEN  -- twice in one batch: this row was read before the first growth
            SELECT h.amount INTO r.has FROM billing_hold h WHERE h.request_id = r.id;
        END IF;
        grown := grown || r.id;
        extra := GREATEST(0, LEAST(COALESCE(r.amount, 0) - r.has, free));
        IF r.wallet_status <> 'active' OR NOT r.account_active OR r.key_id IS NULL OR r.revoked_at <= now() OR r.is_disabled THEN
            extra := 0;
        END IF;
        IF extra > 0 AND r.key_window IS NOT NULL AND r.budget_nano IS NOT NULL THEN
            SELECT r.budget_nano - s.spent - s.held INTO left_of_budget FROM billing_spendwindow s WHERE s.id = r.key_window;
            extra := GREATEST(0, LEAST(extra, left_of_budget));
        END IF;
        quota_in := 0;
        quota_out := 0;
        IF r.quota_window IS NOT NULL THEN
            SELECT GREATEST(0, r.input_tokens - h.quota_input_tokens),
                GREATEST(0, r.output_tokens - h.quota_output_tokens,
                    LEAST(r.tokens_out - h.quota_output_tokens, p.monthly_output_tokens - s.output_tokens - s.held_output_tokens))
                INTO quota_in, quota_out
                FROM billing_hold h
                JOIN billing_spendwindow s ON s.id = h.quota_window
                LEFT JOIN LATERAL (
                    SELECT plan.monthly_output_tokens
                    FROM billing_planassignment assigned JOIN billing_plan plan ON plan.id = assigned.plan_id
                    WHERE assigned.account_id = h.account_id AND assigned.starts_at <= h.started_at
                    ORDER BY assigned.starts_at DESC LIMIT 1) p ON true
                WHERE h.request_id = r.id;
            IF quota_in > 0 OR quota_out > 0 THEN
                UPDATE billing_spendwindow
                    SET held_input_tokens = held_input_tokens + quota_in, held_output_tokens = held_output_tokens + quota_out
                    WHERE id = r.quota_window;
            END IF;
        END IF;
        UPDATE billing_hold h
            SET amount = h.amount + extra, quota_input_tokens = h.quota_input_tokens + quota_in,
                quota_output_tokens = h.quota_output_tokens + quota_out, accrued = GREATEST(h.accrued, r.accrued),
                input_tokens = GREATEST(h.input_tokens, r.input_tokens), output_tokens = GREATEST(h.output_tokens, r.output_tokens),
                web_searches = GREATEST(h.web_searches, r.web_searches),
                free_after = CASE WHEN extra > 0 THEN free - extra ELSE h.free_after END
            WHERE h.request_id = r.id;
        IF extra > 0 AND r.key_window IS NOT NULL THEN
            UPDATE billing_spendwindow SET held = held + extra WHERE id = r.key_window;
        END IF;
        free := free - extra;
        more := more + extra;
        granted := r.has + extra; RETURN NEXT;
    END LOOP;
    IF more > 0 THEN
        UPDATE billing_wallet SET held = held + more WHERE id = walked;
    END IF;
END $$;
