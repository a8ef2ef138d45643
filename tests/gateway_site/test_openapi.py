"""The OpenAPI documents: valid, with every address and header that there is and no other, and true to what is really answered; their references."""

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import drf_spectacular.validation
import httpx
import jsonschema
import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from gateway_site.public import openapi, reference
from gateway_site.public.openapi import Described
from proxy import errors
from tests.billing.tenants import Shelf, open_shelf
from tests.routes import NAMESPACES, ROUTES

pytestmark = pytest.mark.filterwarnings("ignore:No directory at")

# How the patterns of the URL table with several methods in them, or under another prefix, are written down.
SEVERAL = {
    "v1beta/models/<path:model>:<str:method>": (
        "generateContent", "streamGenerateContent", "countTokens", "embedContent", "batchEmbedContents", "predict", "predictLongRunning",
        "fetchPredictOperation",
    ),
}  # fmt: skip


def served() -> set[str]:
    """The addresses for keys, as the document writes them; the management API, which describes itself, is left out."""
    found: set[str] = set()
    for pattern, view in walk(get_resolver()):
        route = ROUTES.get(pattern)
        if route is None or route.policy != "key" or hasattr(view, "cls") or hasattr(view, "view_class"):
            continue
        if pattern.startswith("api/v1/") and pattern.removeprefix("api/") in ROUTES:
            continue  # the same again
        if pattern == "api/v1/chat/completions":
            continue
        methods = SEVERAL.get(pattern)
        address = re.sub(r"<\w+:(\w+)>", lambda match: "{model}" if match[1] == "name" else f"{{{match[1]}}}", f"/{pattern}")
        found |= {address.replace("{method}", method) for method in methods} if methods else {address}
    return found


