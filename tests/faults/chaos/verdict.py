"""The verdict on a run: every cent that Stripe's own books, the clients and the customers know of has to be where it belongs in ours.

`billing_audit` proves that the product's tables agree with each other. What is checked here does not come from those tables: what clients
and customers were told, and what Stripe lists.
"""

import json
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import psycopg

from tests.faults.chaos.films import NANO_PER_SECOND, SECONDS, VIDEOS, Films
from tests.faults.chaos.load import Load
from tests.faults.chaos.opening import SOLD
from tests.faults.chaos.servers import request
from tests.faults.chaos.till import Till

NANO_PER_MINOR = 10_000_000
UNFLUSHED_SECONDS = 1.5  # PostgreSQL flushes within 0.6 s; this machine may be late
ORDER_SECONDS = 5.0  # from an order's arrival until it is written down, at most
SOME = 3  # how many examples a problem names
Database = psycopg.Connection[tuple[Any, ...]]


@dataclass
class Verdict:
    """What was wrong at the end; empty when nothing was."""

    problems: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


def judge(database: Database, load: Load, films: Films, till: Till, *, postgres_deaths: Sequence[float]) -> Verdict:
    """Compare everything, when all is quiet. `postgres_deaths` are the moments in which PostgreSQL was killed, in seconds of the epoch."""
    verdict = Verdict(problems=list(till.problems))
    _judge_requests(database, load, postgres_deaths, verdict)
    _judge_films(database, films, postgres_deaths, verdict)
    _judge_promises(database, till, verdict)
    _judge_payments(database, till, verdict)
    _judge_plans(database, till, verdict)
    return verdict


def _judge_requests(database: Database, load: Load, postgres_deaths: Sequence[float], verdict: Verdict) -> None:
    booked = {str(row[0]) for row in database.execute("SELECT request_id FROM billing_usagerecord").fetchall()}
    missing = [request_id for request_id in load.complete if request_id not in booked]
    lost = [request_id for request_id in missing if not _died_twice(request_id, postgres_deaths)]
    if lost:
        verdict.problems.append(f"{len(lost)} answered requests were never booked, such as {lost[:SOME]}")
    # A clawback may take what is held, and leaves a debt: only where none was taken is a charge certain to fit.
    untouched = "NOT EXISTS (SELECT 1 FROM billing_transfer t WHERE t.wallet_id = w.id AND t.kind IN ('refund', 'dispute'))"
    if _one(database, f"SELECT COUNT(*) FROM billing_wallet w WHERE (balance < 0 OR balance - held < 0) AND {untouched}"):  # noqa: S608 - our text
        verdict.problems.append("a wallet is below zero")
    # Only a hold that died with PostgreSQL's unflushed log may leave the operator with a loss: its record says `overrun`.
    written_off = (
        "SELECT COALESCE(SUM(written_off), 0) FROM billing_usagerecord u JOIN billing_wallet w ON w.id = u.wallet_id"  # noqa: S608
        f" WHERE rule <> 'overrun' AND {untouched}"
    )
    if nano := _one(database, written_off):
        verdict.problems.append(f"{nano} nano-USD were written off, although no answer cost more than its hold")
    above = "SELECT to_jsonb(u) FROM billing_usagerecord u WHERE list_cost > hold_amount AND rule NOT IN ('overrun', 'no_output') LIMIT 1"
    if record := _one(database, above):
        verdict.problems.append(f"a request cost more than its hold: {record}")
    verdict.figures |= {
        "answers nobody is charged for, their holds lost with PostgreSQL's log and then their process": len(missing) - len(lost),
        "clients saw": dict(load.statuses),
        "requests booked": len(booked),
        "answers complete": len(load.complete),
        "charged nano-USD": int(_one(database, "SELECT COALESCE(SUM(cost), 0) FROM billing_usagerecord")),
        "swept, delivered part charged": _one(database, "SELECT COUNT(*) FROM billing_usagerecord WHERE rule = 'swept_partial'"),
        "swept, given back": _one(database, "SELECT COUNT(*) FROM billing_usagerecord WHERE rule = 'swept_void'"),
        "booked without a hold": _one(database, "SELECT COUNT(*) FROM billing_usagerecord WHERE rule = 'overrun'"),
        "written off, nano-USD": int(_one(database, "SELECT COALESCE(SUM(written_off), 0) FROM billing_usagerecord")),
    }


def _died_twice(request_id: str, postgres_deaths: Sequence[float], *, within: float = UNFLUSHED_SECONDS) -> bool:
    """Whether a request's hold may have died with PostgreSQL: placed so shortly before that it was not yet flushed.

    When its process is killed as well before it settles, nobody knows of it any more: the operator's loss, of two crashes in a row.
    """
    began = (uuid.UUID(request_id).int >> 80) / 1000
    return any(0 <= death - began < within for death in postgres_deaths)


