"""Facts about webhooks: they are signed, go to public addresses only, are tried for days, and a dead endpoint is switched off."""

import base64
import hashlib
import hmac
import json
import socket
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from accounts import outbox
from accounts.models import Membership, OutboxMessage, User
from billing.models import WebhookEndpoint
from billing.notices import endpoints, telling, webhooks_out
from tests.conftest import ROOT
from tests.fakes.webhook_receiver import Received, Receiver, webhook_receiver

State = OutboxMessage.State


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with webhook_receiver() as running:
        yield running


@pytest.fixture(autouse=True)
def _allow_private(settings: Any) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = True


class Endpoint:
    """An endpoint of a customer's at the receiver, on a path of its own."""

    def __init__(self, customer: Any, receiver: Receiver, events: tuple[str, ...] = ()) -> None:
        self.account = customer.account
        self.path = f"/{uuid.uuid4().hex}"
        self.receiver = receiver
        self.row, self.secret = endpoints.create(
            account=self.account, url=receiver.url(self.path), events=events, actor=None, now=timezone.now()
        )

    def tell(self, event: str = "plan.ended") -> OutboxMessage:
        key = uuid.uuid4().hex
        telling.tell(
            account=self.account,
            event=event,
            dedupe_key=key,
            context={"plan": "p", "plan_name": "P", "balance_nano": 5},
            now=timezone.now(),
        )
        return OutboxMessage.objects.get(kind="webhook", recipient=str(self.row.pk), dedupe_key__contains=key)

    @property
    def calls(self) -> list[Received]:
        return self.receiver.of(self.path)


@pytest.fixture
def endpoint(customer: Any, receiver: Receiver) -> Endpoint:
    return Endpoint(customer, receiver)


def verify(call: Received, secret: str) -> bool:
    """Check a call as docs/webhooks.md tells customers to."""
    signed = f"{call.headers['webhook-id']}.{call.headers['webhook-timestamp']}.".encode() + call.body
    digest = hmac.new(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256).digest()
    expected = "v1," + base64.b64encode(digest).decode()
    return any(hmac.compare_digest(expected, signature) for signature in call.headers["webhook-signature"].split(" "))


def fresh(message: OutboxMessage) -> OutboxMessage:
    message.refresh_from_db()
    return message


def deliver(*, now: datetime | None = None) -> None:
    """Make all the calls that are due: a run ends with a round in which none got through, and other tests leave dead endpoints."""
    now = now or timezone.now()
    while OutboxMessage.objects.filter(kind="webhook", state=State.WAITING, next_try_at__lte=now).exists():
        webhooks_out.deliver(now=now)


def test_an_event_arrives_signed_with_the_endpoints_own_secret(endpoint: Endpoint, stranger: Any, receiver: Receiver) -> None:
    other = Endpoint(stranger, receiver)
    message = endpoint.tell()
    deliver()
    (call,) = endpoint.calls
    assert other.calls == []
    assert verify(call, endpoint.secret)
    assert not verify(call, other.secret)
    said = json.loads(call.body)
    assert (said["id"], said["type"]) == (call.headers["webhook-id"], "plan.ended")
    assert said["data"] == {
        "account": endpoint.account.slug,
        "plan": "p",
        "plan_name": "P",
        "balance_nano": 5,
        "balance_usd": "0.000000005",
    }
    assert abs(int(call.headers["webhook-timestamp"]) - timezone.now().timestamp()) < 60
    assert fresh(message).state == State.SENT


def test_the_signature_is_that_of_the_standards_example() -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    signature = webhooks_out.sign(secret, message_id="msg_p5jXN8AQM9LWM0D4loKWxJek", timestamp=1614265330, body=body)
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_an_endpoint_is_told_only_of_the_events_it_wants(customer: Any, receiver: Receiver) -> None:
    endpoint = Endpoint(customer, receiver, events=("top_up.paid",))
    telling.tell(account=customer.account, event="plan.ended", dedupe_key="x", context={"plan": "p", "plan_name": "P"}, now=timezone.now())
    endpoints.send_test(endpoint=endpoint.row, now=timezone.now())
    deliver()
    assert [json.loads(call.body)["type"] for call in endpoint.calls] == ["webhook_endpoint.test"]


