"""Searches that a provider runs itself: held for, counted, charged each, and never free because somebody left."""

import functools
import itertools
import json
import re
import threading
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from accounts.models import Membership
from billing.models import Hold
from proxy.formats import anthropic_messages, gemini, openai_chat, openai_responses, searches
from proxy.formats.conversation import Metered
from tests.accounts.people import browser_of, new_person
from tests.conftest import Customer, Gateway, make_customer
from tests.fakes.provider import FakeProvider, ReceivedRequest, recordings

EACH = 10_000_000  # nano-USD: the ten dollars a thousand that most ask
KINDS = {"chat": "custom", "responses": "openai", "messages": "anthropic", "gemini": "google"}
TOOLS: dict[str, list[dict[str, Any]]] = {
    "responses": [{"type": "web_search"}],
    "messages": [{"type": "web_search_20260209", "name": "web_search", "max_uses": 3}],
    "gemini": [{"googleSearch": {}}],
}
HELD = {"responses": searches.USUAL, "messages": 3, "gemini": searches.USUAL}
READ = searches.TOKENS_EACH * 1000  # what one search finds, in nano-USD at a dollar a million


def body_of(shape: str, model: str, *, stream: bool = False, tools: bool = False) -> tuple[str, dict[str, Any]]:
    """The address and the body of a request in this format; with `tools` it lets the provider search."""
    told = {"tools": TOOLS[shape]} if tools and shape in TOOLS else {}
    if shape == "gemini":
        method = "streamGenerateContent?alt=sse" if stream else "generateContent"
        return f"/v1beta/models/{model}:{method}", {"contents": [{"role": "user", "parts": [{"text": "hi"}]}], **told}
    said: dict[str, Any] = {"model": model, "stream": stream, **told}
    if shape == "responses":
        return "/v1/responses", {**said, "input": "hi"}
    said["messages"] = [{"role": "user", "content": "hi"}]
    if shape == "messages":
        return "/v1/messages", {**said, "max_tokens": 100}
    options = {"stream_options": {"include_usage": True}} if stream else {}
    return "/v1/chat/completions", {**said, **options, **({"web_search_options": {}} if tools else {})}


def ask(gateway: Gateway, customer: Customer, shape: str, model: str, **how: bool) -> httpx.Response:
    path, body = body_of(shape, model, **how)
    return httpx.post(gateway.origin + path, json=body, headers=customer.headers, timeout=60)


def leave_after(gateway: Gateway, customer: Customer, path: str, body: dict[str, Any], mark: bytes, *, times: int = 1) -> tuple[str, bytes]:
    """Read a stream until `mark` has come so many times, and hang up; the request's id, and what was read."""
    with httpx.stream("POST", gateway.origin + path, json=body, headers=customer.headers, timeout=60) as answer:
        seen = b""
        for data in answer.iter_raw():
            seen += data
            if seen.count(mark) >= times:
                break
    return answer.headers["x-request-id"], seen


# Counting


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("shape", KINDS)
def test_each_search_is_charged_and_stands_on_the_receipt(
    shape: str, stream: bool, gateway: Gateway, customer: Customer, new_model: Callable[..., str], usage_of: Callable[..., Any]
) -> None:
    knobs = "chat:searches=2;text=3;prompt_tokens=10;completion_tokens=3"
    model = new_model(knobs, kind=KINDS[shape], route_format=shape, search_usd="0.01")
    answer = ask(gateway, customer, shape, model, stream=stream, tools=True)
    assert answer.status_code == 200, answer.text
    record = usage_of(answer.headers["x-request-id"])
    assert (record.web_searches, record.cost, record.flags) == (2, 10 * 1000 + 3 * 2000 + 2 * EACH, [])
    with httpx.Client(base_url=gateway.origin, headers=customer.headers, timeout=30) as client:
        receipt = client.get("/v1/generation", params={"id": answer.headers["x-request-id"]}).json()["data"]["receipt"]
    assert [(line["bucket"], line["quantity"], line["amount"]) for line in receipt["lines"]][-1] == ("web_search", 2, "0.02")
    assert receipt["tokens"]["web_searches"] == 2


