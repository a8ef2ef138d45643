"""Facts about envelopes: who can open them, what a client sees of them, and what comes back to the provider after a client's round."""

import base64
import copy
import re
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import envelopes
from proxy.envelopes import (
    BadKeys,
    Contents,
    Envelopes,
    Wrapping,
    family_of,
    is_envelope,
    mentions_envelope,
    read_keys,
    unwrap_conversation,
)
from proxy.formats import anthropic_messages, gemini, openai_chat_bridge, openai_responses
from proxy.formats.conversation import (
    Answer,
    AnyItem,
    Closed,
    Conversation,
    Delta,
    Echo,
    Opened,
    Origin,
    Reasoning,
    Seal,
    ServerTool,
    Stop,
    Target,
    Text,
    ToolCall,
    ToolResult,
    Unknown,
    collect,
    replay,
)

OLD, NEW = ("1", bytes(range(32))), ("2026-b", bytes(range(32, 64)))
DESK = Envelopes([OLD])
ORIGINS: tuple[Origin, ...] = ("chat", "responses", "messages", "gemini")
CLAUDE: dict[str, Any] = {"provider_kind": "anthropic", "model_family": "claude"}
GEMINI: dict[str, Any] = {"provider_kind": "google", "model_family": "gemini-3"}
GPT: dict[str, Any] = {"provider_kind": "openai", "model_family": "gpt-5"}

seals = st.builds(Seal, st.sampled_from(["signature", "redacted", "encrypted"]), st.text(max_size=4000), st.sampled_from(ORIGINS))


def sealed(data: str = "c2lnbmF0dXJl", account_id: int = 7, desk: Envelopes = DESK, **extra: Any) -> str:
    return desk.seal(Seal("signature", data, "messages"), account_id=account_id, extra=extra, **CLAUDE)


# The envelope


@pytest.mark.parametrize("kind", ["signature", "redacted", "encrypted"])
@pytest.mark.parametrize("origin", ORIGINS)
def test_the_account_it_was_made_for_opens_it(kind: Any, origin: Origin) -> None:
    seal = Seal(kind, "EqQBCkYIARgCKkDz/+w==", origin)
    envelope = DESK.seal(seal, account_id=7, provider_kind="google", model_family="gemini-3", extra={"item": 3})
    assert DESK.open(envelope, account_id=7) == Contents(seal, "google", "gemini-3", {"item": 3})


@given(seal=seals, account_id=st.integers(1, 2**63), extra=st.dictionaries(st.text(max_size=5), st.text(max_size=50) | st.integers(0, 9)))
def test_whatever_a_provider_seals_comes_out_as_it_went_in(seal: Seal, account_id: int, extra: dict[str, Any]) -> None:
    envelope = DESK.seal(seal, account_id=account_id, provider_kind="kind", model_family="family", extra=extra)
    assert re.fullmatch(r"gw1\.1\.[A-Za-z0-9_-]+", envelope)
    assert is_envelope(envelope)
    assert DESK.open(envelope, account_id=account_id) == Contents(seal, "kind", "family", extra)
    assert DESK.open(envelope, account_id=account_id + 1) is None


def test_an_envelope_is_little_larger_than_what_is_in_it() -> None:
    for size in (0, 100, 1000, 10_000, 100_000):
        data = base64.b64encode(bytes(i * i % 251 for i in range(size))).decode()
        assert len(sealed(data)) <= len(data) * 4 / 3 + 160
    assert len(sealed("x" * 100_000)) < 2000  # deflated


@given(position=st.integers(0, 10_000), character=st.characters())
def test_a_changed_character_closes_it(position: int, character: str) -> None:
    envelope = sealed()
    position %= len(envelope)
    changed = envelope[:position] + character + envelope[position + 1 :]
    assert (DESK.open(changed, account_id=7) is None) is (changed != envelope)


@given(position=st.integers(0, 10_000), more=st.text(min_size=1, max_size=3))
def test_an_added_character_closes_it(position: int, more: str) -> None:
    envelope = sealed()
    position %= len(envelope) + 1
    assert DESK.open(envelope[:position] + more + envelope[position:], account_id=7) is None


def test_the_other_base64_alphabet_does_not_open_it() -> None:
    envelope = next(envelope for envelope in iter(sealed, "") if "-" in envelope and "_" in envelope)
    assert DESK.open(envelope, account_id=7)
    assert DESK.open(envelope.replace("-", "+"), account_id=7) is None
    assert DESK.open(envelope.replace("_", "/"), account_id=7) is None


