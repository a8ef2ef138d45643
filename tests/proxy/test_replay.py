"""Recorded traffic of real providers through the live gateway: the bytes, the tokens and the refusals come out as they should.

Each recording is asked for once, by a model of its own whose upstream is the recording. The checkers here are independent of the gateway's
code: they cut out exactly what the gateway declares to change and compare the rest byte for byte.
"""

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from django.db.models import Sum

from tests.conftest import Customer, Gateway, make_customer, make_model
from tests.fakes.provider import Case, FakeProvider, oracle, recordings

CASES = recordings.cases(shape="chat")
GOOD = [case for case in CASES if case.status == 200]
REFUSED = [case for case in CASES if case.status != 200]
BROKEN = [case for case in GOOD if "stream_error_stream" in case.id]  # a 200 that carries an error
WHOLE = [case for case in GOOD if not case.stream]
STREAMS = [case for case in GOOD if case.stream and case not in BROKEN]
KINDS = {"openai", "azure", "deepseek", "openrouter", "xai", "zai", "mistral", "groq"}  # others are OpenAI-compatible servers like any
EVENT = re.compile(rb".*?(?:\r\n\r\n|\n\n|\r\r|\Z)", re.DOTALL)

# Where what we bill is not what the provider's two plain counts say, and why. (input, output) are computed from the raw `usage`.
EXCEPTIONS = {
    "xai/": (
        "reasoning stands outside the completion: total = prompt + completion + reasoning",
        lambda u: (u["prompt_tokens"], u["total_tokens"] - u["prompt_tokens"]),
    ),
    "azure/chat/(?!.*gpt)": (
        "Grok on Azure counts cached tokens outside the prompt where there are more of them than prompt",
        lambda u: (u["prompt_tokens"] + _cached_outside(u), u["completion_tokens"]),
    ),
    "gemini/": ("thoughts show only in the total", lambda u: (u["prompt_tokens"], u["total_tokens"] - u["prompt_tokens"])),
    "mistral/chat/audio_in": (
        "audio shows only in the total and the details",
        lambda u: (u["total_tokens"] - u["completion_tokens"], u["completion_tokens"]),
    ),
}
# The judge reads `usage` and knows nothing of these places.
ELSEWHERE = {
    "groq/chat/plain_stream__otllm": "usage stands under x_groq of the last chunk",
    "moonshot/chat/reasoning__": "cached_tokens stands in `usage` itself",
    "mistral/chat/tool__pai-tool-choice-matrix-required-mistral": "num_cached_tokens stands in `usage` itself",
    "mistral/chat/tool__pai-tool-choice-matrix-tools-plus-output-mistral-0": "num_cached_tokens stands in `usage` itself",
}

pytestmark = pytest.mark.skipif(not CASES or oracle.file() is None, reason=recordings.SKIP_REASON)


@dataclass
class Served:
    """One recording as the client and the provider saw it, and what was booked."""

    case: Case
    slug: str
    sent: bytes
    status: int
    headers: httpx.Headers
    body: bytes


@pytest.fixture(scope="session")
def payer() -> Customer:
    """The one customer of all replays."""
    return make_customer(usd="1000")


@pytest.fixture(scope="session")
def served(gateway: Gateway, provider: FakeProvider, payer: Customer) -> dict[str, Served]:
    """Every recording, asked for once."""
    slugs = {
        case.id: make_model(
            provider.base_url,
            f"replay:{case.id}",
            kind=case.provider if case.provider in KINDS else "custom",
            max_output=200_000,
        )
        for case in CASES
    }
    gateway.sees_catalog()

    async def ask_all() -> dict[str, Served]:
        gate = asyncio.Semaphore(16)
        async with httpx.AsyncClient(base_url=gateway.base_url, headers=payer.headers, timeout=30) as client:

            async def ask(case: Case) -> Served:
                sent = _request(case, slugs[case.id])
                async with gate:
                    answer = await client.post("/chat/completions", content=sent, headers={"Content-Type": "application/json"})
                return Served(case, slugs[case.id], sent, answer.status_code, answer.headers, answer.content)

            return {one.case.id: one for one in await asyncio.gather(*map(ask, CASES))}

    return asyncio.run(ask_all())


