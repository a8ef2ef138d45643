"""The terms of an account's plan as the data plane needs them: allowed models, rates, and the month its quota counts in."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from catalog.matching import ModelPatterns
from gateway_site.batches import Batcher
from gateway_site.clients import Lane
from keys import budgets

FRESH_SECONDS = 30.0
CACHE_SIZE = 50_000


@dataclass(frozen=True, slots=True)
class PlanTerms:
    """What the plan of an account allows; None is unlimited."""

    slug: str
    models: ModelPatterns
    rpm: int | None
    tpm: int | None
    concurrency: int | None
    monthly_input_tokens: int | None
    monthly_output_tokens: int | None
    anchor_day: int

    def month_at(self, now: datetime, timezone: str) -> budgets.Window:
        """The quota's month at `now` in the account's time zone."""
        return budgets.window_at("month", now, timezone=timezone, anchor_day=self.anchor_day)


NO_PLAN = PlanTerms("", ModelPatterns(()), None, None, None, None, None, 1)

LOOK_UP = """SELECT DISTINCT ON (pa.account_id) pa.account_id, p.slug, p.allowed_models, p.rpm, p.tpm, p.concurrency, p.monthly_input_tokens,
    p.monthly_output_tokens, pa.anchor_day FROM billing_planassignment pa JOIN billing_plan p ON p.id = pa.plan_id
    WHERE pa.account_id = ANY(%s) AND pa.starts_at <= now() ORDER BY pa.account_id, pa.starts_at DESC"""


class PlanBook:
    """Finds the terms of an account, one batched query for the accounts not in memory."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._look_ups: Batcher[int, PlanTerms] = Batcher(self._look_up)
        self._cache: dict[int, tuple[PlanTerms, float]] = {}

    async def terms_of(self, account_id: int, *, clock: float) -> PlanTerms:
        """The terms in effect; `clock` is a monotonic time in seconds.

        Raises: gateway_site.clients.DatabaseUnavailable.
        """
        cached = self._cache.get(account_id)
        if cached is not None and cached[1] > clock:
            return cached[0]
        terms = await self._look_ups.submit(account_id)
        if len(self._cache) >= CACHE_SIZE:
            self._cache.clear()
        self._cache[account_id] = (terms, clock + FRESH_SECONDS)
        return terms

    def forget(self, account_id: int | None) -> None:
        """Drop one account's terms from memory; all of them when None."""
        if account_id is None:
            self._cache.clear()
        else:
            self._cache.pop(account_id, None)

    async def _look_up(self, accounts: Sequence[int]) -> list[PlanTerms | Exception]:
        rows = await self._lane.fetch(LOOK_UP, [list(accounts)])
        found = {row[0]: PlanTerms(row[1], ModelPatterns(row[2]), *row[3:]) for row in rows}
        return [found.get(account, NO_PLAN) for account in accounts]