def test_a_part_of_it_does_not_open() -> None:
    envelope = sealed()
    assert not any(DESK.open(envelope[:length], account_id=7) for length in range(len(envelope)))
    assert not any(DESK.open(envelope[start:], account_id=7) for start in range(1, len(envelope)))


@given(text=st.text(max_size=200) | st.text(max_size=200).map("gw1.1.".__add__) | st.text(max_size=200).map("Z3cxLjEu".__add__))
def test_nothing_else_opens_or_raises(text: str) -> None:
    assert DESK.open(text, account_id=7) is None


def test_a_new_key_seals_and_the_old_one_still_opens() -> None:
    before, between, after = Envelopes([OLD]), Envelopes([NEW, OLD]), Envelopes([NEW])
    old, new = sealed(desk=before), sealed(desk=between)
    assert (old.split(".")[1], new.split(".")[1]) == ("1", "2026-b")
    assert [bool(desk.open(old, account_id=7)) for desk in (before, between, after)] == [True, True, False]
    assert [bool(desk.open(new, account_id=7)) for desk in (before, between, after)] == [False, True, True]


def test_an_envelope_relabelled_with_another_version_does_not_open() -> None:
    same_key_twice = Envelopes([("a", OLD[1]), ("b", OLD[1])])
    envelope = sealed(desk=same_key_twice)
    assert same_key_twice.open(envelope, account_id=7)
    assert same_key_twice.open(envelope.replace("gw1.a.", "gw1.b."), account_id=7) is None


def test_nothing_of_the_contents_shows() -> None:
    for data in ("a-secret-signature-in-plain-sight", "a-secret-signature-in-plain-sight" * 200):
        envelope = sealed(data, thought="and what was thought")
        body = envelope.split(".")[2]
        inside = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        for fragment in ("secret", "signature", "plain", "thought", "anthropic", "claude", "messages"):
            assert fragment not in envelope
            assert fragment.encode() not in inside


def test_the_same_seal_twice_makes_two_envelopes() -> None:
    assert len({sealed() for _ in range(100)}) == 100


def test_keys_are_read_in_their_order() -> None:
    assert read_keys([f"2:{'ab' * 32}", f"1:{'00' * 32}"]) == [("2", b"\xab" * 32), ("1", bytes(32))]


@pytest.mark.parametrize("configured", [[], ["1"], ["1:zz"], ["1:abcd"], [f"a.b:{'00' * 32}"], [f":{'00' * 32}"], [f"1:{'00' * 32}"] * 2])
def test_bad_keys_are_refused(configured: list[str]) -> None:
    with pytest.raises(BadKeys):
        Envelopes(read_keys(configured))


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("claude-opus-4-8", "claude"),
        ("anthropic/claude-sonnet-5", "claude"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude"),
        ("gemini-3-pro-preview", "gemini-3"),
        ("models/gemini-3.1-flash", "gemini-3"),
        ("gemini-2.5-flash", "gemini-2"),
        ("gpt-5", "gpt-5"),
        ("openai/gpt-5.4-mini", "gpt-5"),
        ("ft:gpt-5:org::x", "gpt-5"),
        ("o3", "o"),
        ("o4-mini", "o"),
        ("grok-4-fast", "grok-4"),
        ("x-ai/Grok-4", "grok-4"),
        ("gpt-oss-120b", "gpt-oss-120b"),
        ("ollama3", "ollama3"),
        ("some/own-model", "own-model"),
        ("not-claude-like-but-no", "not-claude-like-but-no"),
        ("", ""),
    ],
)
def test_a_models_family_is_read_from_its_name(name: str, family: str) -> None:
    assert family_of(name) == family


# To the client


def wrapping(client: Origin = "chat", account_id: int = 7, **maker: Any) -> Wrapping:
    return Wrapping(DESK, account_id=account_id, client_format=client, **(maker or CLAUDE))