def _request(case: Case, slug: str) -> bytes:
    """The recorded request's own bytes with another model name, or a small one where none was kept."""
    name = json.dumps(slug).encode()
    body = case.request_bytes
    if body is not None and _is_usable(case.request, case):
        given = json.dumps(case.request["model"]).encode()
        assert body.count(b'"model"') >= 1
        return re.sub(rb'("model"\s*:\s*)' + re.escape(given), lambda found: found[1] + name, body, count=1)
    options = b',"stream":true' if case.stream else b""
    return b'{"model":' + name + b',"messages":[{"role":"user","content":"Say something."}]' + options + b"}"


def _is_usable(request: Any, case: Case) -> bool:
    return (
        isinstance(request, dict)
        and "provider" not in request  # the gateway's own field, which names its own providers
        and isinstance(request.get("model"), str)
        and bool(request.get("messages"))
        and bool(request.get("stream")) == case.stream
    )


def _names(cases: list[Case]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=[case.id for case in cases])


# What the client gets


@_names(WHOLE)
def test_a_whole_answer_is_the_providers_bytes_but_for_its_usage(case: Case, served: dict[str, Served]) -> None:
    one = served[case.id]
    assert one.status == 200, one.body
    recorded, got = case.response_bytes, one.body
    usage = json.loads(recorded).get("usage")
    if usage is None and b'"usage"' not in recorded:
        before, _, _ = recorded.rpartition(b"}")
        assert got.startswith(before)
    else:
        # The value is put where the old one stood: everything before it and everything after it is untouched.
        before, after = _around_top_level_usage(recorded)
        assert got.startswith(before)
        assert got.endswith(after)
        shown = json.loads(got[len(before) : len(got) - len(after)])
        assert {key: value for key, value in shown.items() if key not in ("cost", "cost_details")} == {
            key: value for key, value in (usage or {}).items() if key not in ("cost", "cost_details")
        } or usage is None
    assert float(one.headers["x-gateway-cost-usd"]) == pytest.approx(json.loads(got)["usage"]["cost"], abs=1e-9)


@_names(STREAMS)
def test_a_stream_is_the_providers_bytes_but_for_its_usage_chunk_and_its_end(case: Case, served: dict[str, Served]) -> None:
    one = served[case.id]
    assert one.status == 200, one.body
    wanted = bool((json.loads(one.sent).get("stream_options") or {}).get("include_usage"))
    expected, hidden = b"", []
    for event in _events(case.response_bytes):
        data = _data(event)
        if data == b"[DONE]":
            break
        if _is_usage_chunk(data):
            hidden.append(data)
        else:
            expected += event
    body = one.body
    assert body.endswith(b"data: [DONE]\n\n")
    body = body.removesuffix(b"data: [DONE]\n\n")
    if wanted:
        *_, last = list(_events(body))
        body = body.removesuffix(last)
        shown = json.loads(_data(last))
        assert shown["choices"] == []
        assert shown["usage"]["cost"] > 0
        if hidden:
            assert {**shown["usage"], "cost": 0, "cost_details": 0} == {**json.loads(hidden[-1])["usage"], "cost": 0, "cost_details": 0}
    assert body == expected or body == expected + b"\n\n"  # the recording may lack the last blank line


@_names(BROKEN)
def test_an_error_in_a_stream_reaches_the_client_as_ours(case: Case, served: dict[str, Served]) -> None:
    one = served[case.id]
    if one.status == 200:
        assert one.body.endswith(b"data: [DONE]\n\n")
        error = json.loads(_data(list(_events(one.body))[-2]))["error"]
    else:
        assert one.status == 502
        error = json.loads(one.body)["error"]
    assert error["code"] == "provider_error"


@pytest.mark.parametrize("size", [1, 7, 100])
def test_the_bytes_are_the_same_however_the_provider_cut_them(
    size: int, served: dict[str, Served], gateway: Gateway, provider: FakeProvider, payer: Customer
) -> None:
    """The smallest recorded stream of every provider, in pieces of so many bytes."""
    smallest = {case.provider: case for case in sorted(STREAMS, key=lambda case: -len(case.response_bytes))}.values()
    slugs = {case: make_model(provider.base_url, f"replay:{case.id}@{size}") for case in smallest}
    gateway.sees_catalog()
    with httpx.Client(base_url=gateway.base_url, headers=payer.headers, timeout=30) as client:
        for case, slug in slugs.items():
            answer = client.post("/chat/completions", content=_request(case, slug), headers={"Content-Type": "application/json"})
            assert answer.content == served[case.id].body, case.id


# What the provider got


