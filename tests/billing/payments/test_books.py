"""Facts about invariant I7: every corruption of what joins top-ups, reversals and the ledger is found."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from billing import reconciliation
from billing.models import Reversal, TopUp, Transfer
from tests.billing.payments.conftest import Till

Corrupt = Callable[[TopUp], object]


@contextmanager
def undone() -> Iterator[None]:
    """A transaction in which the ledger can be corrupted, and which is rolled back."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE billing_transfer DISABLE TRIGGER transfer_append_only")
        yield
        transaction.set_rollback(True)


def top_up(one: TopUp, **fields: Any) -> int:
    return TopUp.objects.filter(pk=one.pk).update(**fields)


CREDITED, TAKEN, SHARE = "was not credited with exactly", "is not what the ledger says", "is not its share"
CLEARING = "stands on stripe_clearing"
PLAN = "is more than it was, or less than nothing"
CORRUPTIONS: dict[str, tuple[str, Corrupt]] = {
    "credited and not paid": (CREDITED, lambda one: top_up(one, state="open")),
    "credited with another amount": (CREDITED, lambda one: top_up(one, credit_nano=one.credit_nano + 1)),
    "credited for nothing": (CREDITED, lambda one: moved(one, source_id="00000000-0000-4000-8000-000000000000")),
    "paid and not credited": (CREDITED, lambda one: moved(one, kind="promo")),
    "taken back more than noted": (TAKEN, lambda one: top_up(one, clawed_nano=one.clawed_nano - 1)),
    "a clawback that was changed": (TAKEN, lambda one: Transfer.objects.filter(reverses__source_id=str(one.pk)).update(amount=1)),
    "a refund that was not booked": (
        SHARE,
        lambda one: Reversal.objects.create(
            id=f"re_{one.pk}", top_up=one, kind="refund", amount_minor=1, status="succeeded", is_active=True
        ),
    ),
    "a clawback of a plan's credit that was none": (
        PLAN,
        lambda one: Transfer.objects.filter(reverses__source_id=str(one.pk)).update(source_type="invoice_reversal"),
    ),
    "a credit that no payment brought": (CLEARING, lambda one: moved(one, debit_account="promo")),
    "a reversal that ended and was not given back": (SHARE, lambda one: Reversal.objects.filter(top_up=one).update(is_active=False)),
}


def moved(one: TopUp, **fields: Any) -> int:
    return Transfer.objects.filter(source_type="top_up", source_id=str(one.pk)).update(**fields)


@pytest.mark.parametrize(("sentence", "corrupt"), CORRUPTIONS.values(), ids=CORRUPTIONS.keys())
def test_the_auditor_finds_it(till: Till, sentence: str, corrupt: Corrupt) -> None:
    one = till.credited()
    till.fake.refund(one.payment_intent_id or "", 700)
    till.hear(till.news())
    one.refresh_from_db()
    assert not reconciliation.audit(now=timezone.now(), accounts=[till.customer.account.pk])
    with undone():
        corrupt(one)
        for accounts in ([till.customer.account.pk], None):
            found = reconciliation.audit(now=timezone.now(), accounts=accounts)
            assert any(drift.invariant == "I7" and sentence in drift.sentence and str(one.pk) in drift.subject for drift in found)
    assert not reconciliation.audit(now=timezone.now(), accounts=[till.customer.account.pk])


def test_every_check_of_payments_has_a_corruption_that_it_finds() -> None:
    checks = [check for check in reconciliation.CHECKS if check.invariant == "I7"]
    assert len(checks) == 5
    assert all(any(sentence in check.sentence for sentence, _ in CORRUPTIONS.values()) for check in checks)
