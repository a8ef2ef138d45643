"""Money: whether people can pay and Stripe's news of it arrives, and whether every invariant holds."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from django.conf import settings

from billing import reconciliation, task_runs
from billing.models import StripeEvent, TaskRun, TopUp
from billing.payments import stripe_client
from gateway_site.diagnosis.findings import Finding, counted, error, first_line, note, warning
from gateway_site.diagnosis.secrets import LEAST_DIFFERENT_BYTES

WEBHOOK_LATE_AFTER = timedelta(hours=1)  # Stripe tells of a new checkout within seconds


def check_stripe() -> Iterator[Finding]:
    """Whether people can pay, with which money, and whether the news of it would be believed."""
    if not settings.STRIPE_SECRET_KEY:
        yield note("stripe", "STRIPE_SECRET_KEY is not set: nobody can top up.", "Set it, or grant credit in the admin.")
        return
    if settings.STRIPE_SIMULATED:
        say = note if settings.DEBUG else warning
        yield say(
            "stripe",
            f"Payments are played ({settings.STRIPE_API_BASE}): credit is given for no money.",
            "Before anybody else comes here, remove STRIPE_SIMULATED and STRIPE_API_BASE and set Stripe's own keys.",
        )
    elif not stripe_client.is_live():
        yield note("stripe", "Stripe is in test mode: its test cards buy real credit.", "Set a live STRIPE_SECRET_KEY before you sell.")
    if not settings.STRIPE_WEBHOOK_SECRETS:
        yield error(
            "stripe",
            "STRIPE_WEBHOOK_SECRETS is not set: payments are credited up to ten minutes late, by the backfill alone.",
            f"At Stripe, add the endpoint {settings.PUBLIC_URL}/webhooks/stripe (API version {stripe_client.API_VERSION}) and set its secret.",
        )
    if weak := [secret for secret in settings.STRIPE_WEBHOOK_SECRETS if len(secret) < LEAST_DIFFERENT_BYTES]:
        yield error(
            "stripe",
            f"{len(weak)} of STRIPE_WEBHOOK_SECRETS is no signing secret.",
            "They begin with whsec_ and are long.",
        )


def check_payments(*, now: datetime) -> Iterator[Finding]:
    """The inbox of Stripe's events is worked off, nothing waits for a decision, and webhooks arrive."""
    waiting = StripeEvent.objects.filter(state="quarantined").count()
    if waiting:
        yield warning(
            "stripe", f"{counted(waiting, 'event')} of Stripe wait for a decision.", "In the admin: Stripe's events, state quarantined."
        )
    held = TopUp.objects.filter(state="quarantined").count()
    if held:
        yield error("stripe", f"{counted(held, 'payment')} were made that are not what was asked for.", "Decide in the admin: Top-ups.")
    failing = StripeEvent.objects.filter(state="failed", attempts__gte=5).order_by("received_at").first()
    if failing is not None:
        yield warning(
            "stripe", f"Event {failing.pk} failed {failing.attempts} times: {first_line(Exception(failing.last_error))}.", "See the admin."
        )
    if not settings.STRIPE_SECRET_KEY:
        return
    paid = TopUp.objects.filter(session_id__isnull=False, created_at__lt=now - WEBHOOK_LATE_AFTER, state="paid")
    asked = paid.order_by("-created_at").first()
    last = StripeEvent.objects.filter(source="webhook").order_by("-received_at").first()
    if asked is not None and asked.paid_at is not None and (last is None or last.received_at < asked.paid_at - timedelta(minutes=5)):
        when = "has ever come" if last is None else f"has come since {last.received_at:%Y-%m-%d %H:%M} UTC, and people have paid since"
        yield error(
            "stripe",
            f"No webhook of Stripe {when}.",
            f"At Stripe, see whether {settings.PUBLIC_URL}/webhooks/stripe can be reached, and which events it is sent.",
        )


def check_audit(*, now: datetime) -> Iterator[Finding]:
    """Every invariant of money holds."""
    if drifts := reconciliation.audit(now=now):
        yield error(
            "money",
            f"{counted(len(drifts), 'invariant')} of money broken, the first: {drifts[0]}.",
            "`manage.py billing_audit` lists them. Find out why before anything is changed; nothing is repaired by itself.",
        )


def check_last_audit() -> Iterator[Finding]:
    """The last audit that Celery has run found nothing."""
    run = TaskRun.objects.filter(name=task_runs.AUDIT, findings__gt=0).first()
    if run is not None:
        yield error(
            "money",
            f"The last audit found {counted(run.findings, 'broken invariant')} of money.",
            "`manage.py billing_audit` lists them. Find out why before anything is changed; nothing is repaired by itself.",
        )
