-- Settles a batch of finished requests in one transaction: usage records in, holds out, wallets charged, one transfer per wallet.
--
-- A request that has a usage record already is charged nothing again. charge = min(cost, hold + what is free now); the rest is written off by
-- the operator. A record marked `release` only gives its hold back (nothing was sent). A record whose hold was swept meanwhile is real all the
-- same: it is booked with the rule `overrun`, still never below zero. `batch` names the transfers: a new one for every call, a retry too.
--
-- In the same transaction each record is added to its slot (quarters of an hour, what reports read), and an alert is written for each threshold
-- of a budget or quota that was reached. Both belong to the account whose wallet is locked, so they need no lock of their own.

CREATE OR REPLACE FUNCTION billing_book_wallet(wallet bigint, batch uuid, charged bigint, released bigint, lost bigint, moment timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    after record;
    owed bigint := charged;
    g record;
BEGIN
    UPDATE billing_wallet SET debits = debits + charged, held = held - released, version = version + (charged > 0)::int
        WHERE id = wallet RETURNING balance, version INTO after;
    IF charged > 0 THEN
        INSERT INTO billing_transfer (id, kind, wallet_id, debit_account, credit_account, amount, source_type, source_id, wallet_version,
                balance_after, actor, note, created_at)
            VALUES (billing_transfer_id('usage', batch, wallet), 'usage', wallet, 'wallet:' || wallet, 'revenue', charged, 'batch',
                batch || ':' || wallet, after.version, after.balance, '', '', moment);
        FOR g IN SELECT id, remaining FROM billing_creditgrant WHERE wallet_id = wallet AND remaining > 0
            ORDER BY priority, expires_at, id LOOP
            UPDATE billing_creditgrant SET remaining = remaining - LEAST(owed, g.remaining) WHERE id = g.id;
            owed := owed - LEAST(owed, g.remaining);
            EXIT WHEN owed = 0;
        END LOOP;
    END IF;
    IF lost > 0 THEN
        INSERT INTO billing_transfer (id, kind, wallet_id, debit_account, credit_account, amount, source_type, source_id, actor, note, created_at)
            VALUES (billing_transfer_id('writeoff', batch, wallet), 'writeoff', wallet, 'writeoff', 'revenue', lost, 'batch',
                batch || ':' || wallet, '', '', moment);
    END IF;
END $$;

CREATE OR REPLACE FUNCTION billing_transfer_id(kind text, batch uuid, wallet bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT md5(kind || '|' || batch || '|' || wallet)::uuid
$$;

-- Adds these records to their slots, or takes them out again (`sign` -1). What a slot is made of is said here alone.
CREATE OR REPLACE FUNCTION billing_count_in_slots(ids uuid[], sign integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO billing_usageslot AS s (account_id, key_id, model, provider, starts_at, requests, errors, input_tokens, cached_input_tokens,
            cache_write_tokens, audio_input_tokens, output_tokens, reasoning_tokens, audio_output_tokens, images, web_searches, cost,
            upstream_cost, reported_cost, reported, reported_upstream_cost, written_off, latency_ms, timed, first_token_ms, first_timed)
        SELECT u.account_id, u.key_id, u.model, u.provider, billing_slot_of(u.started_at), sign * COUNT(*),
            sign * COUNT(*) FILTER (WHERE u.status IN ('error', 'cut', 'swept')), sign * SUM(u.input_tokens), sign * SUM(u.cached_input_tokens),
            sign * SUM(u.cache_write_tokens + u.cache_write_1h_tokens), sign * SUM(u.audio_input_tokens), sign * SUM(u.output_tokens),
            sign * SUM(u.reasoning_tokens), sign * SUM(u.audio_output_tokens), sign * SUM(u.images), sign * SUM(u.web_searches),
            sign * SUM(u.cost), sign * SUM(u.upstream_cost), sign * COALESCE(SUM(u.reported_cost), 0), sign * COUNT(u.reported_cost),
            sign * COALESCE(SUM(u.upstream_cost) FILTER (WHERE u.reported_cost IS NOT NULL), 0), sign * SUM(u.written_off),
            sign * COALESCE(SUM(u.latency_ms), 0), sign * COUNT(u.latency_ms), sign * COALESCE(SUM(u.first_token_ms), 0),
            sign * COUNT(u.first_token_ms)
        FROM billing_usagerecord u WHERE u.request_id = ANY (ids)
        GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 5, 2, 3, 4
        ON CONFLICT (account_id, starts_at, key_id, model, provider) DO UPDATE SET
            requests = s.requests + EXCLUDED.requests, errors = s.errors + EXCLUDED.errors,
            input_tokens = s.input_tokens + EXCLUDED.input_tokens, cached_input_tokens = s.cached_input_tokens + EXCLUDED.cached_input_tokens,
            cache_write_tokens = s.cache_write_tokens + EXCLUDED.cache_write_tokens,
            audio_input_tokens = s.audio_input_tokens + EXCLUDED.audio_input_tokens,
            output_tokens = s.output_tokens + EXCLUDED.output_tokens, reasoning_tokens = s.reasoning_tokens + EXCLUDED.reasoning_tokens,
            audio_output_tokens = s.audio_output_tokens + EXCLUDED.audio_output_tokens, images = s.images + EXCLUDED.images,
            web_searches = s.web_searches + EXCLUDED.web_searches,
            cost = s.cost + EXCLUDED.cost, upstream_cost = s.upstream_cost + EXCLUDED.upstream_cost,
            reported_cost = s.reported_cost + EXCLUDED.reported_cost, reported = s.reported + EXCLUDED.reported,
            reported_upstream_cost = s.reported_upstream_cost + EXCLUDED.reported_upstream_cost,
            written_off = s.written_off + EXCLUDED.written_off,
            latency_ms = s.latency_ms + EXCLUDED.latency_ms, timed = s.timed + EXCLUDED.timed,
            first_token_ms = s.first_token_ms + EXCLUDED.first_token_ms, first_timed = s.first_timed + EXCLUDED.first_timed;
END $$;

CREATE OR REPLACE FUNCTION billing_slot_of(moment timestamptz) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
    SELECT date_bin('15 minutes', moment, '2000-01-01T00:00:00Z')
$$;

-- Writes the alerts of these windows: one for each threshold that is reached, and only the first time for the same window and limit. The
-- limits are those in force now, so a raised one counts anew; a window of another length than the key's budget has now is of its past.
CREATE OR REPLACE FUNCTION billing_raise_alerts(windows bigint[], moment timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO billing_alert (account_id, kind, subject, "window", "limit", threshold, value, created_at)
        SELECT s.account_id, told.kind, told.subject, to_char(s.window_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"'),
            told.bound, step.threshold, told.value, moment
        FROM billing_spendwindow s
        CROSS JOIN LATERAL (
            SELECT 'budget' AS kind, 'key:' || k.id AS subject, k.budget_nano AS bound, s.spent AS value
                FROM keys_apikey k WHERE s.subject_kind = 'key' AND k.id = s.subject_id AND CASE k.budget_window
                    WHEN 'day' THEN s.window_end - s.window_start < interval '2 days'
                    WHEN 'week' THEN s.window_end - s.window_start BETWEEN interval '6 days' AND interval '8 days'
                    WHEN 'month' THEN s.window_end - s.window_start BETWEEN interval '27 days' AND interval '32 days'
                    ELSE s.window_end - s.window_start > interval '366 days' END
            UNION ALL
            SELECT quota.kind, 'account', quota.bound, quota.value FROM (
                    SELECT p.monthly_input_tokens, p.monthly_output_tokens
                    FROM billing_planassignment pa JOIN billing_plan p ON p.id = pa.plan_id
                    WHERE s.subject_kind = 'account' AND pa.account_id = s.subject_id AND pa.starts_at <= moment
                    ORDER BY pa.starts_at DESC LIMIT 1) plan
                CROSS JOIN LATERAL (VALUES ('quota_input', plan.monthly_input_tokens, s.input_tokens),
                    ('quota_output', plan.monthly_output_tokens, s.output_tokens)) AS quota (kind, bound, value)) told
        CROSS JOIN (VALUES (50), (80), (100)) AS step (threshold)
        WHERE s.id = ANY (windows) AND told.bound > 0 AND told.value >= (told.bound::numeric * step.threshold / 100)
            AND NOT EXISTS (
                SELECT FROM billing_alert a WHERE a.account_id = s.account_id AND a.kind = told.kind AND a.subject = told.subject
                    AND a."window" = to_char(s.window_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"')
                    AND a."limit" = told.bound AND a.threshold = step.threshold)
        ON CONFLICT DO NOTHING;
END $$;

-- One plan for all calls: the records' ids would otherwise make a plan that leaves partitions out look cheaper, and making one for each call costs
-- more than all of it runs (measured at one request at a time: 1.65 ms of PostgreSQL's CPU for placing and settling, 1.05 with this).
CREATE OR REPLACE FUNCTION billing_settle(records jsonb, batch uuid, moment timestamptz)
RETURNS TABLE (ord bigint, outcome text, charged bigint, written_off bigint)
LANGUAGE plpgsql
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    r record;
    walked bigint;              -- the wallet being walked, and what this batch does to it
    free bigint := 0;
    sum_charged bigint := 0;
    sum_released bigint := 0;
    sum_lost bigint := 0;
    released uuid[] := '{}';    -- holds to delete
    booked uuid[] := '{}';      -- usage records written
    overran uuid[] := '{}';     -- records that a sweep had written, brought up to what really happened
    moved bigint[] := '{}';     -- windows of the budgets and quotas that these requests were held under
    extra bigint;
    lost bigint;
BEGIN
    PERFORM 1 FROM billing_wallet w
        WHERE w.account_id IN (SELECT (x ->> 'account')::bigint FROM jsonb_array_elements(records) x) ORDER BY w.id FOR UPDATE;
    FOR r IN
        SELECT x.*, w.id AS wallet, w.balance - w.held AS wallet_free, w.version AS wallet_version, h.amount AS hold_amount,
            u.request_id AS known, u.wallet_id AS known_wallet, u.status AS known_status, u.cost AS known_cost,
            u.written_off AS known_lost
        FROM ROWS FROM (jsonb_to_recordset(records) AS (id uuid, account bigint, key bigint, release boolean, swept boolean, model text,
                provider text, upstream_model text, endpoint text, format text, streamed boolean, price bigint, input_tokens bigint,
                cached_input_tokens bigint, cache_write_tokens bigint, cache_write_1h_tokens bigint, audio_input_tokens bigint,
                output_tokens bigint, reasoning_tokens bigint, audio_output_tokens bigint, images bigint, web_searches bigint, cost bigint,
                upstream_cost bigint, reported_cost bigint, usage_source text, status text, rule text, finish_reason text, error_code text,
                status_code smallint, attempts jsonb, flags jsonb, user_tag text, latency_ms integer, first_token_ms integer,
                started timestamptz, ended timestamptz, list_cost bigint))
            WITH ORDINALITY AS x (id, account, key, release, swept, model, provider, upstream_model, endpoint, format, streamed, price,
                input_tokens, cached_input_tokens, cache_write_tokens, cache_write_1h_tokens, audio_input_tokens, output_tokens,
                reasoning_tokens, audio_output_tokens, images, web_searches, cost, upstream_cost, reported_cost, usage_source, status, rule,
                finish_reason, error_code, status_code, attempts, flags, user_tag, latency_ms, first_token_ms, started, ended, list_cost, n)
        LEFT JOIN billing_wallet w ON w.account_id = x.account
        LEFT JOIN billing_hold h ON h.request_id = x.id AND h.wallet_id = w.id
        LEFT JOIN billing_usagerecord u ON u.request_id = x.id
        ORDER BY w.id, x.n
    LOOP
        IF walked IS DISTINCT FROM r.wallet THEN
            IF walked IS NOT NULL AND (sum_charged > 0 OR sum_released > 0 OR sum_lost > 0) THEN
                PERFORM billing_book_wallet(walked, batch, sum_charged, sum_released, sum_lost, moment);
            END IF;
            walked := r.wallet;
            free := r.wallet_free;
            sum_charged := 0;
            sum_released := 0;
            sum_lost := 0;
        END IF;
        ord := r.n;
        charged := 0;
        written_off := 0;

        IF r.wallet IS NULL THEN
            outcome := 'no_wallet'; RETURN NEXT; CONTINUE;
        END IF;
        IF r.id = ANY (booked) OR r.id = ANY (released) OR r.id = ANY (overran) OR (r.swept AND r.hold_amount IS NULL) THEN
            outcome := 'duplicate'; RETURN NEXT; CONTINUE;
        END IF;
        IF r.hold_amount IS NOT NULL THEN  -- whatever comes of the record, the request is over: its hold goes
            released := released || r.id;
            sum_released := sum_released + r.hold_amount;
            free := free + r.hold_amount;
        END IF;
        IF r.release AND r.known IS NULL THEN
            outcome := 'released'; RETURN NEXT; CONTINUE;
        END IF;
        IF r.cost IS NULL AND NOT COALESCE(r.release, false) THEN  -- LEAST ignores NULL: it would charge all that is free
            RAISE EXCEPTION 'record % has no cost', r.id USING ERRCODE = 'not_null_violation';
        END IF;
        IF r.known IS NOT NULL THEN
            IF r.known_status = 'swept' AND r.known_wallet = r.wallet AND NOT COALESCE(r.swept, false) AND NOT COALESCE(r.release, false) THEN
                -- The owner was believed dead and came back with the true figures: book the difference, upwards only. What the sweep wrote
                -- off stays written off.
                extra := GREATEST(0, LEAST(r.cost - r.known_cost - r.known_lost, free));
                lost := GREATEST(0, r.cost - r.known_cost - r.known_lost - extra);
                written_off := lost;
                overran := overran || r.id;
                PERFORM billing_count_in_slots(ARRAY[r.id], -1);
                UPDATE billing_spendwindow s
                    SET spent = s.spent + extra,
                        input_tokens = s.input_tokens - u.input_tokens + r.input_tokens + r.cached_input_tokens + r.cache_write_tokens
                            + r.cache_write_1h_tokens + r.audio_input_tokens,
                        output_tokens = s.output_tokens - u.output_tokens + r.output_tokens + r.reasoning_tokens + r.audio_output_tokens
                    FROM billing_usagerecord u  -- a swept record counts only in these two buckets
                    WHERE u.request_id = r.id AND s.window_start <= u.started_at AND s.window_end > u.started_at
                        AND ((s.subject_kind = 'account' AND s.subject_id = u.account_id) OR (s.subject_kind = 'key' AND s.subject_id = u.key_id));
                UPDATE billing_usagerecord SET status = r.status, rule = 'overrun', usage_source = r.usage_source, cost = cost + extra,
                        overrun_cost = overrun_cost + extra, written_off = r.known_lost + lost,
                        list_cost = GREATEST(r.list_cost, cost + extra + r.known_lost), upstream_cost = r.upstream_cost,
                        reported_cost = r.reported_cost, finish_reason = r.finish_reason, error_code = r.error_code,
                        status_code = r.status_code, attempts = r.attempts, ended_at = r.ended, input_tokens = r.input_tokens,
                        cached_input_tokens = r.cached_input_tokens, cache_write_tokens = r.cache_write_tokens,
                        cache_write_1h_tokens = r.cache_write_1h_tokens, audio_input_tokens = r.audio_input_tokens,
                        output_tokens = r.output_tokens, reasoning_tokens = r.reasoning_tokens,
                        audio_output_tokens = r.audio_output_tokens, images = r.images,
                        web_searches = COALESCE(r.web_searches, 0)
                    WHERE request_id = r.id;
                PERFORM billing_count_in_slots(ARRAY[r.id], 1);
                IF extra > 0 OR lost > 0 THEN
                    PERFORM billing_book_overrun(walked, r.id, extra, lost, moment);
                    free := free - extra;
                END IF;
                outcome := 'overrun'; charged := extra; RETURN NEXT; CONTINUE;
            END IF;
            outcome := 'duplicate'; RETURN NEXT; CONTINUE;
        END IF;

        charged := GREATEST(0, LEAST(r.cost, free));
        lost := GREATEST(0, r.cost - charged);
        written_off := lost;
        free := free - charged;
        sum_charged := sum_charged + charged;
        sum_lost := sum_lost + lost;
        booked := booked || r.id;
        INSERT INTO billing_usagerecord (request_id, account_id, wallet_id, key_id, model, provider, upstream_model, endpoint, format, streamed,
                price_id, input_tokens, cached_input_tokens, cache_write_tokens, cache_write_1h_tokens, audio_input_tokens, output_tokens,
                reasoning_tokens, audio_output_tokens, images, web_searches, cost, list_cost, overrun_cost, written_off, upstream_cost,
                reported_cost, hold_amount, usage_source, status, rule, finish_reason, error_code, status_code, attempts, flags, user_tag, latency_ms, first_token_ms,
                transfer_id, started_at, ended_at)
            VALUES (r.id, r.account, r.wallet, r.key, r.model, r.provider, r.upstream_model, r.endpoint, r.format, r.streamed,
                r.price, r.input_tokens, r.cached_input_tokens, r.cache_write_tokens, r.cache_write_1h_tokens, r.audio_input_tokens,
                r.output_tokens, r.reasoning_tokens, r.audio_output_tokens, r.images, COALESCE(r.web_searches, 0), charged, r.list_cost, 0,
                lost, r.upstream_cost, r.reported_cost, COALESCE(r.hold_amount, 0), r.usage_source, r.status,
                CASE WHEN r.hold_amount IS NULL THEN 'overrun' ELSE r.rule END, r.finish_reason, r.error_code, r.status_code, r.attempts,
                r.flags, r.user_tag, r.latency_ms, r.first_token_ms,
                CASE WHEN charged > 0 THEN billing_transfer_id('usage', batch, r.wallet) END, r.started, r.ended);
        outcome := 'settled'; RETURN NEXT;
    END LOOP;
    IF walked IS NOT NULL AND (sum_charged > 0 OR sum_released > 0 OR sum_lost > 0) THEN
        PERFORM billing_book_wallet(walked, batch, sum_charged, sum_released, sum_lost, moment);
    END IF;

    IF released <> '{}' THEN
        WITH gone AS (
            DELETE FROM billing_hold h WHERE h.request_id = ANY (released)
            RETURNING h.key_window, h.quota_window, h.amount, h.quota_input_tokens, h.quota_output_tokens
        ), freed AS (
            SELECT part.id, SUM(part.money) AS money, SUM(part.tokens_in) AS tokens_in, SUM(part.tokens_out) AS tokens_out FROM (
                SELECT key_window AS id, amount AS money, 0 AS tokens_in, 0 AS tokens_out FROM gone WHERE key_window IS NOT NULL
                UNION ALL
                SELECT quota_window, 0, quota_input_tokens, quota_output_tokens FROM gone WHERE quota_window IS NOT NULL) part
            GROUP BY part.id
        ), lifted AS (
            UPDATE billing_spendwindow s SET held = s.held - freed.money, held_input_tokens = s.held_input_tokens - freed.tokens_in,
                    held_output_tokens = s.held_output_tokens - freed.tokens_out
                FROM freed WHERE s.id = freed.id RETURNING s.id
        )
        SELECT COALESCE(array_agg(lifted.id), '{}') INTO moved FROM lifted;
    END IF;
    IF booked <> '{}' THEN
        PERFORM billing_count_in_slots(booked, 1);
        WITH used AS (
            SELECT u.account_id, u.key_id, u.started_at, u.cost,
                u.input_tokens + u.cached_input_tokens + u.cache_write_tokens + u.cache_write_1h_tokens + u.audio_input_tokens AS tokens_in,
                u.output_tokens + u.reasoning_tokens + u.audio_output_tokens AS tokens_out
            FROM billing_usagerecord u WHERE u.request_id = ANY (booked)
        ), counted AS (
            SELECT hit.id, SUM(hit.cost) AS cost, SUM(hit.tokens_in) AS tokens_in, SUM(hit.tokens_out) AS tokens_out, COUNT(*) AS requests FROM (
                SELECT s.id, used.cost, used.tokens_in, used.tokens_out FROM used JOIN billing_spendwindow s
                    ON s.subject_kind = 'account' AND s.subject_id = used.account_id
                    AND s.window_start <= used.started_at AND s.window_end > used.started_at
                UNION ALL
                SELECT s.id, used.cost, used.tokens_in, used.tokens_out FROM used JOIN billing_spendwindow s
                    ON s.subject_kind = 'key' AND s.subject_id = used.key_id
                    AND s.window_start <= used.started_at AND s.window_end > used.started_at) hit
            GROUP BY hit.id
        )
        UPDATE billing_spendwindow s SET spent = s.spent + counted.cost, input_tokens = s.input_tokens + counted.tokens_in,
                output_tokens = s.output_tokens + counted.tokens_out, requests = s.requests + counted.requests
            FROM counted WHERE s.id = counted.id;
        IF moved <> '{}' THEN
            PERFORM billing_raise_alerts(moved, moment);
        END IF;
    END IF;
END $$;

CREATE OR REPLACE FUNCTION billing_book_overrun(wallet bigint, request uuid, extra bigint, lost bigint, moment timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    after record;
    owed bigint := extra;
    g record;
BEGIN
    IF lost > 0 THEN
        INSERT INTO billing_transfer (id, kind, wallet_id, debit_account, credit_account, amount, source_type, source_id, actor, note, created_at)
            VALUES (md5('writeoff|' || request)::uuid, 'writeoff', wallet, 'writeoff', 'revenue', lost, 'request', request::text, '', '', moment);
    END IF;
    IF extra <= 0 THEN
        RETURN;
    END IF;
    UPDATE billing_wallet SET debits = debits + extra, version = version + 1 WHERE id = wallet RETURNING balance, version INTO after;
    INSERT INTO billing_transfer (id, kind, wallet_id, debit_account, credit_account, amount, source_type, source_id, wallet_version,
            balance_after, actor, note, created_at)
        VALUES (md5('overrun|' || request)::uuid, 'overrun', wallet, 'wallet:' || wallet, 'revenue', extra, 'request', request::text,
            after.version, after.balance, '', '', moment);
    FOR g IN SELECT id, remaining FROM billing_creditgrant WHERE wallet_id = wallet AND remaining > 0 ORDER BY priority, expires_at, id LOOP
        UPDATE billing_creditgrant SET remaining = remaining - LEAST(owed, g.remaining) WHERE id = g.id;
        owed := owed - LEAST(owed, g.remaining);
        EXIT WHEN owed = 0;
    END LOOP;
END $$;