@pytest.mark.parametrize("provider_shape", ["chat", "responses", "messages", "gemini"])
@pytest.mark.parametrize("client_shape", ["chat", "responses", "messages"])
def test_a_search_is_counted_across_every_bridge(
    client_shape: str,
    provider_shape: str,
    gateway: Gateway,
    customer: Customer,
    new_model: Callable[..., str],
    usage_of: Callable[..., Any],
) -> None:
    model = new_model("chat:searches=2;text=3", kind=KINDS[provider_shape], route_format=provider_shape, search_usd="0.01")
    for stream in (False, True):
        answer = ask(gateway, customer, client_shape, model, stream=stream)
        assert answer.status_code == 200, answer.text
        assert usage_of(answer.headers["x-request-id"]).web_searches == 2
        if client_shape not in (provider_shape, "responses"):
            assert '"web_search_requests":2' in answer.text.replace(" ", "")


def test_searches_without_a_price_are_flagged_and_free(
    gateway: Gateway, customer: Customer, new_model: Callable[..., str], usage_of: Callable[..., Any]
) -> None:
    model = new_model("chat:searches=1;text=3;prompt_tokens=10;completion_tokens=3", kind="anthropic", route_format="messages")
    record = usage_of(ask(gateway, customer, "messages", model, tools=True).headers["x-request-id"])
    assert (record.web_searches, record.cost, record.flags) == (1, 16_000, ["builtin_tools_unmetered"])


def test_an_operators_markup_is_on_searches_too_and_the_slot_counts_them(
    gateway: Gateway, customer: Customer, new_model: Callable[..., str], usage_of: Callable[..., Any]
) -> None:
    from billing.models import UsageSlot

    model = new_model("chat:searches=3;text=3", kind="anthropic", route_format="messages", search_usd="0.01")
    usage_of(ask(gateway, customer, "messages", model).headers["x-request-id"])
    slot = UsageSlot.objects.get(account=customer.account)
    assert (slot.requests, slot.web_searches) == (1, 3)


# Leaving


@pytest.mark.parametrize(("shape", "mark"), [("messages", b"web_search_tool_result"), ("responses", b"web_search_call.completed")])
@pytest.mark.parametrize("client_shape", [None, "chat"], ids=["same format", "bridged"])
def test_leaving_after_a_search_does_not_make_it_free(
    client_shape: str | None,
    shape: str,
    mark: bytes,
    gateway: Gateway,
    customer: Customer,
    provider: FakeProvider,
    new_model: Callable[..., str],
    usage_of: Callable[..., Any],
) -> None:
    upstream = f"gate:{uuid.uuid4().hex};chunks=12;searches=1;text=50"
    model = new_model(upstream, kind=KINDS[shape], route_format=shape, search_usd="0.01")
    path, body = body_of(client_shape or shape, model, stream=True, tools=client_shape is None)
    request_id, seen = leave_after(gateway, customer, path, body, b"word2")
    assert client_shape is not None or mark in seen
    provider.wait_for(lambda request: request.model == upstream and request.client_gone_at is not None)
    record = usage_of(request_id)
    assert (record.status, record.rule, record.web_searches) == ("aborted", "delivered", 1)
    if client_shape is None:
        assert EACH < record.cost < 2 * EACH
    else:  # no such tool was let through: what a provider does unasked is held for when it is seen, and no more is charged than was held
        assert 0 < record.cost <= record.hold_amount


# Holding


def asks_for(upstream: str, request: ReceivedRequest) -> bool:
    return request.model == upstream


