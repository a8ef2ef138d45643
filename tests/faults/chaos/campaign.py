"""One run: servers, people, kills, quiet, and the verdict."""

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

import psycopg
from psycopg.types.json import Json

from tests.faults.chaos import failpoints
from tests.faults.chaos.films import Films
from tests.faults.chaos.load import Load
from tests.faults.chaos.servers import VICTIMS, Servers
from tests.faults.chaos.till import Till
from tests.faults.chaos.verdict import Verdict, judge

# How often each is drawn: what is back at once more often than what takes seconds.
DRAWN = (
    *("web worker",) * 5,
    *("celery", "web", "postgres", "valkey") * 2,
    "postgres, then web",
    *("failpoint",) * 14,
)
ARMED_AT_ONCE = 6
FAILPOINT_SECONDS = 2.0
CALM_SECONDS = 90.0


class Campaign:
    """A run with servers that have begun anew; a seed fixes the order of victims, moments and deeds."""

    def __init__(self, servers: Servers, *, seed: int, audit_every: int = 20, say: Callable[[str], None] = lambda _line: None) -> None:
        self.servers = servers
        self.dice = random.Random(seed)
        self.audit_every = audit_every
        self.say = say
        self.kills: Counter[str] = Counter()
        self.audits = 0
        self.problems: list[str] = []
        shop, port = servers.shop, servers.port
        self.load = Load(port, shop["secrets"], shop["models"], seed)
        self.films = Films(port, shop["directors"], shop["films"], seed)
        self.till = Till(
            port, servers.stripe_url, servers.stripe_key, shop["payers"], shop["automatic"], shop["codes"], shop["plans"], shop["subscribers"], seed
        )  # fmt: skip

    def run(self, victims: Sequence[str], *, seconds: float = float("inf")) -> Verdict:
        """A round for each of `victims`, as far as `seconds` allow, then quiet, then the verdict; what an audit under way finds ends it at once."""
        try:
            self.servers.start_web()
            self.servers.start_celery()
            self.till.put_on_sale()
            self._rounds(victims, seconds)
            if self.problems:
                return Verdict(self.problems, {"kills": dict(self.kills)})
            self._calm_down()
            return self._judge()
        finally:
            self.servers.stop_product()

    def _rounds(self, victims: Sequence[str], seconds: float) -> None:
        """People in threads of their own; kills from this one, because a server dies with the thread that started it."""
        stop = threading.Event()
        threads = [threading.Thread(target=each.run, args=(stop,)) for each in (self.load, self.films, self.till)]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        try:
            for number, victim in enumerate(victims, start=1):
                time.sleep(self.dice.uniform(0.05, 0.4))
                self._kill(victim)
                self._redeliver()
                self.servers.mend()
                if number % self.audit_every == 0:
                    self._audit(number)
                    self.say(f"{number} rounds, {time.monotonic() - began:.0f} s, {len(self.problems)} problems")
                if self.problems or time.monotonic() - began > seconds:
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
        folder = self.servers.failpoints
        points = list(failpoints.POINTS)
        self.dice.shuffle(points)
        armed = sorted(points, key=lambda point: self.kills[f"at {point}"])[:ARMED_AT_ONCE]  # those that were met least
        for point in armed:
            failpoints.arm(folder, point)
        deadline = time.monotonic() + FAILPOINT_SECONDS
        while all((folder / point).exists() for point in armed) and time.monotonic() < deadline:
            time.sleep(0.01)
        died = [point for point in armed if not failpoints.disarm(folder, point)]
        self.kills.update(f"at {point}" for point in died)
        if not died:  # nobody came there in time
            self.servers.kill("web worker")
            self.kills["web worker"] += 1

    def _redeliver(self) -> None:
        """Settle a few requests once more, as a process does that never heard whether PostgreSQL committed."""
        with suppress(psycopg.OperationalError), self.servers.sql() as database:  # PostgreSQL may just be coming back
            rows = database.execute(
                "SELECT jsonb_agg(to_jsonb(u) || jsonb_build_object('id', request_id, 'account', account_id, 'key', key_id, 'price', price_id,"
                " 'started', started_at, 'ended', ended_at)) FROM (SELECT * FROM billing_usagerecord WHERE status <> 'swept' AND cost > 0"
                " ORDER BY request_id DESC LIMIT 3) u"
            ).fetchone()
            if rows is not None and rows[0] is not None:
                database.execute("SELECT * FROM billing_settle(%s::jsonb, %s, now())", [Json(rows[0]), uuid.uuid4()])

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
            servers.mend()
            for deed in ("sweep", "fetch_events", "drain", "refill", "ask_about", "attend", "expire", "look_after_videos"):
                servers.do(deed)
            left = servers.do("unfinished")
            states.append(left)
            return not left["holds"] and not left["events"] and not left["videos"] and not list(servers.spool.glob("settle-*"))

        def is_all_handled() -> bool:
            """What was fetched last may be in the hands of a web process that is not through with it."""
            servers.do("drain")
            return not servers.do("unfinished")["events"]

        states: list[object] = []
        try:
            servers.wait_until(is_quiet, "nothing is under way any more", seconds=CALM_SECONDS, of=states)
            servers.do("fetch_events")
            servers.wait_until(is_all_handled, "every event is handled", seconds=CALM_SECONDS, of=states)
            if differences := servers.do("compare")["differences"]:
                self.problems.append(f"Stripe's list differs: {differences}")
        except TimeoutError as error:
            self.problems.append(str(error))

    def _judge(self) -> Verdict:
        self._audit(sum(self.kills.values()))
        with self.servers.sql() as database:
            verdict = judge(database, self.load, self.films, self.till, postgres_deaths=self.servers.postgres_deaths)
        verdict.problems = [*self.problems, *verdict.problems]
        verdict.figures = {"kills": dict(self.kills), "audits under way": self.audits, **verdict.figures}
        return verdict
