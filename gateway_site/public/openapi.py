"""The OpenAPI document of what a key can call (`openapi.yaml`), with this installation's address, and the reference page made from it.

The file is written by hand; a test compares it with the URL table and with real answers. The management API describes itself.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from gateway_site.public import docs
from keys.snippets import origin_of

FILE = Path(__file__).with_name("openapi.yaml")
METHODS = ("get", "post", "delete")
# What every answer of inference says beside its body.
_HEADERS = {
    "x-request-id": "RequestId",
    "x-gateway-provider": "Provider",
    "x-gateway-attempts": "Attempts",
    "x-gateway-cost-usd": "CostUsd",
    "x-gateway-dropped": "Dropped",
}


@dataclass(frozen=True, slots=True)
class Field:
    """A field or parameter as the reference shows it."""

    name: str
    kind: str
    is_required: bool
    text: str
    place: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one address."""

    method: str
    path: str
    id: str
    summary: str
    text: str
    parameters: tuple[Field, ...]
    fields: tuple[Field, ...]
    answers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Group:
    """The operations of one tag."""

    name: str
    text: str
    operations: tuple[Operation, ...]


@cache
def document() -> Mapping[str, Any]:
    """The document as it is written, with the headers that all answers of inference have."""
    found: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    for item in found["paths"].values():
        for method in METHODS:
            if "Inference" in item.get(method, {}).get("tags", ()):
                item[method]["responses"]["200"]["headers"] = {
                    name: {"$ref": f"#/components/headers/{kind}"} for name, kind in _HEADERS.items()
                }
    return found


@require_safe
def openapi(request: HttpRequest) -> HttpResponse:
    """The document as JSON, for any program."""
    response = JsonResponse({**document(), "servers": [{"url": origin_of(request)}]}, json_dumps_params={"ensure_ascii": False})
    response.headers["Access-Control-Allow-Origin"] = "*"  # public, and the same for everybody
    return response


@require_safe
def reference(request: HttpRequest) -> HttpResponse:
    """The document as a page."""
    return render(request, "docs/reference.html", {"groups": groups(), "index": docs.INDEX, "pages": docs.PAGES})


@cache
def groups() -> tuple[Group, ...]:
    """The operations by tag, in the order of the document."""
    found = document()
    every = list(_operations(found))
    return tuple(
        Group(tag["name"], tag["description"], tuple(operation for name, operation in every if name == tag["name"]))
        for tag in found["tags"]
    )


def _operations(found: Mapping[str, Any]) -> Iterator[tuple[str, Operation]]:
    for path, item in found["paths"].items():
        for method in METHODS:
            if (spec := item.get(method)) is not None:
                yield spec["tags"][0], _operation(path, method, item, spec)


def _operation(path: str, method: str, item: Mapping[str, Any], spec: Mapping[str, Any]) -> Operation:
    parameters = [_resolve(each) for each in (*item.get("parameters", ()), *spec.get("parameters", ()))]
    body = spec.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    return Operation(
        method=method.upper(),
        path=path,
        id=spec["operationId"],
        summary=spec["summary"],
        text=spec.get("description", ""),
        parameters=tuple(
            Field(each["name"], _kind(each["schema"]), each.get("required", False), each.get("description", ""), each["in"])
            for each in parameters
        ),
        fields=tuple(_fields(_resolve(body))),
        answers=tuple(
            (status if status != "default" else "otherwise", _resolve(answer)["description"])
            for status, answer in spec["responses"].items()
        ),
    )


def _fields(schema: Mapping[str, Any]) -> Iterable[Field]:
    """The fields of an object; those that it requires come first."""
    properties: dict[str, Any] = {}
    for part in (*(_resolve(each) for each in schema.get("allOf", ())), schema):
        properties |= part.get("properties", {})
    required = schema.get("required", ())
    shown = [
        Field(name, _kind(_resolve(each)), name in required, _resolve(each).get("description", "")) for name, each in properties.items()
    ]
    return sorted(shown, key=lambda field: not field.is_required)


def _kind(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(json.dumps(each) for each in schema["enum"])
    kind = schema.get("type", "any")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _resolve(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a reference within the document points at."""
    if "$ref" not in value:
        return value
    found: Any = document()
    for step in value["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    resolved: Mapping[str, Any] = found
    return resolved