@pytest.mark.parametrize("shape", list(TOOLS))
def test_a_request_that_may_search_holds_for_it(
    shape: str, gateway: Gateway, customer: Customer, provider: FakeProvider, new_model: Callable[..., str]
) -> None:
    held = {}
    for tools in (False, True):
        name = uuid.uuid4().hex
        upstream = f"hold:{name};text=3"
        model = new_model(upstream, kind=KINDS[shape], route_format=shape, search_usd="0.01")
        path, body = body_of(shape, model, tools=tools)
        with httpx.Client(base_url=gateway.origin, headers=customer.headers, timeout=60) as client:
            answered = threading.Thread(target=client.post, args=(path,), kwargs={"json": body})
            answered.start()
            provider.wait_for(functools.partial(asks_for, upstream))
            held[tools] = Hold.objects.get(account=customer.account, about__model=model).amount
            provider.release(name)
            answered.join()
    more = held[True] - held[False]
    assert HELD[shape] * (EACH + READ) - 100_000 <= more <= HELD[shape] * (EACH + READ)  # the request's own bytes are within what is read


def test_a_wallet_needs_the_price_of_one_search_to_begin(gateway: Gateway, new_model: Callable[..., str]) -> None:
    model = new_model("chat:text=1", kind="anthropic", route_format="messages", search_usd="0.01")
    poor, one, three = make_customer(usd="0.005"), make_customer(usd="0.02"), make_customer(usd="0.06")
    assert ask(gateway, poor, "messages", model).status_code == 200
    for who, stream in ((poor, True), (poor, False), (one, False)):
        refused = ask(gateway, who, "messages", model, tools=True, stream=stream)
        assert (refused.status_code, refused.json()["error"]["type"]) == (402, "billing_error")
    assert ask(gateway, one, "messages", model, tools=True, stream=True).status_code == 200
    assert ask(gateway, three, "messages", model, tools=True).status_code == 200


def test_more_searches_than_the_wallet_can_pay_are_the_operators_loss(
    gateway: Gateway, new_model: Callable[..., str], usage_of: Callable[..., Any]
) -> None:
    model = new_model("chat:searches=9;text=1", kind="anthropic", route_format="messages", search_usd="0.01")
    poor = make_customer(usd="0.06")
    record = usage_of(ask(gateway, poor, "messages", model, tools=True).headers["x-request-id"])
    assert (record.cost, poor.fresh_wallet().balance) == (60_000_000, 0)
    assert record.written_off == record.list_cost - record.cost >= 3 * EACH


def test_a_stream_is_ended_at_the_search_that_cannot_be_held_for(
    gateway: Gateway, provider: FakeProvider, new_model: Callable[..., str], usage_of: Callable[..., Any]
) -> None:
    model = new_model("chat:searches=40;text=50;gap_ms=5", kind="anthropic", route_format="messages", search_usd="0.01")
    poor = make_customer(usd="0.1")
    answer = ask(gateway, poor, "messages", model, stream=True, tools=True)
    assert '"type":"error"' in answer.text.replace(" ", "")
    record = usage_of(answer.headers["x-request-id"])
    assert (record.status, record.rule) == ("stopped", "delivered")
    assert 4 <= record.web_searches <= 12  # of forty: what the wallet held, and what came in the same read
    assert poor.fresh_wallet().held == 0


def test_a_hold_grows_with_the_searches(
    gateway: Gateway, customer: Customer, provider: FakeProvider, new_model: Callable[..., str], usage_of: Callable[..., Any]
) -> None:
    upstream = f"gate:{uuid.uuid4().hex};chunks=60;searches=20;text=50"
    model = new_model(upstream, kind="openai", route_format="responses", search_usd="0.01")
    path, body = body_of("responses", model, stream=True, tools=True)
    with httpx.stream("POST", gateway.origin + path, json=body, headers=customer.headers, timeout=60) as answer:
        request_id = answer.headers["x-request-id"]
        searches = (line for line in answer.iter_lines() if line == "event: response.output_item.done")
        assert len(list(itertools.islice(searches, 10))) == 10
        # What came in one read is delivered before the hold has grown for it: whoever left just then would pay for what is held.
        gateway.wait_until(lambda: Hold.objects.get(pk=request_id).amount >= 10 * EACH)
    record = usage_of(request_id)
    assert record.web_searches >= 10
    assert record.hold_amount >= record.cost >= 10 * EACH


