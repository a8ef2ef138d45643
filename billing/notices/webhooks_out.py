"""Calls to customers' webhooks: signed, to public addresses only, bounded in time, and retried for three days.

Signed as https://www.standardwebhooks.com describes: `v1,` and the base64 HMAC-SHA256 of `id.timestamp.body`. The connection goes to the very
address that was checked, so that a name cannot stand for another a moment later; no redirect is followed and no answer's body is read.
"""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from http import HTTPStatus
from urllib.parse import urlsplit

import httpx
from django.conf import settings
from django.db import transaction

from accounts import audit, outbox
from accounts.mailing import Failure
from accounts.models import OutboxMessage
from billing.models import WebhookEndpoint
from billing.notices import telling
from catalog import vault
from gateway_site.addresses import is_private

AT_ONCE = 20  # calls at a time, each to another endpoint
CALL_SECONDS = 15.0  # from the look-up of the name to the head of the answer
CONNECT_SECONDS = 5.0
DISABLED_AFTER = 3  # messages in a row that were given up after three days each
TIMEOUT = httpx.Timeout(CALL_SECONDS, connect=CONNECT_SECONDS)


class UrlRefused(Exception):
    """The address is none that may be called."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Call:
    """One call, ready to be made."""

    message_id: int
    url: str
    body: bytes
    headers: Mapping[str, str]


def secrets_place(endpoint: WebhookEndpoint) -> str:
    """Where the endpoint's sealed secrets belong."""
    return f"webhook_endpoint:{endpoint.pk}:secret"


def sign(secret: str, *, message_id: str, timestamp: int, body: bytes) -> str:
    """The signature of one call. `secret` is `whsec_` and the key in base64; `timestamp` is in seconds of Unix."""
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    digest = hmac.new(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def check_url(url: str) -> None:
    """Refuse an address that could not be right, or that is private on its face. Raises: UrlRefused."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UrlRefused("This is not an address of the web.") from error
    allowed = ("https", "http") if settings.WEBHOOK_ALLOW_PRIVATE else ("https",)
    if parts.scheme not in allowed or not host or parts.username or parts.password or parts.fragment:
        raise UrlRefused("It has to be an https:// address without a user name.")
    if settings.WEBHOOK_ALLOW_PRIVATE:
        return
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
            raise UrlRefused("This name stands for a private network.") from None
        return  # a name: it is looked up, and checked, when it is called
    if is_private(host):
        raise UrlRefused("This address belongs to a private network.")


def deliver(*, now: datetime) -> outbox.Round:
    """Make the calls that are due, one for each endpoint at a time, and switch off the endpoints that have been dead for long."""
    carry = partial(_carry, now=now)
    return outbox.repeat(lambda: outbox.deliver_due(kind=OutboxMessage.Kind.WEBHOOK, carry=carry, now=now, limit=AT_ONCE, one_each=True))


def _carry(messages: Sequence[OutboxMessage], *, now: datetime) -> dict[int, Failure | None]:
    endpoints = {str(endpoint.pk): endpoint for endpoint in WebhookEndpoint.objects.filter(pk__in=[each.recipient for each in messages])}
    carried: dict[int, Failure | None] = {}
    calls: list[Call] = []
    for message in messages:
        endpoint = endpoints.get(message.recipient)
        if endpoint is None or not endpoint.is_enabled:
            carried[message.pk] = Failure("the endpoint is gone or switched off", is_final=True)
            continue
        try:
            calls.append(_prepare(message, endpoint, now))
        except vault.CannotOpen as error:
            carried[message.pk] = Failure(str(error))
    answers = asyncio.run(_call_all(calls)) if calls else {}
    for message in messages:
        if message.pk in answers:
            failure, is_gone = answers[message.pk]
            carried[message.pk] = failure
            _judge(endpoints[message.recipient], message, failure, is_gone=is_gone, now=now)
    return carried


def _prepare(message: OutboxMessage, endpoint: WebhookEndpoint, now: datetime) -> Call:
    message_id, timestamp = f"msg_{message.pk}", int(now.timestamp())
    body = json.dumps({"id": message_id, **message.content}, separators=(",", ":"), ensure_ascii=False).encode()
    sealed = [endpoint.sealed_secret]
    if endpoint.previous_sealed_secret and endpoint.previous_until is not None and endpoint.previous_until > now:
        sealed.append(endpoint.previous_sealed_secret)
    secrets = [vault.open_sealed(each, place=secrets_place(endpoint)) for each in sealed]
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Tollgate-Webhooks/1",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(sign(secret, message_id=message_id, timestamp=timestamp, body=body) for secret in secrets),
    }
    return Call(message.pk, endpoint.url, body, headers)


async def _call_all(calls: Sequence[Call]) -> dict[int, tuple[Failure | None, bool]]:
    async with httpx.AsyncClient(
        verify=_tls(), timeout=TIMEOUT, follow_redirects=False, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
    ) as client:
        answers = await asyncio.gather(*(_call(client, call) for call in calls))
    return dict(zip((call.message_id for call in calls), answers, strict=True))


async def _call(client: httpx.AsyncClient, call: Call) -> tuple[Failure | None, bool]:
    """Make one call. Returns why it failed, and whether the endpoint says that it is gone for good."""
    try:
        async with asyncio.timeout(CALL_SECONDS):
            check_url(call.url)
            request = await _address(client, call)
            answer = await client.send(request, stream=True)  # the body stays where it is
            await answer.aclose()
    except UrlRefused as error:
        return Failure(error.reason), False
    except TimeoutError:
        return Failure(f"no answer within {CALL_SECONDS:.0f} seconds"), False
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        return Failure(f"{type(error).__name__}: {error}"), False
    if answer.is_success:
        return None, False
    return Failure(f"answered {answer.status_code}"), answer.status_code == HTTPStatus.GONE


async def _address(client: httpx.AsyncClient, call: Call) -> httpx.Request:
    """The request, to the address that its host's name stands for now, once all of those are known to be public."""
    url = httpx.URL(call.url)
    port = url.port or (443 if url.scheme == "https" else 80)
    found = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=1)  # SOCK_STREAM
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or (not settings.WEBHOOK_ALLOW_PRIVATE and any(map(is_private, addresses))):
        raise UrlRefused("The name stands for an address of a private network.")
    headers = {**call.headers, "Host": url.netloc.decode()}
    return client.build_request(
        "POST", url.copy_with(host=addresses[0]), content=call.body, headers=headers, extensions={"sni_hostname": url.host}
    )


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


