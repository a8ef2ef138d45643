"""The verdict on a run: every cent that Stripe's own books, the clients and the customers know of has to be where it belongs in ours.

`billing_audit` proves that the product's tables agree with each other. What is checked here does not come from those tables: what clients
and customers were told, and what Stripe lists.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import psycopg

from tests.faults.chaos.load import Load
from tests.faults.chaos.servers import request
from tests.faults.chaos.till import Till

NANO_PER_MINOR = 10_000_000
SOME = 3  # how many examples a problem names
Database = psycopg.Connection[tuple[Any, ...]]


@dataclass
class Verdict:
    """What was wrong at the end; empty when nothing was."""

    problems: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


def judge(database: Database, load: Load, till: Till) -> Verdict:
    """Compare everything, when all is quiet."""
    verdict = Verdict(problems=list(till.problems))
    _judge_requests(database, load, verdict)
    _judge_promises(database, till, verdict)
    _judge_payments(database, till, verdict)
    return verdict


def _judge_requests(database: Database, load: Load, verdict: Verdict) -> None:
    booked = {str(row[0]) for row in database.execute("SELECT request_id FROM billing_usagerecord").fetchall()}
    lost = [request_id for request_id in load.complete if request_id not in booked]
    if lost:
        verdict.problems.append(f"{len(lost)} answered requests were never booked, such as {lost[:SOME]}")
    # A clawback may take what is held, and leaves a debt: only where none was taken is a charge certain to fit.
    untouched = "NOT EXISTS (SELECT 1 FROM billing_transfer t WHERE t.wallet_id = w.id AND t.kind IN ('refund', 'dispute'))"
    if _one(database, f"SELECT COUNT(*) FROM billing_wallet w WHERE (balance < 0 OR balance - held < 0) AND {untouched}"):
        verdict.problems.append("a wallet is below zero")
    # Only a hold that died with PostgreSQL's unflushed log may leave the operator with a loss: its record says `overrun`.
    written_off = (
        "SELECT COALESCE(SUM(written_off), 0) FROM billing_usagerecord u JOIN billing_wallet w ON w.id = u.wallet_id"
        f" WHERE rule <> 'overrun' AND {untouched}"
    )
    if nano := _one(database, written_off):
        verdict.problems.append(f"{nano} nano-USD were written off, although no answer cost more than its hold")
    above = "SELECT to_jsonb(u) FROM billing_usagerecord u WHERE list_cost > hold_amount AND rule NOT IN ('overrun', 'no_output') LIMIT 1"
    if record := _one(database, above):
        verdict.problems.append(f"a request cost more than its hold: {record}")
    verdict.figures |= {
        "clients saw": dict(load.statuses),
        "requests booked": len(booked),
        "answers complete": len(load.complete),
        "charged nano-USD": int(_one(database, "SELECT COALESCE(SUM(cost), 0) FROM billing_usagerecord")),
        "swept, delivered part charged": _one(database, "SELECT COUNT(*) FROM billing_usagerecord WHERE rule = 'swept_partial'"),
        "swept, given back": _one(database, "SELECT COUNT(*) FROM billing_usagerecord WHERE rule = 'swept_void'"),
        "booked without a hold": _one(database, "SELECT COUNT(*) FROM billing_usagerecord WHERE rule = 'overrun'"),
        "written off, nano-USD": int(_one(database, "SELECT COALESCE(SUM(written_off), 0) FROM billing_usagerecord")),
    }


def _judge_promises(database: Database, till: Till, verdict: Verdict) -> None:
    booked = {str(row[0]) for row in database.execute("SELECT id FROM billing_transfer").fetchall()}
    lost = [f"{what} {transfer}" for transfer, what in till.promised.items() if transfer not in booked]
    if lost:
        verdict.problems.append(f"{len(lost)} acknowledged bookings are gone, such as {lost[:SOME]}")
    codes = (
        "SELECT c.code, c.most_uses, c.uses, COUNT(r.id), COUNT(DISTINCT r.account_id), COUNT(t.id), COALESCE(SUM(t.amount), 0), c.amount_nano"
        " FROM billing_redemptioncode c LEFT JOIN billing_redemption r ON r.code_id = c.id"
        " LEFT JOIN billing_transfer t ON t.id = r.transfer_id GROUP BY c.id"
    )
    for code, most, uses, redeemed, accounts, transfers, credited, amount in database.execute(codes.encode()).fetchall():
        if len({uses, redeemed, accounts, transfers}) > 1 or uses > most or credited != amount * uses:
            verdict.problems.append(f"code {code}: {uses} uses of {most}, {redeemed} redeemed by {accounts}, {credited} nano-USD credited")
    given = _one(database, "SELECT COUNT(*) FROM billing_transfer WHERE source_type = 'code'")
    if given != _one(database, "SELECT COUNT(*) FROM billing_redemption"):
        verdict.problems.append("a code was credited without being redeemed")
    verdict.figures |= {
        "people did": dict(till.done),
        "bookings acknowledged": len(till.promised),
        "codes redeemed": given,
        "grants expired": _one(database, "SELECT COUNT(*) FROM billing_transfer WHERE kind = 'expiry'"),
    }


def _judge_payments(database: Database, till: Till, verdict: Verdict) -> None:
    """Stripe's books against ours: for each top-up, and in sum."""
    paid: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for payment in _listed(till, "payment_intents"):
        if payment["status"] == "succeeded" and payment["metadata"].get("top_up"):
            paid[payment["metadata"]["top_up"]].append(payment)
    reversed_minor: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for refund in _listed(till, "refunds"):
        counts[f"refunds {refund['status']}"] += 1
        if refund["status"] not in {"failed", "canceled"}:
            reversed_minor[refund["payment_intent"]] += refund["amount"]
    for dispute in _listed(till, "disputes"):
        counts[f"disputes {dispute['status']}"] += 1
        if dispute["status"] != "won":
            reversed_minor[dispute["payment_intent"]] += dispute["amount"]
    top_ups = {str(row[0]): row[1:] for row in database.execute("SELECT id, credit_nano, state, kind FROM billing_topup").fetchall()}
    credited = _sums(database, "kind = 'paid' AND source_type = 'top_up'")
    taken = _sums(database, "source_type = 'reversal'")
    expected_sum = 0
    for id_, (credit, state, _kind) in top_ups.items():
        payments = paid.get(id_, [])
        if len(payments) > 1:
            verdict.problems.append(f"top-up {id_} was paid {len(payments)} times")
        received = sum(payment["amount_received"] for payment in payments)
        expected = received * NANO_PER_MINOR
        back = sum(min(reversed_minor[payment["id"]], payment["amount_received"]) for payment in payments) * NANO_PER_MINOR
        expected_sum += expected - back
        found = (credited.get(id_, 0), -taken.get(id_, 0))
        if found != (expected, back) or (expected and expected != credit) or (state == "paid") != bool(payments):
            verdict.problems.append(
                f"top-up {id_} ({state}): Stripe has {received} cents paid and {back // NANO_PER_MINOR} taken back,"
                f" {found[0]} nano-USD were credited and {found[1]} taken back"
            )
    for id_ in paid.keys() - top_ups.keys() | credited.keys() - top_ups.keys():
        verdict.problems.append(f"top-up {id_} is not here, and was paid or credited")
    clearing = _one(
        database,
        "SELECT COALESCE(SUM(CASE WHEN debit_account = 'stripe_clearing' THEN amount ELSE -amount END), 0) FROM billing_transfer"
        " WHERE 'stripe_clearing' IN (debit_account, credit_account)",
    )
    if clearing != expected_sum:
        verdict.problems.append(f"Stripe holds {expected_sum} nano-USD for us, the ledger says {clearing}")
    for what, query in STUCK.items():
        if found_rows := database.execute(query.encode()).fetchall():
            verdict.problems.append(f"{len(found_rows)} {what}, such as {found_rows[:SOME]}")
    kinds = Counter(f"{kind} {state}" for _, state, kind in top_ups.values())
    verdict.figures |= {
        "top-ups": dict(kinds),
        "taken back at Stripe": dict(counts),
        "paid minus taken back, nano-USD": int(clearing),
        "events stored": _one(database, "SELECT COUNT(*) FROM billing_stripeevent"),
        "events tried more than once": _one(database, "SELECT COUNT(*) FROM billing_stripeevent WHERE attempts > 1"),
    }