def claude_answer() -> Answer:
    """As Anthropic says it: signed thinking, redacted thinking, text, two calls, thinking between them."""
    signature = {"type": "thinking", "thinking": "I'll look.  Twice\n", "signature": "SIG-one"}
    items: list[AnyItem] = [
        Reasoning(
            "assistant", text="I'll look.  Twice\n", seals=[Seal("signature", "SIG-one", "messages")], raw=signature, origin="messages"
        ),
        Reasoning("assistant", seals=[Seal("redacted", "SIG-two", "messages")]),
        Text("assistant", text="Looking."),
        ToolCall("assistant", call_id="toolu_1", name="look", arguments='{"at": 1}'),
        Reasoning("assistant", seals=[Seal("signature", "SIG-three", "messages")]),
        ToolCall("assistant", call_id="toolu_2", name="look", arguments='{"at": 2}'),
    ]
    return Answer("msg_1", "claude-opus-4-8", items, Stop.TOOL, None, origin="messages")


def gemini_answer() -> Answer:
    items: list[AnyItem] = [
        Reasoning("assistant", text="Hm."),
        Text("assistant", text="Looking.", signature="SIG-text", origin="gemini", raw={"text": "Looking.", "thoughtSignature": "SIG-text"}),
        ToolCall("assistant", call_id="g1", name="look", arguments="{}", seals=[Seal("signature", "SIG-call", "gemini")]),
        ToolCall("assistant", call_id="g2", name="look", arguments="{}"),
    ]
    return Answer("g", "gemini-3-pro", items, Stop.TOOL, None, origin="gemini")


def gpt_answer() -> Answer:
    items: list[AnyItem] = [
        Reasoning("assistant", summary=["**Looking**", "at it"], seals=[Seal("encrypted", "SIG-one", "responses")], id="rs_1"),
        ToolCall("assistant", call_id="call_1", name="look", arguments="{}", id="fc_1"),
        Reasoning("assistant", seals=[Seal("encrypted", "SIG-two", "responses")], id="rs_2"),
        ToolCall("assistant", call_id="call_2", name="look", arguments="{}", id="fc_2"),
    ]
    return Answer("resp_1", "gpt-5", items, Stop.TOOL, None, origin="responses")


ANSWERS: dict[str, tuple[Callable[[], Answer], dict[str, Any]]] = {
    "claude": (claude_answer, CLAUDE),
    "gemini": (gemini_answer, GEMINI),
    "gpt": (gpt_answer, GPT),
}


@pytest.mark.parametrize("maker", ANSWERS)
@pytest.mark.parametrize("client", ORIGINS)
def test_a_client_sees_envelopes_only_and_the_parsers_items_stay_as_they_were(maker: str, client: Origin) -> None:
    make, kind = ANSWERS[maker]
    answer = make()
    wrapped = wrapping(client, **kind).answer(answer)
    assert answer == make()
    assert "SIG-" not in repr(wrapped.items)
    assert all(map(is_envelope, envelopes.seals_of(wrapped.items)))
    assert len(list(envelopes.seals_of(wrapped.items))) == len(list(envelopes.seals_of(answer.items)))
    for before, after in zip(answer.items, wrapped.items, strict=True):
        assert type(before) is type(after)
        assert getattr(before, "text", "") == getattr(after, "text", "")


@pytest.mark.parametrize("maker", ANSWERS)
def test_a_stream_tells_each_seal_in_one_envelope(maker: str) -> None:
    make, kind = ANSWERS[maker]
    events = replay(make())
    untouched = copy.deepcopy(events)
    wrap = wrapping(**kind)
    wrapped = [wrap.event(event) for event in events]
    assert events == untouched
    assert "SIG-" not in repr(wrapped)
    told = [event.seal.data for event in wrapped if isinstance(event, Delta) and event.seal is not None]
    held = list(envelopes.seals_of(collect(wrapped).items))
    assert set(told) <= set(held)
    assert len(held) == len(list(envelopes.seals_of(make().items)))
    assert wrap.turn == collect(wrapped).items


def test_an_item_that_its_parser_still_writes_to_is_wrapped_once() -> None:
    wrap = wrapping()
    item = Reasoning("assistant", seals=[Seal("redacted", "SIG-one", "messages")])
    opened = wrap.event(Opened(0, item))
    item.seals.append(Seal("signature", "SIG-two", "messages"))
    closed = wrap.event(Closed(0, item))
    assert isinstance(opened, Opened)
    assert isinstance(closed, Closed)
    first, second = envelopes.seals_of([closed.item])
    assert list(envelopes.seals_of([opened.item])) == [first]
    assert [contents.seal.data for data in (first, second) if (contents := DESK.open(data, account_id=7))] == ["SIG-one", "SIG-two"]


