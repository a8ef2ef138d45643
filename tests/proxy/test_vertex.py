"""Vertex AI: signing in as a service account, its addresses, and what a manifest may say of it."""

import asyncio
import base64
import json
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import httpx
import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from django.utils import timezone

from catalog import manifest, service_accounts
from catalog.documents import InvalidDocument
from catalog.models import Model, Provider, ProviderKey
from proxy import failures, google_sign_in, open_operations
from proxy.google_sign_in import AccessTokens
from tests.conftest import Customer
from tests.proxy.test_videos import ASKED, order_of, refunds, sell

PRIVATE = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = PRIVATE.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
PLACE = "/v1/projects/p/locations/l/publishers/google"


def key_file(at: str = "https://tokens.example/token", **fields: Any) -> str:
    return json.dumps(
        {
            "type": "service_account",
            "client_email": f"{uuid.uuid4().hex}@p.example",
            "private_key_id": "0123456789abcdef",
            "private_key": PEM,
            "token_uri": at,
            **fields,
        },
        indent=2,
    )


class TokenServer:
    """Exchanges assertions for tokens on a loopback socket; counts them, and refuses while `status` is not 200."""

    def __init__(self) -> None:
        self.status = 200
        self.forms: list[dict[str, list[str]]] = []
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                told.forms.append(form)
                said = {"access_token": f"ya29.{len(told.forms)}", "expires_in": 3599, "token_type": "Bearer"}
                body = json.dumps(
                    said if told.status == 200 else {"error": "invalid_grant", "error_description": "Account deleted"}
                ).encode()
                self.send_response(told.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/token"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    server = TokenServer()
    yield server
    server.close()


def sell_text(provider: Any, secret: str, upstream_model: str = "hello") -> str:
    slug = sell(provider, kind="vertex", base_url=provider.origin + PLACE, secret=secret)
    model = Model.objects.get(slug=slug)
    Model.objects.filter(pk=model.pk).update(kind="text")
    model.routes.update(upstream_model=upstream_model)
    return slug


def say(gateway: Any, customer: Customer, slug: str) -> httpx.Response:
    return httpx.post(
        f"{gateway.origin}/v1beta/models/{slug}:generateContent", json={"contents": "hi"}, headers=customer.headers, timeout=30
    )


def part(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


# -- Tokens ----------------------------------------------------------------------------------------------------------------------------


class Exchanging:
    """Stands where the token server is: answers tokens that last so long."""

    def __init__(self, *lasting: int) -> None:
        self.lasting = list(lasting)
        self.forms: list[bytes] = []

    async def __call__(self, url: str, form: bytes) -> bytes:
        assert url == "https://tokens.example/token"
        self.forms.append(form)
        await asyncio.sleep(0)
        return orjson.dumps({"access_token": f"t{len(self.forms)}", "expires_in": self.lasting[len(self.forms) - 1]})


def test_the_assertion_is_signed_and_says_who_asks_whom_for_what() -> None:
    exchange, secret = Exchanging(3600), key_file()
    assert asyncio.run(AccessTokens().token_for(secret, exchange)) == "t1"
    form = parse_qs(exchange.forms[0].decode())
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    head, claims, signature = form["assertion"][0].split(".")
    PRIVATE.public_key().verify(part(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), SHA256())
    said = json.loads(part(claims))
    assert json.loads(part(head)) == {"alg": "RS256", "typ": "JWT", "kid": "0123456789abcdef"}
    assert (said["iss"], said["aud"]) == (json.loads(secret)["client_email"], "https://tokens.example/token")
    assert said["scope"] == google_sign_in.SCOPE
    assert said["exp"] - said["iat"] == 3600 and abs(said["iat"] - time.time()) < 60


def test_many_requests_wait_for_one_token_and_then_keep_it() -> None:
    async def ask() -> tuple[list[str], int]:
        tokens, exchange, secret = AccessTokens(), Exchanging(3600), key_file()
        found = await asyncio.gather(*(tokens.token_for(secret, exchange) for _ in range(20)))
        found.append(await tokens.token_for(secret, exchange))
        return found, len(exchange.forms)

    assert asyncio.run(ask()) == (["t1"] * 21, 1)


def test_a_token_that_ends_soon_is_renewed_beside_the_requests() -> None:
    async def ask() -> list[str]:
        tokens, exchange, secret = AccessTokens(), Exchanging(200, 3600), key_file()
        found = [await tokens.token_for(secret, exchange), await tokens.token_for(secret, exchange)]
        await asyncio.gather(*tokens._under_way.values())
        return [*found, await tokens.token_for(secret, exchange)]

    assert asyncio.run(ask()) == ["t1", "t1", "t2"]


def test_a_token_that_is_over_is_not_used() -> None:
    async def ask() -> list[str]:
        tokens, exchange, secret = AccessTokens(), Exchanging(10, 3600), key_file()
        return [await tokens.token_for(secret, exchange), await tokens.token_for(secret, exchange)]

    assert asyncio.run(ask()) == ["t1", "t2"]


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"{}", b'{"access_token": "a b"}', b'{"access_token": "a\\r\\nX: y"}'])
def test_what_is_no_token_is_a_broken_answer(answer: bytes) -> None:
    async def exchange(_url: str, _form: bytes) -> bytes:
        return answer

    with pytest.raises(failures.BrokenAnswer):
        asyncio.run(AccessTokens().token_for(key_file(), exchange))


