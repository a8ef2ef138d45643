"""Facts the database insists on, whoever writes."""

import uuid

import psycopg
import pytest

from billing.models import Transfer
from tests.billing.desk import Desk, OpenDesk

USD = 10**9


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE billing_transfer SET amount = 1 WHERE wallet_id = %(wallet)s",
        "UPDATE billing_transfer SET note = 'corrected' WHERE wallet_id = %(wallet)s",
        "DELETE FROM billing_transfer WHERE wallet_id = %(wallet)s",
        "TRUNCATE billing_transfer CASCADE",
    ],
)
def test_the_ledger_is_append_only(desk: Desk, statement: str) -> None:
    before = list(Transfer.objects.filter(wallet_id=desk.wallet_id).values())
    with pytest.raises(psycopg.errors.IntegrityConstraintViolation):
        desk.sql.execute(statement, {"wallet": desk.wallet_id} if "wallet)s" in statement else None)
    assert list(Transfer.objects.filter(wallet_id=desk.wallet_id).values()) == before


TRANSFER = """INSERT INTO billing_transfer (id, kind, debit_account, credit_account, amount, source_type, source_id, actor, note,
        created_at)
    VALUES (gen_random_uuid(), 'paid', %(from)s, %(to)s, %(amount)s, 'test', %(source)s, '', '', now())"""


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("UPDATE billing_wallet SET held = -1 WHERE id = %(wallet)s", "wallet_held_not_negative"),
        ("UPDATE billing_wallet SET credits = -1 WHERE id = %(wallet)s", "wallet_credits_not_negative"),
        ("UPDATE billing_wallet SET debits = -1 WHERE id = %(wallet)s", "wallet_debits_not_negative"),
        ("UPDATE billing_wallet SET currency = 'eur' WHERE id = %(wallet)s", "wallet_is_usd"),
        ("UPDATE billing_creditgrant SET remaining = amount + 1 WHERE wallet_id = %(wallet)s", "grant_remaining_within"),
        ("UPDATE billing_creditgrant SET remaining = -1 WHERE wallet_id = %(wallet)s", "grant_remaining_within"),
        ("UPDATE billing_hold SET amount = -1 WHERE wallet_id = %(wallet)s", "hold_not_negative"),
        ("UPDATE billing_hold SET accrued = -1 WHERE wallet_id = %(wallet)s", "hold_accrued_not_negative"),
        ("UPDATE billing_hold SET free_after = -1 WHERE wallet_id = %(wallet)s", "hold_fitted"),
        ("UPDATE billing_spendwindow SET spent = -1 WHERE account_id = %(account)s", "window_not_negative"),
        ("UPDATE billing_spendwindow SET window_end = window_start WHERE account_id = %(account)s", "window_has_length"),
        ("UPDATE billing_usagerecord SET cost = -1 WHERE wallet_id = %(wallet)s", "usage_cost_not_negative"),
        (TRANSFER.replace("%(amount)s", "0"), "transfer_positive"),
        (TRANSFER.replace("%(to)s", "%(from)s"), "transfer_moves"),
    ],
)
def test_a_check_refuses_what_is_not_true(open_desk: OpenDesk, statement: str, constraint: str) -> None:
    desk = open_desk(usd=10, budget=9 * USD)
    desk.spend(USD)
    desk.hold(USD)
    with pytest.raises(psycopg.errors.CheckViolation) as refusal:
        desk.sql.execute(
            statement,
            {
                "wallet": desk.wallet_id,
                "account": desk.account.pk,
                "from": "promo",
                "to": "manual",
                "amount": 1,
                "source": str(uuid.uuid4()),
            },
        )
    assert refusal.value.diag.constraint_name == constraint


def test_one_source_makes_one_transfer_and_one_version_one_entry(desk: Desk) -> None:
    source = {"from": "promo", "to": "manual", "amount": 1, "source": str(uuid.uuid4())}
    desk.sql.execute(TRANSFER, source)
    with pytest.raises(psycopg.errors.UniqueViolation):
        desk.sql.execute(TRANSFER, source)
    with pytest.raises(psycopg.errors.UniqueViolation):
        desk.sql.execute(
            """INSERT INTO billing_transfer (id, kind, wallet_id, debit_account, credit_account, amount, source_type, source_id,
                    wallet_version, balance_after, actor, note, created_at)
                VALUES (gen_random_uuid(), 'paid', %s, 'manual', 'promo', 1, 'test', %s, 1, 1, '', '', now())""",
            [desk.wallet_id, str(uuid.uuid4())],
        )


def test_a_request_has_one_usage_record(desk: Desk) -> None:
    request = desk.spend(USD)
    with pytest.raises(psycopg.errors.UniqueViolation):
        desk.sql.execute("INSERT INTO billing_usagerecord SELECT * FROM billing_usagerecord WHERE request_id = %s", [request["id"]])


def test_the_balance_cannot_be_written(desk: Desk) -> None:
    with pytest.raises(psycopg.errors.GeneratedAlways):
        desk.sql.execute("UPDATE billing_wallet SET balance = 1 WHERE id = %s", [desk.wallet_id])
