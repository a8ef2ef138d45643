"""Mail: whether it leaves this installation, and what is stuck in the outbox."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from django.conf import settings

from accounts.models import OutboxMessage
from gateway_site.diagnosis.findings import Finding, counted, first_line, note, warning

MAIL_LATE_AFTER = timedelta(hours=1)


def check_mail() -> Iterator[Finding]:
    """Mail leaves this installation."""
    if not settings.EMAIL_URL:
        yield warning("mail", "No mail is sent: EMAIL_URL is not set.", "Set EMAIL_URL (smtp+tls://user:password@host:587).")
    elif settings.EMAIL_HOST and settings.DEFAULT_FROM_EMAIL.endswith("@localhost>"):
        yield warning("mail", "Mails come from an address at localhost: they will be refused.", "Set DEFAULT_FROM_EMAIL.")
    if not settings.STAFF_ALERT_EMAILS:
        yield note("mail", "Nobody is told of disputes and quarantined payments but the log.", "Set STAFF_ALERT_EMAILS.")


def check_outbox(*, now: datetime) -> Iterator[Finding]:
    """What has to leave the house does."""
    waiting = OutboxMessage.objects.filter(state=OutboxMessage.State.WAITING)
    if stuck := waiting.filter(kind=OutboxMessage.Kind.MAIL, created_at__lt=now - MAIL_LATE_AFTER).count():
        last = waiting.exclude(last_error="").order_by("-id").values_list("last_error", flat=True).first() or "no error is noted"
        yield warning(
            "mail",
            f"{counted(stuck, 'mail')} not sent for an hour: {first_line(Exception(last))}.",
            "See that EMAIL_URL's server answers; then they go out.",
        )
    failed = OutboxMessage.objects.filter(
        kind=OutboxMessage.Kind.MAIL, state=OutboxMessage.State.FAILED, created_at__gte=now - timedelta(days=7)
    ).count()
    if failed:
        yield note(
            "mail", f"{counted(failed, 'mail')} given up in the last seven days.", "See the outbox in the admin; it sends them again."
        )
