"""Facts about addresses that are not served: who calls one with an SDK is told, in the SDK's own format, which one is meant."""

import anthropic
import httpx
import openai
import pytest

from proxy.urls import find_meant
from tests.conftest import Customer, Gateway

SERVED = "Nothing is served at this address with this method; perhaps POST {} is meant."


@pytest.mark.parametrize(
    ("called", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/messages", "/v1/messages"),
        ("/v1/messages/", "/v1/messages"),
        ("/openai/v1/responses", "/v1/responses"),
        ("/v1/chat/completions/chat/completions", "/v1/chat/completions"),
        ("/api/v1/v1/embeddings", "/v1/embeddings"),
        ("/models/gemini-3:streamGenerateContent", "/v1beta/models/gemini-3:streamGenerateContent"),
        ("/v1/v1beta/models/gemini-3:countTokens", "/v1beta/models/gemini-3:countTokens"),
    ],
)
def test_a_wrong_base_address_is_seen_through(called: str, meant: str) -> None:
    assert find_meant(called) == meant


@pytest.mark.parametrize(
    "called", ["/", "", "/v1", "/v1/", "/v1/unknown", "/models/some-model", "/completions/of/things", "/v1/messages" + "/" * 400]
)
def test_what_resembles_nothing_means_nothing(called: str) -> None:
    assert find_meant(called) is None


def test_an_sdk_with_a_wrong_base_address_reads_which_one_is_right(gateway: Gateway, customer: Customer) -> None:
    without = openai.OpenAI(base_url=gateway.origin, api_key=customer.secret, max_retries=0)
    with pytest.raises(openai.NotFoundError) as missing:
        without.chat.completions.create(model="demo/echo", messages=[{"role": "user", "content": "Hello"}])
    assert SERVED.format("/v1/chat/completions") in missing.value.message
    twice = anthropic.Anthropic(base_url=gateway.base_url, api_key=customer.secret, max_retries=0)
    with pytest.raises(anthropic.NotFoundError) as found:
        twice.messages.create(model="demo/echo", max_tokens=9, messages=[{"role": "user", "content": "Hello"}])
    assert found.value.body["error"]["message"] == SERVED.format("/v1/messages")  # type: ignore[index]


def test_gemini_is_answered_in_its_own_words_where_a_page_would_refuse_the_form(gateway: Gateway) -> None:
    answer = httpx.post(f"{gateway.origin}/models/gemini-3:generateContent", json={})
    assert (answer.status_code, answer.json()["error"]["status"]) == (404, "NOT_FOUND")
    assert answer.json()["error"]["message"] == SERVED.format("/v1beta/models/gemini-3:generateContent")


def test_pages_stay_pages_and_the_api_says_nothing_in_html(gateway: Gateway) -> None:
    with httpx.Client(base_url=gateway.origin) as client:
        assert client.get("/chat/completions").headers["content-type"].startswith("text/html")
        assert (refused := client.post("/models/demo/echo")).status_code == 403
        assert refused.headers["content-type"].startswith("text/html")
        assert client.get("/v1").json()["error"]["code"] == "not_found"
