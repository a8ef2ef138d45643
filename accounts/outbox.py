"""What has to leave the house: mails and calls to customers' webhooks, written down with the deed and delivered afterwards.

A message is a row of the transaction that it tells of: no word about what was rolled back, none lost by a crash after the commit. Delivery
is at least once: a carrier that was killed between sending and noting it is followed by another, and a mail keeps its Message-ID, a call
its id, so that the repetition can be recognised. Which road a message takes is the carrier's (`accounts.mailing`, `billing.notices`).
"""

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Greatest

from accounts import mailing
from accounts.mailing import Failure
from accounts.models import Account, OutboxMessage

log = structlog.get_logger(__name__)

FIRST_WAIT = timedelta(seconds=10)
LONGEST_WAIT = timedelta(hours=6)
MOST_ATTEMPTS = 22  # with these waits, three days
CLAIMED_FOR = timedelta(minutes=3)  # longer than a carrier takes for one batch; then the message is anybody's again
LOOKED_AT = 10  # so many due messages are looked through for each one that is taken, to find different recipients
LONGEST_KEY = 200
MAILS_AT_ONCE = 50
LETTING_IN = ("sign-in:", "invitation:")  # how the dedupe keys of mails begin that hold a code or a link which lets its reader in
MOST_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Round:
    """How a round of deliveries went."""

    sent: int = 0
    delayed: int = 0
    given_up: int = 0

    def __add__(self, other: "Round") -> "Round":
        return Round(self.sent + other.sent, self.delayed + other.delayed, self.given_up + other.given_up)


Carried = Mapping[int, Failure | None]  # by the message's id; None: delivered. A message that is missing was not tried.
Carry = Callable[[Sequence[OutboxMessage]], Carried]


def key(*parts: object) -> str:
    """A dedupe key of these parts, which fits its column however long they are."""
    text = ":".join(map(str, parts))
    return text if len(text) <= LONGEST_KEY else f"{text[:130]}:{hashlib.sha256(text.encode()).hexdigest()}"


def queue_mail(
    *,
    dedupe_key: str,
    to: str,
    template: str,
    context: Mapping[str, object],
    account: Account | None,
    now: datetime,
    unsubscribe_url: str = "",
) -> OutboxMessage:
    """Write a mail down, in the caller's transaction; the same `dedupe_key` is the same mail, however often it is asked for.

    It is rendered now, from `templates/emails/<template>.txt` and `.html`, so that it says what was true now. `unsubscribe_url` becomes the
    one-click header and the mail's last line.

    Raises: django.template.TemplateDoesNotExist, ValueError if the text opens without a subject.
    """
    rendered = mailing.render(template, {**context, "account": account, "unsubscribe_url": unsubscribe_url})
    content: dict[str, object] = {"text": rendered.text, "html": rendered.html, "unsubscribe_url": unsubscribe_url}
    return _queue(OutboxMessage.Kind.MAIL, dedupe_key, to, rendered.subject, content, account, now)


def queue_webhook(
    *, dedupe_key: str, endpoint_id: str, event: str, body: Mapping[str, object], account: Account, now: datetime
) -> OutboxMessage:
    """Write a call to a customer's endpoint down, in the caller's transaction; `body` is JSON. The same `dedupe_key` is the same call."""
    return _queue(OutboxMessage.Kind.WEBHOOK, dedupe_key, endpoint_id, event, dict(body), account, now)


def deliver_due(*, kind: OutboxMessage.Kind, carry: Carry, now: datetime, limit: int, one_each: bool = False) -> Round:
    """Hand at most `limit` due messages of `kind` to `carry`, and note what became of them. `one_each`: one for each recipient.

    Several workers may do so at once: a message that one has claimed is skipped by the others. Where a recipient cannot be reached, all that
    waits for it waits longer, so that a dead one costs one attempt and not one for each message.
    """
    claimed = _claim(kind, now, limit, one_each=one_each)
    if not claimed:
        return Round()
    carried = carry(claimed)
    result = Round()
    for message in claimed:
        if message.pk not in carried:
            OutboxMessage.objects.filter(pk=message.pk, state=OutboxMessage.State.WAITING).update(
                next_try_at=now, attempts=F("attempts") - 1
            )
        else:
            result += _note(message, carried[message.pk], now)
    return result


def deliver_mails(*, now: datetime) -> Round:
    """Send the mails that are due, batch by batch, as long as they go out."""
    return repeat(lambda: deliver_due(kind=OutboxMessage.Kind.MAIL, carry=mailing.carry, now=now, limit=MAILS_AT_ONCE))