def test_events_without_a_seal_go_by_as_they_are() -> None:
    wrap = wrapping()
    for event in (
        event for event in replay(Answer("a", "m", [Text("assistant", text="hi")], Stop.END, None)) if not isinstance(event, Opened)
    ):
        assert wrap.event(event) == event


def test_a_gemini_client_that_decodes_and_encodes_its_bytes_gives_the_envelope_back() -> None:
    wrapped = wrapping("gemini").answer(claude_answer())
    for packed in envelopes.seals_of(wrapped.items):
        envelope = base64.b64decode(packed, validate=True)
        assert envelope.startswith(b"gw1.1.")
        forms = (
            packed,
            packed.rstrip("="),
            base64.urlsafe_b64encode(envelope).decode(),
            base64.urlsafe_b64encode(envelope).decode().rstrip("="),
        )
        for form in forms:
            assert is_envelope(form)
            assert DESK.open(form, account_id=7) == DESK.open(envelope.decode(), account_id=7) is not None
        assert DESK.open(packed, account_id=8) is None


def test_a_body_that_may_hold_an_envelope_is_told_apart() -> None:
    assert mentions_envelope(f'{{"signature": "{sealed()}"}}'.encode())
    assert mentions_envelope(f'{{"signature":"{base64.b64encode(sealed().encode()).decode()}"}}'.encode())
    assert not mentions_envelope(b'{"signature": "EqQBCkYIARgCKkDz", "text": "agw1.1.x"}')


# Back from the client


def reworded(items: list[AnyItem], client: Origin) -> list[AnyItem]:
    """What a client of this format sends back of an answer: the opaque fields as they were, the rest as its format can hold it."""
    thinking = [item for item in items if isinstance(item, Reasoning)]
    texts = [item for item in items if isinstance(item, Text)]
    calls = [item for item in items if isinstance(item, ToolCall)]
    back: list[AnyItem] = []
    if client == "chat":  # one message: no order between reasoning, text and calls; all details in one list
        details = [seal for item in items if isinstance(item, Reasoning | ToolCall) for seal in item.seals]
        details += [Seal("signature", text.signature, "gemini") for text in texts if text.signature]
        if details or thinking:
            back.append(Reasoning("assistant", text="".join(item.text for item in thinking), seals=details, origin="chat", raw={}))
        back += [Text("assistant", text="".join(text.text for text in texts), origin="chat", raw={})] if texts else []
        back += [
            ToolCall("assistant", call_id=call.call_id, name=call.name, arguments=call.arguments, origin="chat", raw={}) for call in calls
        ]
        back[0].new_turn = True
        return back
    for item in items:
        match item:
            case Reasoning():
                said = item.text or "\n".join(item.summary)
                text, summary = ("", [said] if said else []) if client == "responses" else (said, list[str]())
                back.append(Reasoning("assistant", text=text, summary=summary, seals=item.seals, origin=client, raw={}, id="x"))
            case ToolCall(call_id=call_id, name=name, arguments=arguments):
                inside = client == "gemini"  # the only one that holds a seal on a call or a text
                back += [] if inside else [Reasoning("assistant", seals=[seal]) for seal in item.seals]
                held = item.seals if inside else []
                back.append(ToolCall("assistant", call_id=call_id, name=name, arguments=arguments, seals=held, origin=client, raw={}))
            case Text(signature=signature):
                if client != "gemini" and signature:
                    back.append(Reasoning("assistant", seals=[Seal("encrypted", signature, client)]))
                back.append(Text("assistant", text=item.text, signature=signature if client == "gemini" else "", origin=client, raw={}))
            case _:
                back.append(item)
    return back


def conversation(items: list[AnyItem], origin: Origin = "chat") -> Conversation:
    return Conversation(origin, "m", [Text("user", text="look", new_turn=True), *items, ToolResult("user", call_id="x")])


def after_a_round(answer: Answer, client: Origin, account_id: int = 7, made_by: Any = CLAUDE, goes_to: Any = None) -> list[AnyItem]:
    """The assistant's items as the provider gets them in the next request."""
    wrapped = wrapping(client, **made_by).answer(answer)
    asked = conversation(reworded(wrapped.items, client), client)
    unwrap_conversation(asked, DESK, account_id=account_id, **(goes_to or made_by))
    return asked.items[1:-1]


