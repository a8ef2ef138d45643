-- What the tables of money need beyond Django's migrations: monthly partitions of usage records, the append-only ledger, room for hot rows.

CREATE TABLE billing_usagerecord_parts (LIKE billing_usagerecord INCLUDING DEFAULTS INCLUDING CONSTRAINTS) PARTITION BY RANGE (request_id);
DROP TABLE billing_usagerecord;
ALTER TABLE billing_usagerecord_parts RENAME TO billing_usagerecord;
ALTER TABLE billing_usagerecord ADD CONSTRAINT billing_usagerecord_pkey PRIMARY KEY (request_id);
CREATE INDEX usage_by_account ON billing_usagerecord (account_id, started_at DESC);
CREATE INDEX usage_by_key ON billing_usagerecord (key_id, started_at);
CREATE INDEX usage_by_transfer ON billing_usagerecord (transfer_id);
-- No record is ever refused for want of a partition; the monthly task makes partitions well ahead, so this one stays empty.
CREATE TABLE billing_usagerecord_default PARTITION OF billing_usagerecord DEFAULT;

CREATE FUNCTION billing_lowest_id(moment timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex((EXTRACT(EPOCH FROM moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

CREATE FUNCTION billing_make_partitions(moment timestamptz, months integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    starts timestamptz;
    made integer := 0;
BEGIN
    FOR i IN 0 .. months LOOP
        starts := (date_trunc('month', moment AT TIME ZONE 'UTC') + make_interval(months => i)) AT TIME ZONE 'UTC';
        IF to_regclass('billing_usagerecord_' || to_char(starts AT TIME ZONE 'UTC', 'YYYY_MM')) IS NULL THEN
            EXECUTE format('CREATE TABLE %I PARTITION OF billing_usagerecord FOR VALUES FROM (%L) TO (%L)',
                'billing_usagerecord_' || to_char(starts AT TIME ZONE 'UTC', 'YYYY_MM'), billing_lowest_id(starts),
                billing_lowest_id(((starts AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC'));
            made := made + 1;
        END IF;
    END LOOP;
    RETURN made;
END $$;
SELECT billing_make_partitions(now() - interval '2 months', 6);

CREATE FUNCTION billing_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER transfer_append_only BEFORE UPDATE OR DELETE ON billing_transfer FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();
CREATE TRIGGER transfer_not_truncated BEFORE TRUNCATE ON billing_transfer FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse_change();

ALTER TABLE billing_wallet SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
ALTER TABLE billing_spendwindow SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
ALTER TABLE billing_creditgrant SET (fillfactor = 70);
ALTER TABLE billing_hold SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