def test_a_search_is_never_one_of_a_models_free_requests(gateway: Gateway, new_model: Callable[..., str]) -> None:
    model = new_model("chat:text=1", kind="anthropic", route_format="messages", search_usd="0.01", free_daily_requests=100)
    poor = make_customer(usd="0")
    assert ask(gateway, poor, "messages", model).status_code == 200
    assert ask(gateway, poor, "messages", model, tools=True).status_code == 402


def test_searches_before_any_text_are_paid(
    gateway: Gateway, customer: Customer, provider: FakeProvider, new_model: Callable[..., str], usage_of: Callable[..., Any]
) -> None:
    upstream = f"gate:{uuid.uuid4().hex};chunks=15;searches=3;text=50"
    model = new_model(upstream, kind="openai", route_format="responses", search_usd="0.01")
    path, body = body_of("responses", model, stream=True, tools=True)
    request_id, seen = leave_after(gateway, customer, path, body, b"event: response.output_item.done", times=3)
    assert b"output_text" not in seen
    record = usage_of(request_id)
    assert (record.web_searches, record.rule) == (3, "delivered")
    assert record.cost > 3 * EACH


@pytest.mark.parametrize("shape", ["responses", "messages", "gemini"])
def test_a_whole_answer_without_a_usage_is_charged_for_the_searches_in_it(
    shape: str, gateway: Gateway, customer: Customer, new_model: Callable[..., str], usage_of: Callable[..., Any]
) -> None:
    model = new_model("chat:searches=2;text=3;usage=none", kind=KINDS[shape], route_format=shape, search_usd="0.01")
    record = usage_of(ask(gateway, customer, shape, model, tools=True).headers["x-request-id"])
    assert (record.usage_source, record.web_searches) == ("estimated", 2)
    assert record.cost > 2 * EACH


def test_an_estimate_says_what_searching_may_cost(gateway: Gateway, customer: Customer, new_model: Callable[..., str]) -> None:
    model = new_model("chat:text=1", kind="openai", route_format="responses", search_usd="0.01")
    most = {}
    for tools in (False, True):
        _, body = body_of("responses", model, tools=tools)
        answer = httpx.post(f"{gateway.origin}/v1/estimate?endpoint=responses", json=body, headers=customer.headers, timeout=30)
        most[tools] = float(answer.json()["cost_usd"]["at_most"])
    assert most[True] - most[False] == pytest.approx(searches.USUAL * (EACH + READ) / 10**9, abs=0.001)


def test_what_a_search_costs_is_said_to_people_and_programs(gateway: Gateway, customer: Customer, new_model: Callable[..., str]) -> None:
    priced, free = (
        new_model("chat:text=1", kind="anthropic", route_format="messages", search_usd=usd, name="Finder") for usd in ("0.0125", None)
    )
    with httpx.Client(base_url=gateway.origin, headers=customer.headers, timeout=30) as client:
        assert client.get(f"/v1/models/{priced}").json()["pricing"]["web_search"] == "0.0125"
        assert client.get(f"/v1/models/{free}").json()["pricing"]["web_search"] == "0"
        page, other = (re.sub(r"<[^>]+>|\s+", " ", client.get(f"/models/{slug}").text) for slug in (priced, free))
    assert re.search(r"Web search\s+\$\s?0\.0125", page)
    assert "Web search" not in other


def test_the_pages_of_an_account_tell_of_its_searches(
    gateway: Gateway, customer: Customer, new_model: Callable[..., str], usage_of: Callable[..., Any]
) -> None:
    person = new_person()
    Membership.objects.create(user=person, account=customer.account, role=Membership.Role.OWNER)
    model = new_model("chat:searches=2;text=3", kind="anthropic", route_format="messages", search_usd="0.01")
    record = usage_of(ask(gateway, customer, "messages", model).headers["x-request-id"])
    pages = browser_of(person)
    base = f"/a/{customer.account.slug}"
    receipt, usage = (
        re.sub(r"<[^>]+>|\s+", " ", pages.get(f"{base}/{path}").content.decode()) for path in (f"requests/{record.request_id}", "usage")
    )
    assert "2 web searches" in receipt
    assert re.search(r"Web searches by the provider\s+2\s+\$0\.01 each\s+\$0\.02", receipt)
    assert "Web searches" in usage
    assert pages.get(f"{base}/usage/table.json").json()["totals"]["web_searches"] == 2


