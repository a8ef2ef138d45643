"""Facts about the outbox: a message is one message, leaves at least once, and is tried for three days."""

import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from accounts import mailing, outbox
from accounts.mailing import Failure
from accounts.models import OutboxMessage
from tests.conftest import ROOT, free_port
from tests.fakes.smtp import SmtpSink, smtp_sink

MAIL = OutboxMessage.Kind.MAIL
State = OutboxMessage.State


@pytest.fixture(scope="module")
def sink() -> Iterator[SmtpSink]:
    with smtp_sink() as running:
        yield running


@pytest.fixture
def smtp(sink: SmtpSink, settings: Any) -> SmtpSink:
    """Mail goes to the sink."""
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", sink.port
    return sink


def queue(to: str = "", **fields: Any) -> OutboxMessage:
    details: dict[str, Any] = {
        "dedupe_key": uuid.uuid4().hex,
        "to": to or f"{uuid.uuid4().hex}@example.com",
        "template": "welcome",
        "context": {"name": "Alice <b>"},
        "account": None,
        "now": timezone.now(),
    }
    return outbox.queue_mail(**{**details, **fields})


def fresh(message: OutboxMessage) -> OutboxMessage:
    message.refresh_from_db()
    return message


def deliver(*, now: datetime) -> None:
    """Send all that is due, however much other tests have left: one run ends after a thousand mails."""
    while outbox.deliver_mails(now=now) != outbox.Round():
        pass


def test_a_mail_arrives_with_its_text_its_html_and_its_headers(smtp: SmtpSink, settings: Any) -> None:
    settings.SUPPORT_EMAIL = "help@example.com"
    message = queue(unsubscribe_url="https://gateway.test/unsubscribe/x")
    deliver(now=timezone.now())
    (arrived,) = smtp.of(message.recipient)
    assert arrived["Subject"] == message.subject == "Welcome to Tollgate"
    assert arrived["Message-ID"].startswith(f"<outbox-{message.pk}-")
    assert (arrived["List-Unsubscribe"], arrived["List-Unsubscribe-Post"]) == (
        "<https://gateway.test/unsubscribe/x>",
        "List-Unsubscribe=One-Click",
    )
    assert (arrived["Reply-To"], arrived["Auto-Submitted"]) == ("help@example.com", "auto-generated")
    text, html = (arrived.get_body((kind,)).get_content() for kind in ("plain", "html"))  # type: ignore[union-attr]
    assert "Hello Alice <b>," in text
    assert "Hello Alice &lt;b&gt;," in html
    assert fresh(message).state == State.SENT
    deliver(now=timezone.now())
    assert len(smtp.of(message.recipient)) == 1


def test_the_same_key_is_the_same_message_however_long_it_is() -> None:
    dedupe_key = f"{uuid.uuid4()}:" + "long" * 100
    first, again, other = queue(dedupe_key=dedupe_key), queue(dedupe_key=dedupe_key), queue(dedupe_key=dedupe_key + "!")
    assert first.pk == again.pk != other.pk


def test_what_is_rolled_back_was_never_said() -> None:
    dedupe_key = uuid.uuid4().hex
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        queue(dedupe_key=dedupe_key)
        raise ZeroDivisionError
    assert not OutboxMessage.objects.filter(dedupe_key=dedupe_key).exists()


def test_a_recipient_that_is_refused_for_good_is_given_up_and_one_refused_for_now_waits(smtp: SmtpSink) -> None:
    refused, busy, fine = queue(f"refuse-{uuid.uuid4().hex}@example.com"), queue(f"busy-{uuid.uuid4().hex}@example.com"), queue()
    now = timezone.now()
    deliver(now=now)
    assert fresh(refused).state == State.FAILED
    assert "550" in refused.last_error
    assert (fresh(busy).state, busy.attempts) == (State.WAITING, 1)
    assert busy.next_try_at > now
    assert fresh(fine).state == State.SENT