def test_after_a_rotation_both_secrets_verify_for_a_day(endpoint: Endpoint) -> None:
    new = endpoints.rotate_secret(endpoint=endpoint.row, actor=None, now=timezone.now())
    endpoint.tell()
    deliver()
    assert verify(endpoint.calls[0], endpoint.secret)
    assert verify(endpoint.calls[0], new)
    WebhookEndpoint.objects.filter(pk=endpoint.row.pk).update(previous_until=timezone.now())
    endpoint.tell()
    deliver()
    assert not verify(endpoint.calls[1], endpoint.secret)
    assert verify(endpoint.calls[1], new)


def test_secrets_are_sealed_and_never_audited(endpoint: Endpoint) -> None:
    row = WebhookEndpoint.objects.get(pk=endpoint.row.pk)
    assert endpoint.secret.removeprefix("whsec_") not in row.sealed_secret
    for event in endpoint.account.audit_events.all():
        assert "whsec_" not in f"{event.details}{event.subject}"


@pytest.mark.parametrize("status", [500, 404, 301, 0])
def test_a_call_that_fails_is_tried_again_with_the_same_id(endpoint: Endpoint, receiver: Receiver, status: int) -> None:
    receiver.statuses[endpoint.path] = status
    message = endpoint.tell()
    deliver()
    assert (fresh(message).state, message.attempts) == (State.WAITING, 1)
    assert message.last_error
    receiver.statuses[endpoint.path] = 200
    deliver(now=message.next_try_at)
    assert fresh(message).state == State.SENT
    assert len({call.headers["webhook-id"] for call in endpoint.calls}) == 1
    assert receiver.of("/redirected") == []


def test_an_endpoint_that_is_dead_for_days_is_switched_off_with_a_mail(endpoint: Endpoint, receiver: Receiver) -> None:
    owner = User.objects.create_user(f"{uuid.uuid4().hex}@example.com")
    Membership.objects.create(account=endpoint.account, user=owner, role="owner")
    receiver.statuses[endpoint.path] = 503
    for number in range(webhooks_out.DISABLED_AFTER):
        endpoint.row.refresh_from_db()
        assert (endpoint.row.is_enabled, endpoint.row.failures) == (True, number)
        message = endpoint.tell()
        OutboxMessage.objects.filter(pk=message.pk).update(attempts=outbox.MOST_ATTEMPTS - 1)
        waiting = endpoint.tell()
        OutboxMessage.objects.filter(pk=waiting.pk).update(next_try_at=timezone.now() + timedelta(hours=1))
        deliver()
        assert fresh(message).state == State.FAILED
    endpoint.row.refresh_from_db()
    assert not endpoint.row.is_enabled
    assert "503" in endpoint.row.disabled_reason
    assert fresh(waiting).state == State.FAILED
    (mail,) = OutboxMessage.objects.filter(kind="mail", recipient=owner.email, subject__contains="switched off")
    assert endpoint.row.url in mail.content["text"]
    calls = len(endpoint.calls)
    telling.tell(account=endpoint.account, event="plan.ended", dedupe_key="y", context={"plan": "p", "plan_name": "P"}, now=timezone.now())
    deliver()
    assert len(endpoint.calls) == calls
    endpoints.enable(endpoint=endpoint.row, actor=None, now=timezone.now())
    receiver.statuses[endpoint.path] = 200
    endpoint.tell()
    deliver()
    assert len(endpoint.calls) == calls + 1


def test_gone_switches_an_endpoint_off_at_once(endpoint: Endpoint, receiver: Receiver) -> None:
    receiver.statuses[endpoint.path] = 410
    message = endpoint.tell()
    deliver()
    endpoint.row.refresh_from_db()
    assert not endpoint.row.is_enabled
    assert fresh(message).state == State.FAILED


def test_a_success_forgets_what_failed_before(endpoint: Endpoint) -> None:
    WebhookEndpoint.objects.filter(pk=endpoint.row.pk).update(failures=2)
    endpoint.tell()
    deliver()
    assert WebhookEndpoint.objects.get(pk=endpoint.row.pk).failures == 0


