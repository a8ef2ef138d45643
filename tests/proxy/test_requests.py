"""Every recorded request of every format in every other, and every translation that a real provider is known to have accepted: what differs, or
is refused, is listed by name or rule with its reason.
"""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from catalog.usage import TokenUsage
from proxy.bridges import BridgeWhole
from proxy.dialects import DIALECTS
from proxy.formats.conversation import CannotParse, CannotRender, Conversation, Echo, Target
from tests.fakes.provider import oracle, recordings
from tests.proxy import request_meaning

# The model and provider that a request is rendered for, by format.
MODELS = {
    "chat": ("gpt-5.4-mini", "openai"),
    "responses": ("gpt-5.4-mini", "openai"),
    "messages": ("claude-sonnet-4-5", "anthropic"),
    "gemini": ("gemini-3-flash", "google"),
}
# What is refused because leaving it out would change what the answer means, by a part of what the client is told.
REFUSED = {
    "The built-in tool '": "a tool that another provider runs",
    "cannot fetch the image from its URL": "Gemini takes media as data",
    "cannot fetch the file from its URL": "Gemini takes media as data",
    "does not fetch": "chat takes files as data",
    "cannot stop at a text": "Responses has no stop sequences",
    "does not take audio": "Messages has no audio and no video",
    "takes no video": "chat has no video at OpenAI",
    "cannot read video/": "Responses reads no video",
    "cannot read audio/": "Responses hears nothing",
    "cannot hear": "Responses hears nothing",
    "'cachedContent'": "content cached at Google",
    "files uploaded elsewhere": "a file's id means nothing at another provider",
    "does not know the file's id": "a file's id means nothing at another provider",
    "does not know the image's id": "a file's id means nothing at another provider",
    "known only by its file id": "a file's id means nothing at another provider",
    "'background'": "answers made in the background stay at their provider",
    "logprobs": "log probabilities in one format only",
    "og probabilities": "log probabilities in one format only",
    "'n' must be 1": "one choice",
    "('n')": "one choice",
    "'audio'": "spoken answers",
    "answers in text only": "spoken answers",
    "'web_search_options'": "a search that another provider runs",
    "'logit_bias'": "tokens have no common names",
    "The conversation says nothing": "nothing but a compaction, which only its maker can read",
    "no message for the model to answer": "nothing but a compaction, which only its maker can read",
    "valid role": "the recording is of a request that the provider refused",
}
# Where the judge reads otherwise, by a part of the case's name: fields, target formats, reason.
OTHERWISE: dict[str, tuple[tuple[str, ...], str]] = {
    "documentContentParam": (("user", "media"), "a document of plain text becomes text where there are no documents"),
    "pai-text-document-as-binary-content-input": (("user", "media"), "a document of plain text becomes text where there are no documents"),
    "cites-tool-results": (("results",), "search results become text, with their titles and sources"),
    "deepseek-responses-": (("user",), "a conversation that begins with the assistant gets a first user message at Messages"),
    "envoy-chat-detailed-usage": (("system", "user"), "an only developer message is the user's where a conversation needs one"),
    "pai-openai-prompted-output-0": (("system",), "JSON without a schema is asked for in words at Messages"),
    "pai-prompted-output-multiple-0": (("system",), "JSON without a schema is asked for in words at Messages"),
}
# Pairs: the accepted request says less, or says it otherwise; ours says what the client said.
PAIRED = {
    "gemini_to_chat/instructionsParam": "the accepted request lost the system instruction",
    "gemini_to_messages/instructionsParam": "the accepted request lost the system instruction",
    "gemini_to_responses/instructionsParam": "the accepted request lost the system instruction",
    "gemini_to_chat/systemMessageArrayContent": "the accepted request lost the system instruction",
    "gemini_to_messages/systemMessageArrayContent": "the accepted request lost the system instruction",
    "gemini_to_responses/systemMessageArrayContent": "the accepted request lost the system instruction",
    "gemini_to_chat/parallelToolCallsRequest": "a result's text is sent without the object that Gemini wants around it",
    "gemini_to_messages/parallelToolCallsRequest": "a result's text is sent without the object that Gemini wants around it",
    "gemini_to_responses/parallelToolCallsRequest": "a result's text is sent without the object that Gemini wants around it",
    "responses_to_gemini/responsesCustomToolCallStreamingParam": "the accepted request lost the custom tool",
    "messages_to_responses/documentContentParam": "a document of plain text becomes text; the accepted request sent it as a file",
}
FORCED_JSON = ("chat_to_messages", "gemini_to_messages", "responses_to_messages")  # a forced tool, unwrapped; the judge sees a call
FIELDS = ("text", "reasoning", "tools", "stop", "inp", "out", "cached", "reason_tok")

REQUESTS = [case for case in recordings.cases() if case.shape in DIALECTS and isinstance(case.request, dict)] if recordings.folder() else []
BRIDGES = [(case, target) for case in REQUESTS for target in DIALECTS if target != case.shape]
PAIRS = sorted((recordings.folder() or Path("nowhere")).glob("pairs/*/*.json"))

needs_recordings = pytest.mark.skipif(recordings.folder() is None, reason=recordings.SKIP_REASON)
needs_oracle = pytest.mark.skipif(oracle.file() is None, reason=oracle.SKIP_REASON)


def render(source: str, target: str, request: dict[str, Any], model: str = "") -> tuple[Conversation, dict[str, Any], list[str]]:
    """A request in another format, and what was left out. Raises: CannotParse, CannotRender."""
    conversation = DIALECTS[source].parse_request(copy.deepcopy(request))  # type: ignore[index]
    aim = Target(model or MODELS[target][0], 4096, MODELS[target][1], ())
    return conversation, DIALECTS[target].render_request(conversation, aim), aim.dropped  # type: ignore[index]


