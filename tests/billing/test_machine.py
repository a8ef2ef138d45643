"""The ledger machine: any history of deeds against a small model in plain Python, with the audit after every step."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from billing import ledger
from billing.models import CreditGrant, HoldOwner, Wallet
from tests.billing.desk import MONTH, NOW, Desk, day, window

AMOUNTS = st.integers(0, 60)
TOKENS = st.integers(0, 30)


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
        self.quota: tuple[int | None, int | None] = (None, None)

    @property
    def free(self) -> int:
        return self.balance - sum(hold.amount for hold in self.held.values())

    def left_of_budget(self, key: int, limit: int, period: tuple[datetime, datetime]) -> int:
        spent = sum(used.cost for used in self.used.values() if used.key == key and period[0] <= used.started < period[1])
        return limit - spent - sum(hold.amount for hold in self.held.values() if hold.key == key and hold.budget == period)

    def quota_is_spent(self, wanted: tuple[int, int]) -> bool:
        for side in (0, 1):
            limit = self.quota[side]
            taken = sum(used.tokens[side] for used in self.used.values()) + sum(
                hold.quota[side] for hold in self.held.values() if hold.quota
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
        has_quota = self.quota != (None, None)
        if has_quota and self.quota_is_spent(tokens):
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


class Money(RuleBasedStateMachine):
    requests = Bundle("requests")

    @initialize()
    def open(self) -> None:
        self.model = Model()
        self.desk = Desk()
        self.keys = [self.desk.key, self.desk.make_key()]
        self.owners = [self.desk.owner, self.desk.make_owner()]
        self.plan = self.desk.make_plan(input_tokens=None, output_tokens=None)
        self.seconds = 0
        self.credit_(100, "paid", None)

    def teardown(self) -> None:
        if hasattr(self, "desk"):
            self.desk.close()

    # -- requests

    @rule(target=requests, key=st.integers(0, 1), owner=st.integers(0, 1), on=st.integers(1, 2))
    def begin(self, key: int, owner: int, on: int) -> tuple[Any, int, int, datetime]:
        self.seconds += 1
        started = day(on) + timedelta(seconds=self.seconds)
        return self.desk.request(0, started=started)["id"], key, owner, started

    @rule(
        batch=st.lists(
            st.tuples(requests, AMOUNTS, st.integers(1, 20), TOKENS, TOKENS), min_size=1, max_size=3, unique_by=lambda item: item[0]
        )
    )
    def place(self, batch: list[Any]) -> None:
        wanted, expected = [], []
        for (pk, key, owner, started), amount, least, tokens_in, tokens_out in batch:
            wanted.append(
                self.desk.request(
                    amount,
                    id=pk,
                    key=self.keys[key],
                    started=started,
                    owner=self.owners[owner],
                    least=min(least, amount),
                    tokens_in=tokens_in,
                    tokens_out=tokens_out,
                )
            )
            if pk in self.model.used:  # an id is used once: what is over does not begin again
                wanted.pop()
                continue
            expected.append(
                self.model.place(
                    pk, key, amount=amount, least=min(least, amount), tokens=(tokens_in, tokens_out), started=started, owner=owner
                )
            )
        assert [(answer.outcome, answer.granted) for answer in self.desk.place(*wanted)] == expected

    @rule(batch=st.lists(st.tuples(requests, AMOUNTS, AMOUNTS, TOKENS, TOKENS), min_size=1, max_size=3))
    def grow(self, batch: list[Any]) -> None:
        rows = [
            {"id": request[0], "amount": amount, "accrued": accrued, "input_tokens": tokens_in, "output_tokens": tokens_out}
            for request, amount, accrued, tokens_in, tokens_out in batch
        ]
        expected = [self.model.grow(request[0], amount, accrued, (tin, tout)) for request, amount, accrued, tin, tout in batch]
        assert self.desk.grow(*rows) == expected

    @rule(batch=st.lists(st.tuples(requests, AMOUNTS, TOKENS, TOKENS), min_size=1, max_size=3), again=st.booleans())
    def settle(self, batch: list[Any], *, again: bool) -> None:
        records, expected, seen = [], [], set()
        for (pk, key, _owner, started), cost, tokens_in, tokens_out in batch:
            request = self.desk.request(0, id=pk, key=self.keys[key], started=started)
            records.append(self.desk.record(request, cost, input_tokens=tokens_in, output_tokens=tokens_out))
            expected.append(("duplicate", 0, 0) if pk in seen else self.model.settle(pk, key, started, cost, (tokens_in, tokens_out)))
            seen.add(pk)
        assert [(booked.outcome, booked.charged, booked.written_off) for booked in self.desk.settle(*records)] == expected
        if again:
            assert {booked.outcome for booked in self.desk.settle(*records)} == {"duplicate"}

    @rule(request=requests)
    def release(self, request: Any) -> None:
        expected = "duplicate" if request[0] in self.model.used else "released"
        self.model.held.pop(request[0], None)
        assert self.desk.release({"id": request[0]}).outcome == expected

    @rule(owner=st.integers(0, 1))
    def owner_dies(self, owner: int) -> None:
        self.desk.kill_owner(self.owners[owner])
        self.desk.sweep()
        HoldOwner.objects.filter(boot_id=self.owners[owner]).update(lease_until=NOW + timedelta(days=1))
        self.model.sweep(owner)

    # -- money

    @rule(amount=st.integers(1, 100), kind=st.sampled_from(["paid", "promo", "plan"]), days=st.none() | st.integers(1, 3))
    def credit(self, amount: int, kind: str, days: int | None) -> None:
        self.credit_(amount, kind, days)

    def credit_(self, amount: int, kind: str, days: int | None) -> None:
        expires = None if days is None else NOW + timedelta(days=days)
        details = {"kind": kind, "source_id": f"{self.desk.slug}-{self.desk.wallet.version}", "expires_at": expires}
        first, second = (self.desk.credit(amount, **details) for _ in range(2))
        assert first.pk == second.pk
        grant = CreditGrant.objects.get(transfer=first)
        self.model.grants.append(Given(grant.pk, max(0, amount + min(self.model.balance, 0)), grant.priority, expires))
        self.model.balance += amount

    @rule(amount=st.integers(1, 80), allow_debt=st.booleans())
    def debit(self, amount: int, *, allow_debt: bool) -> None:
        details = {"source_id": f"{self.desk.slug}-{self.desk.wallet.version}", "allow_debt": allow_debt}
        if amount > self.model.free and not allow_debt:
            with pytest.raises(ledger.InsufficientBalance):
                self.desk.debit(amount, **details)
            return
        for _ in range(2):
            self.desk.debit(amount, **details)
        self.model.burn(min(amount, max(self.model.balance, 0)))
        self.model.balance -= amount

    @rule(days=st.integers(1, 3))
    def expire(self, days: int) -> None:
        now = NOW + timedelta(days=days)
        ledger.expire_grants(now=now, limit=1000)
        due = [given for given in self.model.grants if given.expires is not None and given.expires <= now]
        for given in sorted(due, key=lambda each: (each.expires or now, each.grant)):
            gone = max(0, min(given.remaining, self.model.free))
            given.remaining -= gone
            self.model.balance -= gone

    # -- limits

    @rule(key=st.integers(0, 1), budget=st.none() | st.tuples(st.integers(0, 80), st.sampled_from(["day", "month", "total"])))
    def set_budget(self, key: int, budget: tuple[int, str] | None) -> None:
        row = self.keys[key]
        row.budget_nano, row.budget_window = budget or (None, "month")
        row.save(update_fields=["budget_nano", "budget_window"])
        self.model.budgets[key] = budget

    @rule(tokens_in=st.none() | st.integers(0, 60), tokens_out=st.none() | st.integers(0, 60))
    def set_quota(self, tokens_in: int | None, tokens_out: int | None) -> None:
        self.plan.monthly_input_tokens, self.plan.monthly_output_tokens = tokens_in, tokens_out
        self.plan.save()
        self.model.quota = (tokens_in, tokens_out)

    @rule(key=st.integers(0, 1))
    def revoke_key(self, key: int) -> None:
        self.keys[key].revoked_at = MONTH
        self.keys[key].save(update_fields=["revoked_at"])
        self.model.stopped.add(key)

    @precondition(lambda self: self.model.stopped)
    @rule()
    def issue_keys_anew(self) -> None:
        for key in self.keys:
            key.revoked_at = None
            key.save(update_fields=["revoked_at"])
        self.model.stopped.clear()

    @rule(status=st.sampled_from([Wallet.Status.ACTIVE, Wallet.Status.ACTIVE, Wallet.Status.FROZEN]))
    def set_status(self, status: Wallet.Status) -> None:
        ledger.set_status(wallet_id=self.desk.wallet_id, status=status, actor="alice", note="")
        self.model.status = str(status)

    # -- what must always be so

    @invariant()
    def database_is_what_the_model_says(self) -> None:
        if not hasattr(self, "desk"):
            return
        wallet = self.desk.wallet
        assert (wallet.balance, wallet.free) == (self.model.balance, self.model.free)
        remaining = dict(CreditGrant.objects.filter(wallet=wallet).values_list("pk", "remaining"))
        assert remaining == {given.grant: given.remaining for given in self.model.grants}
        assert sum(transfer.amount for transfer in self.desk.transfers("writeoff")) == self.model.lost
        assert self.desk.audit() == []


def test_any_history_of_money_adds_up() -> None:
    run_state_machine_as_test(
        Money,
        settings=settings(
            max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
        ),
    )