@transaction.atomic
def _judge(endpoint: WebhookEndpoint, message: OutboxMessage, failure: Failure | None, *, is_gone: bool, now: datetime) -> None:
    """Count what an endpoint failed for good in a row, and switch it off, with a mail, when it is dead."""
    if failure is None:
        if endpoint.failures:
            WebhookEndpoint.objects.filter(pk=endpoint.pk).update(failures=0)
        return
    is_given_up = failure.is_final or message.attempts >= outbox.MOST_ATTEMPTS
    if not is_given_up and not is_gone:
        return
    locked = WebhookEndpoint.objects.select_for_update(of=("self",)).select_related("account").filter(pk=endpoint.pk).first()
    if locked is None:
        return
    locked.failures += 1
    if locked.is_enabled and (is_gone or locked.failures >= DISABLED_AFTER):
        locked.is_enabled = False
        locked.disabled_reason = f"Switched off on {now:%Y-%m-%d}: {failure.reason}"[:200]
        outbox.give_up(kind=OutboxMessage.Kind.WEBHOOK, recipient=str(locked.pk), reason="the endpoint was switched off")
        audit.record(
            account=locked.account, actor=None, actor_text="webhooks", action="webhook_endpoint.disabled", subject=locked.url, now=now
        )
        telling.tell(
            account=locked.account,
            event="webhook_endpoint.disabled",
            dedupe_key=f"{locked.pk}:{message.pk}",
            context={"endpoint_id": str(locked.pk), "url": locked.url, "reason": failure.reason},
            now=now,
        )
    locked.save(update_fields=["failures", "is_enabled", "disabled_reason"])
