"""Facts about the carry-over: what is kept for whom, what comes back, and that a Valkey in trouble is nobody's trouble."""

import asyncio
import base64
import copy
import itertools
import logging
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from django.conf import settings
from redis.asyncio import Redis

from proxy import carryover, rate_limits
from proxy.carryover import Carryover
from proxy.envelopes import Envelopes, Wrapping, is_envelope, seals_of, unwrap_conversation
from proxy.formats import anthropic_messages, openai_chat_bridge
from proxy.formats.conversation import Answer, AnyItem, Conversation, Echo, Reasoning, Seal, Stop, Target, Text, ToolCall, ToolResult
from tests.proxy.test_rate_limits import Valkey, private_valkey

DESK = Envelopes([("1", bytes(32))])
CLAUDE: dict[str, Any] = {"provider_kind": "anthropic", "model_family": "claude"}
numbers = itertools.count(int(time.time() * 1000))


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    """A server for a test that harms it."""
    yield from private_valkey()


@pytest.fixture
async def client() -> AsyncIterator[Redis]:
    async with rate_limits.connect(settings.REDIS_URL) as client:
        yield client


@pytest.fixture
def account() -> int:
    return next(numbers)


@pytest.fixture
async def memory() -> AsyncIterator[Carryover]:
    memory = Carryover(rate_limits.connect(settings.REDIS_URL))
    yield memory
    await memory.close()


def thought(data: str, text: str = "") -> Reasoning:
    return Reasoning("assistant", text=text, seals=[Seal("signature", data, "messages")])


def call(call_id: str, *sealed: str, arguments: str = '{"at": 1, "of": "x"}') -> ToolCall:
    seals = [Seal("signature", data, "gemini") for data in sealed]
    return ToolCall("assistant", call_id=call_id, name="look", arguments=arguments, seals=seals)


def wrapped(account: int, *items: AnyItem) -> list[AnyItem]:
    """An answer's items as they go to the client and into the memory."""
    wrapping = Wrapping(DESK, account_id=account, client_format="chat", **CLAUDE)
    wrapping.answer(Answer("a", "m", list(items), Stop.TOOL, None))
    return wrapping.turn


def bare(*items: AnyItem, new_turn: bool = True) -> list[AnyItem]:
    """What a client that knows text and calls alone sends back."""
    left = [copy.deepcopy(item) for item in items if not isinstance(item, Reasoning)]
    for item in left:
        if isinstance(item, ToolCall):
            item.seals = []
    left[0].new_turn = new_turn
    results: list[AnyItem] = [ToolResult("user", call_id=item.call_id, parts=[]) for item in left if isinstance(item, ToolCall)]
    return [*left, *results]


def conversation(*items: AnyItem) -> Conversation:
    return Conversation("chat", "m", [Text("user", text="go", new_turn=True), *items])


async def back(memory: Carryover, account: int, asked: Conversation) -> list[AnyItem]:
    """The assistant's items as the provider gets them."""
    await memory.recall(account, asked)
    unwrap_conversation(asked, DESK, account_id=account, **CLAUDE)
    return [item for item in asked.items if item.role == "assistant"]


async def kept(memory: Carryover, account: int, *items: AnyItem) -> None:
    memory.remember(account, wrapped(account, *items))
    await memory.idle()


# What comes back


async def test_what_a_client_dropped_is_back_in_its_place(memory: Carryover, account: int) -> None:
    items: list[AnyItem] = [
        thought("one", "I'll look."),
        thought("two"),
        Text("assistant", text="Looking."),
        call("a", "on a"),
        thought("three"),
        call("b"),
        call("c", "on c"),
    ]
    await kept(memory, account, *items)
    items[0].new_turn = True
    assert await back(memory, account, conversation(*bare(*items))) == items


async def test_reasoning_between_text_and_call_stays_between_them(memory: Carryover, account: int) -> None:
    items: list[AnyItem] = [Text("assistant", text="First.", new_turn=True), thought("one"), call("a")]
    await kept(memory, account, *items)
    assert await back(memory, account, conversation(*bare(*items))) == items


