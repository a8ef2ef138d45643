"""What a provider's own count of tokens may break: what each breach is called, and where an operator sees it."""

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from catalog.usage import DOUBTFUL, UNREADABLE, TokenUsage
from proxy.formats import anthropic_messages, gemini_usage, images, openai_chat, openai_responses_output
from tests.conftest import Customer, Gateway

READERS: dict[str, Callable[[Any], TokenUsage | None]] = {
    "chat": openai_chat.read_usage,
    "responses": openai_responses_output.read_usage,
    "messages": anthropic_messages.read_usage,
    "gemini": gemini_usage.read_usage,
}
SPLIT = {"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 1}
ROUND = {"input_tokens": 1, "output_tokens": 1}
RAN_CODE = {"server_tool_use": {"code_execution_requests": 2}}


def chat(**more: Any) -> tuple[str, dict[str, Any]]:
    return "chat", {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, **more}


def responses(**more: Any) -> tuple[str, dict[str, Any]]:
    return "responses", {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15, **more}


def messages(**more: Any) -> tuple[str, dict[str, Any]]:
    return "messages", {"input_tokens": 10, "output_tokens": 5, **more}


def gemini(**more: Any) -> tuple[str, dict[str, Any]]:
    return "gemini", {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15, **more}


def heard(count: int) -> list[dict[str, Any]]:
    return [{"modality": "AUDIO", "tokenCount": count}]


# Usages, and (fresh and cached, audio) input and (visible, thought, audio) output as they are billed.
BROKEN: list[tuple[tuple[str, dict[str, Any]], tuple[str, ...], tuple[int, ...]]] = [
    (chat(total_tokens=14), ("usage_total_mismatch",), (10, 0, 0, 5, 0, 0)),
    (chat(prompt_tokens_details={"cached_tokens": 11}), ("usage_cached_beyond_input",), (10, 11, 0, 5, 0, 0)),
    (chat(prompt_tokens_details={"audio_tokens": 11}), ("usage_audio_beyond_input",), (0, 0, 10, 5, 0, 0)),
    (chat(prompt_tokens_details={"cache_write_tokens": 11}), ("usage_cache_write_beyond_input",), (0, 0, 0, 5, 0, 0)),
    (chat(completion_tokens_details={"reasoning_tokens": 6}), ("usage_reasoning_beyond_output",), (10, 0, 0, 0, 5, 0)),
    (chat(completion_tokens_details={"audio_tokens": 6}), ("usage_audio_beyond_output",), (10, 0, 0, 0, 0, 5)),
    (chat(num_sources_used=3), ("builtin_tools_unmetered",), (10, 0, 0, 5, 0, 0)),
    (chat(server_side_tool_usage_details={"code_interpreter_calls": 1}), ("builtin_tools_unmetered",), (10, 0, 0, 5, 0, 0)),
    (responses(total_tokens=3), ("usage_total_mismatch",), (10, 0, 0, 5, 0, 0)),
    (responses(input_tokens_details={"cached_tokens": 11}), ("usage_cached_beyond_input",), (10, 11, 0, 5, 0, 0)),
    (responses(output_tokens_details={"reasoning_tokens": 6}), ("usage_reasoning_beyond_output",), (10, 0, 0, 0, 5, 0)),
    (messages(output_tokens_details={"thinking_tokens": 6}), ("usage_reasoning_beyond_output",), (10, 0, 0, 0, 5, 0)),
    (messages(cache_creation_input_tokens=3, cache_creation=SPLIT), ("usage_cache_write_split_mismatch",), (10, 0, 0, 5, 0, 0)),
    (messages(iterations=[ROUND]), ("usage_iterations_mismatch",), (10, 0, 0, 5, 0, 0)),
    (messages(**RAN_CODE), ("builtin_tools_unmetered",), (10, 0, 0, 5, 0, 0)),
    (gemini(totalTokenCount=99), ("usage_total_mismatch",), (10, 0, 0, 5, 0, 0)),
    (gemini(cachedContentTokenCount=11), ("usage_cached_beyond_input",), (10, 11, 0, 5, 0, 0)),
    (gemini(promptTokensDetails=heard(11)), ("usage_audio_beyond_input",), (0, 0, 10, 5, 0, 0)),
    (gemini(candidatesTokensDetails=heard(6)), ("usage_audio_beyond_output",), (10, 0, 0, 0, 0, 5)),
]


@pytest.mark.parametrize(
    ("said", "flags", "billed"), BROKEN, ids=[f"{said[0]}-{flags[0]}-{n}" for n, (said, flags, _) in enumerate(BROKEN)]
)
def test_a_breach_is_named_and_read_by_the_rule(said: tuple[str, dict[str, Any]], flags: tuple[str, ...], billed: tuple[int, ...]) -> None:
    usage = READERS[said[0]](said[1])
    assert usage is not None
    assert usage.doubts == flags
    assert usage.is_sane()
    assert billed == (
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.audio_input_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
        usage.audio_output_tokens,
    )


def test_every_flag_is_proved() -> None:
    proved = {flag for _, flags, _ in BROKEN for flag in flags}
    assert proved | {"usage_tokens_unreadable"} == set(DOUBTFUL)
    assert images.read_tokens({"input_tokens": -1, "output_tokens": 1}, images=2).doubts == ("usage_tokens_unreadable",)


@pytest.mark.parametrize("said", [chat(), responses(), messages(), gemini()], ids=lambda said: said[0])
def test_a_usage_that_adds_up_has_no_doubts(said: tuple[str, dict[str, Any]]) -> None:
    usage = READERS[said[0]](said[1])
    assert usage is not None
    assert usage.doubts == ()


@pytest.mark.parametrize("said", [chat(), responses(), messages(), gemini()], ids=lambda said: said[0])
@pytest.mark.parametrize(("count", "flag"), list(zip(("7", -7, 10**24), UNREADABLE, strict=True)))
def test_what_is_no_count_makes_the_whole_worthless(said: tuple[str, dict[str, Any]], count: Any, flag: str) -> None:
    shape, fields = said
    usage = READERS[shape](
        {**fields, next(name for name in fields if "output" in name or "ompletion" in name or "andidates" in name): count}
    )
    assert usage is not None
    assert not usage.is_sane()
    assert usage.doubts == (flag,)


def test_the_other_tools_of_a_responses_model_are_seen_in_its_items() -> None:
    _, usage = responses()
    found = openai_responses_output.read_usage(usage, [{"type": "file_search_call", "id": "fs_1"}, {"type": "message"}])
    assert found is not None
    assert found.doubts == ("builtin_tools_unmetered",)


# Through the gateway

LIVE = {
    "fault:negative-usage": ("usage_not_believable", "usage_negative"),
    "fault:text-usage": ("usage_not_believable", "usage_not_a_count"),
    "chat:cached=50;prompt_tokens=10": ("usage_cached_beyond_input",),
    "chat:text=2;prompt_tokens=10": (),
}


@pytest.mark.parametrize("endpoint", ["chat", "messages"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_the_receipt_and_the_metrics_show_the_flags(
    endpoint: str,
    stream: bool,
    gateway: Gateway,
    customer: Customer,
    new_models: Callable[..., list[str]],
    usage_of: Callable[..., Any],
) -> None:
    slugs = new_models(list(LIVE), route_format="chat")
    seen: set[tuple[str, str]] = set()
    body = {"max_tokens": 100, "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    path = "/v1/messages" if endpoint == "messages" else "/v1/chat/completions"
    with httpx.Client(base_url=gateway.origin, headers=customer.headers, timeout=10) as client:
        for slug, flags in zip(slugs, LIVE.values(), strict=True):
            answer = client.post(path, json={**body, "model": slug})
            assert answer.status_code == 200, answer.text
            record = usage_of(answer.headers["x-request-id"])
            assert tuple(record.flags) == flags
            assert (record.usage_source, record.rule) == (
                ("estimated", "estimated") if "usage_not_believable" in flags else ("provider", "metered")
            )
            assert record.cost > 0
            receipt = client.get("/v1/generation", params={"id": answer.headers["x-request-id"]}).json()["data"]
            assert tuple(receipt["receipt"].get("flags", receipt.get("flags"))) == flags
            seen |= {(record.provider, flag) for flag in flags}
        deadline = time.monotonic() + 60
        while not all(
            f'tollgate_usage_flags_total{{flag="{flag}",provider="{provider}"}} 1.0' in (shown := client.get("/metrics").text)
            for provider, flag in seen
        ):
            assert time.monotonic() < deadline, [line for line in shown.splitlines() if "usage_flags" in line]
            time.sleep(0.05)