def meaning(items: list[AnyItem]) -> list[Any]:
    """What a provider checks: its seals, what they sign, and their order among the calls. Texts beside, and unsealed thoughts left out."""
    told: list[Any] = []
    for item in items:
        match item:
            case Reasoning(seals=[_, *_]):
                told.append(
                    (item.text if item.seals[0].kind != "encrypted" else "", [(seal.kind, seal.data, seal.origin) for seal in item.seals])
                )
            case ToolCall():
                told.append((item.call_id, item.name, item.arguments, [(seal.kind, seal.data, seal.origin) for seal in item.seals]))
            case _:
                pass
    return told


@pytest.mark.parametrize("maker", ANSWERS)
@pytest.mark.parametrize("client", ORIGINS)
def test_every_provider_gets_its_seals_back_in_their_places_through_every_client(maker: str, client: Origin) -> None:
    make, kind = ANSWERS[maker]
    back = after_a_round(make(), client, made_by=kind)
    assert meaning(back) == meaning(make().items)
    assert [item.signature for item in back if isinstance(item, Text)] == [
        item.signature for item in make().items if isinstance(item, Text)
    ]


@pytest.mark.parametrize("client", ORIGINS)
def test_signed_thinking_comes_back_to_the_letter(client: Origin) -> None:
    first, second, *_ = after_a_round(claude_answer(), client)
    assert first == Reasoning(
        "assistant", text="I'll look.  Twice\n", seals=[Seal("signature", "SIG-one", "messages")], new_turn=first.new_turn
    )
    assert second == Reasoning("assistant", seals=[Seal("redacted", "SIG-two", "messages")])


@pytest.mark.parametrize("client", ORIGINS)
def test_openais_reasoning_comes_back_as_a_summary_without_the_clients_id(client: Origin) -> None:
    first = after_a_round(gpt_answer(), client, made_by=GPT)[0]
    assert isinstance(first, Reasoning)
    assert (first.text, first.id, first.raw) == ("", "", None)


@pytest.mark.parametrize("maker", ANSWERS)
@pytest.mark.parametrize("client", ORIGINS)
@pytest.mark.parametrize(
    ("account_id", "elsewhere"),
    [(8, {}), (7, {"provider_kind": "other"}), (7, {"model_family": "other"})],
    ids=["another account", "another provider", "another family"],
)
def test_nobody_else_gets_anything_of_it(maker: str, client: Origin, account_id: int, elsewhere: dict[str, Any]) -> None:
    make, kind = ANSWERS[maker]
    back = after_a_round(make(), client, account_id=account_id, made_by=kind, goes_to={**kind, **elsewhere})
    assert not list(envelopes.seals_of(back))
    assert "gw1." not in repr(back)
    assert "SIG-" not in repr(back)
    assert [item.call_id for item in back if isinstance(item, ToolCall)] == [i.call_id for i in make().items if isinstance(i, ToolCall)]
    assert "".join(item.text for item in back if isinstance(item, Text)) == "".join(i.text for i in make().items if isinstance(i, Text))
    assert all(item.text or item.summary for item in back if isinstance(item, Reasoning))


def test_the_clients_own_seals_stay_and_nothing_is_touched() -> None:
    items: list[AnyItem] = [
        Reasoning("assistant", text="t", seals=[Seal("signature", "native", "messages")], origin="messages", raw={"signature": "native"}),
        ToolCall("assistant", call_id="c", name="n", origin="messages", raw={"id": "c"}),
    ]
    asked = conversation(copy.deepcopy(items), "messages")
    assert unwrap_conversation(asked, DESK, account_id=7, **CLAUDE) == 0
    assert asked.items[1:-1] == items


def test_a_native_seal_beside_an_envelope_stays() -> None:
    item = Reasoning("assistant", text="t", seals=[Seal("signature", "native", "chat"), Seal("signature", sealed(item=0), "chat")])
    asked = conversation([item])
    assert unwrap_conversation(asked, DESK, account_id=7, **CLAUDE) == 1
    assert list(envelopes.seals_of(asked.items)) == ["c2lnbmF0dXJl", "native"]


def test_reasoning_that_a_client_shuffled_comes_back_in_its_order() -> None:
    back = reworded(wrapping().answer(claude_answer()).items, "chat")
    assert isinstance(back[0], Reasoning)
    back[0].seals.reverse()
    asked = conversation(back)
    unwrap_conversation(asked, DESK, account_id=7, **CLAUDE)
    assert meaning(asked.items) == meaning(claude_answer().items)


