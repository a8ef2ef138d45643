-- Places holds for a batch of requests: all limits of a request in one step, all or nothing, in arrival order within a wallet.
--
-- The wallet's row lock covers its keys, windows, grants and holds; wallets are locked in the order of their ids, so there is no deadlock.
-- Keys and plans are read here, under the lock, so a revoked key or a frozen wallet gets no hold whatever a cache says.
--
-- `amount` is what the request may cost at most (or, for a stream, its first stretch); when less than that is free but at least `least`, what
-- is free is granted. Outcomes: placed · no_wallet · wallet_inactive · key_inactive · stale_key · insufficient_balance · budget_spent ·
-- quota_spent · duplicate (the id is taken by another request). `available` says what was free, or left of the budget or quota; `resets_at` when
-- that begins anew. A request that holds already (its answer was lost and it is asked again) is told what it holds and nothing more is held.

CREATE OR REPLACE FUNCTION billing_window(kind text, subject bigint, account bigint, starts timestamptz, ends timestamptz)
RETURNS billing_spendwindow LANGUAGE plpgsql AS $$
DECLARE
    found_row billing_spendwindow;
BEGIN
    SELECT * INTO found_row FROM billing_spendwindow s
        WHERE s.subject_kind = kind AND s.subject_id = subject AND s.window_start = starts AND s.window_end = ends;
    IF FOUND THEN
        RETURN found_row;
    END IF;
    -- A new window starts from what began in it, so that a budget set in the middle of a month counts the whole month. The slots say that:
    -- windows begin and end at local midnights, and those are quarters of an hour in every time zone.
    -- Two statements, so that each has an index of its own whatever the plan cache decides.
    IF kind = 'key' THEN
        INSERT INTO billing_spendwindow AS s (subject_kind, subject_id, account_id, window_start, window_end, spent, held, input_tokens,
                output_tokens, held_input_tokens, held_output_tokens, requests)
            SELECT kind, subject, account, starts, ends, COALESCE(SUM(u.cost), 0), 0,
                COALESCE(SUM(u.input_tokens + u.cached_input_tokens + u.cache_write_tokens + u.audio_input_tokens), 0),
                COALESCE(SUM(u.output_tokens + u.reasoning_tokens + u.audio_output_tokens), 0), 0, 0, COALESCE(SUM(u.requests), 0)
            FROM billing_usageslot u
            WHERE u.key_id = subject AND u.starts_at >= starts AND u.starts_at < ends
            RETURNING s.* INTO found_row;
    ELSE
        INSERT INTO billing_spendwindow AS s (subject_kind, subject_id, account_id, window_start, window_end, spent, held, input_tokens,
                output_tokens, held_input_tokens, held_output_tokens, requests)
            SELECT kind, subject, account, starts, ends, COALESCE(SUM(u.cost), 0), 0,
                COALESCE(SUM(u.input_tokens + u.cached_input_tokens + u.cache_write_tokens + u.audio_input_tokens), 0),
                COALESCE(SUM(u.output_tokens + u.reasoning_tokens + u.audio_output_tokens), 0), 0, 0, COALESCE(SUM(u.requests), 0)
            FROM billing_usageslot u
            WHERE u.account_id = subject AND u.starts_at >= starts AND u.starts_at < ends
            RETURNING s.* INTO found_row;
    END IF;
    RETURN found_row;
END $$;

CREATE OR REPLACE FUNCTION billing_place(requests jsonb)
RETURNS TABLE (ord bigint, outcome text, granted bigint, available bigint, resets_at timestamptz)
LANGUAGE plpgsql
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
    r record;
    budget billing_spendwindow;
    quota billing_spendwindow;
    walked bigint;            -- the wallet being walked
    free bigint := 0;         -- of that wallet, as this batch proceeds
    more bigint := 0;         -- what this batch holds of it