@_names(CASES)
def test_the_provider_receives_the_clients_bytes_but_for_the_declared_splices(
    case: Case, served: dict[str, Served], provider: FakeProvider
) -> None:
    one = served[case.id]
    received = [request for request in provider.requests if request.model == f"replay:{case.id}"]
    assert len(received) == 1
    body = received[0].body
    asked = json.loads(one.sent)
    wants = bool((asked.get("stream_options") or {}).get("include_usage"))
    expected = one.sent.replace(json.dumps(one.slug).encode(), json.dumps(f"replay:{case.id}").encode(), 1)
    if case.stream and not wants and case.provider != "mistral":
        option = json.dumps({**(asked.get("stream_options") or {}), "include_usage": True}, separators=(",", ":")).encode()
        if "stream_options" in asked:
            expected = re.sub(rb'("stream_options"\s*:\s*)\{[^}]*\}', lambda found: found[1] + option, expected, count=1)
        else:
            end = expected.rindex(b"}")
            expected = expected[:end] + b',"stream_options":' + option + expected[end:]
    assert body == expected


# What is billed


@_names(WHOLE + STREAMS)
def test_the_tokens_billed_are_those_the_answer_means(case: Case, served: dict[str, Served], records: dict[str, Any]) -> None:
    record = records[served[case.id].headers["x-request-id"]]
    said = oracle.meaning("chat", case.response_bytes, case.stream)
    billed = (_input(record), _output(record), record.cached_input_tokens, record.reasoning_tokens)
    usage = _last_usage(case)
    if usage is None and not any(case.id.startswith(place) for place in ELSEWHERE):
        assert record.usage_source == "estimated"
        assert record.cost > 0
        return
    assert record.usage_source == "provider"
    exception = next((rule for pattern, (_, rule) in EXCEPTIONS.items() if re.match(pattern, case.id)), None)
    if exception is not None:
        assert billed[:2] == exception(usage)
    elif not any(case.id.startswith(place) for place in ELSEWHERE):
        assert billed == (said["inp"], said["out"], said["cached"], min(said["reason_tok"], said["out"]))
    else:
        assert billed[:2] in ((said["inp"], said["out"]), (18, 73))
    assert record.cost > 0 or sum(billed) == 0


def test_tokens_in_places_only_some_providers_use_are_found(served: dict[str, Served], records: dict[str, Any]) -> None:
    """What the table of exceptions says in words, in numbers."""
    seen = {
        case.id.split("__")[0]: (
            _input(record),
            _output(record),
            record.cached_input_tokens,
            record.reasoning_tokens,
            record.audio_input_tokens,
        )
        for case in GOOD
        if (record := records[served[case.id].headers["x-request-id"]])
        and (
            any(case.id.startswith(place) for place in ELSEWHERE)
            or case.id.startswith(("mistral/chat/audio_in", "gemini/chat/tool__", "azure/chat/cached"))
        )
    }
    assert seen == {
        "groq/chat/plain_stream": (18, 73, 0, 0, 0),
        "moonshot/chat/reasoning": (20, 30, 10, 22, 0),
        "mistral/chat/audio_in": (384, 201, 0, 0, 375),
        "mistral/chat/tool": (152, 12, 151, 0, 0),
        "gemini/chat/tool": (35, 74, 0, 62, 0),
        "azure/chat/cached": (192, 9, 161, 0, 0),
    }


def test_what_was_billed_left_the_wallet_and_nothing_is_held(served: dict[str, Served], records: dict[str, Any], payer: Customer) -> None:
    from billing.models import UsageRecord

    charged = UsageRecord.objects.filter(account=payer.account).aggregate(sum=Sum("cost"))["sum"]
    wallet = payer.fresh_wallet()
    assert wallet.balance == 1000 * 10**9 - charged
    assert wallet.held == 0


# Refusals

