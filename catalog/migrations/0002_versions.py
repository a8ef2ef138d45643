from django.db import migrations

TABLES = ["provider", "providerkey", "model", "route", "price", "alias"]

SQL = (
    """
    INSERT INTO catalog_catalogversion (id, version) VALUES (1, 1) ON CONFLICT DO NOTHING;
    CREATE FUNCTION catalog_count_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE catalog_catalogversion SET version = version + 1;
        RETURN NULL;
    END $$;
    CREATE FUNCTION catalog_count_own_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.version = OLD.version THEN NEW.version := OLD.version + 1; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER catalog_version_own BEFORE UPDATE ON catalog_catalogversion FOR EACH ROW EXECUTE FUNCTION catalog_count_own_change();
    CREATE FUNCTION catalog_keep_price() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF OLD.effective_from <= now() THEN
            RAISE EXCEPTION 'price % is in effect since %: receipts point at it; add a new price instead', OLD.id, OLD.effective_from
                USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER catalog_price_kept BEFORE UPDATE OR DELETE ON catalog_price FOR EACH ROW EXECUTE FUNCTION catalog_keep_price();
    """
    + "\n".join(
        f"CREATE TRIGGER catalog_{table}_counted AFTER INSERT OR UPDATE OR DELETE ON catalog_{table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION catalog_count_change();"
        for table in TABLES
    )
)


class Migration(migrations.Migration):
    dependencies = [("catalog", "0001_initial")]
    operations = [migrations.RunSQL([(SQL, None)], migrations.RunSQL.noop)]