async def test_every_turn_of_a_loop_is_filled_with_one_question(memory: Carryover, account: int, client: Redis) -> None:
    turns: list[list[AnyItem]] = [[thought(f"t{n}", f"thought {n}"), call(f"id{n}")] for n in range(12)]
    for turn in turns:
        memory.remember(account, wrapped(account, *turn))
    await memory.idle()
    asked = conversation(*(item for turn in turns for item in bare(*turn)))
    assert await memory.recall(account, asked) == 12
    assert unwrap_conversation(asked, DESK, account_id=account, **CLAUDE) == 12
    thoughts = [item for item in asked.items if isinstance(item, Reasoning)]
    assert [(item.text, item.seals[0].data, item.new_turn) for item in thoughts] == [(f"thought {n}", f"t{n}", True) for n in range(12)]
    assert [type(item) for item in asked.items[1:4]] == [Reasoning, ToolCall, ToolResult]


async def test_thoughts_that_came_back_without_their_seal_are_not_said_twice(memory: Carryover, account: int) -> None:
    items: list[AnyItem] = [thought("one", "Hm."), call("a")]
    await kept(memory, account, *items)
    asked = conversation(Reasoning("assistant", text="Hm.", new_turn=True), *bare(*items, new_turn=False))
    items[0].new_turn = True
    assert await back(memory, account, asked) == items


async def test_a_turn_that_came_back_sealed_is_left_alone(memory: Carryover, account: int) -> None:
    items: list[AnyItem] = [thought("one"), call("a")]
    await kept(memory, account, *items)
    asked = conversation(thought("its own"), *bare(*items, new_turn=False))
    before = copy.deepcopy(asked)
    assert await memory.recall(account, asked) == 0
    assert asked == before


@pytest.mark.parametrize(
    ("arguments", "known"), [('{"of":"x","at":1}', True), ('{"at": 2, "of": "x"}', False), ("", False), ("not json", False)]
)
async def test_a_call_of_the_same_id_with_other_arguments_is_another_call(
    memory: Carryover, account: int, arguments: str, known: bool
) -> None:
    await kept(memory, account, thought("one"), call("functions.look:0"))
    assert await memory.recall(account, conversation(call("functions.look:0", arguments=arguments))) == known


async def test_another_account_recalls_nothing(memory: Carryover, account: int) -> None:
    items: list[AnyItem] = [thought("one"), call("a")]
    await kept(memory, account, *items)
    asked = conversation(*bare(*items))
    before = copy.deepcopy(asked)
    assert await memory.recall(next(numbers), asked) == 0
    assert asked == before
    assert await memory.recall(account, asked) == 1


async def test_an_entry_moved_to_another_account_does_not_open(memory: Carryover, account: int, client: Redis) -> None:
    items: list[AnyItem] = [thought("one"), call("a")]
    await kept(memory, account, *items)
    thief = next(numbers)
    value: Any = await client.get(carryover._key(account, "a"))
    await client.set(carryover._key(thief, "a"), value, ex=60)
    assert not list(seals_of(await back(memory, thief, conversation(*bare(*items)))))


async def test_unknown_calls_and_conversations_without_calls_stay_as_they_are(memory: Carryover, account: int) -> None:
    for items in ([call("nobody knows it")], [Text("assistant", text="hi")], []):
        asked = conversation(*items)
        before = copy.deepcopy(asked)
        assert await memory.recall(account, asked) == 0
        assert asked == before


@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b"[1,2,3,4]", b'["",[["signature","native"]],[],[]]', b'["",[[1,2]],[],[]]', b"\xff"])
async def test_a_damaged_entry_is_no_entry(memory: Carryover, account: int, client: Redis, value: bytes) -> None:
    await client.set(carryover._key(account, "a"), value, ex=60)
    assert await memory.recall(account, conversation(call("a"))) == 0
    assert not memory.degraded


# What is kept


async def test_what_is_kept_ends_after_a_day_and_shows_nothing(memory: Carryover, account: int, client: Redis) -> None:
    await kept(memory, account, thought("SIG-one", "a private thought"), call("call-id", "SIG-two"))
    keys = [key async for key in client.scan_iter(f"*a{account}*")]
    assert len(keys) == 1
    assert keys[0].startswith(f"{{a{account}}}:sig:".encode())
    assert 24 * 3600 - 60 < await client.ttl(keys[0]) <= 24 * 3600
    value = await client.get(keys[0])
    for fragment in (b"SIG-", b"private", b"look", b"call-id", b"anthropic"):
        assert fragment not in keys[0] + value


