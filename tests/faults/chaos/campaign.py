"""One run: servers, people, kills, quiet, and the verdict."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.faults.chaos import bugs, failpoints
from tests.faults.chaos.load import UPSTREAM_MODELS, Load
from tests.faults.chaos.servers import VICTIMS, Servers
from tests.faults.chaos.till import Till
from tests.faults.chaos.verdict import Verdict, judge

# How often each is drawn: what is back at once more often than what takes seconds.
DRAWN = (
    *("web worker",) * 5,
    *("celery", "web", "postgres", "valkey") * 2,
    "postgres, then web",
    *failpoints.POINTS,
)
FAILPOINT_SECONDS = 2.0
CALM_SECONDS = 90.0


class Campaign:
    """A run in a folder of its own; a seed fixes the order of victims, moments and deeds."""

    def __init__(self, folder: Path, *, seed: int, bug: str = "", audit_every: int = 20, say: Callable[[str], None] = lambda _line: None) -> None:
        self.dice = random.Random(seed)
        self.seed = seed
        self.bug = bug
        self.audit_every = audit_every
        self.say = say
        self.kills: Counter[str] = Counter()
        self.audits = 0
        self.problems: list[str] = []
        self.servers = Servers(folder, seed=seed, bug=bug if bug in bugs.IN_PYTHON else "")

    def run(self, victims: Sequence[str]) -> Verdict:
        """Everything, in order: a round for each of `victims`."""
        try:
            self.servers.start()
            self._prepare()
            self.servers.load_product()
            self.servers.start_web()
            self.servers.start_celery()
            self._rounds(victims)
            self._calm_down()
            return self._judge()
        finally:
            self.servers.stop()

    def _prepare(self) -> None:
        """Migrate, break what is to be broken, and open accounts: some rich, some soon spent, some with a budget, some that pay."""
        self.servers.manage("migrate", "--verbosity", "0")
        if self.bug in bugs.IN_SQL:
            with self.servers.sql() as database:
                bugs.plant_in_sql(self.bug, database)
        program = _SEED.format(base_url=self.servers.provider.base_url, upstream_models=UPSTREAM_MODELS)
        secrets, models, payers, automatic, codes, plans = (
            line.split() for line in self.servers.manage("shell", "-v", "0", "-c", program).splitlines()[-6:]
        )
        self.load = Load(self.servers.port, secrets, models, self.seed)
        self.till = Till(
            self.servers.port,
            self.servers.stripe_url,
            self.servers.stripe_key,
            [int(pk) for pk in payers],
            [int(pk) for pk in automatic],
            codes,
            plans,
            self.seed,
        )

    def _rounds(self, victims: Sequence[str]) -> None:
        """People in threads of their own; kills from this one, because a server dies with the thread that started it."""
        stop = threading.Event()
        threads = [threading.Thread(target=each.run, args=(stop,)) for each in (self.load, self.till)]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        try:
            for number, victim in enumerate(victims, start=1):
                time.sleep(self.dice.uniform(0.05, 0.4))
                self._kill(victim)
                self.servers.mend()
                if number % self.audit_every == 0:
                    self._audit(number)
                    self.say(f"{number} rounds, {time.monotonic() - began:.0f} s, {len(self.problems)} problems")
                if self.problems:
                    break
            time.sleep(0.3)
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _kill(self, victim: str) -> None:
        if victim in VICTIMS:
            self.servers.kill(victim)
            self.kills[victim] += 1
            return
        failpoints.arm(self.servers.failpoints, victim)
        deadline = time.monotonic() + FAILPOINT_SECONDS
        while (self.servers.failpoints / victim).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        if failpoints.disarm(self.servers.failpoints, victim):
            self.servers.kill("web worker")  # nobody came there in time
            self.kills["web worker"] += 1
        else:
            self.kills[f"at {victim}"] += 1

    def _audit(self, number: int) -> None:
        """Check the invariants beside the traffic: they hold at every moment, not only in the end."""
        drifts = self.servers.do("audit")["drifts"]
        self.audits += 1
        self.problems += [f"after {number} rounds: {drift}" for drift in drifts]

    def _calm_down(self) -> None:
        """Wait until nothing is under way: requests settled or swept, events fetched and handled, open top-ups asked about."""
        servers = self.servers
        servers.calm_the_bank()

        def is_quiet() -> bool:
            for deed in ("fetch_events", "drain", "refill", "ask_about", "expire"):
                servers.do(deed)
            left = servers.do("unfinished")
            states.append(left)
            return not left["holds"] and not left["events"] and not list(servers.spool.glob("settle-*"))

        states: list[object] = []
        try:
            servers.wait_until(is_quiet, "nothing is under way any more", seconds=CALM_SECONDS, of=states)
            servers.do("fetch_events")
            servers.do("drain")
            if differences := servers.do("compare")["differences"]:
                self.problems.append(f"Stripe's list differs: {differences}")
        except TimeoutError as error:
            self.problems.append(str(error))

    def _judge(self) -> Verdict:
        self._audit(sum(self.kills.values()))
        with self.servers.sql() as database:
            verdict = judge(database, self.load, self.till)
        verdict.problems = [*self.problems, *verdict.problems]
        verdict.figures = {"kills": dict(self.kills), "audits under way": self.audits, **verdict.figures}
        return verdict


_SEED = """
from datetime import timedelta
from django.utils import timezone
from accounts.models import User
from billing.gifts import codes
from billing.models import Plan
from tests import conftest
User.objects.create_user("staff@chaos.test", is_staff=True, is_superuser=True)
spenders = [conftest.make_customer(usd=usd, **fields) for usd, fields in (
    ("50", {{}}), ("50", {{"budget_nano": 20_000_000}}), ("0.02", {{}}), ("0.002", {{}}), ("50", {{"budget_nano": 10**12, "budget_window": "day"}}))]
payers = [conftest.make_customer(usd="1") for _ in range(4)]
automatic = [conftest.make_customer(usd="1") for _ in range(2)]
models = [conftest.make_model({base_url!r}, name) for name in {upstream_models!r}]
made = codes.create_codes(count=300, amount_nano=700_000_000, most_uses=3, user=None, now=timezone.now())
plans = [Plan.objects.create(slug=slug, monthly_output_tokens=tokens) for slug, tokens in (("chaos-a", None), ("chaos-b", 10**9))]
print(*(one.secret for one in (*spenders, *payers, *automatic)))
print(*models)
print(*(one.account.pk for one in payers))
print(*(one.account.pk for one in automatic))
print(*(one.code for one in made))
print(*(plan.slug for plan in plans))
"""
