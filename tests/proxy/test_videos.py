"""Videos: what is read and refused, who sees an operation, how its files come through, and that what was not made is paid back."""

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx
import orjson
import pytest
from django.conf import settings
from django.utils import timezone
from google import genai
from google.genai import types

from billing import undelivered
from billing.models import Transfer, UsageRecord
from billing.reconciliation import audit
from catalog.models import Model, Price, Provider, ProviderKey, Route
from catalog.snapshot import ProviderEntry
from proxy.body import parse_body
from proxy.endings import is_at
from proxy.formats.base import InvalidRequest
from proxy.operations import File, Names, Operation, is_operation_name
from proxy.videos import MakeVideos
from tests.conftest import Customer
from tests.fakes.provider.operations import FILM

USD = 1_000_000_000
ASKED = {"instances": [{"prompt": "a cat"}]}
KEYS = [("1", bytes(32))]


def sell(provider: Any, knobs: str = "", *, kind: str = "google", base_url: str = "", secret: str = "", cents: int = 10) -> str:
    """Put a model of videos on sale, at so many cents a second; returns its slug."""
    model = Model.objects.create(slug=f"film-{uuid.uuid4().hex[:16]}", kind="video")
    Price.objects.create(model=model, effective_from=timezone.now() - timedelta(hours=1), image=cents * USD * 10**4)
    url = base_url or provider.base_url
    row = Provider.objects.create(slug=f"p-{uuid.uuid4().hex[:16]}", kind=kind, base_url=url, allow_private=True)
    key = ProviderKey(provider=row)
    key.set_secret(secret or f"sk-fake-{uuid.uuid4().hex}")
    key.save()
    Route.objects.create(model=model, provider=row, upstream_model=f"chat:{knobs}" if knobs else "veo")
    return model.slug


@pytest.fixture
def order(gateway: Any, provider: Any, customer: Customer, usage_of: Any) -> Callable[..., tuple[str, Any]]:
    """Order a video of a new model; returns the operation's address and the usage record."""

    def make(knobs: str = "", who: Customer = customer, **parameters: Any) -> tuple[str, Any]:
        slug = sell(provider, knobs)
        gateway.sees_catalog()
        answer = order_of(gateway, slug, who, **parameters)
        return f"{gateway.origin}/v1beta/{answer.json()['name']}", usage_of(answer.headers["x-request-id"])

    return make


def order_of(gateway: Any, slug: str, who: Customer, **parameters: Any) -> httpx.Response:
    """Order a video of the model `slug`; the provider accepts it."""
    address = f"{gateway.origin}/v1beta/models/{slug}:predictLongRunning"
    answer = httpx.post(address, json={**ASKED, "parameters": parameters}, headers=who.headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer


def look(address: str, who: Customer) -> httpx.Response:
    return httpx.get(address, headers={"x-goog-api-key": who.secret}, timeout=30)


def refunds(record: Any) -> list[int]:
    return list(Transfer.objects.filter(kind=undelivered.KIND, source_id=str(record.request_id)).values_list("amount", flat=True))


# -- Requests --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "units"),
    [({}, 8), ({"durationSeconds": 5}, 5), ({"durationSeconds": 5, "sampleCount": 2}, 10), ({"sampleCount": 4}, 32)],
)
def test_every_second_that_may_come_is_expected(parameters: dict[str, Any], units: int) -> None:
    assert MakeVideos("ours").read(parse_body(orjson.dumps({**ASKED, "parameters": parameters}))).images == units


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "instances"),
        ({"instances": ["a cat"]}, "instances"),
        ({"instances": [{}] * 5}, "instances"),
        ({"instances": [{"image": {"gcsUri": "gs://operators/bucket"}}]}, "instances"),
        ({"instances": [{"video": {"uri": "https://x/files/another"}}]}, "instances"),
        ({**ASKED, "parameters": []}, "parameters"),
        ({**ASKED, "parameters": {"sampleCount": 5}}, "sampleCount"),
        ({**ASKED, "parameters": {"durationSeconds": 61}}, "durationSeconds"),
        ({**ASKED, "parameters": {"durationSeconds": "8"}}, "durationSeconds"),
        ({**ASKED, "parameters": {"duration_seconds": 60}}, "duration_seconds"),
        ({**ASKED, "parameters": {"sample_count": 4}}, "sample_count"),
        ({**ASKED, "parameters": {"storageUri": "gs://operators/bucket"}}, "storageUri"),
    ],
)
def test_what_cannot_be_bounded_or_is_not_the_clients_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        MakeVideos("ours").read(parse_body(orjson.dumps(fields)))
    assert caught.value.param == param


# -- Names -----------------------------------------------------------------------------------------------------------------------------

OPERATION = Operation(str(uuid.UUID(int=7)), "ours", "google", "key", "veo", "models/veo/operations/abc", 1, 8)