async def test_calls_without_seals_and_seals_without_calls_are_not_kept(memory: Carryover, account: int, client: Redis) -> None:
    await kept(memory, account, Text("assistant", text="hi"), call("a"), call("b"))
    await kept(memory, account, thought("one"), Text("assistant", text="hi"))
    await kept(memory, account, thought("one"), call(""))
    memory.remember(account, [thought("a seal as the provider made it"), call("c")])
    await memory.idle()
    assert [key async for key in client.scan_iter(f"*a{account}*")] == []


async def test_a_turn_above_the_size_is_not_kept_and_one_below_is(memory: Carryover, account: int) -> None:
    noise = base64.b64encode(random.Random(1).randbytes(60_000)).decode()
    for size, known in ((80_000, 0), (20_000, 1)):
        await kept(memory, account, thought(noise[:size]), call(f"of {size}"))
        assert await memory.recall(account, conversation(call(f"of {size}"))) == known


async def test_one_account_can_not_fill_valkey(account: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    memory = Carryover(rate_limits.connect(settings.REDIS_URL), stopwatch=lambda: now)
    monkeypatch.setattr(carryover, "ACCOUNT_BYTES", 5000)

    async def known(owner: int, prefix: str) -> int:
        for n in range(20):
            memory.remember(owner, wrapped(owner, thought("x"), call(f"{prefix}{n}")))
        await memory.idle()
        return await memory.recall(owner, conversation(*(call(f"{prefix}{n}") for n in range(20))))

    assert 5 <= await known(account, "a") < 20
    assert await known(account, "b") <= 1
    assert await known(next(numbers), "a") >= 5
    now = 24 * 3600.0
    assert await known(account, "c") >= 5
    await memory.close()


async def test_only_the_newest_calls_are_asked_for(memory: Carryover, account: int) -> None:
    await kept(memory, account, thought("one"), call("first"), thought("two"), call("last"))
    asked = conversation(call("first"), *(call(f"{n}") for n in range(carryover.MOST_CALLS - 1)), call("last"))
    found = await back(memory, account, asked)
    assert list(seals_of(found)) == ["two"]


async def test_turns_that_end_together_share_a_round_trip(own_valkey: Valkey) -> None:
    async with rate_limits.connect(own_valkey.url) as client:
        memory = Carryover(rate_limits.connect(own_valkey.url))
        for n in range(50):
            memory.remember(n, wrapped(n, thought("one"), call("a")))
        await memory.idle()
        found = await asyncio.gather(*(memory.recall(n, conversation(call("a"))) for n in range(60)))
        assert found == [1] * 50 + [0] * 10
        assert len(await client.client_list()) == 2  # the memory's and this one
        await memory.close()


# Valkey gone


async def test_without_valkey_nothing_happens() -> None:
    memory = Carryover(None)
    asked = conversation(call("a"))
    memory.remember(1, wrapped(1, thought("one"), call("a")))
    assert await memory.recall(1, asked) == 0
    assert asked == conversation(call("a"))
    await memory.close()


async def test_a_killed_valkey_costs_nothing_and_is_used_again_when_it_is_back(
    own_valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    memory = Carryover(rate_limits.connect(own_valkey.url), stopwatch=lambda: now)
    await kept(memory, 1, thought("one"), call("a"))
    own_valkey.kill()
    with caplog.at_level(logging.WARNING, carryover.__name__):
        started = time.perf_counter()
        for _ in range(200):
            memory.remember(1, wrapped(1, thought("one"), call("b")))
            assert await memory.recall(1, conversation(call("a"))) == 0
        assert time.perf_counter() - started < 5  # two hundred waits would be a minute
        await memory.idle()
    assert memory.degraded
    assert len(caplog.records) == 1
    own_valkey.start()
    assert await memory.recall(1, conversation(call("a"))) == 0  # it is left alone for a while
    now += carryover.REST_SECONDS
    assert not memory.degraded
    await kept(memory, 1, thought("one"), call("c"))
    assert await memory.recall(1, conversation(call("c"))) == 1
    await memory.close()


async def test_a_stalled_valkey_costs_one_short_wait_and_its_late_answers_reach_nobody(own_valkey: Valkey) -> None:
    now = 0.0
    memory = Carryover(rate_limits.connect(own_valkey.url), stopwatch=lambda: now)
    for name in ("a", "b"):
        await kept(memory, 1, thought(f"of {name}"), call(name))
    own_valkey.send(signal.SIGSTOP)
    started = time.perf_counter()
    memory.remember(1, wrapped(1, thought("one"), call("c")))
    assert time.perf_counter() - started < 0.2
    asked = [conversation(call("a")) for _ in range(20)]
    assert await asyncio.gather(*(memory.recall(1, each) for each in asked)) == [0] * 20
    assert time.perf_counter() - started < 2  # one wait of 0.25, and not twenty, on a machine that is busy otherwise
    started = time.perf_counter()
    assert await memory.recall(1, conversation(call("a"))) == 0
    assert time.perf_counter() - started < 0.2
    own_valkey.send(signal.SIGCONT)
    now += carryover.REST_SECONDS
    found = conversation(call("b"))
    assert await memory.recall(1, found) == 1
    unwrap_conversation(found, DESK, account_id=1, **CLAUDE)
    assert list(seals_of(found.items)) == ["of b"]
    await memory.close()


async def test_a_valkey_that_refuses_to_write_is_left_alone(own_valkey: Valkey) -> None:
    async with rate_limits.connect(own_valkey.url) as client:
        memory = Carryover(rate_limits.connect(own_valkey.url))
        await client.config_set("maxmemory", 1)
        await kept(memory, 1, thought("one"), call("a"))
        assert memory.degraded
        await memory.close()


async def test_a_caller_that_gives_up_takes_nobody_with_it(memory: Carryover, account: int) -> None:
    await kept(memory, account, thought("one"), call("a"))
    leaving, staying = (asyncio.create_task(memory.recall(account, conversation(call("a")))) for _ in range(2))
    await asyncio.sleep(0)  # lets them ask
    leaving.cancel()
    assert await staying == 1
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert not memory.degraded


async def test_what_is_put_back_are_envelopes(memory: Carryover, account: int) -> None:
    await kept(memory, account, thought("one"), call("a", "two"))
    asked = conversation(call("a"))
    await memory.recall(account, asked)
    assert all(map(is_envelope, seals_of(asked.items)))


async def test_a_chat_client_that_knows_text_and_calls_alone_still_brings_claude_its_thinking(memory: Carryover, account: int) -> None:
    content = [
        {"type": "thinking", "thinking": "I'll look.", "signature": "U0lHLW9uZQ=="},
        {"type": "text", "text": "Looking."},
        {"type": "tool_use", "id": f"toolu_{account}", "name": "look", "input": {"at": 1}},
    ]
    body = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": content, "stop_reason": "tool_use"}
    wrapping = Wrapping(DESK, account_id=account, client_format="chat", **CLAUDE)
    said = openai_chat_bridge.render_answer(wrapping.answer(anthropic_messages.parse_answer(body)), Echo("id", 1, "m"))
    memory.remember(account, wrapping.turn)
    await memory.idle()
    message = {name: said["choices"][0]["message"][name] for name in ("role", "content")}
    calls = [{name: call[name] for name in ("id", "type", "function")} for call in said["choices"][0]["message"]["tool_calls"]]
    result = {"role": "tool", "tool_call_id": calls[0]["id"], "content": "ok"}
    messages = [{"role": "user", "content": "go"}, {**message, "tool_calls": calls}, result]
    asked = openai_chat_bridge.parse_request({"model": "m", "messages": messages})
    assert await memory.recall(account, asked) == 1
    assert unwrap_conversation(asked, DESK, account_id=account, **CLAUDE) == 1
    sent = anthropic_messages.render_request(asked, Target("claude", 9000, kind="anthropic"))
    assert sent["messages"][1]["content"] == content
