"""Every recorded answer of every format through every bridge, scored by the judge of meaning: what differs is listed by name with its reason."""

import json
from typing import Any

import pytest

from catalog.usage import TokenUsage
from proxy.bridges import BridgeTap, BridgeWhole
from proxy.dialects import DIALECTS
from proxy.formats.base import NotAnAnswer
from proxy.formats.conversation import Conversation, Echo
from tests.fakes.provider import oracle, recordings
from tests.fakes.provider.recordings import Case

COMPARED = ("text", "reasoning", "tools", "stop", "inp", "out", "cached", "reason_tok")
TOKENS = ("inp", "out", "cached", "reason_tok")
ESTIMATE = TokenUsage(input_tokens=7, output_tokens=3)

# Fields that the judge reads otherwise, by a part of the case's name: PROTOCOLS' rules of usage, and what the judge does not look at.
OTHERWISE: dict[str, tuple[tuple[str, ...], str]] = {
    "azure-grok-4-1-fast-non-reasoning": (("inp",), "cached tokens are counted beside the prompt; the judge reads the prompt alone"),
    "xai/chat/tool": (("out",), "reasoning is counted beside the completion; the judge reads the completion alone"),
    "pai-compatible-api-with-tool-calls-without-id": (("out", "reason_tok"), "thoughts are only in the total; the judge does not read it"),
    "voxtral-small-latest-can-understand-mp3": (("inp",), "audio is only in the total and the details"),
    "groq/chat/plain_stream__otllm": (("inp", "out"), "the usage is in x_groq, which the judge does not read"),
    "pai-tool-choice-matrix-required-mistral": (("cached",), "cached tokens stand at the top of the usage"),
    "pai-tool-choice-matrix-tools-plus-output-mistral-0": (("cached",), "cached tokens stand at the top of the usage"),
    "vercel-moonshotai-reasoning": (("cached",), "cached tokens stand at the top of the usage"),
    "anthropic-compaction-1": (("inp", "out"), "tokens of the iterations are billed too; the judge reads the top level"),
    "vercel-spliced-message-start": (("reasoning", "tools"), "a made-up stream that opens blocks over open blocks"),
    "stream-tool-call-arguments": (("tools",), "arguments come in pieces; the judge counts every piece as a call"),
    "stream-tool-call-array-arguments": (("tools",), "arguments come in pieces; the judge counts every piece as a call"),
    "chat-text-to-audio": (("text",), "the transcript of spoken words is text where there is no sound"),
    "legacy_functions": (("tools",), "the judge does not read function_call, which tools have replaced"),
    "parsed-refused-completion": (("text", "stop"), "a refusal is text or a reason, as the format has it"),
    "custom-tool": (("tools", "stop"), "the judge does not read custom tool calls; other formats carry them as functions"),
    "CustomToolCallStreamingParam": (("tools", "stop"), "the judge does not read custom tool calls; other formats carry them as functions"),
    "tool-search": (("tools",), "a tool of a namespace is called ns__tool where there are no namespaces"),
    "model-armor-prompt-template-text-gets-blocked": (TOKENS, "a blocked prompt has no counts; the judge takes none for nothing"),
    "background-mode": (("stop",), "a queued answer has no end yet, and bridges are not asked in the background"),
    "image_in_stream__lingua-multimodalRequest-followup": (("stop",), "a draft of the protocol, without an end"),
}
# Answers that are failures, so that another route is tried.
FAILURES = {
    "odd_finish__lingua-speechConfigParam": "finishReason OTHER",
    "multimodal-tool-return-matrix-direct-binary-audio-google-ver-0": "finishReason UNEXPECTED_TOOL_CALL",
    "multimodal-tool-return-matrix-direct-uploaded-file-video-goo-0": "finishReason UNEXPECTED_TOOL_CALL",
    "reasoning_replay__llm-gemini-tools-1": "the array form of a stream, which bridges do not ask for",
    "compact-messages-2": "a compaction is no answer",
    "compact-with-auto-previous-response-id-1": "a compaction is no answer",
}