def walk(resolver: URLResolver, prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for entry in resolver.url_patterns:
        pattern = prefix + str(entry.pattern)
        if isinstance(entry, URLResolver):
            found += [] if entry.namespace in NAMESPACES else walk(entry, pattern)
        elif isinstance(entry, URLPattern):
            found.append((pattern, entry.callback))
    return found


def test_the_document_is_valid_openapi_3_1() -> None:
    folder = Path(drf_spectacular.validation.__file__).parent
    schema = json.loads((folder / "openapi_3_1_schema.json").read_text(encoding="utf-8"))
    document = json.loads(Client().get("/openapi.json").content)
    jsonschema.Draft202012Validator(schema).validate(document)
    assert document["openapi"] == "3.1.0"
    assert document["servers"] == [{"url": "http://testserver"}]


def test_every_reference_leads_somewhere_and_every_operation_has_a_name_of_its_own() -> None:
    document = openapi.document()
    for target in re.findall(r'"\$ref": "([^"]+)"', json.dumps(document)):
        assert reference.resolve(document, {"$ref": target})
    names = [item[method]["operationId"] for item in document["paths"].values() for method in reference.METHODS if method in item]
    assert len(names) == len(set(names))
    assert {tag for item in document["paths"].values() for m in reference.METHODS if m in item for tag in item[m]["tags"]} == {
        tag["name"] for tag in document["tags"]
    }


def test_the_document_names_every_address_that_a_key_can_call_and_no_other() -> None:
    assert set(openapi.document()["paths"]) == served()


# -- Headers --------------------------------------------------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]
HEADER = re.compile(r"(?:x-[a-z]+(?:-[a-z]+)*|request-id|retry-after(?:-ms)?|idempoten[a-z]+-[a-z]+|anthropic-[a-z]+)", re.IGNORECASE)
# Not the gateway's own: how a key may be sent (a security scheme), what browsers and proxies obey, and what providers' requests alone carry.
OTHERS = {"x-api-key", "x-goog-api-key", "x-content-type-options", "x-accel-buffering", "x-forwarded-for", "x-forwarded-proto"}


def headers_in(*places: str) -> set[str]:
    """The names of headers that stand in the code as such."""
    found = set()
    for place in places:
        for file in sorted(ROOT.glob(place)):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
                    text = node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
                    found |= {text.lower()} if HEADER.fullmatch(text) else set()
    return found - OTHERS


def headers_of(document: Any) -> set[str]:
    """The names of headers that a document describes, of requests and answers."""
    found = set(re.findall(r'"name": "([^"]+)", "in": "header"', json.dumps(document)))
    found |= set(re.findall(r'"in": "header", "name": "([^"]+)"', json.dumps(document)))
    answers = [
        answer for item in document["paths"].values() for m in reference.METHODS for answer in item.get(m, {}).get("responses", {}).values()
    ]
    found |= {name for answer in answers for name in reference.resolve(document, answer).get("headers", {})}
    return {name.lower() for name in found} - OTHERS


def test_the_document_and_the_page_of_limits_name_every_header_of_the_code_and_no_other() -> None:
    coded = headers_in("proxy/*.py", "proxy/errors/*.py", "keys/http.py", "gateway_site/api_errors.py")
    assert headers_of(openapi.document()) == coded
    page = (ROOT / "docs/site/limits.md").read_text(encoding="utf-8").lower()
    assert {name for name in coded if f"`{name}" not in page} == set()


def test_the_management_document_names_every_header_of_its_code() -> None:
    coded = headers_in("billing/management_api/door.py", "gateway_site/api_errors.py") | {"retry-after", "retry-after-ms", "x-should-retry"}
    assert headers_of(openapi.management_document()) == coded


def test_whatever_is_charged_can_be_bounded_and_repeated() -> None:
    document = openapi.document()
    for path, item in document["paths"].items():
        for method in reference.METHODS:
            answers = reference.resolve(document, item.get(method, {}).get("responses", {}).get("200", {}))
            names = {reference.resolve(document, each)["name"] for each in item.get(method, {}).get("parameters", ())}
            charged = "x-gateway-provider" in answers.get("headers", {})
            assert ({"x-max-cost", "Idempotency-Key"} <= names) is charged, path
            assert charged or "Inference" not in item.get(method, {}).get("tags", ()), path


# -- The references -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("described", openapi.REFERENCES, ids=lambda each: each.slug)
def test_a_reference_shows_every_operation_with_its_parameters_fields_and_answers(described: Described) -> None:
    page = Client().get(f"/docs/{described.slug}").content.decode()
    text = Client().get(f"/docs/{described.source}").content.decode()
    for path, item in described.document()["paths"].items():
        assert f"<code>{path}</code>" in page
        for method in reference.METHODS:
            if method not in item:
                continue
            assert f"`{method.upper()} {path}`" in text
            assert f'id="{item[method]["operationId"]}"' in page
            for parameter in item[method].get("parameters", ()):
                name = reference.resolve(described.document(), parameter)["name"]
                assert f"<code>{name}</code>" in page
                assert f"`{name}`" in text
    assert "https://gateway.example" not in page + text
    assert "curl http://testserver/" in page
    assert "curl http://testserver/" in text


def test_the_management_reference_says_what_an_operation_needs_and_how_it_fails() -> None:
    groups = openapi.read(openapi.MANAGEMENT).groups
    found = {operation.id: operation for group in groups for operation in group.operations}
    assert found["createKey"].needs == ("manage_keys",)
    assert found["listKeys"].needs == ("read",)
    assert '"limit_reset": "monthly"' in found["createKey"].example
    assert next(field.name for field in found["createKey"].fields) == "name"
    assert {"data", "key"} == {field.name for answer in found["createKey"].answers for field in answer.fields}
    assert "idempotent-replayed" in found["createKey"].headers
    known = {(str(entry.status), entry.code) for entry in (*errors.TABLE.values(), errors.INTERNAL)}
    told = {
        (answer.status, code)
        for operation in found.values()
        for answer in operation.answers
        if answer.status >= "4"
        for code in re.findall(r"`(\w+_\w+)`", answer.text)
    }
    assert told <= known
    assert ("409", "key_ended") in told


@pytest.mark.parametrize("described", openapi.REFERENCES, ids=lambda each: each.slug)
def test_every_example_is_what_the_document_asks_for(described: Described) -> None:
    document = described.document()
    reader = reference._Reader(document)
    for item in document["paths"].values():
        for method in reference.METHODS:
            media = item.get(method, {}).get("requestBody", {}).get("content", {}).get("application/json")
            if media is not None:
                schema = {**reference.resolve(document, media["schema"]), "components": document["components"]}
                jsonschema.Draft202012Validator(schema).validate(reader.sample_of(media))


def test_language_models_are_told_of_the_references() -> None:
    lines, whole = Client().get("/llms.txt").content.decode(), Client().get("/llms-full.txt").content.decode()
    for described in openapi.REFERENCES:
        assert f"http://testserver/docs/{described.source}" in lines
        assert Client().get(f"/docs/{described.source}").content.decode() in whole
    assert "http://testserver/v1/openapi.json" in lines


# -- Real answers ---------------------------------------------------------------------------------------------------------------------------

CHAT = {"messages": [{"role": "user", "content": "Hello"}]}
ASKED: list[tuple[str, str, dict[str, Any]]] = [
    ("post", "/v1/chat/completions", CHAT),
    ("post", "/api/v1/chat", CHAT),
    ("post", "/v1/responses", {"input": "Hello"}),
    ("post", "/v1/messages", {**CHAT, "max_tokens": 20}),
    ("post", "/v1/completions", {"prompt": "Hello"}),
    ("post", "/v1/embeddings", {"input": "Hello", "model": "embedding"}),
    ("post", "/v1/images/generations", {"prompt": "a cat", "size": "16x16", "model": "image"}),
    ("post", "/v1/estimate", CHAT),
    ("post", "/v1/messages/count_tokens", CHAT),
    ("post", "/v1/responses/input_tokens", {"input": "Hello"}),
    ("get", "/v1/models", {}),
    ("get", "/v1/models/{model}", {}),
    ("get", "/v1beta/models", {}),
    ("get", "/v1beta/models/{model}", {}),
    ("get", "/v1/usage", {}),
    ("get", "/v1/credits", {}),
    ("get", "/v1/key", {}),
]


def checked(schema: Any, value: Any) -> None:
    """`value` against a schema of the document."""
    whole = {"$defs": {}, **schema, "components": openapi.document()["components"]}
    jsonschema.Draft202012Validator(whole).validate(value)


def schema_of(method: str, path: str, status: str) -> Any:
    answer = reference.resolve(openapi.document(), openapi.document()["paths"][path][method]["responses"][status])
    return answer["content"]["application/json"]["schema"]


@pytest.fixture(scope="module")
def shelf() -> Iterator[Shelf]:
    yield from open_shelf()


@pytest.fixture(scope="module")
def demo(gateway: Any, shelf: Shelf) -> dict[str, str]:
    """Models of the demo provider, by kind."""
    rates = {"input": 1, "output": 1}
    models = {
        kind: shelf.model(name, kind=kind, rates=rates) for kind, name in (("text", "echo"), ("embedding", "embedding"), ("image", "image"))
    }
    gateway.sees_catalog()
    return {kind: model.slug for kind, model in models.items()}


@pytest.mark.parametrize(("method", "path", "body"), ASKED)
def test_what_is_answered_is_what_the_document_says(
    gateway: Any, demo: dict[str, str], new_customer: Callable[..., Any], method: str, path: str, body: dict[str, Any]
) -> None:
    customer = new_customer(usd=1)
    asked = {**body, "model": demo[body.get("model", "text")]}
    sent = asked if method == "post" else None
    answer = httpx.request(method, gateway.origin + path.replace("{model}", demo["text"]), headers=customer.headers, timeout=30, json=sent)
    assert answer.status_code == 200, answer.text
    checked(schema_of(method, path, "200"), answer.json())
    if method == "post":
        request = reference.resolve(
            openapi.document(), openapi.document()["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"]
        )
        checked(request, asked)


def test_a_receipt_and_a_stored_response_are_what_the_document_says(
    gateway: Any, demo: dict[str, str], new_customer: Callable[..., Any], usage_of: Callable[..., Any]
) -> None:
    customer = new_customer(usd=1)
    made = httpx.post(f"{gateway.base_url}/responses", json={"model": demo["text"], "input": "Hi"}, headers=customer.headers, timeout=30)
    usage_of(made.headers["x-request-id"])
    receipt = httpx.get(f"{gateway.base_url}/generation", params={"id": made.headers["x-request-id"]}, headers=customer.headers)
    checked(schema_of("get", "/v1/generation", "200"), receipt.json())
    place = f"{gateway.base_url}/responses/{made.json()['id']}"
    checked(schema_of("get", "/v1/responses/{response_id}", "200"), httpx.get(place, headers=customer.headers).json())
    items = httpx.get(f"{place}/input_items", headers=customer.headers).json()
    checked(schema_of("get", "/v1/responses/{response_id}/input_items", "200"), items)
    checked(schema_of("delete", "/v1/responses/{response_id}", "200"), httpx.delete(place, headers=customer.headers).json())


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/embeddings"])
def test_errors_are_what_the_document_says(gateway: Any, path: str) -> None:
    answer = httpx.post(gateway.origin + path, json={}, headers={"Authorization": "Bearer sk-gw-none"})
    assert answer.status_code == 401
    checked(schema_of("post", path, "default"), answer.json())
    google = httpx.post(f"{gateway.origin}/v1beta/models/x:generateContent", json={}, headers={"x-goog-api-key": "sk-gw-none"})
    checked(schema_of("post", "/v1beta/models/{model}:generateContent", "default"), google.json())