def rule_of(error: Exception) -> str:
    """The part of the refusal that names its rule. Raises: StopIteration for a refusal without one."""
    return next(part for part in REFUSED if part in str(error))


def differences(case_id: str, target: str, asked: dict[str, Any], rendered: dict[str, Any], source: str) -> dict[str, Any]:
    """What another judge finds to have changed, but for what is listed."""
    said, sent = request_meaning.of(source, asked), request_meaning.of(target, rendered)
    if "json" in sent["tools"] and "json" not in said["tools"]:  # JSON is asked for by a tool that is unwrapped again
        sent["tools"].remove("json")
    listed = {name for part, (names, _) in OTHERWISE.items() if part in case_id for name in names}
    return {name: (said[name], sent[name]) for name in said if name not in listed and said[name] != sent[name]}


@needs_recordings
@pytest.mark.parametrize("shape", list(DIALECTS))
def test_a_recorded_request_asks_the_same_in_every_format(shape: str) -> None:
    wrong = {}
    for case, target in BRIDGES:
        if case.shape != shape:
            continue
        try:
            _, rendered, _ = render(shape, target, case.request)
        except (CannotParse, CannotRender) as error:
            rule_of(error)
            continue
        if found := differences(case.id, target, case.request, rendered, shape):
            wrong[f"{case.id}->{target}"] = found
    assert wrong == {}


@needs_recordings
def test_every_rule_and_exception_is_still_needed() -> None:
    refused, differing = set(), set()
    for case, target in BRIDGES:
        try:
            _, rendered, _ = render(case.shape, target, case.request)
        except (CannotParse, CannotRender) as error:
            refused.add(rule_of(error))
            continue
        if request_meaning.of(case.shape, case.request) != request_meaning.of(target, rendered):
            differing |= {part for part in OTHERWISE if part in case.id}
    for _, pair in pairs():
        try:
            render(pair["source_shape"], pair["target_shape"], pair["source_request"])
        except CannotRender as error:
            refused.add(rule_of(error))
    assert refused == set(REFUSED)
    assert differing == set(OTHERWISE)


def pairs() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pair, by `from_to_to/case`."""
    for place in PAIRS:
        yield f"{place.parent.name}/{place.stem}", json.loads(place.read_bytes())


@needs_recordings
def test_what_a_provider_accepted_is_what_we_send() -> None:
    wrong, refused, used = {}, 0, set()
    for name, pair in pairs():
        source, target = pair["source_shape"], pair["target_shape"]
        try:
            _, rendered, _ = render(source, target, pair["source_request"], pair["target_request"].get("model") or "")
        except (CannotParse, CannotRender) as error:
            rule_of(error)
            refused += 1
            continue
        accepted, sent = request_meaning.of(target, pair["target_request"]), request_meaning.of(target, rendered)
        if name in PAIRED:
            used.add(name)
            assert accepted != sent
        elif accepted != sent:
            wrong[name] = {field: (accepted[field], sent[field]) for field in sent if accepted[field] != sent[field]}
    assert wrong == {}
    assert used == set(PAIRED)
    assert refused < len(PAIRS) / 10


@needs_recordings
@needs_oracle
def test_what_the_provider_answered_then_means_the_same_to_the_client() -> None:
    wrong = {}
    for name, pair in pairs():
        source, target, answer = pair["source_shape"], pair["target_shape"], pair.get("target_response")
        if (
            not isinstance(answer, dict)
            or answer.get("error")
            or (name.endswith("textFormatJsonObjectParam") and name.startswith(FORCED_JSON))
        ):
            continue
        try:
            conversation, rendered, _ = render(source, target, pair["source_request"], pair["target_request"].get("model") or "")
        except (CannotParse, CannotRender):
            continue
        whole = BridgeWhole(
            json.dumps(answer).encode(),
            parse=DIALECTS[target].read(conversation, rendered).parse_answer,
            render=DIALECTS[source].render_answer,
            echo=Echo(id="x1", created=1, model="m", request=pair["source_request"], conversation=conversation),
            wrap=lambda one: one,
        )
        told = json.loads(whole.render(estimate=TokenUsage(), cost=0, upstream_cost=0))
        if found := oracle.diff(oracle.meaning(target, answer), oracle.meaning(source, told), FIELDS):
            wrong[name] = found
    assert wrong == {}


# Said to be impossible, and yet carried: by means of the target's own, or without what changes nothing in the answer.
CARRIED = {
    "temperatureParam": "the model that is asked here takes it",
    "chatCompletionsGcsBackedVideoFileParam": "Google's own addresses are passed on: what they may show is for Google to say",
    "responsesCustomToolCallStreamingParam": "a custom tool is a function with one text",
    "documentContentParam": "a document of plain text becomes text",
    "serviceTierParam": "the limit is sent in the field that the model takes",
}


@needs_recordings
def test_what_is_known_to_be_impossible_is_refused_or_named_or_carried_by_other_means() -> None:
    root = recordings.folder()
    assert root is not None
    impossible = json.loads((root / "pairs" / "impossible.json").read_bytes())
    requests = {(pair["source_shape"], pair["case"]): pair["source_request"] for _, pair in pairs()}
    silent = []
    for way, cases in impossible.items():
        source, _, target = way.partition("_to_")
        for case in cases:
            request = requests.get((source, case))
            if request is None:
                continue
            try:
                _, rendered, dropped = render(source, target, request)
            except (CannotParse, CannotRender) as error:
                rule_of(error)
                continue
            if not dropped and case not in CARRIED:
                silent.append((way, case, rendered))
    assert silent == []
