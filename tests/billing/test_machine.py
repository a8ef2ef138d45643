"""The ledger machine: any history of deeds against a small model in plain Python, with the audit after every step."""

import os
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from billing import ledger
from billing.models import CreditGrant, HoldOwner, Wallet
from tests.billing.desk import MONTH, NEXT_MONTH, NOW, Desk, day
from tests.billing.wallet_model import Given, Model

AMOUNTS = st.integers(0, 60)
TOKENS = st.integers(0, 30)
LIMITS = st.none() | st.integers(0, 60)
DAYS = st.sampled_from([1, 2, (NEXT_MONTH - MONTH).days, (NEXT_MONTH - MONTH).days + 1])  # to the month's end and beyond


class Money(RuleBasedStateMachine):
    requests = Bundle("requests")

    @initialize()
    def open(self) -> None:
        self.model = Model()
        self.desk = Desk()
        self.keys = [self.desk.key, self.desk.make_key()]
        self.owners = [self.desk.owner, self.desk.make_owner()]
        self.plans = [self.desk.make_plan(input_tokens=None, output_tokens=None)]
        self.seconds = 0
        self.credit_(100, "paid", None)

    def teardown(self) -> None:
        if hasattr(self, "desk"):
            self.desk.close()

    # -- requests

    @rule(target=requests, key=st.integers(0, 1), owner=st.integers(0, 1), on=DAYS)
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

    @rule(tokens_in=LIMITS, tokens_out=LIMITS)
    def set_quota(self, tokens_in: int | None, tokens_out: int | None) -> None:
        plan = self.plans[-1]
        plan.monthly_input_tokens, plan.monthly_output_tokens = tokens_in, tokens_out
        plan.save()
        self.model.plans[-1] = (self.model.plans[-1][0], (tokens_in, tokens_out))

    @rule(tokens_in=LIMITS, tokens_out=LIMITS, on=DAYS)
    def change_plan(self, tokens_in: int | None, tokens_out: int | None, on: int) -> None:
        self.seconds += 1
        starts_at = day(on) + timedelta(seconds=self.seconds)
        plan = self.desk.make_plan(input_tokens=tokens_in, output_tokens=tokens_out, starts_at=starts_at)
        self.plans.append(plan)
        self.model.plans.append((starts_at, (tokens_in, tokens_out)))

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
    """Longer with `make machine`."""
    run_state_machine_as_test(
        Money,
        settings=settings(
            max_examples=int(os.environ.get("MACHINE_EXAMPLES", "8")),
            stateful_step_count=int(os.environ.get("MACHINE_STEPS", "30")),
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
