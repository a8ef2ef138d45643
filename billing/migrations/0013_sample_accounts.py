from django.db import migrations

# The ledger stays append-only; what an account was that was invented to look at (accounts.Account.is_sample, born so) goes with it.
REFUSE = """
CREATE OR REPLACE FUNCTION billing_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    {samples}
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'integrity_constraint_violation';
END $$;
"""
SAMPLES = """IF TG_OP = 'DELETE' AND TG_TABLE_NAME = 'billing_transfer' THEN
        IF EXISTS (SELECT FROM billing_wallet w JOIN accounts_account a ON a.id = w.account_id WHERE w.id = OLD.wallet_id AND a.is_sample) THEN
            RETURN OLD;
        END IF;
    END IF;"""


class Migration(migrations.Migration):
    dependencies = [("accounts", "0007_sample_accounts"), ("billing", "0012_code_tries_and_welcome")]

    # sqlparse must not split the function's body: it is run as it is.
    operations = [migrations.RunSQL([(REFUSE.replace("{samples}", SAMPLES), None)], [(REFUSE.replace("{samples}", ""), None)])]