def test_the_number_of_envelopes_says_whether_a_client_keeps_them() -> None:
    wrapped = wrapping().answer(claude_answer())
    kept, dropped = conversation(reworded(wrapped.items, "chat")), conversation(list(claude_answer().items[2:4]))
    assert unwrap_conversation(kept, DESK, account_id=7, **CLAUDE) == 3
    assert unwrap_conversation(dropped, DESK, account_id=7, **CLAUDE) == 0


def test_reasoning_without_anything_left_goes_and_its_turn_still_begins() -> None:
    asked = conversation(
        [Reasoning("assistant", seals=[Seal("redacted", "gw1.1.damaged", "messages")], new_turn=True), Text("assistant", text="a")]
    )
    unwrap_conversation(asked, DESK, account_id=7, **CLAUDE)
    assert asked.items[1:-1] == [Text("assistant", text="a", new_turn=True)]


def test_an_empty_text_that_only_carried_a_signature_goes_with_it() -> None:
    envelope = DESK.seal(Seal("signature", "s", "gemini"), account_id=7, extra={"said": True}, **GEMINI)
    for kind, left in ((GEMINI, [Text("assistant", signature="s")]), (CLAUDE, [])):
        asked = conversation([Text("assistant", signature=envelope, origin="gemini", raw={})], "gemini")
        unwrap_conversation(asked, DESK, account_id=7, **kind)
        assert asked.items[1:-1] == left


def test_a_calls_seal_finds_its_call_even_under_a_changed_id() -> None:
    wrapped = wrapping("messages", **GEMINI).answer(gemini_answer())
    back = reworded(wrapped.items, "messages")
    for item in back:
        if isinstance(item, ToolCall):
            item.call_id = f"renamed_{item.call_id}"
    asked = conversation(back, "messages")
    unwrap_conversation(asked, DESK, account_id=7, **GEMINI)
    calls = [item for item in asked.items if isinstance(item, ToolCall)]
    assert [[seal.data for seal in call.seals] for call in calls] == [["SIG-call"], []]


def test_raw_json_that_still_shows_an_envelope_goes_and_what_only_raw_json_can_say_stays() -> None:
    envelope = sealed(item=0)
    items: list[AnyItem] = [
        Reasoning("assistant", seals=[Seal("signature", envelope, "chat")]),
        Text("assistant", text="a", origin="chat", raw={"reasoning_details": [{"data": envelope}]}),
        Text("assistant", text="b", origin="chat", raw={"text": "b"}),
        ServerTool("assistant", kind="search", origin="chat", raw={"x": 1}),
        Unknown("assistant", origin="chat", raw={"y": 1}),
    ]
    asked = conversation(items)
    unwrap_conversation(asked, DESK, account_id=7, **CLAUDE)
    assert [item.raw for item in asked.items[1:-1]] == [None, None, {"text": "b"}, {"x": 1}, {"y": 1}]


def test_each_turn_of_a_long_loop_gets_its_own_back() -> None:
    items: list[AnyItem] = [Text("user", text="go", new_turn=True)]
    expected = []
    for number in range(5):
        seal = Seal("signature", f"SIG-{number}", "messages")
        call = ToolCall("assistant", call_id=f"toolu_{number}", name="look", arguments="{}")
        answer = Answer("a", "claude", [Reasoning("assistant", text=f"t{number}", seals=[seal]), call], Stop.TOOL, None)
        expected += meaning(answer.items)
        items += reworded(wrapping().answer(answer).items, "chat")
        items.append(ToolResult("user", call_id=f"toolu_{number}"))
    asked = Conversation("chat", "m", items)
    assert unwrap_conversation(asked, DESK, account_id=7, **CLAUDE) == 5
    assert meaning(asked.items) == expected
    assert [item.new_turn for item in asked.items if item.role == "assistant"] == [True, False] * 5


thoughts = st.builds(
    lambda text, seal: Reasoning("assistant", text=text if seal.kind == "signature" else "", seals=[seal]),
    st.text(max_size=20),
    st.builds(Seal, st.sampled_from(["signature", "redacted", "encrypted"]), st.text(min_size=1, max_size=20), st.just("messages")),
)
call_seals = st.lists(st.builds(Seal, st.just("signature"), st.text(min_size=1, max_size=20), st.just("gemini")), max_size=1)
tool_calls = st.builds(lambda seals: ToolCall("assistant", name="look", arguments="{}", seals=seals), call_seals)


