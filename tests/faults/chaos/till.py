"""The customers who pay, the banks who take money back, and the staff: threads that do deeds at random and ask again until they are done."""

import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.faults.chaos.opening import SOLD
from tests.faults.chaos.servers import request

THREADS = 4
PATIENCE_SECONDS = 20.0
PAUSE_SECONDS = 0.25
NUMBERS = ("4242424242424242",) * 5 + ("4000000000000002", "4000002760003184", "bank")
SAVED = ("4242424242424242",) * 3 + ("4000000000000341", "4000002760003184")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@dataclass
class Till:
    """The people of one run, and what they were promised."""

    port: int
    stripe_url: str
    stripe_key: str
    payers: Sequence[int]  # accounts, of all kinds
    automatic: Sequence[int]  # those that agree to automatic top-ups
    codes: Sequence[str]
    plans: Sequence[str]
    subscribers: Sequence[int]
    seed: int
    done: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    promised: dict[str, str] = field(default_factory=dict)  # transfers whose booking was acknowledged, and by what
    paid: list[tuple[str, str]] = field(default_factory=list)  # top-ups and payment intents of finished pages
    problems: list[str] = field(default_factory=list)
    _next_code: int = 0

    def put_on_sale(self) -> None:
        """Make the prices of the plans that are sold, as the operator does once."""
        for slug, (usd, _included) in SOLD.items():
            asked = {
                "currency": "usd",
                "unit_amount": str(usd * 100),
                "recurring[interval]": "month",
                "product_data[name]": slug,
                "metadata[plan]": slug,
            }
            while not (price := self._stripe("POST", "/v1/prices", asked)):
                time.sleep(0.1)
            self.ask("sell", plan=slug, price=price["id"])

    def run(self, stop: threading.Event) -> None:
        """Do deeds in threads until told to stop."""
        threads = [threading.Thread(target=self._person, args=(random.Random(self.seed * 100 + n), stop)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _person(self, dice: random.Random, stop: threading.Event) -> None:
        deeds = [deed for deed, weight in WEIGHTS for _ in range(weight)]
        while not stop.wait(dice.uniform(0, PAUSE_SECONDS)):
            deed = dice.choice(deeds)
            try:
                deed(self, dice)
            except Exception as error:  # a defect of the harness must not pass for a quiet run
                self.problems.append(f"{deed.__name__}: {error!r}")
                return
            self.done[deed.__name__] += 1

    # -- customers

    def top_up(self, dice: random.Random) -> None:
        """Open a page, pay there (or not), and come back (or not)."""
        id_ = str(uuid.UUID(int=dice.getrandbits(128), version=4))
        opened = self.ask("top_up", id=id_, account=dice.choice(self.payers), usd=dice.randint(5, 60))
        if opened is None or dice.random() < 0.1:
            return
        number = dice.choice(NUMBERS)
        form = {"number": number, "method": "bank_debit" if number == "bank" else "card", "email": "a@chaos.test"}
        for consent in ("complete" if dice.random() < 0.8 else "fail", "complete"):
            self._page(opened["url"], form if number != "4000002760003184" else {**form, "consent": consent})
        session = self._stripe("GET", f"/v1/checkout/sessions/{opened['session']}")
        intent = str(session.get("payment_intent") or "")
        if number == "bank" and intent:
            self._lever(intent, "settle" if dice.random() < 0.7 else "bounce")
        if intent and session.get("payment_status") == "paid":
            self.paid.append((id_, intent))
        if dice.random() < 0.5:
            self.ask("come_back", id=id_)

    def agree(self, dice: random.Random) -> None:
        """Save a card and agree to automatic top-ups."""
        account = dice.choice(self.automatic)
        opened = self.ask("save_card", account=account)
        if opened is None:
            return
        form = {"number": dice.choice(SAVED), "method": "card", "email": "a@chaos.test", "consent": "complete"}
        self._page(opened["url"], form)
        session = self._stripe("GET", f"/v1/checkout/sessions/{urlsplit(opened['url']).path.rpartition('/')[2]}")
        self.ask("agree", account=account, usd=dice.randint(5, 20), below_usd=dice.randint(1, 50), setup_intent=session.get("setup_intent"))

    def redeem(self, dice: random.Random) -> None:
        """Redeem the code that everybody is redeeming just now."""
        self._next_code += dice.random() < 0.4
        code = self.codes[self._next_code % len(self.codes)]
        self._promise("redeem", self.ask("redeem", account=dice.choice(self.payers), code=code))

    def change_plan(self, dice: random.Random) -> None:
        """Go to another plan."""
        self.ask("change_plan", account=dice.choice(self.payers), plan=dice.choice(self.plans))

    def subscribe(self, dice: random.Random) -> None:
        """Buy a plan, change it, cancel it, or take that back."""
        account, plan = dice.choice(self.subscribers), dice.choice(sorted(SOLD))
        what = dice.choice(("subscribe", "subscribe", "change_subscription", "change_subscription", "cancel", "resume"))
        if what in {"cancel", "resume"}:
            self.ask(what, account=account)
            return
        opened = self.ask(what, account=account, plan=plan)
        if opened and "url" in opened:
            self._page(opened["url"], {"number": dice.choice(NUMBERS[:6]), "method": "card", "email": "a@chaos.test"})

    def consent(self, _dice: random.Random) -> None:
        """Answer the banks' questions about automatic top-ups."""
        for intent in self._stripe("GET", "/v1/payment_intents?limit=20").get("data", []):
            if intent["status"] == "requires_action":
                request(self._stripe_port, "POST", f"/consent/{intent['id']}", urlencode({"consent": "complete"}), FORM)

    # -- banks

    def take_back(self, dice: random.Random) -> None:
        """Refund a part from Stripe's dashboard, let a refund fail, open a dispute or decide one."""
        if not self.paid:
            return
        _, intent = dice.choice(self.paid[-40:])
        what = dice.choice(("refund", "refund", "dispute", "decide", "fail"))
        if what == "refund":
            self._stripe("POST", "/v1/refunds", {"payment_intent": intent, "amount": str(dice.randint(100, 2000))})
        elif what == "dispute":
            self._lever(intent, "dispute")
        elif what == "decide":
            for dispute in self._stripe("GET", "/v1/disputes?limit=20").get("data", []):
                if dispute["status"] not in {"won", "lost"} and dice.random() < 0.5:
                    self._lever(dispute["id"], dice.choice(("win", "win", "lose")))
        else:
            for refund in self._stripe("GET", f"/v1/refunds?limit=20&payment_intent={intent}").get("data", []):
                if refund["status"] in {"succeeded", "pending"} and dice.random() < 0.5:
                    self._lever(refund["id"], "fail")

    # -- staff and the clock

    def refund(self, dice: random.Random) -> None:
        """Refund a part by hand, twice with the same form."""
        if self.paid:
            id_, _ = dice.choice(self.paid[-40:])
            key = str(uuid.UUID(int=dice.getrandbits(128), version=4))
            amount = dice.randint(100, 1500)
            for _ in range(dice.choice((1, 2))):
                self.ask("refund", id=id_, amount_minor=amount, key=key)

    def adjust(self, dice: random.Random) -> None:
        """Credit or debit by hand, sometimes twice with the same form."""
        fields = {
            "id": str(uuid.UUID(int=dice.getrandbits(128), version=4)),
            "account": dice.choice([*self.payers, *self.automatic]),
            "kind": dice.choice(("promo", "paid", "debit", "debit")),
            "amount_nano": dice.randint(1, 40_000_000_000),
        }
        for _ in range(dice.choice((1, 1, 2))):
            self._promise("adjust", self.ask("adjust", **fields))

    def grant(self, dice: random.Random) -> None:
        """Give credit that expires within seconds."""
        id_ = str(uuid.UUID(int=dice.getrandbits(128), version=4))
        amount, seconds = dice.randint(1, 3_000_000_000), dice.choice((1, 3, 3600))
        for _ in range(dice.choice((1, 2))):
            made = self.ask("grant", id=id_, account=dice.choice(self.payers[:1]), amount_nano=amount, seconds=seconds)
            self._promise("grant", made)

    def clock(self, dice: random.Random) -> None:
        """What tasks do, more often than they are due."""
        self.ask(dice.choice(("expire", "sweep", "refill", "refill", "refill", "drain", "attend", "fetch_events")))

    # -- asking

    def ask(self, deed: str, **fields: Any) -> Any:
        """Do a deed, again and again with the same ids until it is done; None when it was refused, or for too long nobody answered."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            status, body = request(self.port, "POST", f"/chaos/{deed}", fields)
            if status == 200:
                return json.loads(body)
            if status == 409:
                refused = json.loads(body)
                self.done[f"{deed}: {refused['refused']}"] += 1
                self.refusals[f"{deed}: {refused['text']}"] += 1
                return None
            time.sleep(0.1)
        self.done[f"{deed}: no answer"] += 1
        return None

    def _promise(self, what: str, answer: Any) -> None:
        if answer is not None and answer["transfer"] != "None":
            self.promised[answer["transfer"]] = what

    @property
    def _stripe_port(self) -> int:
        return int(urlsplit(self.stripe_url).port or 0)

    def _page(self, url: str, form: dict[str, str]) -> None:
        request(self._stripe_port, "POST", urlsplit(url).path, urlencode(form), FORM)

    def _lever(self, id_: str, deed: str) -> None:
        request(self._stripe_port, "POST", "/simulator", urlencode({"id": id_, "deed": deed}), FORM)

    def _stripe(self, method: str, path: str, params: dict[str, str] | None = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.stripe_key}", **FORM}
        status, body = request(self._stripe_port, method, path, urlencode(params) if params else None, headers)
        found: dict[str, Any] = json.loads(body) if status == 200 else {}
        return found


WEIGHTS: tuple[tuple[Callable[[Till, random.Random], None], int], ...] = (
    (Till.top_up, 8),
    (Till.agree, 1),
    (Till.redeem, 3),
    (Till.change_plan, 1),
    (Till.subscribe, 3),
    (Till.consent, 1),
    (Till.take_back, 4),
    (Till.refund, 2),
    (Till.adjust, 4),
    (Till.grant, 2),
    (Till.clock, 4),
)