# What a request asks for and what an answer tells, pure


@pytest.mark.parametrize(
    ("tools", "limit", "count"),
    [
        (None, None, 0),
        ([], None, 0),
        ([{"type": "function", "name": "web_search"}], None, 0),
        ([{"type": "web_search_preview"}], None, searches.USUAL),
        ([{"type": "x_search"}, {"type": "web_search"}], None, searches.USUAL),
        ([{"type": "web_search_20250305", "max_uses": 8}, {"type": "x_search"}], None, 8 + searches.USUAL),
        ([{"type": "web_search_20250305", "max_uses": 8}], None, 8),
        ([{"type": "web_search_20250305", "max_uses": 10**9}], None, searches.MOST),
        ([{"type": "web_search_20250305", "max_uses": "8"}], None, searches.USUAL),
        ([{"type": "web_search"}], 2, 2),
        ([{"type": "web_search"}], 50, 50),
        ([{"type": "web_search"}], 0, 0),
        ([{"type": "web_search"}], -1, searches.USUAL),
        ([{"type": "web_search_20250305", "max_uses": 8}], 3, 3),
        ([{"type": "function"}], 3, 0),
        ([{"type": ["web_search"]}, "web_search", None], None, 0),
        ({"type": "web_search"}, None, 0),
    ],
)
def test_tools_say_how_often_they_may_search(tools: Any, limit: Any, count: int) -> None:
    assert searches.asked(tools, limit=limit) == count


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({}, 0),
        ({"web_search_options": {}}, searches.USUAL),
        ({"search_parameters": {"mode": "auto"}}, searches.USUAL),
        ({"search_parameters": {"mode": "off"}}, 0),
        ({"plugins": [{"id": "web", "max_results": 3}]}, searches.USUAL),
        ({"plugins": [{"id": "file-parser"}]}, 0),
        ({"tools": [{"type": "openrouter:web_search"}]}, searches.USUAL),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 0),
    ],
)
def test_a_chat_request_asks_in_four_ways(fields: dict[str, Any], count: int) -> None:
    assert searches.asked_of_chat(fields) == count


@pytest.mark.parametrize(
    ("queries", "model", "count"),
    [
        (["a", "b"], "gemini-3-flash", 2),
        (["", "a", "a"], "gemini-3-flash", 1),
        ([""], "gemini-3-flash", 0),
        (["a", "b"], "gemini-2.5-pro", 1),
        ([], "gemini-2.5-pro", 0),
        ("a", "gemini-3-flash", 0),
        ([1, None, "a"], "gemini-3-flash", 1),
    ],
)
def test_google_charges_queries_or_before_gemini_3_the_prompt(queries: Any, model: str, count: int) -> None:
    found = searches.queries_of({"groundingMetadata": {"webSearchQueries": queries}})
    assert searches.charged_by_google(found, model=model) == count


@pytest.mark.parametrize(
    ("item", "counts"),
    [
        ({"type": "web_search_call", "action": {"type": "search"}}, True),
        ({"type": "web_search_call"}, True),
        ({"type": "web_search_call", "action": {"type": "open_page"}}, False),
        ({"type": "web_search_call", "action": {"type": "find_in_page"}}, False),
        ({"type": "web_search_call", "status": "failed"}, False),
        ({"type": "message"}, False),
    ],
)
def test_opening_a_page_is_no_search(item: dict[str, Any], counts: bool) -> None:
    assert searches.is_response_search(item) is counts


RECORDED: dict[str, tuple[Callable[[bytes], Any], str]] = {
    "anthropic/messages/": (anthropic_messages.read_answer, "web_search_requests"),
    "xai/responses/": (openai_responses.read_answer, "web_search_calls"),
    "gemini/gemini/": (gemini.read_answer, "webSearchQueries"),
    "openrouter/chat/": (openai_chat.ChatWhole, "web_search_requests"),
}