def test_a_private_key_that_is_none_is_a_refused_key() -> None:
    broken = key_file(private_key="-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(failures.ProviderKeyRefused):
        asyncio.run(AccessTokens().token_for(broken, Exchanging(3600)))


# -- Through the gateway ---------------------------------------------------------------------------------------------------------------


def test_a_service_account_signs_in_once_for_many_requests(provider: Any, gateway: Any, customer: Customer, tokens: TokenServer) -> None:
    upstream_model = f"hello-{uuid.uuid4().hex}"
    slug = sell_text(provider, key_file(tokens.url), upstream_model)
    gateway.sees_catalog()
    assert [say(gateway, customer, slug).status_code for _ in range(3)] == [200] * 3
    assert len(tokens.forms) == 1
    seen = provider.wait_for_count(3, lambda request: upstream_model in request.path)
    assert {request.path for request in seen} == {f"{PLACE}/models/{upstream_model}:generateContent"}
    assert {request.header("authorization") for request in seen} == {"Bearer ya29.1"}
    assert {request.header("x-goog-api-key") for request in seen} == {None}


def test_a_plain_key_is_sent_as_googles_are(provider: Any, gateway: Any, customer: Customer) -> None:
    upstream_model = f"hello-{uuid.uuid4().hex}"
    slug = sell_text(provider, "AQ.express-mode-key", upstream_model)
    gateway.sees_catalog()
    assert say(gateway, customer, slug).status_code == 200
    (seen,) = provider.wait_for_count(1, lambda request: upstream_model in request.path)
    assert (seen.header("x-goog-api-key"), seen.header("authorization")) == ("AQ.express-mode-key", None)


def test_other_formats_reach_vertex_through_the_hub(provider: Any, gateway: Any, customer: Customer, tokens: TokenServer) -> None:
    slug = sell_text(provider, key_file(tokens.url))
    gateway.sees_catalog()
    sent = {"model": slug, "messages": [{"role": "user", "content": "hi"}]}
    answer = httpx.post(f"{gateway.origin}/v1/chat/completions", json=sent, headers=customer.headers, timeout=30)
    assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("status", [400, 401, 500])
def test_a_sign_in_that_fails_is_the_providers_failure_and_free(
    provider: Any, gateway: Any, customer: Customer, tokens: TokenServer, usage_of: Any, status: int
) -> None:
    tokens.status = status
    slug = sell_text(provider, key_file(tokens.url))
    gateway.sees_catalog()
    answer = say(gateway, customer, slug)
    assert answer.status_code in (502, 503)
    assert "invalid_grant" not in answer.text and "deleted" not in answer.text
    assert (usage_of(answer.headers["x-request-id"]).cost, customer.fresh_wallet().held) == (0, 0)


def test_a_token_that_the_provider_refuses_is_not_used_again(provider: Any, gateway: Any, customer: Customer, tokens: TokenServer) -> None:
    slug = sell_text(provider, key_file(tokens.url), "fault:status-401")
    gateway.sees_catalog()
    for _ in range(2):
        say(gateway, customer, slug)
    assert len(tokens.forms) == 2


def test_videos_of_vertex_are_shown_as_geminis(provider: Any, gateway: Any, customer: Customer, tokens: TokenServer) -> None:
    slug = sell(provider, "polls=0", kind="vertex", base_url=provider.origin + PLACE, secret=key_file(tokens.url))
    gateway.sees_catalog()
    answer = httpx.post(f"{gateway.origin}/v1/models/{slug}:predictLongRunning", json=ASKED, headers=customer.headers, timeout=30)
    shown = httpx.get(f"{gateway.origin}/v1/{answer.json()['name']}", headers=customer.headers, timeout=30).json()
    assert shown["response"]["generateVideoResponse"] == {
        "generatedSamples": [{"video": {"encoding": "video/mp4", "encodedVideo": "AAAA"}}]
    }


def test_a_video_of_vertex_that_nobody_polled_is_paid_back(
    provider: Any, gateway: Any, customer: Customer, tokens: TokenServer, usage_of: Any
) -> None:
    slug = sell(provider, "polls=0;error=no", kind="vertex", base_url=provider.origin + PLACE, secret=key_file(tokens.url))
    gateway.sees_catalog()
    record = usage_of(order_of(gateway, slug, customer).headers["x-request-id"])
    open_operations.look_after(now=timezone.now() + timedelta(minutes=16), limit=100_000, seconds=60)
    assert refunds(record) == [record.cost]
    assert len(tokens.forms) == 2  # the gateway's and the worker's


# -- The manifest ----------------------------------------------------------------------------------------------------------------------


def declare(*, kind: str = "vertex", base_url: str = f"https://l-aiplatform.googleapis.com{PLACE}", secret: str = "") -> str:
    slug = f"v-{uuid.uuid4().hex[:16]}"
    entry = {"slug": slug, "kind": kind, "base_url": base_url, "keys": [{"name": "main", "secret": secret or key_file()}]}
    manifest.apply(manifest.read(json.dumps({"providers": [entry]})), now=timezone.now(), dry_run=False)
    return slug


def test_a_manifest_declares_vertex_with_a_key_file_or_a_plain_key() -> None:
    slug, secret = declare(), "AQ.a-plain-express-key"
    key = ProviderKey.objects.get(provider__slug=slug)
    account = service_accounts.read(key.secret())
    assert (account.private_key, account.key_id, key.last_four) == (PEM, "0123456789abcdef", "cdef")
    assert "PRIVATE" not in repr(account)
    assert ProviderKey.objects.get(provider__slug=declare(secret=secret)).secret() == secret
    assert Provider.objects.get(slug=slug).kind == "vertex"


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"base_url": "https://l-aiplatform.googleapis.com"}, "must be like https://REGION-aiplatform.googleapis.com/v1/projects/"),
        ({"secret": "{"}, "it is not JSON"),
        ({"secret": '{"type": "authorized_user"}'}, "its 'type' is not 'service_account'"),
        ({"secret": key_file(private_key="AAAA")}, "is no private key in PEM"),
        ({"secret": key_file(token_uri="file:///etc/passwd")}, "its 'token_uri' is not a URL"),
        ({"secret": key_file(client_email="")}, "it has no 'client_email'"),
        ({"secret": "two words"}, "must be printable ASCII without spaces"),
        ({"kind": "openai", "base_url": "https://api.openai.com/v1"}, "a service account signs in to a provider of kind 'vertex'"),
    ],
)
def test_a_manifest_says_what_is_wrong_with_it(said: dict[str, str], problem: str) -> None:
    with pytest.raises(InvalidDocument, match=problem.replace("(", r"\(")):
        declare(**said)
