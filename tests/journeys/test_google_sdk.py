"""Google's SDK against the gateway: counting, embedding, and what it makes of errors. (It has pictures in its Vertex mode only.)"""

from collections.abc import Callable
from typing import Any

import pytest
from google import genai
from google.genai import errors, types

from catalog.models import Model


@pytest.fixture(params=["v1", "v1beta"])
def sdk(gateway: Any, customer: Any, request: Any) -> genai.Client:
    options = types.HttpOptions(base_url=gateway.origin, api_version=request.param)
    return genai.Client(api_key=customer.secret, http_options=options)


@pytest.fixture(scope="module")
def text_model(new_model: Any) -> str:
    return str(new_model("hello", kind="google"))


@pytest.fixture
def new_embedder(new_model: Any, gateway: Any) -> Callable[[str], str]:
    """Make a model of vectors at a provider that speaks Gemini."""

    def make(upstream_model: str) -> str:
        slug = str(new_model(upstream_model, kind="google"))
        Model.objects.filter(slug=slug).update(kind="embedding")
        gateway.sees_catalog()
        return slug

    return make


def test_tokens_are_counted_for_nothing(sdk: genai.Client, text_model: str, customer: Any) -> None:
    before = customer.fresh_wallet().balance
    counted = sdk.models.count_tokens(model=text_model, contents="one two three")
    assert counted.total_tokens == 3
    wallet = customer.fresh_wallet()
    assert (wallet.balance, wallet.held) == (before, 0)


def test_contents_are_embedded(sdk: genai.Client, new_embedder: Any, usage_of: Any, customer: Any) -> None:
    model = new_embedder("embedder")
    answer = sdk.models.embed_content(model=model, contents=["hello", "world"])
    assert answer.embeddings is not None
    assert [len(vector.values or []) for vector in answer.embeddings] == [8, 8]
    assert answer.sdk_http_response is not None
    headers = {name.lower(): value for name, value in (answer.sdk_http_response.headers or {}).items()}
    record = usage_of(headers["x-request-id"])
    assert (record.input_tokens, record.usage_source, record.status) == (3, "estimated", "ok")
    assert customer.fresh_wallet().held == 0


@pytest.mark.parametrize(("fault", "status"), [("fault:status-400", 400), ("fault:status-500", 502), ("fault:status-429", 429)])
def test_a_provider_that_fails_is_an_error_of_the_sdk(
    sdk: genai.Client, new_embedder: Any, customer: Any, usage_of: Any, fault: str, status: int
) -> None:
    model = new_embedder(fault)
    with pytest.raises(errors.APIError) as failed:
        sdk.models.embed_content(model=model, contents="hello")
    assert failed.value.code == status
    assert failed.value.status in ("INVALID_ARGUMENT", "UNAVAILABLE", "RESOURCE_EXHAUSTED")
    (request_id,) = (detail["requestId"] for detail in failed.value.details["error"]["details"] if "requestId" in detail)
    record = usage_of(request_id)
    assert (record.status, record.cost) == ("error", 0)
    assert customer.fresh_wallet().held == 0


def test_a_model_of_another_family_is_refused(sdk: genai.Client, new_model: Any) -> None:
    model = new_model("hello", kind="anthropic")
    with pytest.raises(errors.ClientError) as refused:
        sdk.models.count_tokens(model=model, contents="hello")
    assert (refused.value.code, refused.value.status) == (400, "INVALID_ARGUMENT")
    with pytest.raises(errors.ClientError) as unknown:
        sdk.models.count_tokens(model="nothing-of-this-name", contents="hello")
    assert unknown.value.code == 404
