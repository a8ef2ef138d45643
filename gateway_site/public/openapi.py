"""The two OpenAPI documents: of what a key can call (`openapi.yaml`), and of the management API; with what their references are made from.

The first is written by hand; a test compares it with the URL table, the headers in the code and real answers. The second is made from its
views (`billing.management_api.openapi`).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from billing.management_api import openapi as management_openapi
from billing.management_api import urls as management_urls
from gateway_site.public import reference
from gateway_site.public.reference import METHODS, Reference
from keys.snippets import origin_of
from proxy.urls import find_view

FILE = Path(__file__).with_name("openapi.yaml")
# What answers say beside their body, by the name under which the document describes it.
_OF_ALL = {"x-request-id": "RequestId", "request-id": "RequestId"}
_OF_INFERENCE = {
    "x-gateway-provider": "Provider",
    "x-gateway-attempts": "Attempts",
    "x-gateway-overhead-ms": "OverheadMs",
    "x-gateway-dropped": "Dropped",
    "idempotent-replayed": "Replayed",
    "x-gateway-first-request-id": "FirstRequestId",
}
_OF_LIMITS = {
    f"x-ratelimit-{figure}-{unit}": f"{figure.title()}{unit.title()}"
    for unit in ("requests", "tokens")
    for figure in ("limit", "remaining", "reset")
}
_OF_ERRORS = {
    "retry-after": "RetryAfter",
    "retry-after-ms": "RetryAfterMs",
    "x-should-retry": "ShouldRetry",
    "x-gateway-attempts": "Attempts",
}


@dataclass(frozen=True, slots=True)
class Described:
    """An API that has a page of reference: the name and last part of its address, its label and lead in lists, and the text it begins with
    (Markdown).
    """

    name: str
    slug: str
    label: str
    lead: str
    text: str
    document: Callable[[], Mapping[str, Any]]

    @property
    def source(self) -> str:
        """The last part of the address of the same as Markdown."""
        return f"{self.slug}.md"

    @property
    def source_name(self) -> str:
        """The name of that address."""
        return f"{self.name}_source"


@cache
def document() -> Mapping[str, Any]:
    """The document as it is written, with the headers that all answers of a kind have."""
    found: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    for path, item in found["paths"].items():
        for method in METHODS:
            for status, answer in item.get(method, {}).get("responses", {}).items():
                if status != "default":
                    answer["headers"] = _refer(_headers(method, path, item[method])) | answer.get("headers", {})
    for answer in found["components"]["responses"].values():
        answer["headers"] = _refer({**_OF_ALL, **_OF_ERRORS, **_OF_LIMITS})
    return found


def _headers(method: str, path: str, spec: Mapping[str, Any]) -> dict[str, str]:
    if find_view(method.upper(), path) is None:
        return _OF_ALL
    is_charged = {"$ref": "#/components/parameters/IdempotencyKey"} in spec.get("parameters", ())
    return {**_OF_ALL, **_OF_LIMITS, "x-gateway-cost-usd": "CostUsd", **(_OF_INFERENCE if is_charged else {})}


def _refer(headers: Mapping[str, str]) -> dict[str, dict[str, str]]:
    return {name: {"$ref": f"#/components/headers/{kind}"} for name, kind in headers.items()}


@cache
def management_document() -> Mapping[str, Any]:
    """The management API's document, as its own address has it."""
    found: dict[str, Any] = json.loads(management_openapi.document(management_urls.VIEWS))
    return found


API = Described(
    "api_reference",
    "reference",
    "API reference",
    "every address that a key can call, with parameters, bodies, answers and an example",
    "Every address that a key can call. The same for programs: [openapi.json](https://gateway.example/openapi.json) (OpenAPI 3.1). All "
    "addresses under `/v1` are served under `/api/v1` as well, Gemini's excepted. The [management API](management-api.md) has a "
    "[reference of its own](https://gateway.example/docs/reference/management). Fields that are not listed go on to the provider as they are.",
    document,
)
MANAGEMENT = Described(
    "management_reference",
    "reference/management",
    "Management reference",
    "every address of the management API, with parameters, bodies, answers, what each needs and an example",
    "Every address that a management key can call. The same for programs: [openapi.json](https://gateway.example/v1/openapi.json) (OpenAPI "
    "3.1); what is behind it is told on the page of the [management API](management-api.md). Every address is also served under `/api/v1`. "
    "What an operation needs is what the role of the member who made the key must grant.",
    management_document,
)
REFERENCES = (API, MANAGEMENT)


@require_safe
def openapi(request: HttpRequest) -> HttpResponse:
    """The document as JSON, for any program."""
    response = JsonResponse({**document(), "servers": [{"url": origin_of(request)}]}, json_dumps_params={"ensure_ascii": False})
    response.headers["Access-Control-Allow-Origin"] = "*"  # public, and the same for everybody
    return response


@cache
def read(described: Described) -> Reference:
    """What the page of a reference shows."""
    return reference.read(described.document())


@cache
def source(described: Described) -> str:
    """A reference as Markdown, with `https://gateway.example` for this installation's address."""
    return reference.write(read(described), lead=described.text)
