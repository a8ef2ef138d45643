"""The list of models as each SDK asks for it: OpenAI's, Anthropic's and Google's, page by page."""

import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import anthropic
import httpx
import openai
import pytest
from django.utils import timezone
from google import genai
from google.genai import types

from catalog.models import Model, Price, Provider, ProviderKey, Route
from tests.conftest import make_customer

USD = 1_000_000_000


@pytest.fixture(scope="module")
def prefix() -> Iterator[str]:
    """Of the models on sale here: five of text at three companies, vectors and pictures at Google's."""
    prefix = f"ml-{uuid.uuid4().hex[:12]}"
    for name, company, kind in (
        ("a", "google", "text"),
        ("b", "anthropic", "text"),
        ("c", "openai", "text"),
        ("d:free", "google", "text"),
        ("e", "google", "embedding"),
        ("f", "google", "image"),
        ("g", "openai", "text"),
    ):
        model = Model.objects.create(slug=f"{prefix}/{name}", kind=kind, name=f"Model {name}", context=9000, max_output=700)
        Price.objects.create(model=model, input=USD, effective_from=timezone.now() - timedelta(hours=1))
        row = Provider.objects.create(slug=f"p-{uuid.uuid4().hex[:16]}", kind=company, base_url="http://127.0.0.1:9", allow_private=True)
        key = ProviderKey(provider=row)
        key.set_secret("sk-unused")
        key.save()
        Route.objects.create(model=model, provider=row, upstream_model=name)
    yield prefix
    Model.objects.filter(slug__startswith=prefix).update(is_enabled=False)


@pytest.fixture(scope="module")
def secret(prefix: str) -> str:
    """A key for these models only."""
    return make_customer(allowed_models=[f"{prefix}/*"]).secret


@pytest.fixture(params=["v1", "v1beta"])
def google(gateway: Any, secret: str, request: Any) -> genai.Client:
    return genai.Client(api_key=secret, http_options=types.HttpOptions(base_url=gateway.origin, api_version=request.param))


@pytest.fixture
def claude(gateway: Any, secret: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.origin, api_key=secret, max_retries=0) as sdk:
        yield sdk


@pytest.fixture
def named(prefix: str) -> Callable[..., list[str]]:
    return lambda *names: [f"{prefix}/{name}" for name in names]


def test_openais_sdk_lists_everything(gateway: Any, secret: str, named: Any) -> None:
    with openai.OpenAI(base_url=gateway.base_url, api_key=secret, max_retries=0) as sdk:
        assert [model.id for model in sdk.models.list()] == named("a", "b", "c", "d:free", "e", "f", "g")


def test_anthropics_sdk_lists_what_can_be_called_as_messages(claude: anthropic.Anthropic, named: Any) -> None:
    page = claude.models.list()
    assert [model.id for model in page.data] == named("a", "b", "c", "d:free", "g")
    assert (page.has_more, page.first_id, page.last_id) == (False, *named("a", "g"))
    first = page.data[0]
    assert (first.type, first.display_name, first.max_input_tokens, first.max_tokens) == ("model", "Model a", 9000, 700)
    assert abs(first.created_at - timezone.now()) < timedelta(hours=1)


@pytest.mark.parametrize("limit", [1, 2, 5, 1000])
def test_anthropics_sdk_turns_the_pages(claude: anthropic.Anthropic, named: Any, limit: int) -> None:
    assert [model.id for model in claude.models.list(limit=limit)] == named("a", "b", "c", "d:free", "g")


def test_pages_go_backwards_too(claude: anthropic.Anthropic, named: Any) -> None:
    page = claude.models.list(limit=2, before_id=named("g")[0])
    assert ([model.id for model in page.data], page.has_more) == (named("c", "d:free"), True)
    page = claude.models.list(limit=2, before_id=named("b")[0])
    assert ([model.id for model in page.data], page.has_more) == (named("a"), False)


def test_one_model_is_shown_in_the_sdks_own_shape(claude: anthropic.Anthropic, google: genai.Client, named: Any) -> None:
    (name,) = named("d:free")
    shown = claude.models.retrieve(name)
    assert (shown.id, shown.type, shown.display_name) == (name, "model", "Model d:free")
    seen = google.models.get(model=name)
    assert (seen.name, seen.display_name, seen.input_token_limit) == (f"models/{name}", "Model d:free", 9000)


def test_googles_sdk_lists_what_each_model_does(google: genai.Client, named: Any) -> None:
    listed = {model.name: model.supported_actions for model in google.models.list()}
    text = ["generateContent", "streamGenerateContent", "countTokens"]
    a, b, c, d, e, f, g = (f"models/{name}" for name in named("a", "b", "c", "d:free", "e", "f", "g"))
    assert listed == {a: text, b: [], c: [], d: text, e: ["embedContent", "batchEmbedContents", "countTokens"], f: ["predict"], g: []}


@pytest.mark.parametrize("size", [1, 3, 7])
def test_googles_sdk_turns_the_pages(google: genai.Client, named: Any, size: int) -> None:
    listed = [model.name for model in google.models.list(config={"page_size": size})]
    assert listed == [f"models/{name}" for name in named("a", "b", "c", "d:free", "e", "f", "g")]


@pytest.mark.parametrize(
    ("path", "headers", "param"),
    [
        ("/v1/models?after_id=nothing", {"anthropic-version": "2023-06-01"}, "after_id"),
        ("/v1/models?before_id=nothing", {"anthropic-version": "2023-06-01"}, "before_id"),
        ("/v1/models?limit=0", {"anthropic-version": "2023-06-01"}, "limit"),
        ("/v1beta/models?pageToken=nothing", {}, "pageToken"),
        ("/v1beta/models?pageSize=x", {}, "pageSize"),
    ],
)
def test_a_page_that_is_nowhere_is_refused(gateway: Any, secret: str, path: str, headers: dict[str, str], param: str) -> None:
    answer = httpx.get(gateway.origin + path, headers={"Authorization": f"Bearer {secret}", **headers}, timeout=30)
    assert answer.status_code == 400
    assert param in answer.json()["error"]["message"]


def test_an_unknown_model_is_not_found_in_the_callers_words(google: genai.Client, claude: anthropic.Anthropic) -> None:
    with pytest.raises(genai.errors.ClientError) as missing:
        google.models.get(model="nothing-of-this-name")
    assert missing.value.code == 404
    with pytest.raises(anthropic.NotFoundError):
        claude.models.retrieve("nothing-of-this-name")