ANSWERS = [case for case in recordings.cases(statuses=[200]) if case.shape in DIALECTS] if recordings.folder() else []
BRIDGES = [(case, client) for case in ANSWERS for client in DIALECTS if client != case.shape]

needs_recordings = pytest.mark.skipif(recordings.folder() is None, reason=recordings.SKIP_REASON)
needs_oracle = pytest.mark.skipif(oracle.file() is None, reason=oracle.SKIP_REASON)


def across(case: Case, client: Any) -> dict[str, Any]:
    """What a client of another format is told, as the judge reads it."""
    reader = DIALECTS[case.shape].read(conversation := Conversation(origin=client, model="m", items=[]), {})  # type: ignore[index]
    asked = {"stream_options": {"include_usage": True}}
    echo = Echo(id="x1", created=1, model="m", request=asked, conversation=conversation)
    if case.stream:
        tap = BridgeTap(reader.make_parser(), DIALECTS[client].make_renderer(echo), wrap=lambda event: event)
        out = tap.feed(case.response_bytes) + tap.flush()
        if tap.error is not None:
            return {"error": tap.error}
        out += tap.finish(estimate=ESTIMATE, cost=0, upstream_cost=0)
        return oracle.meaning(client, out.decode(), True)
    whole = BridgeWhole(
        case.response_bytes,
        parse=reader.parse_answer,
        render=DIALECTS[client].render_answer,
        echo=echo,
        wrap=lambda answer: answer,
    )
    return oracle.meaning(client, json.loads(whole.render(estimate=ESTIMATE, cost=0, upstream_cost=0)), False)


@needs_recordings
@needs_oracle
@pytest.mark.parametrize(("case", "client"), BRIDGES, ids=[f"{case.id}->{client}" for case, client in BRIDGES])
def test_a_recorded_answer_means_the_same_in_every_format(case: Case, client: str) -> None:
    if any(part in case.id for part in FAILURES):
        with pytest.raises(NotAnAnswer):
            across(case, client)
        return
    body = case.response_bytes.decode()
    meant = oracle.meaning(case.shape, body if case.stream else json.loads(body), case.stream)
    told = across(case, client)
    if meant.get("error") is not None:
        assert told["error"] is not None
        return
    otherwise = {name for part, (names, _) in OTHERWISE.items() if part in case.id for name in names}
    if meant["inp"] is None and "x_groq" not in body:
        # The provider said nothing of tokens: our own count is shown instead.
        otherwise |= set(TOKENS)
        assert (told["inp"], told["out"]) == (7, 3) or otherwise & {"stop"}
    assert oracle.diff(meant, told, [name for name in COMPARED if name not in otherwise]) == {}


@needs_recordings
@needs_oracle
def test_every_exception_is_still_needed() -> None:
    used = {part for part in (*OTHERWISE, *FAILURES) if any(part in case.id for case in ANSWERS)}
    assert used == {*OTHERWISE, *FAILURES}


@pytest.mark.parametrize(("asked", "shown"), [({"include_usage": True}, 1), ({}, 0)])
def test_a_bridged_chat_stream_shows_its_cost_where_usage_was_asked_for(asked: dict[str, Any], shown: int) -> None:
    conversation = Conversation(origin="chat", model="m", items=[])
    echo = Echo(id="x1", created=1, model="m", request={"stream_options": asked}, conversation=conversation)
    reader = DIALECTS["gemini"].read(conversation, {})
    tap = BridgeTap(reader.make_parser(), DIALECTS["chat"].make_renderer(echo), wrap=lambda event: event)
    said = b'data: {"candidates":[{"content":{"parts":[{"text":"Hi"}]},"finishReason":"STOP"}],"modelVersion":"gemini-2.5-flash"}\n\n'
    out = tap.feed(said) + tap.flush() + tap.finish(estimate=ESTIMATE, cost=2_500_000, upstream_cost=1_000_000)
    chunks = [json.loads(line[6:]) for line in out.decode().split("\n\n") if line.startswith("data: {")]
    usages = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    assert len(usages) == shown
    for usage in usages:
        assert (usage["prompt_tokens"], usage["cost"], usage["cost_details"]) == (7, 0.0025, {"upstream_inference_cost": 0.001})
