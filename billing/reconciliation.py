"""Reconciliation: proves, from one consistent snapshot, that wallets, ledger, holds, grants, windows and usage records agree.

It only reads. A drift is reported, never repaired: what is wrong in a ledger is for people to understand first. The numbers are those
of the published invariants (docs). I7 compares top-ups with the ledger; `billing.payments.backfill` compares them with Stripe itself.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

GRACE = timedelta(minutes=5)  # the sweeper runs every few seconds: a dead hold this old is not being swept
MOST_REPORTED = 1000  # of each kind


@dataclass(frozen=True, slots=True)
class Drift:
    """Two figures that should be equal and are not. Money in nano-USD."""

    invariant: str
    account: str
    wallet: int | None
    subject: str
    expected: int
    found: int
    sentence: str

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON and logs."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.invariant} {self.account or '?'}: {self.sentence} (expected {self.expected}, found {self.found})"


@dataclass(frozen=True, slots=True)
class Check:
    """One query for violations: rows of account id, wallet id, subject, expected, found. `{subject}` in the sentence is filled in.

    In the query, USAGE_SCOPE stands for a condition on billing_usagerecord u, and …_SCOPE likewise for its table's alias; TOKENS_IN and
    TOKENS_OUT for the sums of u's buckets.
    """

    invariant: str
    sentence: str
    query: str


SCOPES = {
    "USAGE_SCOPE": "u.account_id = ANY(%(accounts)s)",
    "HOLD_SCOPE": "h.account_id = ANY(%(accounts)s)",
    "WINDOW_SCOPE": "s.account_id = ANY(%(accounts)s)",
    "WALLET_SCOPE": "w.account_id = ANY(%(accounts)s)",
    "TRANSFER_SCOPE": "t.wallet_id = ANY(%(wallets)s)",
    "GRANT_SCOPE": "g.wallet_id = ANY(%(wallets)s)",
    "TOP_UP_SCOPE": "p.wallet_id = ANY(%(wallets)s)",
    "SLOT_SCOPE": "c.account_id = ANY(%(accounts)s)",
}
TOKENS = {
    "TOKENS_IN": "u.input_tokens + u.cached_input_tokens + u.cache_write_tokens + u.cache_write_1h_tokens + u.audio_input_tokens",
    "TOKENS_OUT": "u.output_tokens + u.reasoning_tokens + u.audio_output_tokens",
}

CHECKS = (
    Check(
        "I1",
        "what {subject} were charged differs from the usage transfers of their wallet",
        """
        WITH used AS (SELECT u.account_id, u.wallet_id, SUM(u.cost) AS cost FROM billing_usagerecord u WHERE USAGE_SCOPE GROUP BY 1, 2),
            moved AS (SELECT t.wallet_id, SUM(t.amount) AS amount FROM billing_transfer t
                WHERE t.kind IN ('usage', 'overrun') AND TRANSFER_SCOPE GROUP BY 1),
            w AS (SELECT w.id, w.account_id FROM billing_wallet w WHERE WALLET_SCOPE)
        SELECT COALESCE(w.account_id, used.account_id), COALESCE(w.id, used.wallet_id), 'the requests', COALESCE(used.cost, 0),
            COALESCE(moved.amount, 0)
        FROM w FULL JOIN used ON used.wallet_id = w.id AND used.account_id = w.account_id LEFT JOIN moved ON moved.wallet_id = w.id
        WHERE COALESCE(used.cost, 0) <> COALESCE(moved.amount, 0) OR w.id IS NULL
        """,
    ),
    Check(
        "I2",
        "the usage transfer {subject} is not the sum of the requests that point at it",
        """
        WITH used AS (SELECT u.transfer_id, u.wallet_id, SUM(u.cost - u.overrun_cost) AS cost FROM billing_usagerecord u
                WHERE u.transfer_id IS NOT NULL AND USAGE_SCOPE GROUP BY 1, 2),
            batch AS (SELECT t.id, t.wallet_id, t.amount FROM billing_transfer t WHERE t.kind = 'usage' AND TRANSFER_SCOPE)
        SELECT w.account_id, w.id, COALESCE(batch.id, used.transfer_id)::text, COALESCE(used.cost, 0), COALESCE(batch.amount, 0)
        FROM used FULL JOIN batch ON batch.id = used.transfer_id AND batch.wallet_id = used.wallet_id
        LEFT JOIN billing_wallet w ON w.id = COALESCE(used.wallet_id, batch.wallet_id)
        WHERE used.cost IS DISTINCT FROM batch.amount
        """,
    ),
    Check(
        "I2",
        "request {subject} cost something and points at no transfer, or the other way round",
        """
        SELECT u.account_id, u.wallet_id, u.request_id::text, u.cost - u.overrun_cost, 0 FROM billing_usagerecord u
        WHERE ((u.transfer_id IS NULL) <> (u.cost = u.overrun_cost) OR u.overrun_cost > u.cost) AND USAGE_SCOPE
        """,
    ),
    Check(
        "I2",
        "the overrun of request {subject} is not the transfer that booked it",
        """
        WITH used AS (SELECT u.wallet_id, u.request_id::text AS source, u.overrun_cost FROM billing_usagerecord u
                WHERE u.overrun_cost > 0 AND USAGE_SCOPE),
            moved AS (SELECT t.wallet_id, t.source_id, t.amount FROM billing_transfer t WHERE t.kind = 'overrun' AND TRANSFER_SCOPE)
        SELECT w.account_id, w.id, COALESCE(used.source, moved.source_id), COALESCE(used.overrun_cost, 0), COALESCE(moved.amount, 0)
        FROM used FULL JOIN moved ON moved.source_id = used.source AND moved.wallet_id = used.wallet_id
        LEFT JOIN billing_wallet w ON w.id = COALESCE(used.wallet_id, moved.wallet_id)
        WHERE used.overrun_cost IS DISTINCT FROM moved.amount
        """,
    ),
    Check(
        "I2",
        "what {subject} say was written off differs from the write-offs in the ledger",
        """
        WITH lost AS (SELECT t.wallet_id, SUM(t.amount) AS amount FROM billing_transfer t
                WHERE t.kind = 'writeoff' AND TRANSFER_SCOPE GROUP BY 1),
            said AS (SELECT u.wallet_id, SUM(u.written_off) AS amount FROM billing_usagerecord u
                WHERE u.written_off > 0 AND USAGE_SCOPE GROUP BY 1)
        SELECT w.account_id, COALESCE(lost.wallet_id, said.wallet_id), 'the requests', COALESCE(said.amount, 0), COALESCE(lost.amount, 0)
        FROM lost FULL JOIN said ON said.wallet_id = lost.wallet_id
        LEFT JOIN billing_wallet w ON w.id = COALESCE(lost.wallet_id, said.wallet_id)
        WHERE lost.amount IS DISTINCT FROM said.amount
        """,
    ),
    Check(
        "I2",
        "what was paid back of request {subject} is more than it was charged",
        """
        SELECT w.account_id, w.id, t.source_id, COALESCE(u.cost, 0), t.amount
        FROM billing_transfer t LEFT JOIN billing_wallet w ON w.id = t.wallet_id
        LEFT JOIN billing_usagerecord u ON u.request_id = t.source_id::uuid AND u.wallet_id = t.wallet_id
        WHERE t.kind = 'undelivered' AND t.amount > COALESCE(u.cost, 0) AND TRANSFER_SCOPE
        """,
    ),
    Check(
        "I3",
        "the chain of transfers breaks at {subject}: a version is missing or the balance after it is not the running sum",
        """
        WITH entry AS (SELECT t.wallet_id, t.wallet_version, t.balance_after,
                CASE 'wallet:' || t.wallet_id WHEN t.credit_account THEN t.amount WHEN t.debit_account THEN -t.amount END AS amount
                FROM billing_transfer t WHERE t.wallet_version IS NOT NULL AND TRANSFER_SCOPE),
            chain AS (SELECT entry.*, row_number() OVER walk AS position, SUM(entry.amount) OVER walk AS running FROM entry
                WINDOW walk AS (PARTITION BY entry.wallet_id ORDER BY entry.wallet_version))
        SELECT DISTINCT ON (chain.wallet_id) w.account_id, chain.wallet_id, 'version ' || chain.wallet_version,
            COALESCE(chain.running, 0), COALESCE(chain.balance_after, 0)
        FROM chain LEFT JOIN billing_wallet w ON w.id = chain.wallet_id
        WHERE chain.position <> chain.wallet_version OR chain.running IS DISTINCT FROM chain.balance_after OR chain.amount IS NULL
        ORDER BY chain.wallet_id, chain.wallet_version
        """,
    ),
    Check(
        "I3",
        "the {subject} is not that of the wallet's last transfer",
        """
        WITH final AS (SELECT DISTINCT ON (t.wallet_id) t.wallet_id, t.wallet_version, t.balance_after FROM billing_transfer t
            WHERE t.wallet_version IS NOT NULL AND TRANSFER_SCOPE ORDER BY t.wallet_id, t.wallet_version DESC)
        SELECT w.account_id, w.id, pair.subject, pair.expected, pair.found
        FROM billing_wallet w LEFT JOIN final ON final.wallet_id = w.id
        CROSS JOIN LATERAL (VALUES ('version', COALESCE(final.wallet_version, 0), w.version),
            ('balance', COALESCE(final.balance_after, 0), w.balance)) AS pair (subject, expected, found)
        WHERE pair.expected <> pair.found AND WALLET_SCOPE
        """,
    ),
    Check(
        "I3",
        "the transfer {subject} moves a wallet's money and stands in no wallet's chain",
        """
        SELECT w.account_id, t.wallet_id, t.id::text, 0, t.amount
        FROM billing_transfer t LEFT JOIN billing_wallet w ON w.id = t.wallet_id
        WHERE (t.debit_account LIKE 'wallet:%%' OR t.credit_account LIKE 'wallet:%%') AND (t.wallet_version IS NULL OR t.wallet_id IS NULL)
            AND TRANSFER_SCOPE
        """,
    ),
    Check(
        "I4",
        "the wallet's {subject} differ from the sum of its transfers",
        """
        WITH moved AS (SELECT t.wallet_id, SUM(t.amount) FILTER (WHERE t.credit_account = 'wallet:' || t.wallet_id) AS credits,
                SUM(t.amount) FILTER (WHERE t.debit_account = 'wallet:' || t.wallet_id) AS debits
            FROM billing_transfer t WHERE TRANSFER_SCOPE GROUP BY 1)
        SELECT w.account_id, w.id, pair.subject, pair.expected, pair.found
        FROM billing_wallet w LEFT JOIN moved ON moved.wallet_id = w.id
        CROSS JOIN LATERAL (VALUES ('credits', COALESCE(moved.credits, 0), w.credits), ('debits', COALESCE(moved.debits, 0), w.debits))
            AS pair (subject, expected, found)
        WHERE pair.expected <> pair.found AND WALLET_SCOPE
        """,
    ),
    Check(
        "I4",
        "what remains of the {subject} is not the balance",
        """
        WITH unspent AS (SELECT g.wallet_id, SUM(g.remaining) AS remaining FROM billing_creditgrant g
            WHERE g.remaining <> 0 AND GRANT_SCOPE GROUP BY 1)
        SELECT w.account_id, w.id, 'grants', GREATEST(w.balance, 0), COALESCE(unspent.remaining, 0)
        FROM billing_wallet w LEFT JOIN unspent ON unspent.wallet_id = w.id
        WHERE GREATEST(w.balance, 0) <> COALESCE(unspent.remaining, 0) AND WALLET_SCOPE
        """,
    ),
    Check(
        "I4",
        "the credit {subject} and its grant differ, or one of them is missing",
        """
        WITH credit AS (SELECT t.id, t.wallet_id, t.amount FROM billing_transfer t
                WHERE t.credit_account = 'wallet:' || t.wallet_id AND TRANSFER_SCOPE),
            given AS (SELECT g.transfer_id, g.wallet_id, g.amount FROM billing_creditgrant g WHERE GRANT_SCOPE)
        SELECT w.account_id, w.id, COALESCE(credit.id, given.transfer_id)::text, COALESCE(credit.amount, 0), COALESCE(given.amount, 0)
        FROM credit FULL JOIN given ON given.transfer_id = credit.id AND given.wallet_id = credit.wallet_id
        LEFT JOIN billing_wallet w ON w.id = COALESCE(credit.wallet_id, given.wallet_id)
        WHERE credit.amount IS DISTINCT FROM given.amount
        """,
    ),
    Check(
        "I4",
        "what expired of the grant {subject} is more than it was",
        """
        WITH expired AS (SELECT t.wallet_id, split_part(t.source_id, ':', 1) AS source, SUM(t.amount) AS amount FROM billing_transfer t
            WHERE t.kind = 'expiry' AND TRANSFER_SCOPE GROUP BY 1, 2)
        SELECT w.account_id, w.id, expired.source, COALESCE(g.amount - g.remaining, 0), expired.amount
        FROM expired LEFT JOIN billing_creditgrant g ON g.id::text = expired.source AND g.wallet_id = expired.wallet_id
        LEFT JOIN billing_wallet w ON w.id = expired.wallet_id
        WHERE expired.amount > COALESCE(g.amount - g.remaining, 0)
        """,
    ),
    Check(
        "I5",
        "{subject} is not the sum of the usage records that began in the window",
        """
        SELECT s.account_id, w.id, format('%%s of %%s %%s from %%s', pair.subject, s.subject_kind, s.subject_id, s.window_start),
            pair.expected, pair.found
        FROM billing_spendwindow s
        CROSS JOIN LATERAL (
            SELECT SUM(cost) AS cost, SUM(tokens_in) AS tokens_in, SUM(tokens_out) AS tokens_out, COUNT(*) AS requests FROM (
                SELECT u.cost, TOKENS_IN AS tokens_in, TOKENS_OUT AS tokens_out FROM billing_usagerecord u
                WHERE s.subject_kind = 'key' AND u.key_id = s.subject_id AND u.started_at >= s.window_start AND u.started_at < s.window_end
                UNION ALL
                SELECT u.cost, TOKENS_IN, TOKENS_OUT FROM billing_usagerecord u
                WHERE s.subject_kind = 'account' AND u.account_id = s.subject_id
                    AND u.started_at >= s.window_start AND u.started_at < s.window_end
            ) every) used
        LEFT JOIN billing_wallet w ON w.account_id = s.account_id
        CROSS JOIN LATERAL (VALUES ('money spent', COALESCE(used.cost, 0), s.spent),
            ('input tokens', COALESCE(used.tokens_in, 0), s.input_tokens), ('output tokens', COALESCE(used.tokens_out, 0), s.output_tokens),
            ('requests', used.requests, s.requests))
            AS pair (subject, expected, found)
        WHERE pair.expected <> pair.found AND WINDOW_SCOPE
        """,
    ),
    Check(
        "I5",
        "{subject} is not the sum of the open holds that count there",
        """
        WITH part AS (
                SELECT h.key_window AS id, h.amount AS money, 0 AS tokens_in, 0 AS tokens_out FROM billing_hold h
                WHERE h.key_window IS NOT NULL AND HOLD_SCOPE
                UNION ALL
                SELECT h.quota_window, 0, h.quota_input_tokens, h.quota_output_tokens FROM billing_hold h
                WHERE h.quota_window IS NOT NULL AND HOLD_SCOPE),
            held AS (SELECT part.id, SUM(money) AS money, SUM(tokens_in) AS tokens_in, SUM(tokens_out) AS tokens_out FROM part GROUP BY 1),
            s AS (SELECT s.* FROM billing_spendwindow s WHERE WINDOW_SCOPE)
        SELECT s.account_id, w.id, format('%%s in window %%s of %%s %%s', pair.subject, COALESCE(s.id, held.id), s.subject_kind,
            s.subject_id), pair.expected, pair.found
        FROM s FULL JOIN held ON held.id = s.id
        LEFT JOIN billing_wallet w ON w.account_id = s.account_id
        CROSS JOIN LATERAL (VALUES ('money held', COALESCE(held.money, 0), COALESCE(s.held, 0)),
            ('input tokens held', COALESCE(held.tokens_in, 0), COALESCE(s.held_input_tokens, 0)),
            ('output tokens held', COALESCE(held.tokens_out, 0), COALESCE(s.held_output_tokens, 0))) AS pair (subject, expected, found)
        WHERE pair.expected <> pair.found
        """,
    ),
    Check(
        "I6",
        "the wallet's held amount is not the sum of its {subject}",
        """
        WITH held AS (SELECT h.wallet_id, h.account_id, SUM(h.amount) AS amount FROM billing_hold h WHERE HOLD_SCOPE GROUP BY 1, 2),
            w AS (SELECT w.id, w.account_id, w.held FROM billing_wallet w WHERE WALLET_SCOPE)
        SELECT COALESCE(w.account_id, held.account_id), COALESCE(w.id, held.wallet_id), 'open holds', COALESCE(held.amount, 0),
            COALESCE(w.held, 0)
        FROM w FULL JOIN held ON held.wallet_id = w.id AND held.account_id = w.account_id
        WHERE COALESCE(w.held, 0) <> COALESCE(held.amount, 0) OR w.id IS NULL
        """,
    ),
    Check(
        "I6",
        "the hold of request {subject} outlived its owner or its limit and was not swept",
        """
        SELECT h.account_id, h.wallet_id, h.request_id::text, 0, h.amount
        FROM billing_hold h LEFT JOIN billing_holdowner o ON o.boot_id = h.owner_id
        WHERE (h.expires_at < %(stale)s OR (o.boot_id IS NULL AND h.started_at < %(stale)s) OR o.lease_until < %(stale)s) AND HOLD_SCOPE
        """,
    ),
    Check(
        "I7",
        "the top-up {subject} is paid and was not credited with exactly its amount, or was credited and is not paid",
        """
        WITH paid AS (SELECT p.id::text AS source, p.wallet_id, p.credit_nano FROM billing_topup p WHERE p.state = 'paid' AND TOP_UP_SCOPE),
            booked AS (SELECT t.source_id, t.wallet_id, t.amount FROM billing_transfer t
                WHERE t.kind = 'paid' AND t.source_type = 'top_up' AND TRANSFER_SCOPE)
        SELECT w.account_id, w.id, COALESCE(paid.source, booked.source_id), COALESCE(paid.credit_nano, 0), COALESCE(booked.amount, 0)
        FROM paid FULL JOIN booked ON booked.source_id = paid.source AND booked.wallet_id = paid.wallet_id
        LEFT JOIN billing_wallet w ON w.id = COALESCE(paid.wallet_id, booked.wallet_id)
        WHERE paid.credit_nano IS DISTINCT FROM booked.amount
        """,
    ),
    Check(
        "I7",
        "what was taken back of top-up {subject} is not what the ledger says",
        """
        WITH taken AS (SELECT t.wallet_id, split_part(t.source_id, ':', 1) AS source,
                SUM(CASE WHEN t.debit_account = 'stripe_clearing' THEN -t.amount ELSE t.amount END) AS amount
                FROM billing_transfer t WHERE t.source_type = 'reversal' AND TRANSFER_SCOPE GROUP BY 1, 2),
            kept AS (SELECT p.wallet_id, p.id::text AS source, p.clawed_nano FROM billing_topup p WHERE TOP_UP_SCOPE)
        SELECT w.account_id, w.id, COALESCE(kept.source, taken.source), COALESCE(taken.amount, 0), COALESCE(kept.clawed_nano, 0)
        FROM kept FULL JOIN taken ON taken.source = kept.source AND taken.wallet_id = kept.wallet_id
        LEFT JOIN billing_wallet w ON w.id = COALESCE(kept.wallet_id, taken.wallet_id)
        WHERE COALESCE(taken.amount, 0) <> COALESCE(kept.clawed_nano, 0)
        """,
    ),
    Check(
        "I7",
        "what was taken back of top-up {subject} is not its share of what was refunded and disputed",
        """
        WITH reversed AS (SELECT r.top_up_id, SUM(r.amount_minor) AS amount FROM billing_reversal r WHERE r.is_active GROUP BY 1)
        SELECT w.account_id, w.id, p.id::text, due.nano, p.clawed_nano
        FROM billing_topup p JOIN billing_wallet w ON w.id = p.wallet_id LEFT JOIN reversed ON reversed.top_up_id = p.id
        CROSS JOIN LATERAL (SELECT CASE WHEN p.state = 'paid' AND p.paid_minor > 0
            THEN div(p.credit_nano::numeric * LEAST(COALESCE(reversed.amount, 0), p.paid_minor), p.paid_minor::numeric) ELSE 0 END AS nano) due
        WHERE due.nano <> p.clawed_nano AND TOP_UP_SCOPE
        """,
    ),
    Check(
        "I7",
        "what was taken back of the plan's credit {subject} is more than it was, or less than nothing",
        """
        WITH taken AS (SELECT t.reverses_id, t.wallet_id,
                SUM(CASE WHEN t.debit_account = 'wallet:' || t.wallet_id THEN t.amount ELSE -t.amount END) AS amount
                FROM billing_transfer t WHERE t.source_type = 'invoice_reversal' AND TRANSFER_SCOPE GROUP BY 1, 2)
        SELECT w.account_id, w.id, COALESCE(g.source_id, 'unknown'), due.most, taken.amount
        FROM taken LEFT JOIN billing_transfer g ON g.id = taken.reverses_id AND g.wallet_id = taken.wallet_id
        LEFT JOIN billing_wallet w ON w.id = taken.wallet_id
        CROSS JOIN LATERAL (SELECT CASE g.kind WHEN 'plan' THEN g.amount ELSE 0 END AS most) due
        WHERE taken.amount < 0 OR taken.amount > due.most
        """,
    ),
    Check(
        "I7",
        "{subject} stands on stripe_clearing and is no payment's, or is a payment's and does not",
        """
        SELECT w.account_id, t.wallet_id, t.source_type || ' ' || t.source_id, 0, t.amount
        FROM billing_transfer t LEFT JOIN billing_wallet w ON w.id = t.wallet_id
        WHERE (t.source_type IN ('top_up', 'reversal')) <> ('stripe_clearing' IN (t.debit_account, t.credit_account)) AND TRANSFER_SCOPE
        """,
    ),
    Check(
        "I8",
        "{subject} was admitted without being funded",
        """
        SELECT h.account_id, h.wallet_id, 'request ' || h.request_id, 0, h.free_after FROM billing_hold h
        WHERE h.free_after < 0 AND h.amount > 0 AND HOLD_SCOPE
        """,
    ),
    Check(
        "I8",
        "the charge {subject} took the balance below zero",
        """
        SELECT w.account_id, t.wallet_id, t.id::text, 0, t.balance_after
        FROM billing_transfer t LEFT JOIN billing_wallet w ON w.id = t.wallet_id
        WHERE t.kind IN ('usage', 'overrun') AND t.balance_after < 0 AND TRANSFER_SCOPE
        """,
    ),
    Check(
        "I9",
        "the ledger's entries on {subject} do not add up to the wallet's balance",
        """
        WITH entry AS (
                SELECT t.debit_account AS code, -t.amount AS amount FROM billing_transfer t
                WHERE t.debit_account LIKE 'wallet:%%' AND TRANSFER_SCOPE
                UNION ALL
                SELECT t.credit_account, t.amount FROM billing_transfer t WHERE t.credit_account LIKE 'wallet:%%' AND TRANSFER_SCOPE),
            ledger AS (SELECT entry.code, SUM(entry.amount) AS amount FROM entry GROUP BY 1),
            w AS (SELECT w.id, w.account_id, w.balance, 'wallet:' || w.id AS code FROM billing_wallet w WHERE WALLET_SCOPE)
        SELECT w.account_id, w.id, COALESCE(w.code, ledger.code), COALESCE(ledger.amount, 0), COALESCE(w.balance, 0)
        FROM w FULL JOIN ledger ON ledger.code = w.code
        WHERE COALESCE(ledger.amount, 0) <> COALESCE(w.balance, 0) OR w.id IS NULL
        """,
    ),
    Check(
        "I10",
        "the {subject} differ from the sum of the usage records that began in it",
        """
        WITH used AS (
                SELECT u.account_id, u.key_id, u.model, u.provider, billing_slot_of(u.started_at) AS starts_at, COUNT(*) AS requests,
                    COUNT(*) FILTER (WHERE u.status IN ('error', 'cut', 'swept')) AS errors, SUM(u.input_tokens) AS input_tokens,
                    SUM(u.cached_input_tokens) AS cached, SUM(u.cache_write_tokens + u.cache_write_1h_tokens) AS written,
                    SUM(u.audio_input_tokens) AS audio_in, SUM(u.output_tokens) AS output_tokens, SUM(u.reasoning_tokens) AS reasoning,
                    SUM(u.audio_output_tokens) AS audio_out, SUM(u.images) AS images, SUM(u.web_searches) AS searches,
                    SUM(u.cost) AS cost, SUM(u.upstream_cost) AS upstream_cost, COALESCE(SUM(u.reported_cost), 0) AS reported_cost,
                    COUNT(u.reported_cost) AS reported,
                    COALESCE(SUM(u.upstream_cost) FILTER (WHERE u.reported_cost IS NOT NULL), 0) AS reported_upstream_cost,
                    SUM(u.written_off) AS written_off, COALESCE(SUM(u.latency_ms), 0) AS latency_ms, COUNT(u.latency_ms) AS timed,
                    COALESCE(SUM(u.first_token_ms), 0) AS first_token_ms, COUNT(u.first_token_ms) AS first_timed
                FROM billing_usagerecord u WHERE USAGE_SCOPE GROUP BY 1, 2, 3, 4, 5),
            c AS (SELECT c.* FROM billing_usageslot c WHERE SLOT_SCOPE)
        SELECT COALESCE(c.account_id, used.account_id), w.id, format('%%s of key %%s in the slot of %%s at %%s from %%s', pair.subject,
            COALESCE(c.key_id, used.key_id), COALESCE(c.model, used.model), COALESCE(c.provider, used.provider),
            COALESCE(c.starts_at, used.starts_at)), COALESCE(pair.expected, 0), COALESCE(pair.found, 0)
        FROM c FULL JOIN used ON used.account_id = c.account_id AND used.key_id = c.key_id AND used.model = c.model
            AND used.provider = c.provider AND used.starts_at = c.starts_at
        LEFT JOIN billing_wallet w ON w.account_id = COALESCE(c.account_id, used.account_id)
        CROSS JOIN LATERAL (VALUES ('requests', used.requests, c.requests), ('errors', used.errors, c.errors),
            ('input tokens', used.input_tokens, c.input_tokens), ('cached tokens', used.cached, c.cached_input_tokens),
            ('tokens written to caches', used.written, c.cache_write_tokens), ('audio input tokens', used.audio_in, c.audio_input_tokens),
            ('output tokens', used.output_tokens, c.output_tokens), ('reasoning tokens', used.reasoning, c.reasoning_tokens),
            ('audio output tokens', used.audio_out, c.audio_output_tokens), ('images', used.images, c.images),
            ('web searches', used.searches, c.web_searches), ('charges', used.cost, c.cost), ('upstream costs', used.upstream_cost, c.upstream_cost),
            ('reported costs', used.reported_cost, c.reported_cost), ('requests with a reported cost', used.reported, c.reported),
            ('upstream costs beside reported ones', used.reported_upstream_cost, c.reported_upstream_cost),
            ('write-offs', used.written_off, c.written_off),
            ('latencies', used.latency_ms, c.latency_ms), ('timed requests', used.timed, c.timed),
            ('times to the first token', used.first_token_ms, c.first_token_ms), ('first tokens timed', used.first_timed, c.first_timed))
            AS pair (subject, expected, found)
        WHERE (c.requests, c.errors, c.input_tokens, c.cached_input_tokens, c.cache_write_tokens, c.audio_input_tokens, c.output_tokens,
                c.reasoning_tokens, c.audio_output_tokens, c.images, c.web_searches, c.cost, c.upstream_cost, c.reported_cost, c.reported,
                c.reported_upstream_cost, c.written_off, c.latency_ms, c.timed, c.first_token_ms, c.first_timed)
            IS DISTINCT FROM (used.requests, used.errors, used.input_tokens, used.cached, used.written, used.audio_in, used.output_tokens,
                used.reasoning, used.audio_out, used.images, used.searches, used.cost, used.upstream_cost, used.reported_cost,
                used.reported, used.reported_upstream_cost, used.written_off, used.latency_ms, used.timed, used.first_token_ms, used.first_timed)
            AND COALESCE(pair.expected, 0) <> COALESCE(pair.found, 0)
        """,
    ),
)


def audit(*, now: datetime, accounts: Sequence[int] | None = None, using: BaseDatabaseWrapper | None = None) -> list[Drift]:
    """Check every invariant, of all accounts or of those with the ids in `accounts`; an empty list means that all hold.

    Everything is read from one snapshot in a read-only transaction, so it may run beside live traffic. In a transaction of the caller's it
    joins that one instead. At most 1,000 drifts of each kind are reported.
    """
    database = using or connection
    if database.in_atomic_block:
        with database.cursor() as cursor:
            return _audit(cursor, now, accounts)
    with transaction.atomic(using=database.alias), database.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        # Hashing a month of records in memory; compiling the queries would take longer than running them.
        cursor.execute("SET LOCAL work_mem = '64MB'")
        cursor.execute("SET LOCAL jit = off")
        return _audit(cursor, now, accounts)


def _audit(cursor: CursorWrapper, now: datetime, accounts: Sequence[int] | None) -> list[Drift]:
    parameters: dict[str, Any] = {"stale": now - GRACE}
    if accounts is not None:
        cursor.execute("SELECT id FROM billing_wallet WHERE account_id = ANY(%s)", [list(accounts)])
        parameters |= {"accounts": list(accounts), "wallets": [row[0] for row in cursor.fetchall()]}
    found: list[tuple[Check, Any]] = []
    for check in CHECKS:
        query = check.query
        for name, condition in SCOPES.items():
            query = query.replace(name, "TRUE" if accounts is None else condition)
        for name, total in TOKENS.items():
            query = query.replace(name, total)
        cursor.execute(f"{query} LIMIT {MOST_REPORTED}", parameters)
        found += [(check, row) for row in cursor.fetchall()]
    slugs = _slugs(cursor, {row[0] for _, row in found if row[0] is not None})
    return [
        Drift(check.invariant, slugs.get(account, ""), wallet, subject, int(expected), int(actual), check.sentence.format(subject=subject))
        for check, (account, wallet, subject, expected, actual) in found
    ]


def _slugs(cursor: CursorWrapper, accounts: set[int]) -> dict[int, str]:
    if not accounts:
        return {}
    cursor.execute("SELECT id, slug FROM accounts_account WHERE id = ANY(%s)", [list(accounts)])
    return dict(cursor.fetchall())