BEGIN
    PERFORM 1 FROM billing_wallet w
        WHERE w.account_id IN (SELECT (x ->> 'account')::bigint FROM jsonb_array_elements(requests) x) ORDER BY w.id FOR UPDATE;
    FOR r IN
        SELECT x.*, w.id AS wallet, w.status AS wallet_status, w.balance - w.held AS wallet_free, a.is_active AS account_active,
            k.id AS key_id, k.revoked_at, k.is_disabled, k.expires_at AS key_expires_at, k.budget_nano, k.budget_window,
            p.monthly_input_tokens, p.monthly_output_tokens, h.amount AS has
        FROM ROWS FROM (jsonb_to_recordset(requests) AS (id uuid, account bigint, key bigint, owner uuid, amount bigint, least bigint,
                budget_kind text, budget_start timestamptz, budget_end timestamptz, quota_start timestamptz, quota_end timestamptz,
                tokens_in bigint, tokens_out bigint, started timestamptz, expires timestamptz, about jsonb))
            WITH ORDINALITY AS x (id, account, key, owner, amount, least, budget_kind, budget_start, budget_end, quota_start, quota_end,
                tokens_in, tokens_out, started, expires, about, n)
        LEFT JOIN billing_wallet w ON w.account_id = x.account
        LEFT JOIN accounts_account a ON a.id = x.account
        LEFT JOIN keys_apikey k ON k.id = x.key AND k.account_id = x.account
        LEFT JOIN billing_hold h ON h.request_id = x.id AND h.wallet_id = w.id
        LEFT JOIN LATERAL (
            SELECT plan.monthly_input_tokens, plan.monthly_output_tokens
            FROM billing_planassignment assigned JOIN billing_plan plan ON plan.id = assigned.plan_id
            WHERE assigned.account_id = x.account AND assigned.starts_at <= x.started
            ORDER BY assigned.starts_at DESC LIMIT 1) p ON true
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
        granted := 0;
        available := NULL;
        resets_at := NULL;

        IF r.wallet IS NULL THEN
            outcome := 'no_wallet'; RETURN NEXT; CONTINUE;
        END IF;
        IF r.has IS NOT NULL THEN
            outcome := 'placed'; granted := r.has; available := free; RETURN NEXT; CONTINUE;
        END IF;
        IF r.key_id IS NULL OR r.revoked_at <= r.started OR r.is_disabled OR r.key_expires_at <= r.started THEN
            outcome := 'key_inactive'; RETURN NEXT; CONTINUE;
        END IF;
        IF r.wallet_status <> 'active' OR NOT r.account_active THEN
            outcome := 'wallet_inactive'; RETURN NEXT; CONTINUE;
        END IF;
        IF r.budget_nano IS NOT NULL AND r.budget_kind IS DISTINCT FROM r.budget_window THEN
            outcome := 'stale_key'; RETURN NEXT; CONTINUE;  -- the budget changed since the caller read the key: read it again
        END IF;

        granted := r.amount;
        IF granted > 0 AND granted > free THEN
            granted := free;
            IF free < r.least OR free <= 0 THEN
                outcome := 'insufficient_balance'; available := free; granted := 0; RETURN NEXT; CONTINUE;
            END IF;
        END IF;

        budget := NULL;
        IF r.budget_nano IS NOT NULL THEN
            budget := billing_window('key', r.key, r.account, r.budget_start, r.budget_end);
            available := r.budget_nano - budget.spent - budget.held;
            -- a budget that is spent refuses free requests too: the window is closed
            IF available <= 0 OR available < LEAST(r.least, granted) THEN
                outcome := 'budget_spent'; granted := 0; resets_at := r.budget_end; RETURN NEXT; CONTINUE;
            END IF;
            granted := LEAST(granted, available);
        END IF;

        quota := NULL;
        IF r.monthly_input_tokens IS NOT NULL OR r.monthly_output_tokens IS NOT NULL THEN
            IF r.quota_start IS NULL OR r.quota_end IS NULL THEN
                outcome := 'stale_key'; granted := 0; available := NULL; RETURN NEXT; CONTINUE;  -- likewise, of the plan
            END IF;
            quota := billing_window('account', r.account, r.account, r.quota_start, r.quota_end);
            IF quota.input_tokens + quota.held_input_tokens + r.tokens_in > r.monthly_input_tokens THEN
                available := r.monthly_input_tokens - quota.input_tokens - quota.held_input_tokens;
                outcome := 'quota_spent'; granted := 0; resets_at := r.quota_end; RETURN NEXT; CONTINUE;
            END IF;
            IF quota.output_tokens + quota.held_output_tokens + r.tokens_out > r.monthly_output_tokens THEN
                available := r.monthly_output_tokens - quota.output_tokens - quota.held_output_tokens;
                outcome := 'quota_spent'; granted := 0; resets_at := r.quota_end; RETURN NEXT; CONTINUE;
            END IF;
        END IF;

        -- Nothing was written before this line for this request; from here on it is admitted.
        INSERT INTO billing_hold (request_id, account_id, wallet_id, key_id, owner_id, amount, accrued, input_tokens, output_tokens, free_after,
                key_window, quota_window, quota_input_tokens, quota_output_tokens, about, started_at, expires_at)
            VALUES (r.id, r.account, r.wallet, r.key, r.owner, granted, 0, 0, 0, free - granted, budget.id, quota.id,
                CASE WHEN quota.id IS NULL THEN 0 ELSE r.tokens_in END, CASE WHEN quota.id IS NULL THEN 0 ELSE r.tokens_out END,
                r.about, r.started, r.expires)
            ON CONFLICT (request_id) DO NOTHING;
        IF NOT FOUND THEN
            outcome := 'duplicate'; granted := 0; available := NULL; RETURN NEXT; CONTINUE;
        END IF;
        IF budget.id IS NOT NULL THEN
            UPDATE billing_spendwindow SET held = held + granted WHERE id = budget.id;
        END IF;
        IF quota.id IS NOT NULL THEN
            UPDATE billing_spendwindow
                SET held_input_tokens = held_input_tokens + r.tokens_in, held_output_tokens = held_output_tokens + r.tokens_out
                WHERE id = quota.id;
        END IF;
        free := free - granted;
        more := more + granted;
        outcome := 'placed'; available := free; RETURN NEXT;
    END LOOP;
    IF more > 0 THEN
        UPDATE billing_wallet SET held = held + more WHERE id = walked;
    END IF;
END $$;