def test_a_server_that_is_away_costs_one_attempt_and_the_mail_goes_out_when_it_is_back(smtp: SmtpSink, settings: Any) -> None:
    settings.EMAIL_PORT = free_port()
    now = timezone.now()
    first, second = queue(now=now - timedelta(days=800)), queue(now=now - timedelta(days=799))  # before whatever other tests left
    result = outbox.deliver_due(kind=MAIL, carry=mailing.carry, now=now, limit=2)
    assert (result.sent, result.delayed, result.given_up) == (0, 1, 0)
    assert [fresh(first).attempts, fresh(second).attempts] == [1, 0]
    settings.EMAIL_PORT = smtp.port
    deliver(now=now + timedelta(minutes=1))
    assert [fresh(first).state, fresh(second).state] == [State.SENT, State.SENT]


def test_waits_double_up_to_six_hours_and_end_after_about_three_days() -> None:
    waits = [outbox.wait_after(attempts) for attempts in range(1, outbox.MOST_ATTEMPTS)]
    assert timedelta(seconds=8) < waits[0] < timedelta(seconds=12)
    assert max(waits) < timedelta(hours=7)
    assert timedelta(days=2) < sum(waits, timedelta()) < timedelta(days=4)


def test_a_message_is_given_up_after_its_last_attempt_and_can_be_sent_again(smtp: SmtpSink) -> None:
    message = queue(f"busy-{uuid.uuid4().hex}@example.com")
    OutboxMessage.objects.filter(pk=message.pk).update(attempts=outbox.MOST_ATTEMPTS - 1)
    deliver(now=timezone.now())
    assert fresh(message).state == State.FAILED
    assert outbox.send_again(message=message, now=timezone.now())
    assert (fresh(message).state, message.attempts) == (State.WAITING, 0)
    OutboxMessage.objects.filter(pk=message.pk).update(recipient=f"{uuid.uuid4().hex}@example.com")
    deliver(now=timezone.now())
    assert fresh(message).state == State.SENT
    assert not outbox.send_again(message=message, now=timezone.now())


def test_with_mail_off_nothing_pretends_to_be_sent(settings: Any) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.dummy.EmailBackend"
    message = queue()
    deliver(now=timezone.now())
    assert (fresh(message).state, message.last_error) == (State.FAILED, "mail is off: EMAIL_URL is not set")


def test_a_dead_recipient_makes_all_that_waits_for_it_wait() -> None:
    now, recipient = timezone.now(), f"{uuid.uuid4().hex}@example.com"
    first, second = (queue(recipient, now=now - timedelta(days=400)) for _ in range(2))

    def carry(messages: Sequence[OutboxMessage]) -> outbox.Carried:
        return {message.pk: Failure("dead") for message in messages}

    outbox.deliver_due(kind=MAIL, carry=carry, now=now, limit=1, one_each=True)
    assert [fresh(first).attempts, fresh(second).attempts] == [1, 0]
    assert fresh(second).next_try_at >= fresh(first).next_try_at > now
    OutboxMessage.objects.filter(recipient=recipient).update(state=State.FAILED)


def test_workers_at_once_send_each_mail_once(smtp: SmtpSink) -> None:
    messages = [queue() for _ in range(30)]
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        for _ in range(20):
            outbox.deliver_due(kind=MAIL, carry=mailing.carry, now=timezone.now(), limit=3)
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    deliver(now=timezone.now())
    assert {len(smtp.of(message.recipient)) for message in messages} == {1}


KILLED = """
import os, signal
import django
django.setup()
from django.utils import timezone
from accounts import mailing, outbox
def carry(messages):
    mailing.carry(messages)
    os.kill(os.getpid(), signal.SIGKILL)
outbox.deliver_due(kind="mail", carry=carry, now=timezone.now(), limit=1000)
"""


def test_a_worker_killed_after_sending_leaves_a_repetition_that_can_be_recognised(smtp: SmtpSink) -> None:
    message = queue()
    environ = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "gateway_site.settings",
        "EMAIL_URL": f"smtp://127.0.0.1:{smtp.port}",
    }
    killed = subprocess.run([sys.executable, "-W", "ignore", "-c", KILLED], cwd=ROOT, env=environ, check=False, timeout=240)
    assert killed.returncode == -9
    assert (fresh(message).state, message.attempts) == (State.WAITING, 1)
    deliver(now=timezone.now())
    assert len(smtp.of(message.recipient)) == 1, "the claim still stands"
    deliver(now=timezone.now() + outbox.CLAIMED_FOR)
    arrived = smtp.of(message.recipient)
    assert len(arrived) == 2
    assert len({mail["Message-ID"] for mail in arrived}) == 1
    assert fresh(message).state == State.SENT