def repeat(deliver: Callable[[], Round]) -> Round:
    """Deliver round after round until one gets nothing off the table, within bounds; the next wake-up goes on."""
    total = Round()
    for _ in range(MOST_ROUNDS):
        done = deliver()
        total += done
        if not done.sent and not done.given_up:
            break
    return total


def give_up(*, kind: OutboxMessage.Kind, recipient: str, reason: str) -> int:
    """Give up what waits for `recipient`; returns how many messages that were."""
    waiting = OutboxMessage.objects.filter(kind=kind, recipient=recipient, state=OutboxMessage.State.WAITING)
    return waiting.update(state=OutboxMessage.State.FAILED, last_error=reason[:500])


def lets_in(message: OutboxMessage) -> bool:
    """Whether this mail lets in whoever reads it: it is shown to nobody but its recipient, and forgotten once it is sent."""
    return message.kind == OutboxMessage.Kind.MAIL and message.dedupe_key.startswith(LETTING_IN)


def send_again(*, message: OutboxMessage, now: datetime) -> bool:
    """Let a message that was given up, or that waits, be tried at once and for three days more; False if it was sent already."""
    again = OutboxMessage.objects.filter(pk=message.pk).exclude(state=OutboxMessage.State.SENT)
    return again.update(state=OutboxMessage.State.WAITING, attempts=0, next_try_at=now) == 1


def wait_after(attempts: int) -> timedelta:
    """How long to wait after so many attempts: twice as long each time, up to six hours, a little more or less each time."""
    doubled: int = 2 ** min(attempts - 1, 20)
    return min(FIRST_WAIT * doubled, LONGEST_WAIT) * random.uniform(0.85, 1.15)  # noqa: S311 - so that not all come back at once; nobody gains from guessing it


def _queue(
    kind: OutboxMessage.Kind,
    dedupe_key: str,
    recipient: str,
    subject: str,
    content: dict[str, object],
    account: Account | None,
    now: datetime,
) -> OutboxMessage:
    message, _ = OutboxMessage.objects.get_or_create(
        dedupe_key=key(dedupe_key),
        defaults={
            "kind": kind,
            "account": account,
            "recipient": recipient,
            "subject": subject[:200],
            "content": content,
            "next_try_at": now,
            "created_at": now,
        },
    )
    return message


@transaction.atomic
def _claim(kind: OutboxMessage.Kind, now: datetime, limit: int, *, one_each: bool) -> list[OutboxMessage]:
    due = OutboxMessage.objects.select_for_update(skip_locked=True, of=("self",)).filter(
        kind=kind, state=OutboxMessage.State.WAITING, next_try_at__lte=now
    )
    chosen: dict[str | int, OutboxMessage] = {}
    for message in due.order_by("next_try_at", "id")[: limit * LOOKED_AT if one_each else limit]:
        if len(chosen) < limit:
            chosen.setdefault(message.recipient if one_each else message.pk, message)
    claimed = list(chosen.values())
    # Counted before it is tried: a message that kills its carrier is given up in the end too.
    OutboxMessage.objects.filter(pk__in=[message.pk for message in claimed]).update(
        attempts=F("attempts") + 1, next_try_at=now + CLAIMED_FOR
    )
    for message in claimed:
        message.attempts += 1
    return claimed


def _note(message: OutboxMessage, failure: Failure | None, now: datetime) -> Round:
    row = OutboxMessage.objects.filter(pk=message.pk)
    if failure is None:
        forgotten = {"content": {"text": "", "html": "", "unsubscribe_url": ""}} if lets_in(message) else {}
        row.update(state=OutboxMessage.State.SENT, sent_at=now, last_error="", **forgotten)
        return Round(sent=1)
    waiting = row.filter(state=OutboxMessage.State.WAITING)
    if failure.is_final or message.attempts >= MOST_ATTEMPTS:
        waiting.update(state=OutboxMessage.State.FAILED, last_error=failure.reason[:500])
        log.warning("message_given_up", kind=message.kind, message=message.pk, subject=message.subject, reason=failure.reason)
        return Round(given_up=1)
    again_at = now + wait_after(message.attempts)
    waiting.update(next_try_at=again_at, last_error=failure.reason[:500])
    OutboxMessage.objects.filter(kind=message.kind, recipient=message.recipient, state=OutboxMessage.State.WAITING).exclude(
        pk=message.pk
    ).update(next_try_at=Greatest("next_try_at", again_at))
    return Round(delayed=1)