@given(items=st.lists(thoughts | tool_calls, max_size=8), client=st.sampled_from(ORIGINS))
def test_any_order_of_thoughts_and_calls_comes_back_through_every_client(items: list[AnyItem], client: Origin) -> None:
    for number, item in enumerate(items):
        if isinstance(item, ToolCall):
            item.call_id = f"call_{number}"
    assert meaning(after_a_round(Answer("a", "m", copy.deepcopy(items), Stop.TOOL, None), client)) == meaning(items) if items else True


@given(data=st.lists(st.text(max_size=30).map("gw1.1.".__add__) | st.text(max_size=30), max_size=4))
def test_what_does_not_open_is_taken_out_and_the_rest_stays(data: list[str]) -> None:
    asked = conversation([ToolCall("assistant", call_id="c", seals=[Seal("signature", text, "chat") for text in data])])
    unwrap_conversation(asked, DESK, account_id=7, **CLAUDE)
    assert list(envelopes.seals_of(asked.items)) == [text for text in data if not is_envelope(text)]


# Through the formats themselves

FORMATS: dict[Origin, Any] = {"chat": openai_chat_bridge, "responses": openai_responses, "messages": anthropic_messages, "gemini": gemini}
PROVIDERS: dict[Origin, tuple[str, str, dict[str, Any]]] = {
    "messages": (
        "anthropic",
        "claude-opus-4-8",
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude-opus-4-8",
            "content": [
                {"type": "thinking", "thinking": "I'll look.  Twice\n", "signature": "U0lHLW9uZQ=="},
                {"type": "redacted_thinking", "data": "U0lHLXR3bw=="},
                {"type": "text", "text": "Looking."},
                {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": 1}},
                {"type": "thinking", "thinking": "", "signature": "U0lHLXRocmVl"},
                {"type": "tool_use", "id": "toolu_2", "name": "look", "input": {"at": 2}},
            ],
            "stop_reason": "tool_use",
            "stop_sequence": None,
            "usage": {"input_tokens": 3, "output_tokens": 4},
        },
    ),
    "gemini": (
        "google",
        "gemini-3-pro-preview",
        {
            "responseId": "r",
            "modelVersion": "gemini-3-pro-preview",
            "candidates": [
                {
                    "index": 0,
                    "finishReason": "STOP",
                    "content": {
                        "role": "model",
                        "parts": [
                            {"text": "Looking."},
                            {"functionCall": {"name": "look", "args": {"at": 1}, "id": "g1"}, "thoughtSignature": "U0lHLW9uZQ=="},
                            {"functionCall": {"name": "look", "args": {"at": 2}, "id": "g2"}},
                        ],
                    },
                }
            ],
            "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4, "totalTokenCount": 7},
        },
    ),
    "responses": (
        "openai",
        "gpt-5",
        {
            "id": "resp_1",
            "object": "response",
            "created_at": 1,
            "status": "completed",
            "model": "gpt-5",
            "output": [
                {
                    "type": "reasoning",
                    "id": "rs_1",
                    "summary": [{"type": "summary_text", "text": "Looking"}],
                    "encrypted_content": "U0lHLTE=",
                },
                {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "look", "arguments": "{}", "status": "completed"},
                {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "U0lHLTI="},
                {"type": "function_call", "id": "fc_2", "call_id": "call_2", "name": "look", "arguments": "{}", "status": "completed"},
            ],
            "usage": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
        },
    ),
    "chat": (
        "openrouter",
        "anthropic/claude-opus-4.8",
        {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": "anthropic/claude-opus-4.8",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "tool_calls",
                    "message": {
                        "role": "assistant",
                        "content": "Looking.",
                        "reasoning": "Hm.",
                        "reasoning_details": [{"type": "reasoning.text", "text": "Hm.", "signature": "U0lHLW9uZQ==", "index": 0}],
                        "tool_calls": [{"id": "toolu_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
                    },
                }
            ],
            "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
        },
    ),
}


