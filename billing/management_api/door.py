"""The door of the management API: every view asks for a management key, counts the call, and lets only what the key's maker may do pass.

Views raise, instead of answering, what `proxy.errors` has a row for; what the REST framework itself raises is translated in
`gateway_site.api_errors`.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, ClassVar, cast

import orjson
from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from rest_framework import exceptions
from rest_framework.authentication import BaseAuthentication
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.serializers import Serializer
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from accounts.models import Account
from accounts.permissions import Permission
from keys import authentication, authority, http, repeats
from keys.models import ApiKey

MOST_BODY_BYTES = 256 * 1024
MINUTE = 60


class BodyTooLarge(exceptions.APIException):
    """The body has more than MOST_BODY_BYTES."""

    status_code = 413


class ManagementKey(BaseAuthentication):
    """Proves a management key, every time anew: `request.auth` is its row."""

    def authenticate(self, request: Request) -> tuple[AnonymousUser, ApiKey]:
        """Raises: what `keys.http.prove` raises, WrongKeyKind."""
        plain: HttpRequest = request._request  # noqa: SLF001 - the framework has no other name for it
        key, _ = http.prove(http.read_key(plain), now=timezone.now(), address=http.client_address(plain))
        if key.kind != ApiKey.Kind.MANAGEMENT:
            raise authentication.WrongKeyKind(key.kind)
        return AnonymousUser(), key


class PerMinute(BaseThrottle):
    """Calls of one key a minute: its own limit, or MANAGEMENT_RPM. Counted by the minute of the clock; Valkey being away loosens it."""

    def allow_request(self, request: Request, view: APIView) -> bool:  # noqa: ARG002 - the signature is the framework's
        """Count a call."""
        key = cast("ApiKey", request.auth)
        limit = key.rpm if key.rpm is not None else settings.MANAGEMENT_RPM
        if not limit:
            return True
        minute, passed = divmod(timezone.now().timestamp(), MINUTE)
        self._wait = MINUTE - passed
        place = f"management:{key.pk}:{int(minute)}"
        cache.add(place, 0, 2 * MINUTE)
        try:
            return int(cache.incr(place)) <= limit
        except ValueError:  # Valkey went away or came back in between
            return True

    def wait(self) -> float:
        """Seconds until the next minute."""
        return self._wait


class StrictJson(BaseParser):
    """JSON as `orjson` reads it: no NaN, nothing too deep; and not too much of it."""

    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:  # noqa: ARG002
        """Raises: BodyTooLarge, ParseError."""
        raw = stream.read(MOST_BODY_BYTES + 1)
        if len(raw) > MOST_BODY_BYTES:
            raise BodyTooLarge
        if parser_context is not None:
            parser_context["request"].raw = raw
        try:
            return orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise exceptions.ParseError(str(error)) from error


class AlwaysJson(BaseContentNegotiation):
    """Answers in JSON, whatever a client says that it accepts."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        """The parser of the body's content type; None where it has another."""
        given = (request.content_type or "").partition(";")[0].strip().lower()
        return parsers[0] if not given or "json" in given else None

    def select_renderer(self, request: Request, renderers: Any, format_suffix: Any = None) -> Any:  # noqa: ARG002
        """The only one."""
        return renderers[0], renderers[0].media_type


class ManagementView(APIView):
    """A view of the management API. `needs` says by method which permission its key's maker must have."""

    authentication_classes = [ManagementKey]
    permission_classes = []
    throttle_classes = [PerMinute]
    parser_classes = [StrictJson]
    renderer_classes = [JSONRenderer]
    content_negotiation_class = AlwaysJson
    metadata_class = None
    needs: ClassVar[Mapping[str, Permission]] = {}

    def check_permissions(self, request: Request) -> None:
        """Ask whether the key may do this. Raises: NotPermitted."""
        super().check_permissions(request)
        self.authority = authority.of(self.key)
        method = "GET" if request.method == "HEAD" else str(request.method)
        if method in self.needs:
            self.authority.check(self.needs[method])

    @property
    def key(self) -> ApiKey:
        """The management key of the call."""
        return cast("ApiKey", self.request.auth)

    @property
    def account(self) -> Account:
        """Whose key it is."""
        return self.key.account

    @property
    def address(self) -> str | None:
        """Where the call comes from, for the audit log."""
        return http.client_address(self.request._request) or None  # noqa: SLF001 - as above

    def asked(self, serializer: type[Serializer[Any]]) -> dict[str, Any]:
        """What the address asks for. Raises: ValidationError."""
        read = serializer(data=self.request.query_params.dict())
        read.is_valid(raise_exception=True)
        return dict(read.validated_data)

    def said(self, serializer: type[Serializer[Any]], *, partial: bool = False) -> dict[str, Any]:
        """What the body says. Raises: ParseError, ValidationError, BodyTooLarge, UnsupportedMediaType."""
        read = serializer(data=self.request.data, partial=partial)
        read.is_valid(raise_exception=True)
        return dict(read.validated_data)

    def make_once(self, act: Callable[[], repeats.Made], *, now: datetime) -> HttpResponse:
        """Make something, once for each Idempotency-Key. Raises: what `keys.repeats.once` raises."""
        made = repeats.once(
            account=self.account,
            key=self.request.headers.get("Idempotency-Key"),
            call=f"{self.key.pk} {self.request.method} {self.request.path}",
            body=getattr(self.request, "raw", b""),
            now=now,
            act=act,
        )
        response = answer({**made.answer, **made.secrets}, status=made.status)
        if made.is_repeat:
            response.headers["idempotent-replayed"] = "true"
        return response


def answer(body: Mapping[str, Any], *, status: int = 200) -> HttpResponse:
    """An answer in JSON that no cache keeps."""
    return HttpResponse(orjson.dumps(body), status=status, content_type="application/json", headers={"Cache-Control": "no-store"})