def test_a_name_opens_for_its_account_and_purpose_alone() -> None:
    names = Names(KEYS)
    name = names.name_operation(OPERATION, account_id=1)
    assert (names.read_operation(name, account_id=1), names.read_operation(name, account_id=2)) == (OPERATION, None)
    file = File("google", "key", "https://x/files/abc:download")
    named = names.name_file(file, account_id=1)
    assert named.isalnum() and named == named.lower()
    assert (names.read_file(named, account_id=1), names.read_file(named, account_id=2)) == (file, None)
    for text in ("", "a", "gw1.1.AAAA", "ä" * 9, name[:-1], name * 30):
        assert names.read_operation(text, account_id=1) is None
        assert names.read_file(text, account_id=1) is None
    assert names.read_file(name, account_id=1) is None


@pytest.mark.parametrize(
    "name", [None, 1, "", "operations/", "models/a/operations/../x", "https://x/operations/a", "operations/a?b", "operations/a/b"]
)
def test_what_is_no_name_of_an_operation_never_stands_in_an_address(name: Any) -> None:
    assert not is_operation_name(name)


def test_our_key_goes_to_the_provider_alone() -> None:
    provider = ProviderEntry(1, "g", "google", "https://a.example/v1beta", False, ())
    assert is_at(provider, "https://a.example/v1beta/files/x:download?alt=media")
    for url in (
        "http://a.example/x",
        "https://a.example:8443/x",
        "https://b.example/x",
        "https://u@a.example/x",
        "https://a.example:x/",
        "gs://a",
    ):
        assert not is_at(provider, url)


# -- Through the gateway ---------------------------------------------------------------------------------------------------------------


def test_googles_sdk_makes_a_video_as_it_does_at_vertex(provider: Any, gateway: Any, customer: Customer) -> None:
    slug = sell(provider, "polls=1;videos=2")
    gateway.sees_catalog()
    sdk = genai.Client(vertexai=True, api_key=customer.secret, http_options=types.HttpOptions(base_url=gateway.origin))
    config = types.GenerateVideosConfig(duration_seconds=5, number_of_videos=2)
    operation = sdk.models.generate_videos(model=slug, source=types.GenerateVideosSource(prompt="a cat"), config=config)
    assert not operation.done
    operation = sdk.operations.get(operation)
    assert not operation.done
    operation = sdk.operations.get(operation)
    assert operation.done
    assert operation.response is not None
    videos = [made.video for made in operation.response.generated_videos or []]
    assert len(videos) == 2
    for video in videos:
        assert video is not None
        assert look(str(video.uri).replace(settings.PUBLIC_URL, gateway.origin), customer).content == FILM
    wallet = customer.fresh_wallet()
    assert (wallet.held, wallet.balance) == (0, 4 * USD)


@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_googles_sdk_asks_for_an_operation_and_downloads_its_file(gateway: Any, customer: Customer, order: Any, version: str) -> None:
    address, _ = order("polls=0;file=onward")
    sdk = genai.Client(api_key=customer.secret, http_options=types.HttpOptions(base_url=gateway.origin, api_version=version))
    operation = sdk.operations.get(types.GenerateVideosOperation.model_validate({"name": address.partition("/v1beta/")[2]}))
    assert operation.done
    assert operation.response is not None
    video = (operation.response.generated_videos or [])[0].video
    assert video is not None
    assert str(video.uri).startswith(f"{settings.PUBLIC_URL}/v1beta/files/")
    # The SDK finds a file's name in an https address, as a gateway in production has.
    video.uri = str(video.uri).replace("http://", "https://")
    assert sdk.files.download(file=video) == FILM


def test_googles_sdk_is_told_that_a_video_failed(provider: Any, gateway: Any, customer: Customer) -> None:
    slug = sell(provider, "polls=0;error=Gemini API is out of resources.")
    gateway.sees_catalog()
    sdk = genai.Client(vertexai=True, api_key=customer.secret, http_options=types.HttpOptions(base_url=gateway.origin))
    operation = sdk.operations.get(sdk.models.generate_videos(model=slug, source=types.GenerateVideosSource(prompt="a cat")))
    assert (operation.done, operation.error) == (True, {"code": 3, "message": "the provider is out of resources."})
    assert customer.fresh_wallet().balance == 5 * USD


def test_a_video_is_charged_by_the_second_when_it_is_accepted(order: Any, customer: Customer) -> None:
    _, record = order("videos=2", durationSeconds=5, sampleCount=2)
    assert (record.images, record.rule, record.cost, record.endpoint) == (10, "metered", USD, "gemini")
    assert customer.fresh_wallet().held == 0


def test_nothing_of_the_provider_is_shown(order: Any, customer: Customer, provider: Any) -> None:
    address, _ = order("polls=0")
    shown = look(address, customer)
    assert shown.json()["done"] is True
    assert "models/veo" not in shown.text and "a-secret-project" not in shown.text and provider.origin not in shown.text
    assert shown.headers["x-gateway-cost-usd"] == "0.00"