def next_request(client: Origin, said: dict[str, Any]) -> dict[str, Any]:
    """The second request of a tool loop, from a client that sends back what it was given."""
    match client:
        case "chat":
            message = said["choices"][0]["message"]
            results = [{"role": "tool", "tool_call_id": call["id"], "content": "ok"} for call in message["tool_calls"]]
            return {"model": "m", "messages": [{"role": "user", "content": "go"}, message, *results]}
        case "messages":
            ids = [block["id"] for block in said["content"] if block["type"] == "tool_use"]
            results = [{"type": "tool_result", "tool_use_id": call_id, "content": "ok"} for call_id in ids]
            turns = [{"role": "assistant", "content": said["content"]}, {"role": "user", "content": results}]
            return {"model": "m", "max_tokens": 9000, "messages": [{"role": "user", "content": "go"}, *turns]}
        case "responses":
            ids = [item["call_id"] for item in said["output"] if item["type"] == "function_call"]
            results = [{"type": "function_call_output", "call_id": call_id, "output": "ok"} for call_id in ids]
            return {"model": "m", "store": False, "input": [{"role": "user", "content": "go"}, *said["output"], *results]}
        case "gemini":
            content = said["candidates"][0]["content"]
            calls = [part["functionCall"] for part in content["parts"] if "functionCall" in part]
            results = [{"functionResponse": {"name": call["name"], "id": call.get("id"), "response": {"result": "ok"}}} for call in calls]
            return {"contents": [{"role": "user", "parts": [{"text": "go"}]}, content, {"role": "user", "parts": results}]}


def sent_again(provider: Origin, client: Origin, *, stream: bool) -> dict[str, Any]:
    """What the provider gets in the second request of a tool loop."""
    kind, model, body = PROVIDERS[provider]
    maker: dict[str, Any] = {"provider_kind": kind, "model_family": family_of(model)}
    answer: Answer = FORMATS[provider].parse_answer(copy.deepcopy(body))
    wrap, echo = wrapping(client, **maker), Echo("id", 1, "m")
    if stream:
        renderer, parser = FORMATS[client].StreamRenderer(echo), FORMATS[client].StreamParser()
        events = [event for told in replay(answer) for event in parser.feed(renderer.feed(wrap.event(told)))] + parser.finish()
        said = FORMATS[client].render_answer(collect(events), echo)
    else:
        said = FORMATS[client].render_answer(wrap.answer(answer), echo)
    shown = orjson.dumps(said)
    assert b"U0lH" not in shown
    assert mentions_envelope(shown)
    asked: Conversation = FORMATS[client].parse_request(next_request(client, orjson.loads(shown)))
    assert unwrap_conversation(asked, DESK, account_id=7, **maker)
    sent: dict[str, Any] = FORMATS[provider].render_request(asked, Target(model, 9000, kind=kind))
    return sent


PAIRS = [(provider, client) for provider in ORIGINS for client in ORIGINS if provider != client]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("provider", "client"), PAIRS, ids=[f"{provider} through {client}" for provider, client in PAIRS])
def test_a_tool_loop_through_a_client_of_another_format_brings_the_provider_what_it_said(
    provider: Origin, client: Origin, stream: bool
) -> None:
    body, sent = PROVIDERS[provider][2], sent_again(provider, client, stream=stream)
    match provider:
        case "messages":
            assert sent["messages"][1]["content"] == body["content"]
        case "gemini":
            assert sent["contents"][1]["parts"] == body["candidates"][0]["content"]["parts"]
        case "responses":
            expected = [{name: value for name, value in item.items() if name not in ("id", "status")} for item in body["output"]]
            assert sent["input"][1:-2] == expected
        case "chat":
            said, again = body["choices"][0]["message"], sent["messages"][1]
            assert (again["content"], again["tool_calls"]) == (said["content"], said["tool_calls"])
            for detail, before in zip(again["reasoning_details"], said["reasoning_details"], strict=True):
                assert detail.items() >= before.items()


@pytest.mark.parametrize("client", ["chat", "responses"])
def test_a_signature_on_a_text_comes_back_on_it(client: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, model, body = copy.deepcopy(PROVIDERS["gemini"])
    body["candidates"][0]["content"]["parts"][0]["thoughtSignature"] = "U0lHLXRleHQ="
    monkeypatch.setitem(PROVIDERS, "gemini", (kind, model, body))
    for stream in (False, True):
        assert sent_again("gemini", client, stream=stream)["contents"][1]["parts"] == body["candidates"][0]["content"]["parts"]
