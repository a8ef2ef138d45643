"""The management API's description of itself: OpenAPI 3.1, made from its views once a process."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, URLResolver, include, path
from django.views.decorators.http import require_safe
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.renderers import OpenApiJsonRenderer

from accounts.permissions import Permission

# What answers say beside their body: of all, of those that were given before, and of those to calls that were too many.
_OF_ALL = {"x-request-id": "The id of the call, for questions.", "request-id": "The same."}
_REPLAYED = {"idempotent-replayed": "`true` when the answer is that of an earlier call with the same Idempotency-Key."}
_WAITS = {"retry-after": "Seconds to wait.", "retry-after-ms": "The same in milliseconds."}
_FINAL = {"x-should-retry": "`false` when trying again does not help."}
_PROBLEM = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
# What the door refuses before a view is asked, and how any call can fail.
_OF_BODIES = {
    "413": "The body is too large: `body_too_large`.",
    "415": "The body is said to be something else than JSON: `not_json`.",
}
_FAILURES = {
    "500": "The gateway itself failed: `internal_error`.",
    "503": "The database does not answer: `billing_unavailable`.",
}


class ManagementKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How the description names the management key."""

    target_class = "billing.management_api.door.ManagementKey"
    name = "managementKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:  # noqa: ARG002 - the signature is the framework's
        """A bearer token."""
        return {"type": "http", "scheme": "bearer", "description": "A management key, sk-gw-admin-…", "x-example": "sk-gw-admin-…"}


class Description(AutoSchema):
    """How an operation is described: by what the framework finds in its view, and what `door` does for all of them."""

    def get_auth(self) -> list[dict[str, Any]]:
        """The management key, with the permission that its maker must have."""
        needs: Mapping[str, Permission] = getattr(self.view, "needs", {})
        return [{name: [needs[self.method].value] if self.method in needs else [] for name in each} for each in super().get_auth()]

    def get_operation(self, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        """The operation, with what any of them may be answered and the headers that this has."""
        operation: dict[str, Any] | None = super().get_operation(*args, **kwargs)
        if operation is None:
            return None
        answers, has_body = operation["responses"], "requestBody" in operation
        makes_once = any(each["name"] == "Idempotency-Key" for each in operation.get("parameters", ()))
        for status, text in ({**_OF_BODIES, **_FAILURES} if has_body else _FAILURES).items():
            answers[status] = {"description": text, "content": _PROBLEM}
        for status, answer in answers.items():
            headers = {**_OF_ALL, **(_REPLAYED if makes_once and status == "201" else {})}
            headers |= {**_WAITS, **_FINAL} if status == "429" else _WAITS if status == "503" else _FINAL if status == "422" else {}
            answer["headers"] = {name: {"description": about, "schema": {"type": "string"}} for name, about in headers.items()}
        operation["responses"] = dict(sorted(answers.items()))
        return operation


@cache
def document(views: tuple[URLPattern, ...]) -> bytes:
    """The description of the `views` as JSON."""
    patterns: list[URLPattern | URLResolver] = [path("v1/", include(list(views)))]
    schema = SchemaGenerator(patterns=patterns).get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    schema["servers"] = [{"url": settings.PUBLIC_URL}]
    rendered: bytes = OpenApiJsonRenderer().render(schema)
    return rendered


def serve(views: tuple[URLPattern, ...]) -> Callable[[HttpRequest], HttpResponse]:
    """Make GET /v1/openapi.json, which describes the `views`."""

    @require_safe
    def openapi(request: HttpRequest) -> HttpResponse:  # noqa: ARG001 - a view's signature
        return HttpResponse(document(views), content_type="application/json", headers={"Cache-Control": "public, max-age=3600"})

    return openapi
