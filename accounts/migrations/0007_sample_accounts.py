from django.db import migrations, models

# An account is a sample from its first moment or never: nobody can turn a customer's account into one whose history may be removed.
BORN_SO = """
CREATE FUNCTION accounts_refuse_sample() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'an account that exists cannot become a sample' USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER sample_born_so BEFORE UPDATE OF is_sample ON accounts_account FOR EACH ROW
    WHEN (NEW.is_sample AND NOT OLD.is_sample) EXECUTE FUNCTION accounts_refuse_sample();
"""
NOT_BORN_SO = """
DROP TRIGGER sample_born_so ON accounts_account;
DROP FUNCTION accounts_refuse_sample();
"""
# A person who is deleted leaves their events without the link to them, and what a sample account did goes with it: nothing else is ever
# changed, and accounts are closed, not deleted.
REFUSE = """
CREATE OR REPLACE FUNCTION accounts_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.actor_id IS NULL AND OLD.actor_id IS NOT NULL
            AND to_jsonb(NEW) - 'actor_id' = to_jsonb(OLD) - 'actor_id' THEN
        RETURN NEW;
    END IF;
    {samples}
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'integrity_constraint_violation';
END $$;
"""
SAMPLES = """IF TG_OP = 'DELETE' AND EXISTS (SELECT FROM accounts_account a WHERE a.id = OLD.account_id AND a.is_sample) THEN
        RETURN OLD;
    END IF;"""


class Migration(migrations.Migration):
    dependencies = [("accounts", "0006_staff_looks")]

    operations = [
        migrations.AddField(
            model_name="account",
            name="is_sample",
            field=models.BooleanField(
                default=False, editable=False, help_text="Invented, to look at; it is born so, and can be removed with all of its ledger."
            ),
        ),
        # sqlparse must not split the functions' bodies: they are run as they are.
        migrations.RunSQL([(BORN_SO, None)], [(NOT_BORN_SO, None)]),
        migrations.RunSQL([(REFUSE.replace("{samples}", SAMPLES), None)], [(REFUSE.replace("{samples}", ""), None)]),
    ]
