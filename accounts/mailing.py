"""Mails: rendered from `templates/emails`, and carried to the SMTP server that EMAIL_URL names."""

import re
import smtplib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from django.conf import settings
from django.core import mail
from django.template.loader import render_to_string

from accounts.models import OutboxMessage

ROUND_SECONDS = 60.0  # a slow server gets no more of a worker's time at once
PERMANENT = 500  # from here on SMTP's answers say that trying again is of no use


@dataclass(frozen=True, slots=True)
class Rendered:
    """A mail as it will be sent."""

    subject: str
    text: str
    html: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a delivery did not work. `is_final`: trying again would not help."""

    reason: str
    is_final: bool = False


def is_on() -> bool:
    """Whether this installation sends mail at all."""
    return not settings.EMAIL_BACKEND.endswith("dummy.EmailBackend")


def render(template: str, context: Mapping[str, object]) -> Rendered:
    """Render `emails/<template>.txt`, whose first line is `Subject: …`, and `emails/<template>.html`.

    Raises: django.template.TemplateDoesNotExist, ValueError if the text opens without a subject.
    """
    everything = {"site_url": settings.PUBLIC_URL, "support_email": settings.SUPPORT_EMAIL, **context}
    first, _, text = render_to_string(f"emails/{template}.txt", everything).lstrip().partition("\n")
    name, _, subject = first.partition(":")
    subject = " ".join(subject.split())[:200]
    if name != "Subject" or not subject:
        raise ValueError(f"emails/{template}.txt does not open with a line `Subject: …`")
    html = render_to_string(f"emails/{template}.html", {**everything, "mail_subject": subject})
    return Rendered(subject, re.sub(r"\n{3,}", "\n\n", text).strip() + "\n", html)


def carry(messages: Sequence[OutboxMessage]) -> dict[int, Failure | None]:
    """Send mails over one connection. What was not reached in a minute, or once the server is gone, is left out of the answer."""
    if not is_on():
        return {message.pk: Failure("mail is off: EMAIL_URL is not set", is_final=True) for message in messages}
    carried: dict[int, Failure | None] = {}
    began = time.monotonic()
    connection = mail.get_connection()
    try:
        for message in messages:
            if time.monotonic() - began > ROUND_SECONDS:
                break
            try:
                connection.open()
                connection.send_messages([_compose(message, connection)])
            except (smtplib.SMTPException, OSError, ValueError) as error:
                carried[message.pk] = Failure(f"{type(error).__name__}: {error}", is_final=_is_final(error))
                if isinstance(error, OSError) and not isinstance(error, (smtplib.SMTPRecipientsRefused, smtplib.SMTPDataError)):
                    break  # the server, not the mail: the others need not wait for the same
            else:
                carried[message.pk] = None
    finally:
        connection.close()
    return carried


def _compose(message: OutboxMessage, connection: object) -> mail.EmailMultiAlternatives:
    content = message.content
    headers = {
        "Message-ID": f"<outbox-{message.pk}-{int(message.created_at.timestamp())}@{urlsplit(settings.PUBLIC_URL).hostname}>",
        "Auto-Submitted": "auto-generated",
    }
    if content["unsubscribe_url"]:
        headers |= {"List-Unsubscribe": f"<{content['unsubscribe_url']}>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}
    composed = mail.EmailMultiAlternatives(
        message.subject,
        content["text"],
        to=[message.recipient],
        headers=headers,
        reply_to=[settings.SUPPORT_EMAIL] if settings.SUPPORT_EMAIL else None,
        connection=connection,
    )
    composed.attach_alternative(content["html"], "text/html")
    return composed


def _is_final(error: Exception) -> bool:
    """Whether the server refused this mail for good. A refused sign-in or sender is the installation's fault and may be mended."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return all(code >= PERMANENT for code, _ in error.recipients.values())
    if isinstance(error, smtplib.SMTPDataError):
        return error.smtp_code >= PERMANENT
    return isinstance(error, ValueError)
