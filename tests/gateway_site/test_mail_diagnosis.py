"""Facts about what `doctor` says of mail: that it is off, from nowhere, or stuck."""

import uuid
from datetime import timedelta
from typing import Any

from django.utils import timezone

from accounts.models import OutboxMessage
from gateway_site import diagnosis


def problems(settings: Any, **values: Any) -> str:
    for name, value in values.items():
        setattr(settings, name, value)
    return " ".join(finding.problem for finding in diagnosis.mail.check_mail())


def test_mail_that_is_off_or_from_localhost_is_found(settings: Any) -> None:
    smtp = {"EMAIL_URL": "smtp://mail.example.com", "EMAIL_HOST": "mail.example.com", "STAFF_ALERT_EMAILS": ["staff@example.com"]}
    assert "EMAIL_URL" in problems(settings, **smtp | {"EMAIL_URL": ""})
    assert "localhost" in problems(settings, **smtp, DEFAULT_FROM_EMAIL="Tollgate <noreply@localhost>")
    assert problems(settings, **smtp, DEFAULT_FROM_EMAIL="Tollgate <noreply@example.com>") == ""
    assert "disputes" in problems(settings, **smtp | {"STAFF_ALERT_EMAILS": []})


def test_mail_that_waits_for_an_hour_is_found_with_its_error() -> None:
    now = timezone.now()
    message = OutboxMessage.objects.create(
        kind="mail",
        dedupe_key=uuid.uuid4().hex,
        recipient="someone@example.com",
        subject="Hello",
        content={},
        created_at=now - timedelta(hours=2),
        next_try_at=now + timedelta(hours=1),
        last_error="ConnectionRefusedError: no luck\nat all",
    )
    assert any(
        finding.problem.endswith(" not sent for an hour: ConnectionRefusedError: no luck.")
        for finding in diagnosis.mail.check_outbox(now=now)
    )
    OutboxMessage.objects.filter(pk=message.pk).update(state="failed")
    assert any("given up" in finding.problem for finding in diagnosis.mail.check_outbox(now=now))
    message.delete()
