"""Owns the fake Stripe: an HTTP server thread on a loopback socket, its knobs, and what tests may look at."""

import json
import threading
from collections.abc import Callable, Sequence
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tests.fakes.stripe import api, cards, checkout, disputes, listener, pages, subscriptions
from tests.fakes.stripe.deliveries import Deliveries, Delivery, Knobs
from tests.fakes.stripe.shapes import Json
from tests.fakes.stripe.store import API_VERSION, Request, Store

_BROKEN_BODY = {"error": {"message": "An error occurred with our API.", "type": "api_error"}}


class FakeStripe:
    """Stripe in a daemon thread; every public method is safe from any thread. The manual is the package's docstring."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        deliver_to: str | Sequence[str] = (),
        secret: str = "whsec_simulated_0123456789abcdef",  # noqa: S107  signs nothing real
        old_secret: str = "whsec_simulated_before_the_rotation",  # noqa: S107  signs nothing real
        automatic: bool = False,
        file: Path | None = None,
        strict: bool = True,
    ) -> None:
        self.host = host
        self.port = port
        self.webhook_secret = secret
        self.old_webhook_secret = old_secret
        self.api_key = "sk_test_simulated_0123456789"
        self.live_api_key = "sk_live_simulated_0123456789"
        self.calls: list[api.Call] = []
        self.strict = strict
        self.store = Store(file=file)
        self.store.load()
        urls = [deliver_to] if isinstance(deliver_to, str) else [*deliver_to]
        self.deliveries = Deliveries(urls, secret, old_secret, automatic, self._mark_delivered)
        self.store.heard = self.deliveries.hear
        if automatic:
            for event in self.store.objects.get("event", {}).values():
                if event["pending_webhooks"]:
                    self.deliveries.hear(event)
        self._breakages: list[tuple[str, str]] = []
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    # Life

    def start(self) -> Self:
        """Listen (on the earlier port after a stop) and return when connections are accepted. Raises: OSError."""
        self._server = listener.Listener((self.host, self.port), self.answer, self.store.mistakes.append)
        self.port = self._server.server_address[1]
        self.store.base_url = self.base_url
        self._announce_endpoints()
        self.deliveries.start()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="fake-stripe", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close the listening socket and end the threads."""
        if self._server and self._thread:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = self._thread = None
            self.deliveries.stop()
            with self.store.lock:
                self.store.save()

    def __enter__(self) -> Self:
        return self.start() if self._server is None else self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        if kind is None and self.strict and (mistakes := self.mistakes):
            raise AssertionError("the fake Stripe said what Stripe would not:\n" + "\n".join(mistakes[:20]))

    @property
    def base_url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def mistakes(self) -> list[str]:
        """Answers and events that stripe-python's own annotations do not allow, and defects of this server."""
        return [*self.store.mistakes]

    # What is there

    def object(self, id_: str) -> Json:
        """Return a copy of the object with `id_`, in whatever mode. Raises: KeyError."""
        with self.store.lock:
            found = self.store.find(id_)
            if found is None:
                raise KeyError(id_)
            copied: Json = json.loads(json.dumps(found))
            return copied

    def objects(self, kind: str, **wanted: Any) -> list[Json]:
        """Return copies of the objects of `kind` ("charge", "checkout.session", ...) whose fields are as `wanted`, oldest first, both modes."""
        with self.store.lock:
            found = [one for one in self.store.objects.get(kind, {}).values() if all(one.get(name) == is_ for name, is_ in wanted.items())]
            copied: list[Json] = json.loads(json.dumps(found))
            return copied

    @property
    def events(self) -> list[Json]:
        """All events so far, oldest first."""
        return self.objects("event")

    # What customers and banks do

    def pay(
        self, session_id: str, number: str = "4242424242424242", *, email: str = "", promotion_code: str = "", consent: bool = True
    ) -> Json:
        """Finish a checkout session as the customer would on its page; return it. `number` may be "bank". Raises: checkout.Declined."""
        with self._acting(session_id) as session:
            if checkout.pay(self.store, session, number, email=email, promotion_code=promotion_code) == "consent":
                if not consent:
                    checkout.refuse_consent(self.store, session, number)
                checkout.pay(self.store, session, number, email=email, promotion_code=promotion_code, consented=True)
            return self.object(session_id)

    def settle(self, session_id: str, *, succeed: bool = True) -> Json:
        """Let a bank debit of a completed session arrive, or fail; return the session."""
        with self._acting(session_id) as session:
            checkout.settle_late(self.store, session, succeed=succeed)
            return self.object(session_id)

    def expire(self, session_id: str) -> Json:
        """Let an open session expire now; return it."""
        with self._acting(session_id) as session:
            checkout.end(self.store, session)
            return self.object(session_id)

    def consent(self, intent_id: str, *, complete: bool = True) -> Json:
        """Answer the bank's question about a payment intent that requires action; return it."""
        with self._acting(intent_id):
            pages.show(self.store, "POST", f"/consent/{intent_id}", f"consent={'complete' if complete else 'fail'}")
            return self.object(intent_id)

    def new_card(self, customer_id: str, number: str = "4242424242424242", *, default: bool = False) -> Json:
        """Save a card with a customer, consent for later included; return the payment method."""
        with self._acting(customer_id) as customer:
            method = cards.make(self.store, number)
            cards.save(self.store, method, customer_id)
            self.store.secret(method["id"])["set_up"] = True
            if default:
                customer["invoice_settings"] = {**customer["invoice_settings"], "default_payment_method": method["id"]}
            return self.object(method["id"])

    def change_card(self, method_id: str, number: str) -> None:
        """Let a saved card behave like another number from now on (expired, out of money, asking for consent)."""
        with self._acting(method_id):
            self.store.secret(method_id).update(number=number)

    def refund(self, payment_id: str, amount: int | None = None) -> Json:
        """Refund a charge or payment intent from the dashboard; return the refund."""
        with self._acting(payment_id) as about:
            named = {about["object"]: payment_id}
            return self.object(disputes.refund(self.store, named | ({"amount": amount} if amount else {}))["id"])

    def change_refund(self, refund_id: str, status: str = "failed") -> Json:
        """Let a refund end as "succeeded", "failed" or "canceled"; return it."""
        with self._acting(refund_id) as found:
            disputes.change_refund(self.store, found, status)
            return self.object(refund_id)

    def dispute(
        self, payment_id: str, *, amount: int | None = None, reason: str = "fraudulent", withdraw: bool = True, inquiry: bool = False
    ) -> Json:
        """Open a dispute against a charge or payment intent; `inquiry` asks without taking money; return it."""
        with self._acting(payment_id) as about:
            charge = self.store.find(about.get("latest_charge") or payment_id) or about
            made = disputes.open_against(self.store, charge, amount=amount, reason=reason, withdraw=withdraw, inquiry=inquiry)
            return self.object(made["id"])

    def close_dispute(self, dispute_id: str, *, won: bool) -> Json:
        """Close a dispute; return it."""
        with self._acting(dispute_id) as found:
            disputes.close(self.store, found, won=won)
            return self.object(dispute_id)

    def warn_of_fraud(self, payment_id: str) -> Json:
        """Let the card's bank warn of fraud; return the early fraud warning."""
        with self._acting(payment_id) as about:
            charge = self.store.find(about.get("latest_charge") or payment_id) or about
            return self.object(disputes.warn(self.store, charge)["id"])

    # Knobs

    def set(self, **settings: Any) -> None:
        """Set `tax_percent`, `promotion_codes` ({code: percent}), `twin_events` (two events for one fact), `refund_status` of new refunds."""
        known = {"tax_percent", "promotion_codes", "twin_events", "refund_status"}
        if unknown := settings.keys() - known:
            raise TypeError(f"the fake Stripe has no {unknown}")
        with self.store.lock:
            self.store.settings.update(settings)

    def break_next(self, call: str, how: str, times: int = 1) -> None:
        """Let the next `times` calls that begin with `call` ("POST /v1/refunds") go wrong.

        `how`: "lost" (done, but the connection ends before the answer), "reset" (ends before anything is done), or a status ("500", "429",
        "409") that is answered with nothing done.
        """
        if how not in {"lost", "reset"} and not how.isdigit():
            raise ValueError(how)
        with self.store.lock:
            self._breakages += [(call, how)] * times

    def advance(self, seconds: float) -> None:
        """Move the fake's clock on; sessions expire and subscriptions renew, are tried again and end on the way, in order of time."""
        with self.store.lock:
            goal = self.store.offset + seconds
            while due := self._next_due(goal):
                moment, kind, id_ = due
                self.store.offset = max(self.store.offset, self.store.offset + moment - self.store.now)
                with self._acting(id_) as about:
                    (checkout.end if kind == "checkout.session" else subscriptions.attend)(self.store, about)
            self.store.offset = goal

    def forget_idempotency_keys(self) -> None:
        """Forget them all, as Stripe does after a day."""
        with self.store.lock:
            self.store.keys.clear()

    @property
    def knobs(self) -> Knobs:
        """How deliveries go wrong."""
        return self.deliveries.knobs

    # Events

    @property
    def pending(self) -> list[Json]:
        """The events that were not delivered yet, oldest first."""
        return self.deliveries.pending

    def deliver_pending(
        self, order: Callable[[list[Json]], Sequence[Json]] | None = None, only: Callable[[Json], bool] | None = None
    ) -> list[Delivery]:
        """Deliver now what waits (`only` those, in `order`); return the attempts. What was not answered 2xx waits on."""
        return self.deliveries.flush(order, only)

    def deliver(self, event_id: str) -> list[Delivery]:
        """Deliver one event now (again); return the attempts."""
        return self.deliveries.deliver(self.object(event_id))

    def forget_pending(self) -> None:
        """Let what waits never arrive; `GET /v1/events` still has it."""
        with self.deliveries._changed:
            self.deliveries._pending.clear()

    def signed(self, event_id: str) -> tuple[bytes, str]:
        """Return the body and the Stripe-Signature header with which an event would be delivered."""
        body = self.deliveries.payload(self.object(event_id))
        return body, self.deliveries.signature(body)

    # Inside

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes] | None:
        """Answer one HTTP request; None ends the connection without an answer."""
        path = urlsplit(target).path
        with self.store.lock:
            how = self._breakage(f"{method} {path}")
            if how == "reset":
                return None
            if how and how != "lost":
                return (
                    int(how),
                    {"Content-Type": "application/json", "Request-Id": self.store.new_id("req_", 14)},
                    json.dumps(_BROKEN_BODY).encode(),
                )
            if path.startswith("/v1/"):
                self._tick()
                made = api.answer(self.store, self.calls, method, target, headers, body)
                answer = made.status, {**made.headers, "Content-Type": "application/json"}, json.dumps(made.body, indent=2).encode()
            else:
                self._tick()
                if method != "GET" and headers.get("origin", self.base_url) != self.base_url:  # another site's form in the same browser
                    return 403, {"Content-Type": "text/plain"}, b"This form belongs to another site."
                page = pages.show(self.store, method, path, body.decode(errors="replace")) or pages.Page(
                    404, "<h1>There is no such page.</h1>"
                )
                kept = {"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store"}
                answer = page.status, kept | ({"Location": page.location} if page.location else {}), page.html.encode()
            if method != "GET":
                self.store.save()
            return None if how == "lost" else answer

    def _tick(self) -> None:
        """Let happen what the real time has brought."""
        if self._next_due(self.store.offset):
            self.advance(0)

    def _acting(self, id_: str) -> "_Acting":
        return _Acting(self.store, id_)

    def _next_due(self, goal: float) -> tuple[int, str, str] | None:
        latest = self.store.now + goal - self.store.offset
        due = [
            (one["expires_at"], "checkout.session", one["id"])
            for one in self.store.objects.get("checkout.session", {}).values()
            if one["status"] == "open" and one["expires_at"] <= latest
        ]
        for one in self.store.objects.get("subscription", {}).values():
            moment = subscriptions.tick(self.store, one)
            if moment is not None and moment <= latest:
                due.append((moment, "subscription", one["id"]))
        return min(due, default=None)

    def _breakage(self, call: str) -> str:
        for at, (start, how) in enumerate(self._breakages):
            if call.startswith(start):
                del self._breakages[at]
                return how
        return ""

    def _mark_delivered(self, event_id: str) -> None:
        with self.store.lock:
            if event := self.store.find(event_id):
                event["pending_webhooks"] = 0

    def _announce_endpoints(self) -> None:
        with self.store.lock:
            self.store.objects.pop("webhook_endpoint", None)
            for url in self.deliveries.urls:
                self.store.request = Request()
                kept = self.store.add(
                    "webhook_endpoint", api_version=API_VERSION, enabled_events=["*"], metadata={}, status="enabled", url=url
                )
                del kept["secret"]  # shown once, when it is made


class _Acting:
    """Holds the lock and acts in the mode of one object, which it gives."""

    def __init__(self, store: Store, id_: str) -> None:
        self._store = store
        self._id = id_

    def __enter__(self) -> Json:
        self._store.lock.acquire()
        found = self._store.find(self._id)
        if found is None:
            self._store.lock.release()
            raise KeyError(self._id)
        self._before, self._store.request = self._store.request, Request(livemode=self._store.modes[self._id])
        return found

    def __exit__(self, *_: object) -> None:
        self._store.request = self._before
        self._store.save()
        self._store.lock.release()