def _judge_films(database: Database, films: Films, postgres_deaths: Sequence[float], verdict: Verdict) -> None:
    """An order that was accepted is charged; what did not come of it is paid back once, whether anybody asked or not."""
    rows = database.execute(
        "SELECT u.request_id::text, u.model, u.cost, COUNT(t.id), COALESCE(SUM(t.amount), 0), u.rule FROM billing_usagerecord u"
        " LEFT JOIN billing_transfer t ON t.kind = 'undelivered' AND t.source_id = u.request_id::text WHERE u.model = ANY(%s) GROUP BY 1, 2, 3, 6",
        [list(films.delivers)],
    ).fetchall()
    records = {row[0]: row[1:] for row in rows}
    unwritten = []
    for id_, (model, cost, refunds, back, _rule) in records.items():
        owed = max(0, cost - films.delivers[model] * SECONDS * NANO_PER_SECOND)
        if refunds > 1 or (refunds and back != owed) or (id_ in films.ended and back != owed):
            verdict.problems.append(
                f"order {id_} was charged {cost} nano-USD, {owed} are to be paid back, and {back} were, in {refunds} times"
            )
        elif back != owed:
            unwritten.append(id_)
    # It is written down before it is charged; only PostgreSQL's death may keep it from that, and then its customer has to ask.
    if forgotten := [id_ for id_ in unwritten if not _died_twice(id_, postgres_deaths, within=ORDER_SECONDS)]:
        verdict.problems.append(f"{len(forgotten)} orders were never paid back, such as {forgotten[:SOME]}")
    full = VIDEOS * SECONDS * NANO_PER_SECOND
    for id_ in films.ordered:
        charged, rule = (records[id_][1], records[id_][4]) if id_ in records else (0, "")
        if charged != full and rule != "overrun" and not _died_twice(id_, postgres_deaths):
            verdict.problems.append(f"order {id_} was accepted and is charged {charged} nano-USD")
    strays = _one(database, "SELECT COUNT(*) FROM billing_transfer WHERE kind = 'undelivered'") - sum(row[2] for row in records.values())
    if strays:
        verdict.problems.append(f"{strays} times something was paid back for no order")
    verdict.figures |= {
        "directors saw": dict(films.statuses),
        "orders charged": sum(1 for row in records.values() if row[1]),
        "orders paid back": sum(1 for row in records.values() if row[2]),
        "orders nobody could write down, and nobody asked about": len(unwritten),
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
        "refusals": [text for text, _ in till.refusals.most_common(12)],
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


def _judge_plans(database: Database, till: Till, verdict: Verdict) -> None:
    """The credit that each paid invoice of a plan brings, once; and an account's plan is the one that it pays for."""
    included: dict[str, tuple[int, int]] = {}
    for price in _listed(till, "prices"):
        if price["recurring"]:  # those of top-ups are listed too
            usd, credit = SOLD[price["metadata"]["plan"]]
            included[price["id"]] = (credit * 10**9, usd * 100)
    due = {}
    for invoice in _listed(till, "invoices"):
        if invoice["status"] == "paid":
            shares = []
            for line in invoice["lines"]["data"]:
                credit, cents = included[line["pricing"]["price_details"]["price"]]
                shares.append(credit * line["amount"] // cents)
            due[invoice["id"]] = max(0, sum(shares))
    given = {
        row[0]: int(row[1])
        for row in database.execute("SELECT source_id, SUM(amount) FROM billing_transfer WHERE kind = 'plan' GROUP BY 1").fetchall()
    }
    for id_ in due.keys() | given.keys():
        if due.get(id_, 0) != given.get(id_, 0):
            verdict.problems.append(f"invoice {id_} brings {due.get(id_, 0)} nano-USD, {given.get(id_, 0)} were granted")
    ours = {
        row[0]: row[1]
        for row in database.execute(
            "SELECT s.stripe_id, p.slug FROM billing_subscription s JOIN billing_plan p ON p.id = (SELECT a.plan_id"
            " FROM billing_planassignment a WHERE a.account_id = s.account_id AND a.starts_at <= now() ORDER BY a.starts_at DESC LIMIT 1)"
            " WHERE s.status = 'active'"
        ).fetchall()
    }
    theirs = {one["id"] for one in _listed(till, "subscriptions") if one["status"] == "active"}
    if ours.keys() != theirs:
        verdict.problems.append(f"subscriptions {sorted(ours.keys() ^ theirs)} run here or at Stripe only")
    if wrong := [one for one, plan in ours.items() if plan not in SOLD]:
        verdict.problems.append(f"subscriptions {wrong} are paid for and not in effect")
    verdict.figures |= {"plans": {"running": len(theirs), "invoices paid": len(due), "credit granted, nano-USD": sum(given.values())}}


STUCK = {
    "events wait for staff": "SELECT type, last_error FROM billing_stripeevent WHERE state = 'quarantined'",
    # One that has come in this moment, late as the bank is, may be under way: it is not stuck yet.
    "events were not handled": "SELECT type, state, last_error FROM billing_stripeevent"
    " WHERE state IN ('received', 'failed') AND received_at < now() - interval '10 seconds'",
    "payments wait for staff": "SELECT id, failure FROM billing_topup WHERE state = 'quarantined'",
}


def _sums(database: Database, condition: str) -> dict[str, int]:
    """What went into wallets less what went out of them, by the top-up that it was about."""
    query = (
        "SELECT split_part(source_id, ':', 1), SUM(CASE WHEN credit_account = 'wallet:' || wallet_id THEN amount ELSE -amount END)"  # noqa: S608
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
