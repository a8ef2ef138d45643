"""What should be so: a wallet in plain Python, for the machines to compare the database with. It shares no code with the product."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.billing.desk import MONTH, NOW, month_of, window


@dataclass
class Held:
    amount: int
    key: int
    started: datetime
    owner: int
    budget: tuple[datetime, datetime] | None
    quota: tuple[int, int] | None
    accrued: int = 0
    tokens: tuple[int, int] = (0, 0)


@dataclass
class Used:
    cost: int
    list_cost: int
    hold_amount: int
    key: int
    started: datetime
    tokens: tuple[int, int]
    swept: bool = False


@dataclass
class Given:
    grant: int
    remaining: int
    priority: int
    expires: datetime | None


class Model:
    """What should be so: the wallet as plain sums over dictionaries, every rule of MONEY in a line or two."""

    def __init__(self) -> None:
        self.balance = 0
        self.lost = 0
        self.status = "active"
        self.held: dict[Any, Held] = {}
        self.used: dict[Any, Used] = {}
        self.grants: list[Given] = []
        self.stopped: set[int] = set()
        self.budgets: dict[int, tuple[int, str] | None] = {0: None, 1: None}
        self.plans: list[tuple[datetime, tuple[int | None, int | None]]] = [(MONTH, (None, None))]

    @property
    def free(self) -> int:
        return self.balance - sum(hold.amount for hold in self.held.values())

    def left_of_budget(self, key: int, limit: int, period: tuple[datetime, datetime]) -> int:
        spent = sum(used.cost for used in self.used.values() if used.key == key and period[0] <= used.started < period[1])
        return limit - spent - sum(hold.amount for hold in self.held.values() if hold.key == key and hold.budget == period)

    def quota_at(self, started: datetime) -> tuple[int | None, int | None]:
        """The tokens a month of the plan that the account was on then."""
        return max((plan for plan in self.plans if plan[0] <= started), key=lambda plan: plan[0])[1]

    def quota_is_spent(self, wanted: tuple[int, int], started: datetime) -> bool:
        month = month_of(started)
        for side, limit in enumerate(self.quota_at(started)):
            taken = sum(used.tokens[side] for used in self.used.values() if month_of(used.started) == month) + sum(
                hold.quota[side] for hold in self.held.values() if hold.quota and month_of(hold.started) == month
            )
            if limit is not None and taken + wanted[side] > limit:
                return True
        return False

    def burn(self, amount: int) -> None:
        for given in sorted(self.grants, key=lambda each: (each.priority, each.expires is None, each.expires or NOW, each.grant)):
            part = min(amount, given.remaining)
            given.remaining -= part
            amount -= part
        assert amount == 0

    def place(
        self, pk: Any, key: int, *, amount: int, least: int, tokens: tuple[int, int], started: datetime, owner: int
    ) -> tuple[str, int]:
        if pk in self.held:
            return "placed", self.held[pk].amount
        if key in self.stopped:
            return "key_inactive", 0
        if self.status != "active":
            return "wallet_inactive", 0
        granted = amount
        if amount > max(self.free, 0):
            if self.free < max(least, 1):
                return "insufficient_balance", 0
            granted = self.free
        period = None
        if (budget := self.budgets[key]) is not None:
            period = window(budget[1], started)
            left = self.left_of_budget(key, budget[0], period)
            if left <= 0 or left < min(least, granted):
                return "budget_spent", 0
            granted = min(granted, left)
        has_quota = self.quota_at(started) != (None, None)
        if has_quota and self.quota_is_spent(tokens, started):
            return "quota_spent", 0
        self.held[pk] = Held(granted, key, started, owner, period, tokens if has_quota else None)
        assert amount == 0 or self.free >= 0, "an admitted request must fit"
        return "placed", granted

    def grow(self, pk: Any, amount: int, accrued: int, tokens: tuple[int, int]) -> int:
        hold = self.held.get(pk)
        if hold is None:
            return -1
        extra = max(0, min(amount - hold.amount, self.free))
        if self.status != "active" or hold.key in self.stopped:
            extra = 0
        budget = self.budgets[hold.key]
        if extra and hold.budget and budget:
            extra = max(0, min(extra, self.left_of_budget(hold.key, budget[0], hold.budget)))
        hold.amount += extra
        hold.accrued = max(hold.accrued, accrued)
        hold.tokens = (max(hold.tokens[0], tokens[0]), max(hold.tokens[1], tokens[1]))
        return hold.amount

    def settle(self, pk: Any, key: int, started: datetime, cost: int, tokens: tuple[int, int]) -> tuple[str, int, int]:
        hold = self.held.pop(pk, None)
        known = self.used.get(pk)
        if known is not None and not known.swept:
            return "duplicate", 0, 0
        if known is not None:
            already = max(0, min(known.list_cost, known.hold_amount) - known.cost)
            extra = max(0, min(cost - known.cost - already, self.free))
            lost = max(0, cost - known.cost - already - extra)
            self.charge(extra)
            self.lost += lost
            self.used[pk] = Used(known.cost + extra, cost, known.hold_amount, known.key, known.started, tokens)
            return "overrun", extra, lost
        return "settled", *self.book(pk, Used(0, cost, hold.amount if hold else 0, key, started, tokens), cost)

    def book(self, pk: Any, used: Used, cost: int) -> tuple[int, int]:
        used.cost = max(0, min(cost, self.free))
        self.charge(used.cost)
        self.lost += cost - used.cost
        self.used[pk] = used
        return used.cost, cost - used.cost

    def charge(self, amount: int) -> None:
        assert amount <= max(self.balance, 0)
        self.burn(amount)
        self.balance -= amount

    def sweep(self, owner: int) -> None:
        for pk, hold in sorted(self.held.items(), key=lambda item: item[1].started):
            if hold.owner == owner:
                del self.held[pk]
                tokens = hold.tokens if hold.accrued else (0, 0)
                self.book(
                    pk, Used(0, hold.accrued, hold.amount, hold.key, hold.started, tokens, swept=True), min(hold.accrued, hold.amount)
                )
