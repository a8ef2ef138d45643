"""Signed delivery of events to webhook URLs, and every way in which it may go wrong."""

import hashlib
import hmac
import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.fakes.stripe.shapes import Json

WRONG_SECRET = "whsec_this_is_not_the_secret"
_TIMEOUT_SECONDS = 10.0


@dataclass
class Knobs:
    """How deliveries differ from one clean copy each, in order, at once. Change them at any time; they meet what is delivered afterwards."""

    copies: int = 1  # how often each event is delivered; 0 drops it (it stays to be listed)
    drop: Callable[[Json], bool] | None = None  # which events never arrive
    shuffle: random.Random | None = None  # the order of each batch
    delay_seconds: float = 0.0  # before each automatic delivery
    signed_with: str = "current"  # "current", "old", "wrong", "both" (a rotation under way), "none" (no header)
    livemode: bool | None = None  # what the payload claims
    api_version: str | None = None  # what the payload claims
    age_seconds: float = 0.0  # how old (negative: how far ahead) the signature's time is
    retries: int = 5  # after an answer that is no 2xx, when delivery is automatic
    retry_seconds: float = 0.2  # before the first retry; doubles


@dataclass(frozen=True)
class Delivery:
    """One attempt: the event, and what was answered (0: nothing)."""

    event_id: str
    type: str
    url: str
    status: int


@dataclass
class Deliveries:
    """The events that wait for delivery, and a thread that delivers them when `automatic`."""

    urls: list[str]
    secret: str
    old_secret: str
    automatic: bool
    delivered: Callable[[str], None]
    knobs: Knobs = field(default_factory=Knobs)
    attempts: list[Delivery] = field(default_factory=list)
    _pending: list[tuple[float, int, Json]] = field(default_factory=list)  # when it is due, how often it was tried, the event
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _stopped: bool = False
    _busy: bool = False
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the delivering thread."""
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="fake-stripe-deliveries", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what waits goes on waiting."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread:
            self._thread.join(_TIMEOUT_SECONDS)
            self._thread = None

    def hear(self, event: Json) -> None:
        """Take an event to be delivered."""
        with self._changed:
            self._pending.append((time.monotonic() + self.knobs.delay_seconds, 0, event))
            self._changed.notify_all()

    @property
    def pending(self) -> list[Json]:
        """The events that wait, oldest first."""
        with self._changed:
            return [event for _, _, event in self._pending]

    def flush(
        self, order: Callable[[list[Json]], Sequence[Json]] | None = None, only: Callable[[Json], bool] | None = None
    ) -> list[Delivery]:
        """Deliver now what waits (`only` those), in `order` or the knobs', and return the attempts; what was not answered 2xx waits on."""
        with self._changed:
            taken = [entry for entry in self._pending if only is None or only(entry[2])]
            self._pending = [entry for entry in self._pending if entry not in taken]
        events = [event for _, _, event in taken]
        if self.knobs.shuffle:
            self.knobs.shuffle.shuffle(events)
        made: list[Delivery] = []
        for event in order(events) if order else events:
            attempts = self.deliver(event)
            made += attempts
            if attempts and not all(200 <= one.status < 300 for one in attempts):
                with self._changed:
                    self._pending.append((time.monotonic(), 1, event))
        return made

    def deliver(self, event: Json) -> list[Delivery]:
        """Deliver one event now, as the knobs say; return the attempts."""
        if self.knobs.drop and self.knobs.drop(event):
            return []
        made = [Delivery(event["id"], event["type"], url, self._post(url, event)) for _ in range(self.knobs.copies) for url in self.urls]
        self.attempts += made
        if made and all(200 <= one.status < 300 for one in made):
            self.delivered(event["id"])
        return made

    def drained(self, timeout: float) -> bool:
        """Wait until nothing waits and nothing is under way; False when time is up first."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending and not self._busy, timeout)

    def signature(self, body: bytes) -> str:
        """Return the header that Stripe would send with `body`, as the knobs say."""
        moment = int(time.time() - self.knobs.age_seconds)
        secrets = {"current": [self.secret], "old": [self.old_secret], "wrong": [WRONG_SECRET], "both": [self.old_secret, self.secret]}
        marks = [sign(body, secret, moment) for secret in secrets[self.knobs.signed_with]]
        return ",".join([f"t={moment}", *(f"v1={mark}" for mark in marks), f"v0={'0' * 64}"])

    def payload(self, event: Json) -> bytes:
        """Return an event's body, as the knobs say."""
        claims = {"livemode": self.knobs.livemode, "api_version": self.knobs.api_version}
        told = {**event, **{name: value for name, value in claims.items() if value is not None}}
        return json.dumps(told, indent=2).encode()

    def _post(self, url: str, event: Json) -> int:
        body = self.payload(event)
        headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)"}
        if self.knobs.signed_with != "none":
            headers["Stripe-Signature"] = self.signature(body)
        where = urlsplit(url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=_TIMEOUT_SECONDS)
        try:
            connection.request("POST", where.path or "/", body, headers)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and not self._due():
                    waits = [due - time.monotonic() for due, _, _ in self._pending] if self.automatic and self.urls else []
                    self._changed.wait(max(min(waits), 0.001) if waits else None)
                if self._stopped:
                    return
                batch = self._due()
                if self.knobs.shuffle:
                    self.knobs.shuffle.shuffle(batch)
                self._pending = [entry for entry in self._pending if entry not in batch]
                self._busy = True
            again = []
            for _, tried, event in batch:
                made = self.deliver(event)
                if made and not all(200 <= one.status < 300 for one in made) and tried < self.knobs.retries:
                    again.append((time.monotonic() + self.knobs.retry_seconds * 2**tried, tried + 1, event))
            with self._changed:
                self._pending += again
                self._busy = False
                self._changed.notify_all()

    def _due(self) -> list[tuple[float, int, Json]]:
        if not self.automatic or not self.urls:
            return []
        return [entry for entry in self._pending if entry[0] <= time.monotonic()]


def sign(body: bytes, secret: str, moment: int) -> str:
    """Return the v1 mark of `body` sent at `moment` (Unix seconds)."""
    return hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
