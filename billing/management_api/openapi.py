"""The management API's description of itself: OpenAPI 3.1, made from its views once a process."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, URLResolver, include, path
from django.views.decorators.http import require_safe
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer


class ManagementKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How the description names the management key."""

    target_class = "billing.management_api.door.ManagementKey"
    name = "managementKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:  # noqa: ARG002 - the signature is the framework's
        """A bearer token."""
        return {"type": "http", "scheme": "bearer", "description": "A management key, sk-gw-admin-…"}


def document(views: Sequence[URLPattern]) -> bytes:
    """The description of the `views` as JSON."""
    patterns: list[URLPattern | URLResolver] = [path("v1/", include(list(views)))]
    schema = SchemaGenerator(patterns=patterns).get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    schema["servers"] = [{"url": settings.PUBLIC_URL}]
    rendered: bytes = OpenApiJsonRenderer().render(schema)
    return rendered


def serve(views: Sequence[URLPattern]) -> Callable[[HttpRequest], HttpResponse]:
    """Make GET /v1/openapi.json, which describes the `views`."""
    describe = cache(lambda: document(views))

    @require_safe
    def openapi(request: HttpRequest) -> HttpResponse:  # noqa: ARG001 - a view's signature
        return HttpResponse(describe(), content_type="application/json", headers={"Cache-Control": "public, max-age=3600"})

    return openapi
