"""The endpoints of an account's webhooks: made, changed, given new secrets, tried out, switched off and removed. Each deed is audited."""

import base64
import secrets
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.db import transaction

from accounts import audit, outbox
from accounts.models import Account, OutboxMessage, User
from billing.models import WebhookEndpoint
from billing.notices import telling, webhooks_out
from catalog import vault

MOST = 10  # endpoints of an account
BOTH_SECRETS_FOR = timedelta(days=1)  # after a rotation calls are signed with the old one too


class EndpointRefused(Exception):
    """What was asked for cannot be; `reason` says why, for the customer."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@transaction.atomic
def create(
    *, account: Account, url: str, events: Sequence[str], actor: User | None, now: datetime, ip: str | None = None
) -> tuple[WebhookEndpoint, str]:
    """Add an endpoint that is told of `events` (empty: all). Returns it with its secret, which is shown this once.

    Raises: EndpointRefused.
    """
    _check(url, events)
    Account.objects.select_for_update().get(pk=account.pk)  # two at once must not both be the tenth
    if account.webhook_endpoints.count() >= MOST:
        raise EndpointRefused(f"An account has at most {MOST} endpoints.")
    endpoint = WebhookEndpoint(id=uuid.uuid4(), account=account, url=url, events=list(events), created_at=now)
    secret = _new_secret()
    endpoint.sealed_secret = vault.seal(secret, place=webhooks_out.secrets_place(endpoint))
    endpoint.save(force_insert=True)
    _record(endpoint, "created", actor, now, ip)
    return endpoint, secret


@transaction.atomic
def change(
    *, endpoint: WebhookEndpoint, url: str, events: Sequence[str], actor: User | None, now: datetime, ip: str | None = None
) -> WebhookEndpoint:
    """Give an endpoint another address or other events. Raises: EndpointRefused."""
    _check(url, events)
    changed = WebhookEndpoint.objects.select_for_update().get(pk=endpoint.pk)
    changed.url, changed.events = url, list(events)
    changed.save(update_fields=["url", "events"])
    _record(changed, "changed", actor, now, ip)
    return changed


@transaction.atomic
def rotate_secret(*, endpoint: WebhookEndpoint, actor: User | None, now: datetime, ip: str | None = None) -> str:
    """Give an endpoint a new secret, which is returned this once. For a day calls carry the signatures of both."""
    changed = WebhookEndpoint.objects.select_for_update().get(pk=endpoint.pk)
    secret = _new_secret()
    changed.previous_sealed_secret, changed.previous_until = changed.sealed_secret, now + BOTH_SECRETS_FOR
    changed.sealed_secret = vault.seal(secret, place=webhooks_out.secrets_place(changed))
    changed.save(update_fields=["sealed_secret", "previous_sealed_secret", "previous_until"])
    _record(changed, "secret_rotated", actor, now, ip)
    return secret


@transaction.atomic
def enable(*, endpoint: WebhookEndpoint, actor: User | None, now: datetime, ip: str | None = None) -> None:
    """Switch an endpoint on again. What was given up meanwhile is not sent by itself."""
    WebhookEndpoint.objects.filter(pk=endpoint.pk).update(is_enabled=True, failures=0, disabled_reason="")
    _record(endpoint, "enabled", actor, now, ip)


@transaction.atomic
def disable(*, endpoint: WebhookEndpoint, actor: User | None, now: datetime, ip: str | None = None) -> None:
    """Switch an endpoint off; what waits for it is given up."""
    WebhookEndpoint.objects.filter(pk=endpoint.pk).update(is_enabled=False, disabled_reason="Switched off by hand.")
    _give_up(endpoint)
    _record(endpoint, "disabled", actor, now, ip)


@transaction.atomic
def remove(*, endpoint: WebhookEndpoint, actor: User | None, now: datetime, ip: str | None = None) -> None:
    """Remove an endpoint and its secret; what waits for it is given up."""
    _give_up(endpoint)
    _record(endpoint, "removed", actor, now, ip)
    WebhookEndpoint.objects.filter(pk=endpoint.pk).delete()


def send_test(*, endpoint: WebhookEndpoint, now: datetime) -> None:
    """Queue a `webhook_endpoint.test` to an endpoint, whatever events it wants."""
    telling.tell_endpoint(
        endpoint=endpoint,
        event="webhook_endpoint.test",
        dedupe_key=str(uuid.uuid4()),
        context={"message": "If you can read this, the signature was yours to check."},
        now=now,
    )


def _check(url: str, events: Sequence[str]) -> None:
    if len(url) > WebhookEndpoint._meta.get_field("url").max_length:  # type: ignore[operator]  # noqa: SLF001 - Django's own name for it
        raise EndpointRefused("This address is too long.")
    try:
        webhooks_out.check_url(url)
    except webhooks_out.UrlRefused as error:
        raise EndpointRefused(error.reason) from error
    if unknown := sorted(set(events) - set(telling.FOR_WEBHOOKS)):
        raise EndpointRefused(f"There is no event {unknown[0]!r}.")


def _new_secret() -> str:
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


def _give_up(endpoint: WebhookEndpoint) -> None:
    outbox.give_up(kind=OutboxMessage.Kind.WEBHOOK, recipient=str(endpoint.pk), reason="the endpoint was switched off")


def _record(endpoint: WebhookEndpoint, deed: str, actor: User | None, now: datetime, ip: str | None) -> None:
    audit.record(
        account=endpoint.account,
        actor=actor,
        action=f"webhook_endpoint.{deed}",
        subject=endpoint.url,
        details={"endpoint_id": str(endpoint.pk)},
        now=now,
        ip=ip,
    )