def test_a_stranger_finds_neither_operation_nor_file(order: Any, customer: Customer, stranger: Customer, gateway: Any) -> None:
    address, _ = order("polls=0")
    uri = look(address, customer).json()["response"]["generateVideoResponse"]["generatedSamples"][0]["video"]["uri"]
    file = uri.replace(settings.PUBLIC_URL, gateway.origin)
    short = f"{gateway.origin}/v1beta/operations/{address.rpartition('/')[2]}"
    assert (look(short, customer).status_code, look(file, customer).content) == (200, FILM)
    for kept in (address, short, file):
        answer = look(kept, stranger)
        assert (answer.status_code, answer.json()["error"]["status"]) == (404, "NOT_FOUND")
        assert httpx.get(kept, timeout=30).status_code == 401


def test_a_file_that_breaks_off_does_not_seem_whole(order: Any, customer: Customer, gateway: Any) -> None:
    address, _ = order("polls=0;file=cut")
    uri = look(address, customer).json()["response"]["generateVideoResponse"]["generatedSamples"][0]["video"]["uri"]
    with pytest.raises(httpx.RemoteProtocolError):
        look(uri.replace(settings.PUBLIC_URL, gateway.origin), customer)
    assert httpx.get(f"{gateway.origin}/healthz", timeout=30).status_code == 200


def test_a_poll_obeys_scopes_and_rate_limits(order: Any, new_customer: Any) -> None:
    who = new_customer(rpm=2)
    address, _ = order("polls=9", who=who)
    assert [look(address, who).status_code for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("knobs", ["polls=0;error=The service is out of resources.", "polls=0;videos=0;filtered=1", "polls=0;elsewhere=1"])
def test_a_video_that_was_not_made_is_paid_back_once(order: Any, customer: Customer, knobs: str) -> None:
    address, record = order(knobs)
    assert customer.fresh_wallet().balance == 5 * USD - record.cost
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: look(address, customer), range(4)))
    assert {answer.json()["done"] for answer in answers} == {True}
    assert refunds(record) == [record.cost]
    wallet = customer.fresh_wallet()
    assert (wallet.balance, wallet.held) == (5 * USD, 0)
    assert audit(now=timezone.now(), accounts=[customer.account.pk]) == []


def test_of_two_videos_the_filtered_one_is_paid_back(order: Any, customer: Customer) -> None:
    address, record = order("polls=0;videos=1;filtered=1", sampleCount=2, durationSeconds=5)
    response = look(address, customer).json()["response"]["generateVideoResponse"]
    assert (response["raiMediaFilteredCount"], len(response["generatedSamples"])) == (1, 1)
    assert refunds(record) == [record.cost // 2]


def test_more_videos_than_were_paid_for_are_not_given(order: Any, customer: Customer) -> None:
    address, record = order("polls=0;videos=3")
    assert len(look(address, customer).json()["response"]["generateVideoResponse"]["generatedSamples"]) == 1
    assert refunds(record) == []


@pytest.mark.parametrize("fault", ["fault:status-500", "fault:ok-html", "fault:ok-with-error-body", "fault:reset"])
def test_what_is_not_accepted_is_free(provider: Any, gateway: Any, customer: Customer, usage_of: Any, fault: str) -> None:
    slug = sell(provider)
    Route.objects.filter(model__slug=slug).update(upstream_model=fault)
    gateway.sees_catalog()
    answer = httpx.post(f"{gateway.origin}/v1/models/{slug}:predictLongRunning", json=ASKED, headers=customer.headers, timeout=30)
    assert (answer.status_code, answer.json()["error"]["status"]) == (502, "UNAVAILABLE")
    assert (usage_of(answer.headers["x-request-id"]).cost, customer.fresh_wallet().held) == (0, 0)


def test_what_is_not_booked_or_is_another_accounts_is_not_paid_back(order: Any, customer: Customer, stranger: Customer) -> None:
    _, record = order()
    for request_id, who in ((uuid.uuid4(), customer), (record.request_id, stranger)):
        with pytest.raises(undelivered.NotBooked):
            undelivered.refund(request_id=request_id, account_id=who.account.pk, delivered=0, now=timezone.now())
    assert refunds(record) == []


def test_an_order_is_booked_before_its_name_is_given(provider: Any, gateway: Any, customer: Customer) -> None:
    slug = sell(provider)
    gateway.sees_catalog()
    answer = httpx.post(f"{gateway.origin}/v1/models/{slug}:predictLongRunning", json=ASKED, headers=customer.headers, timeout=30)
    assert UsageRecord.objects.get(request_id=answer.headers["x-request-id"]).cost == 8 * USD // 10


def test_other_methods_of_these_addresses_are_not_served(gateway: Any, customer: Customer) -> None:
    for method, address in (("DELETE", "operations/x"), ("HEAD", "operations/x"), ("PUT", "files/x:download")):
        answer = httpx.request(method, f"{gateway.origin}/v1beta/{address}", headers=customer.headers, timeout=30)
        assert answer.status_code in (403, 404), (method, address, answer.text)