@pytest.mark.skipif(not recordings.cases(shape="gemini"), reason=recordings.SKIP_REASON)
@pytest.mark.parametrize("start", RECORDED)
def test_recorded_answers_tell_of_as_many_as_their_provider_counts(start: str) -> None:
    read, mark = RECORDED[start]
    found = 0
    for case in recordings.cases(shape=["chat", "messages", "responses", "gemini"], statuses=[200]):
        if not case.id.startswith(start) or case.stream or mark.encode() not in case.response_bytes:
            continue
        fields = json.loads(case.response_bytes)
        usage = fields.get("usage") or {}
        if mark == "webSearchQueries":
            stated = searches.charged_by_google(searches.queries_of(fields["candidates"][0]), model=fields["modelVersion"])
        elif mark == "web_search_calls":
            stated = usage["server_side_tool_usage_details"][mark]
        else:
            stated = (usage.get("server_tool_use") or usage.get("server_tool_use_details") or {}).get(mark, 0)
        counted = read(case.response_bytes).usage
        assert counted is not None, case.id
        assert counted.web_searches == stated, case.id
        found += stated
    assert found > 0


def test_a_count_that_is_none_makes_the_usage_worthless() -> None:
    for read, usage in (
        (anthropic_messages.read_usage, {"input_tokens": 1, "output_tokens": 1, "server_tool_use": {"web_search_requests": -1}}),
        (openai_chat.read_usage, {"prompt_tokens": 1, "completion_tokens": 1, "num_search_queries": "2"}),
    ):
        found = read(usage)
        assert found is not None
        assert not found.is_sane()


# What streams look like, pure


def fed(tap: Any, *events: dict[str, Any]) -> int:
    for fields in events:
        tap.feed(b"data: " + json.dumps(fields).encode() + b"\n\n")
    return int(tap.web_searches)


def block(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": 0, "content_block": {"type": kind, **more}}


def test_only_a_search_that_was_made_is_counted_in_a_messages_stream() -> None:
    tap = anthropic_messages.MessagesTap()
    told = "web_search_tool_result"
    failed = block(told, content={"type": "web_search_tool_result_error", "error_code": "max_uses_exceeded"})
    said = {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": f'"{told}"'}}
    titled = block(told, content=[{"type": "web_search_result", "title": "web_search_tool_result_error", "url": told}])
    assert fed(tap, failed, said, {**said, "delta": {"type": "text_delta", "text": told}}) == 0
    assert fed(tap, titled) == 1


def test_only_a_search_that_was_made_is_counted_in_a_responses_stream() -> None:
    tap = openai_responses.ResponsesTap()

    def done(**more: Any) -> dict[str, Any]:
        return {"type": "response.output_item.done", "output_index": 0, "item": {"type": "web_search_call", "id": "ws", **more}}

    opened = done(action={"type": "open_page", "url": "https://example.org"}, status="completed")
    said = {"type": "response.output_text.delta", "delta": '"response.output_item.done" "web_search_call"'}
    assert fed(tap, opened, done(status="failed"), said, {"type": "response.web_search_call.completed"}) == 0
    assert fed(tap, done(action={"type": "search", "query": "a"}, status="completed"), done(status="completed")) == 2


@pytest.mark.parametrize("usage_first", [True, False])
def test_gemini_may_tell_of_searches_before_or_after_the_tokens(usage_first: bool) -> None:
    grounded: list[dict[str, Any]] = [
        {"candidates": [{"index": n, "groundingMetadata": {"webSearchQueries": [f"q{n}", "a"]}}], "modelVersion": "gemini-3"}
        for n in (0, 1)
    ]
    counted = {"usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}, "modelVersion": "gemini-3"}
    chunks = [counted, *grounded] if usage_first else [*grounded, counted]
    tap = gemini.GeminiTap()
    assert fed(tap, *chunks) == 3
    assert tap.usage is not None
    assert tap.usage.web_searches == 3
    parser = gemini.StreamParser()
    events = [event for chunk in chunks for event in parser.feed(b"data: " + json.dumps(chunk).encode() + b"\r\n\r\n")]
    assert [event.usage.web_searches for event in events if isinstance(event, Metered)][-1] == 3