STUCK = {
    "events wait for staff": "SELECT type, last_error FROM billing_stripeevent WHERE state = 'quarantined'",
    "events were not handled": "SELECT type, state, last_error FROM billing_stripeevent WHERE state IN ('received', 'failed')",
    "payments wait for staff": "SELECT id, failure FROM billing_topup WHERE state = 'quarantined'",
}


def _sums(database: Database, condition: str) -> dict[str, int]:
    """What went into wallets less what went out of them, by the top-up that it was about."""
    query = (
        "SELECT split_part(source_id, ':', 1), SUM(CASE WHEN credit_account = 'wallet:' || wallet_id THEN amount ELSE -amount END)"
        f" FROM billing_transfer WHERE {condition} GROUP BY 1"
    )
    return {str(row[0]): int(row[1]) for row in database.execute(query.encode()).fetchall()}


def _listed(till: Till, kind: str) -> Iterator[dict[str, Any]]:
    """Everything of a kind that Stripe has, page by page."""
    port, after = int(urlsplit(till.stripe_url).port or 0), ""
    while True:
        status, body = request(port, "GET", f"/v1/{kind}?limit=100{after}", headers={"Authorization": f"Bearer {till.stripe_key}"})
        if status != 200:
            raise RuntimeError(f"the fake Stripe did not list its {kind}: {status} {body[:300]!r}")
        page = json.loads(body)
        yield from page["data"]
        if not page["has_more"]:
            return
        after = f"&starting_after={page['data'][-1]['id']}"


def _one(database: Database, query: str) -> Any:
    row = database.execute(query.encode()).fetchone()
    return row[0] if row is not None else None
