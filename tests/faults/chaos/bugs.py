"""Bugs to be noticed: each is a believable mistake, planted in the harness's own database or processes. A run with one of them must fail."""

import uuid
from typing import Any

import psycopg

# In the SQL functions: name: (file, what is there, what the bug makes of it).
IN_SQL: dict[str, tuple[str, str, str]] = {
    "charges a redelivered settlement again": (
        "settle",
        "            outcome := 'duplicate'; RETURN NEXT; CONTINUE;\n        END IF;\n\n        charged :=",
        "            sum_charged := sum_charged + r.cost; outcome := 'duplicate'; RETURN NEXT; CONTINUE;\n        END IF;\n\n        charged :=",
    ),
    "admits without looking at what is free": (
        "place",
        "IF granted > 0 AND granted > free THEN",
        "IF granted > 0 AND granted > free + 900000000000 THEN",
    ),
    "keeps what a settled request held": ("settle", "            sum_released := sum_released + r.hold_amount;\n", ""),
    "sweeps holds without settling them": (
        "sweep",
        "    IF records IS NULL THEN",
        (
            "    DELETE FROM billing_hold WHERE request_id IN (SELECT (x ->> 'id')::uuid FROM jsonb_array_elements(records) x);\n    records := NULL;\n"
            "    IF records IS NULL THEN"
        ),
    ),
    "books less in the ledger than it took from the wallet": (
        "settle",
        "'wallet:' || wallet, 'revenue', charged, 'batch',",
        "'wallet:' || wallet, 'revenue', GREATEST(1, charged - 1), 'batch',",
    ),
    "forgets the windows": ("settle", "s SET spent = s.spent + counted.cost,", "s SET spent = s.spent,"),
    "forgets the slots": ("settle", "        PERFORM billing_count_in_slots(booked, 1);\n", ""),
}


def plant_in_sql(name: str, database: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Break a SQL function of `database`. Raises: RuntimeError when the bug no longer fits the function."""
    from billing import sql

    file, right, wrong = IN_SQL[name]
    text = sql.read(file)
    if text.count(right) != 1:
        raise RuntimeError(f"the bug {name!r} no longer fits {file}.sql")
    database.execute("ALTER TABLE billing_hold DROP CONSTRAINT hold_fitted")
    database.execute(text.replace(right, wrong).encode())


def credit_once_an_event() -> None:
    """Credit by the event instead of by the payment: two events for one payment are two credits."""
    from billing.models import TopUp
    from billing.payments import bookings, events, stripe_client

    original = events.on_payment

    def on_payment(notice: Any, now: Any) -> bool:
        was_ours = original(notice, now)
        payment = stripe_client.fetch_payment(notice.object_id)
        top_up = TopUp.objects.filter(payment_intent_id=payment.id, state="paid").first()
        if top_up is not None and notice.type == "payment_intent.succeeded":
            copy = TopUp(pk=uuid.uuid5(top_up.pk, notice.id), wallet=top_up.wallet, credit_nano=top_up.credit_nano)
            bookings.credit(copy, now=now, actor="stripe", note="top-up")
        return was_ours

    events.HANDLERS["payment_intent.succeeded"] = on_payment


def claw_back_at_each_event() -> None:
    """Take back the whole target at each event of a refund or dispute, forgetting what was taken before."""
    from billing.payments import reversals

    original = reversals.settle

    def settle(top_up: Any, **more: Any) -> int:
        top_up.clawed_nano = 0
        return original(top_up, **more)

    reversals.settle = settle


def credit_less_after_a_crash() -> None:
    """Mark a payment as paid first and credit it afterwards, in a transaction of its own: a kill in between loses the credit."""
    from billing.payments import top_ups

    top_ups._credit = lambda *_args, **_more: None


def pay_back_at_each_look() -> None:
    """Name what is paid back for a video by the look that found it, not by the request: two looks pay twice."""
    from billing import ledger, undelivered

    original = ledger.credit

    def credit(**call: Any) -> Any:
        if call["kind"] == undelivered.KIND:
            call["source_id"] = str(uuid.uuid4())
        return original(**call)

    ledger.credit = credit


IN_PYTHON = {
    "pays a failed video back at each look": pay_back_at_each_look,
    "credits a payment once for each of its events": credit_once_an_event,
    "takes a refund back at each of its events": claw_back_at_each_event,
    "marks a payment as paid without crediting it": credit_less_after_a_crash,
}
BUGS = sorted([*IN_SQL, *IN_PYTHON])


def plant(name: str) -> None:
    """Break this process, in which Django is ready; a bug in SQL is in the database already."""
    if name in IN_PYTHON:
        IN_PYTHON[name]()