def test_an_answer_that_never_comes_is_not_waited_for_long(customer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks_out, "CALL_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listener:  # takes connections and says nothing
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        endpoint, _ = endpoints.create(account=customer.account, url=url, events=[], actor=None, now=timezone.now())
        endpoints.send_test(endpoint=endpoint, now=timezone.now())
        deliver()
    assert "no answer" in OutboxMessage.objects.get(recipient=str(endpoint.pk)).last_error
    endpoints.remove(endpoint=endpoint, actor=None, now=timezone.now())


# -- Where calls may go ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/hook",
        "https://127.0.0.1/hook",
        "https://[::1]/hook",
        "https://[::ffff:10.0.0.1]/hook",
        "https://169.254.169.254/latest/meta-data",
        "https://10.1.2.3/hook",
        "https://localhost/hook",
        "https://metadata.google.internal/",
        "https://user:password@example.com/hook",
        "https://example.com/hook#part",
        "ftp://example.com/",
        "https:///hook",
        "https://[broken/hook",
        "https://example.com:99999/hook",
        "nonsense",
    ],
)
def test_an_address_that_is_not_public_https_is_refused(url: str, customer: Any, settings: Any) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = False
    with pytest.raises(endpoints.EndpointRefused):
        endpoints.create(account=customer.account, url=url, events=[], actor=None, now=timezone.now())
    assert not customer.account.webhook_endpoints.exists()


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "127.1", "017700000001"])
def test_a_name_that_turns_out_to_be_a_private_address_is_not_connected_to(
    host: str, customer: Any, receiver: Receiver, settings: Any
) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = False
    url = f"https://{host}:{receiver.port}/{uuid.uuid4().hex}"
    endpoint, _ = endpoints.create(account=customer.account, url=url, events=[], actor=None, now=timezone.now())
    endpoints.send_test(endpoint=endpoint, now=timezone.now())
    before = len(receiver.calls)
    deliver()
    message = OutboxMessage.objects.get(recipient=str(endpoint.pk))
    assert message.state == State.WAITING
    assert "private" in message.last_error
    assert len(receiver.calls) == before


def test_an_unknown_event_and_too_many_endpoints_are_refused(customer: Any) -> None:
    def create(*events: str) -> None:
        endpoints.create(account=customer.account, url="https://hooks.example.com/x", events=events, actor=None, now=timezone.now())

    with pytest.raises(endpoints.EndpointRefused, match=r"no event 'staff\.alert'"):
        create("staff.alert")
    for _ in range(endpoints.MOST):
        create("top_up.paid")
    with pytest.raises(endpoints.EndpointRefused, match="at most"):
        create("top_up.paid")


def test_switched_off_or_removed_nothing_is_called_any_more(customer: Any, receiver: Receiver) -> None:
    off, gone = Endpoint(customer, receiver), Endpoint(customer, receiver)
    messages = [off.tell(), gone.tell()]
    endpoints.disable(endpoint=off.row, actor=None, now=timezone.now())
    endpoints.remove(endpoint=gone.row, actor=None, now=timezone.now())
    deliver()
    assert off.calls == gone.calls == []
    assert [fresh(message).state for message in messages] == [State.FAILED, State.FAILED]


# -- The page for customers ----------------------------------------------------------------------------------------------------------------


def test_the_page_lists_every_event_and_its_snippet_verifies_a_call(endpoint: Endpoint) -> None:
    page = (ROOT / "docs/webhooks.md").read_text()
    for name in telling.FOR_WEBHOOKS:
        fields = ", ".join(f"`{field}`" for field in telling.EVENTS[name].context)
        assert f"| `{name}` | {telling.EVENTS[name].words.rstrip('.')} | {fields} |" in page
    snippet: dict[str, Any] = {}
    exec(page.partition("```python\n")[2].partition("```")[0], snippet)  # noqa: S102 - our own page
    endpoint.tell()
    deliver()
    (call,) = endpoint.calls
    assert snippet["is_genuine"](call.headers, call.body, endpoint.secret)
    assert not snippet["is_genuine"](call.headers, call.body + b" ", endpoint.secret)
