"""How payments stand in the ledger: the credit of a top-up, what is taken back of it, and what is given back again.

All of it is against the account `stripe_clearing`, whose sum is so what customers paid into wallets, net of what was reversed. What is taken
or given back names the credit it reverses, and is numbered by how often that has happened: a number is a name that is booked once. The
callers hold the top-up's row lock, so that numbers are not drawn twice.
"""

from datetime import datetime

from billing import ledger
from billing.models import TopUp, Transfer

CREDIT = "paid"
REINSTATEMENT = "reinstatement"
CREDIT_SOURCE = "top_up"
REVERSAL_SOURCE = "reversal"
CLEARING = "stripe_clearing"


def credit_of(top_up: TopUp) -> Transfer | None:
    """The entry that credited a top-up, if it was credited."""
    return Transfer.objects.filter(pk=ledger.transfer_id(kind=CREDIT, source_type=CREDIT_SOURCE, source_id=str(top_up.pk))).first()


def credit(top_up: TopUp, *, now: datetime, actor: str, note: str) -> Transfer:
    """Put a locked top-up's credit into its wallet. Raises: ledger.NotPositive, ledger.SourceConflict."""
    return ledger.credit(
        wallet_id=top_up.wallet_id,
        amount=top_up.credit_nano,
        kind=CREDIT,
        debit_account=CLEARING,
        source_type=CREDIT_SOURCE,
        source_id=str(top_up.pk),
        actor=actor,
        note=note,
        now=now,
    )


def take_back(top_up: TopUp, *, amount: int, kind: str, note: str, now: datetime) -> Transfer:
    """Take `amount` nano-USD of a locked top-up's credit out of its wallet, into debt if need be. `kind` is refund or dispute."""
    booked = credit_of(top_up)
    return ledger.debit(
        wallet_id=top_up.wallet_id,
        amount=amount,
        kind=kind,
        credit_account=CLEARING,
        source_type=REVERSAL_SOURCE,
        source_id=_next_name(top_up, booked),
        actor="stripe",
        note=note,
        now=now,
        allow_debt=True,
        reverses=booked,
    )


def give_back(top_up: TopUp, *, amount: int, note: str, now: datetime) -> Transfer:
    """Give `amount` nano-USD back of what was taken: a dispute was won, or a refund failed."""
    booked = credit_of(top_up)
    return ledger.credit(
        wallet_id=top_up.wallet_id,
        amount=amount,
        kind=REINSTATEMENT,
        debit_account=CLEARING,
        source_type=REVERSAL_SOURCE,
        source_id=_next_name(top_up, booked),
        actor="stripe",
        note=note,
        now=now,
        reverses=booked,
    )


def _next_name(top_up: TopUp, booked: Transfer | None) -> str:
    if booked is None:
        raise ValueError(f"top-up {top_up.pk} was never credited")
    return f"{top_up.pk}:{Transfer.objects.filter(reverses=booked).count() + 1}"
