"""The fake Stripe as a process of its own, with a temper: deliveries come twice, late, in any order or not at all, and calls get lost.

python -m tests.faults.chaos.bank DELIVER_TO SECRET SEED     # prints {"base_url", "api_key"}; on its input "calm" ends the temper, "forget" all
"""

import json
import random
import sys
import threading
import time

from tests.fakes.stripe import FakeStripe

MOOD_SECONDS = 0.3
CALLS = ("POST /v1/checkout/sessions", "POST /v1/payment_intents", "POST /v1/refunds", "GET /v1/", "GET /v1/payment_intents")


class Bank:
    """A fake Stripe and its moods."""

    def __init__(self, deliver_to: str, secret: str, seed: int) -> None:
        self.dice = random.Random(seed)
        self.fake = FakeStripe(deliver_to=deliver_to, secret=secret, automatic=True)
        self.calm = threading.Event()

    def run(self) -> None:
        """Serve until the input ends."""
        self.fake.start()
        print(json.dumps({"base_url": self.fake.base_url, "api_key": self.fake.api_key}), flush=True)
        threading.Thread(target=self._moods, daemon=True).start()
        for line in sys.stdin:
            if line.strip() == "calm":
                self.calm.set()
            else:
                self._forget()
        self.fake.stop()

    def _moods(self) -> None:
        knobs = self.fake.knobs
        knobs.shuffle = random.Random(self.dice.random())
        knobs.retries = 1
        knobs.drop = lambda _event: not self.calm.is_set() and self.dice.random() < 0.15
        while True:
            time.sleep(MOOD_SECONDS)
            if self.calm.is_set():
                knobs.copies, knobs.delay_seconds, knobs.signed_with = 1, 0, "current"
                self.fake.set(twin_events=False)
                with self.fake.store.lock:
                    self.fake._breakages.clear()
                continue
            knobs.copies = self.dice.choice((1, 1, 2, 3))
            knobs.delay_seconds = self.dice.choice((0, 0, 0.2, 1))
            knobs.signed_with = self.dice.choice(("current", "current", "both"))
            self.fake.set(twin_events=self.dice.random() < 0.2, refund_status=self.dice.choice(("succeeded", "succeeded", "pending")))
            if self.dice.random() < 0.3:
                self.fake.break_next(self.dice.choice(CALLS), self.dice.choice(("lost", "reset", "500", "429")))

    def _forget(self) -> None:
        """Begin anew with empty books, in a temper."""
        self.fake.forget_pending()
        with self.fake.store.lock:
            for objects in self.fake.store.objects.values():
                objects.clear()
        self.calm.clear()


if __name__ == "__main__":
    Bank(sys.argv[1], sys.argv[2], int(sys.argv[3])).run()
