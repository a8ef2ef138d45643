"""Proves who calls a view of the control plane's API: reads the key from the request, looks it up and checks it, every time anew.

Nothing is cached here, so a key that was revoked is refused by the very next request. The data plane has its own way, with a cache
(`keys.authentication.Authenticator`); what a key must satisfy is said once, in `KeyGrant`.
"""

import ipaddress
from collections.abc import Callable, Collection
from datetime import datetime
from functools import wraps
from typing import Concatenate, ParamSpec, cast

from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from catalog.matching import ModelPatterns
from gateway_site.clients import DatabaseUnavailable
from keys import authentication, secret
from keys.authentication import KeyGrant
from keys.models import ApiKey

HEADERS = (("HTTP_AUTHORIZATION", b"authorization"), ("HTTP_X_API_KEY", b"x-api-key"), ("HTTP_X_GOOG_API_KEY", b"x-goog-api-key"))
EVERY_KIND = ("live", "test", "management")

Arguments = ParamSpec("Arguments")


class KeyedRequest(HttpRequest):
    """A request that `with_key` let through: `key` is its row, with the account; `grant` says what it may do."""

    key: ApiKey
    grant: KeyGrant


def with_key(
    *, kinds: Collection[str] = EVERY_KIND
) -> Callable[
    [Callable[Concatenate[KeyedRequest, Arguments], HttpResponseBase]], Callable[Concatenate[HttpRequest, Arguments], HttpResponseBase]
]:
    """Let a view be called only with a key of these kinds. The view raises, instead of answering, what `proxy.errors` has a row for.

    Such a view needs no CSRF token, because no browser sends a key by itself, and its answer is never stored by a cache.

    Raises: NoKey, TwoKeys, InvalidKey, KeyDisabled, AddressNotAllowed, WrongKeyKind; gateway_site.clients.DatabaseUnavailable.
    """

    def decorate(
        view: Callable[Concatenate[KeyedRequest, Arguments], HttpResponseBase],
    ) -> Callable[Concatenate[HttpRequest, Arguments], HttpResponseBase]:
        @csrf_exempt
        @wraps(view)
        def guarded(request: HttpRequest, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> HttpResponseBase:
            keyed = cast("KeyedRequest", request)
            try:
                keyed.key, keyed.grant = prove(read_key(request), now=timezone.now(), address=client_address(request))
                if keyed.key.kind not in kinds:
                    raise authentication.WrongKeyKind(keyed.key.kind)
                response = view(keyed, *args, **kwargs)
            except (OperationalError, InterfaceError) as error:
                raise DatabaseUnavailable(str(error)) from error
            response.headers.setdefault("Cache-Control", "no-store")
            return response

        return guarded

    return decorate


def read_key(request: HttpRequest) -> str:
    """Find the key in the request's headers, as `keys.authentication.read_key` does.

    Raises: NoKey; TwoKeys when they differ.
    """
    sent = [(name, request.META[variable].encode("latin-1", "replace")) for variable, name in HEADERS if variable in request.META]
    return authentication.read_key(sent)


def client_address(request: HttpRequest) -> str:
    """The address the request comes from, as the server in front of Django gives it (see TRUSTED_PROXIES)."""
    return str(request.META.get("REMOTE_ADDR", ""))


def prove(text: str, *, now: datetime, address: str) -> tuple[ApiKey, KeyGrant]:
    """Find the row behind a key and check that it may be used now, from this address.

    Raises: InvalidKey, KeyDisabled, AddressNotAllowed.
    """
    if not secret.is_well_formed(text):
        raise authentication.InvalidKey
    digests = [secret.digest(text, pepper) for pepper in secret.read_peppers(settings.KEY_PEPPERS)]
    key = ApiKey.objects.select_related("account").filter(digest__in=digests).first()
    if key is None:
        raise authentication.InvalidKey
    grant = grant_of(key)
    grant.check(now)
    grant.check_address(address)
    return key, grant


def grant_of(key: ApiKey) -> KeyGrant:
    """What a row (with its account) stands for."""
    return KeyGrant(
        id=key.pk,
        account_id=key.account_id,
        account_slug=key.account.slug,
        timezone=key.account.timezone,
        name=key.name,
        kind=key.kind,
        models=ModelPatterns(key.allowed_models),
        endpoints=frozenset(key.allowed_endpoints),
        networks=tuple(ipaddress.ip_network(network, strict=False) for network in key.allowed_ips),
        rpm=key.rpm,
        tpm=key.tpm,
        concurrency=key.concurrency,
        budget_nano=key.budget_nano,
        budget_window=key.budget_window,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
        is_disabled=key.is_disabled,
        account_active=key.account.is_active,
    )