# What the provider said, in words of 3.7 -> what the client sees.
OUTCOMES = {
    "error_401": (503, "no_available_provider"),
    "error_402": (503, "no_available_provider"),
    "error_403": (503, "no_available_provider"),
    "error_404": (502, "provider_error"),
    "error_429": (429, "rate_limit_exceeded"),
}
OF_THEIR_OWN = {
    "azure/chat/error_404": (503, "no_available_provider"),  # the deployment is the operator's
    "zai/chat/error_429_1113": (503, "no_available_provider"),  # out of money
    "openai/chat/error_429_request_too_large": (400, "context_length_exceeded"),
    "deepseek/chat/error_400": (400, "context_length_exceeded"),
    "openrouter/chat/error_400": (400, "context_length_exceeded"),
    "perplexity/chat/error_400": (400, "context_length_exceeded"),
    "groq/chat/error_400": (400, "tool_use_failed"),
    "openai/chat/error_400__otllm-vision-base64": (400, "invalid_image_format"),
    "openai/chat/error_400__otllm-vision-with": (400, "invalid_image_url"),
    "openai/chat/error_400__pai": (400, "unsupported_value"),
}
LEAKS = re.compile(
    rb"org-|REDACTED|\*\*\*\*|https?://|OpenAI|OpenRouter|DeepSeek|Mistral|Groq|xAI|Z\.ai|Azure|Perplexity|westeurope|api key: |user_id",
    re.IGNORECASE,
)


@_names(REFUSED)
def test_a_refusal_is_mapped_and_nothing_of_the_operators_leaks(case: Case, served: dict[str, Served], records: dict[str, Any]) -> None:
    one = served[case.id]
    name = case.id.rpartition("/")[2]
    expected = next((outcome for place, outcome in OF_THEIR_OWN.items() if case.id.startswith(place)), None) or OUTCOMES[name[:9]]
    error = json.loads(one.body)["error"]
    assert (one.status, error["code"]) == expected
    assert error["type"] and error["message"] and error["request_id"] == one.headers["x-request-id"]
    assert not LEAKS.search(one.body), one.body
    assert not [line for line in one.headers.items() if LEAKS.search(repr(line).encode()) and line[0] != "x-gateway-provider"]
    if one.status == 429:
        assert 1 <= int(one.headers["retry-after"]) <= 60
    record = records[one.headers["x-request-id"]]
    assert (record.cost, record.rule, record.status) == (0, "no_output", "error")


@pytest.fixture(scope="session")
def records(served: dict[str, Served]) -> dict[str, Any]:
    """The usage record of every replay, by request id, once the last of them is settled."""
    import time

    from billing.models import UsageRecord

    wanted = {one.headers["x-request-id"] for one in served.values()}
    deadline = time.monotonic() + 60
    while True:
        found = {str(record.request_id): record for record in UsageRecord.objects.filter(request_id__in=wanted)}
        if len(found) == len(wanted):
            return found
        if time.monotonic() > deadline:
            missing = [one.case.id for one in served.values() if one.headers["x-request-id"] not in found]
            raise TimeoutError(f"not settled: {missing}")


# Reading


def _around_top_level_usage(body: bytes) -> tuple[bytes, bytes]:
    """Split a JSON object around the value of its own `usage`."""
    decoder = json.JSONDecoder()
    text = body.decode()
    position = text.index("{") + 1
    blank = re.compile(r"[\s,]*")
    while True:
        position = blank.match(text, position).end()  # type: ignore[union-attr]
        name, position = decoder.raw_decode(text, position)
        position = re.compile(r"\s*:\s*").match(text, position).end()  # type: ignore[union-attr]
        _, end = decoder.raw_decode(text, position)
        if name == "usage":
            return text[:position].encode(), text[end:].encode()
        position = end


def _events(stream: bytes) -> Iterator[bytes]:
    return (found.group() for found in EVENT.finditer(stream) if found.group())


def _data(event: bytes) -> bytes:
    return b"\n".join(line[5:].removeprefix(b" ") for line in re.split(rb"\r\n|\n|\r", event) if line.startswith(b"data:")).strip()


def _is_usage_chunk(data: bytes) -> bool:
    try:
        chunk = json.loads(data)
    except ValueError:
        return False
    return isinstance(chunk, dict) and bool(chunk.get("usage")) and not chunk.get("choices")


def _last_usage(case: Case) -> Any:
    if not case.stream:
        return json.loads(case.response_bytes).get("usage")
    chunks = [json.loads(data) for event in _events(case.response_bytes) if (data := _data(event)) and data != b"[DONE]"]
    return next((chunk["usage"] for chunk in reversed(chunks) if chunk.get("usage")), None)


def _input(record: Any) -> int:
    return int(record.input_tokens + record.cached_input_tokens + record.cache_write_tokens + record.audio_input_tokens)


def _output(record: Any) -> int:
    return int(record.output_tokens + record.reasoning_tokens + record.audio_output_tokens)


def _cached_outside(usage: Any) -> int:
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return int(cached) if cached > usage["prompt_tokens"] else 0
