"""Facts about stored responses: conversations unroll whole or not at all, for their account alone, until they are deleted or expire."""

import socket
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from accounts.models import Account
from billing.singleton import singleton
from gateway_site.clients import DatabaseUnavailable, Lane
from proxy import response_store, tasks
from proxy.formats.base import InvalidRequest
from proxy.models import StoredResponse
from proxy.response_store import (
    HistoryTooLarge,
    PreviousResponseNotFound,
    ResponseNotFound,
    ResponseStore,
    ResponseTooLarge,
    expand,
    own_input,
    refuse_unsupported,
)
from tests.billing.desk import connect
from tests.conftest import Customer
from tests.proxy import stored
from tests.proxy.stored import answer, message, new_id, response

NOW = timezone.now()
MEBIBYTE = 1024 * 1024


@pytest.fixture
async def lane() -> AsyncIterator[Lane]:
    own = stored.lane()
    yield own
    await own.close()


@pytest.fixture
def store(lane: Lane) -> ResponseStore:
    return ResponseStore(lane, retention=stored.RETENTION)


@pytest.fixture
def sql() -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with connect() as connection:
        yield connection


async def save(
    store: ResponseStore,
    customer: Customer,
    kept: dict[str, Any],
    *input_items: dict[str, Any],
    previous: dict[str, Any] | None = None,
    now: Any = NOW,
) -> dict[str, Any]:
    await store.save(
        account_id=customer.account.pk,
        key_id=customer.key.pk,
        model=kept["model"],
        response=kept,
        input_items=list(input_items),
        previous_id=previous["id"] if previous else None,
        now=now,
    )
    return kept


async def talk(store: ResponseStore, customer: Customer, turns: int) -> list[dict[str, Any]]:
    """A conversation of so many turns."""
    made: list[dict[str, Any]] = []
    for number in range(turns):
        previous = made[-1] if made else None
        made.append(await save(store, customer, response(new_id(), f"answer {number}"), message(f"question {number}"), previous=previous))
    return made


def texts(items: list[dict[str, Any]]) -> list[str]:
    return [part["text"] for item in items for part in item["content"]]


# -- Unrolling ---------------------------------------------------------------------------------------------------------------------------


async def test_a_conversation_unrolls_oldest_first_each_turn_before_its_answer(store: ResponseStore, customer: Customer) -> None:
    made = await talk(store, customer, 3)
    items = await store.history(customer.account.pk, made[-1]["id"], now=NOW)
    assert texts(items) == ["question 0", "answer 0", "question 1", "answer 1", "question 2", "answer 2"]
    assert texts(await store.history(customer.account.pk, made[1]["id"], now=NOW)) == ["question 0", "answer 0", "question 1", "answer 1"]


async def test_two_requests_may_build_on_one_response(store: ResponseStore, customer: Customer) -> None:
    root = await save(store, customer, response(new_id(), "root"), message("r"))
    left = await save(store, customer, response(new_id(), "left"), message("l"), previous=root)
    right = await save(store, customer, response(new_id(), "right"), message("r2"), previous=root)
    assert texts(await store.history(customer.account.pk, left["id"], now=NOW)) == ["r", "root", "l", "left"]
    assert texts(await store.history(customer.account.pk, right["id"], now=NOW)) == ["r", "root", "r2", "right"]


async def test_answers_lose_their_nulls_and_keep_what_is_sealed(store: ResponseStore, customer: Customer) -> None:
    thinking: dict[str, Any] = {
        "id": "rs_1",
        "type": "reasoning",
        "summary": [],
        "content": None,
        "encrypted_content": "gw1.sealed",
        "status": None,
    }
    call = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "f", "arguments": '{"a":null}', "namespace": None}
    kept = await save(store, customer, response(new_id(), output=[thinking, call, answer("done")]), message("go"))
    items = await store.history(customer.account.pk, kept["id"], now=NOW)
    assert items[1] == {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": "gw1.sealed"}
    assert items[2] == {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "f", "arguments": '{"a":null}'}
    assert items[3]["content"] == [{"type": "output_text", "text": "done", "annotations": []}]


async def test_what_was_said_comes_back_to_the_letter(store: ResponseStore, customer: Customer) -> None:
    said = {"role": "user", "content": "NUL \x00, \u2028, 😀, ü", "z": 1, "a": [1.0, None, {"deep": True}]}
    kept = await save(store, customer, response(new_id(), "\x00"), said)
    items = await store.history(customer.account.pk, kept["id"], now=NOW)
    assert items[0] == said
    assert list(items[0]) == ["role", "content", "z", "a"]
    assert texts(items[1:]) == ["\x00"]


async def test_a_thousand_turns_unroll_and_one_more_is_refused(store: ResponseStore, customer: Customer) -> None:
    made = await talk(store, customer, 1001)
    assert len(await store.history(customer.account.pk, made[999]["id"], now=NOW)) == 2000
    with pytest.raises(HistoryTooLarge):
        await store.history(customer.account.pk, made[1000]["id"], now=NOW)


async def test_a_history_of_more_than_32_megabytes_is_refused(store: ResponseStore, customer: Customer) -> None:
    previous: dict[str, Any] | None = None
    sizes = []
    for _ in range(5):
        previous = await save(store, customer, response(new_id()), message("x" * 7 * MEBIBYTE), previous=previous)
        sizes.append(previous["id"])
    assert len(await store.history(customer.account.pk, sizes[3], now=NOW)) == 8
    with pytest.raises(HistoryTooLarge):
        await store.history(customer.account.pk, sizes[4], now=NOW)


async def test_a_turn_that_points_at_itself_ends_in_a_refusal(store: ResponseStore, customer: Customer) -> None:
    kept = response(new_id())
    await save(store, customer, kept, message("?"), previous=kept)
    with pytest.raises(HistoryTooLarge):
        await store.history(customer.account.pk, kept["id"], now=NOW)


# -- Whose, and how long -------------------------------------------------------------------------------------------------------------------


async def test_the_response_of_another_account_is_not_found(store: ResponseStore, customer: Customer, stranger: Customer) -> None:
    made = await talk(store, customer, 2)
    for kept in made:
        with pytest.raises(PreviousResponseNotFound):
            await store.history(stranger.account.pk, kept["id"], now=NOW)


async def test_a_strangers_turn_does_not_reach_into_the_owners_conversation(
    store: ResponseStore, customer: Customer, stranger: Customer
) -> None:
    theirs = (await talk(store, customer, 1))[0]
    forged = await save(store, stranger, response(new_id()), message("and before?"), previous=theirs)
    with pytest.raises(PreviousResponseNotFound) as caught:
        await store.history(stranger.account.pk, forged["id"], now=NOW)
    assert caught.value.response_id == theirs["id"]


async def test_two_accounts_may_have_a_response_of_the_same_id(store: ResponseStore, customer: Customer, stranger: Customer) -> None:
    same = new_id()
    await save(store, customer, response(same, "mine"), message("I"))
    await save(store, stranger, response(same, "theirs"), message("they"))
    assert texts(await store.history(customer.account.pk, same, now=NOW)) == ["I", "mine"]
    assert texts(await store.history(stranger.account.pk, same, now=NOW)) == ["they", "theirs"]


@pytest.mark.parametrize("unknown", ["", "resp_unknown", "x" * 5000, "resp_\x00", "resp_ü", "' OR true --"])
async def test_an_id_that_nobody_has_is_not_found(store: ResponseStore, customer: Customer, unknown: str) -> None:
    with pytest.raises(ResponseNotFound):
        await store.history(customer.account.pk, unknown, now=NOW)


async def test_a_response_is_kept_to_the_end_of_its_time_and_not_longer(store: ResponseStore, customer: Customer) -> None:
    kept = (await talk(store, customer, 1))[0]
    last = NOW + stored.RETENTION - timedelta(microseconds=1)
    assert await store.history(customer.account.pk, kept["id"], now=last)
    with pytest.raises(PreviousResponseNotFound):
        await store.history(customer.account.pk, kept["id"], now=NOW + stored.RETENTION)


async def test_a_conversation_whose_first_turn_expired_is_not_continued_in_half(store: ResponseStore, customer: Customer) -> None:
    first = await save(store, customer, response(new_id()), message("long ago"), now=NOW - timedelta(days=20))
    second = await save(store, customer, response(new_id()), message("now"), previous=first)
    assert len(await store.history(customer.account.pk, second["id"], now=NOW)) == 4
    with pytest.raises(PreviousResponseNotFound) as caught:
        await store.history(customer.account.pk, second["id"], now=NOW + timedelta(days=11))
    assert caught.value.response_id == first["id"]


async def test_nothing_is_stored_where_nothing_is_kept(lane: Lane, customer: Customer, sql: psycopg.Connection[tuple[Any, ...]]) -> None:
    await save(ResponseStore(lane, retention=timedelta(0)), customer, response(new_id()), message("?"))
    assert sql.execute("SELECT count(*) FROM proxy_storedresponse WHERE account_id = %s", [customer.account.pk]).fetchone() == (0,)


async def test_answered_items_are_found_by_their_ids_without_their_nulls(store: ResponseStore, customer: Customer) -> None:
    first = await save(store, customer, response(new_id(), "first"), message("?"))
    call: dict[str, Any] = {"id": new_id(), "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "namespace": None}
    second = await save(store, customer, response(new_id(), output=[answer("second"), call]), message("?"))
    ids = [call["id"], first["output"][0]["id"]]
    found = await store.items(customer.account.pk, [*ids, "msg_unknown"], now=NOW)
    assert set(found) == set(ids)
    assert "namespace" not in found[call["id"]]
    assert texts([found[first["output"][0]["id"]]]) == ["first"]
    assert await sync_to_async(response_store.find_items)(ids, account_id=customer.account.pk, now=NOW) == found
    await sync_to_async(response_store.delete)(second["id"], account_id=customer.account.pk, now=NOW)
    assert set(await store.items(customer.account.pk, ids, now=NOW)) == {first["output"][0]["id"]}


async def test_an_item_is_found_by_its_own_account_and_until_it_expires(
    store: ResponseStore, customer: Customer, stranger: Customer
) -> None:
    kept = await save(store, customer, response(new_id()), message("?"))
    ids = [kept["output"][0]["id"]]
    assert await store.items(stranger.account.pk, ids, now=NOW) == {}
    assert await store.items(customer.account.pk, ids, now=NOW + stored.RETENTION) == {}
    assert set(await store.items(customer.account.pk, ids, now=NOW)) == set(ids)


async def test_of_two_items_of_one_id_the_latest_is_found(store: ResponseStore, customer: Customer) -> None:
    same = f"msg_{new_id()}"
    for age, text in ((2, "old"), (0, "new"), (1, "older")):
        await save(store, customer, response(new_id(), output=[answer(text, id=same)]), message("?"), now=NOW - timedelta(hours=age))
    assert texts([(await store.items(customer.account.pk, [same], now=NOW))[same]]) == ["new"]


async def test_items_of_answers_that_are_too_large_together_are_refused(store: ResponseStore, customer: Customer) -> None:
    made = [await save(store, customer, response(new_id(), "x" * 7 * MEBIBYTE), message("?")) for _ in range(5)]
    ids = [kept["output"][0]["id"] for kept in made]
    assert len(await store.items(customer.account.pk, ids[:4], now=NOW)) == 4
    with pytest.raises(HistoryTooLarge):
        await store.items(customer.account.pk, ids, now=NOW)


# -- Saving --------------------------------------------------------------------------------------------------------------------------------


async def test_saving_twice_stores_one_response(store: ResponseStore, customer: Customer, sql: psycopg.Connection[tuple[Any, ...]]) -> None:
    kept = response(new_id())
    for _ in range(3):
        await save(store, customer, kept, message("once"))
    rows = sql.execute("SELECT response_id, created_at FROM proxy_storedresponse WHERE account_id = %s", [customer.account.pk]).fetchall()
    assert rows == [(kept["id"], NOW)]
    assert len(await store.history(customer.account.pk, kept["id"], now=NOW)) == 2


async def test_a_turn_of_more_than_8_megabytes_is_not_stored(store: ResponseStore, customer: Customer) -> None:
    kept = response(new_id())
    with pytest.raises(ResponseTooLarge) as caught:
        await save(store, customer, kept, message("x" * 8 * MEBIBYTE))
    assert caught.value.limit == 8 * MEBIBYTE
    with pytest.raises(ResponseNotFound):
        await store.history(customer.account.pk, kept["id"], now=NOW)
    with pytest.raises(ResponseTooLarge):
        response_store.check_size([message("x" * 8 * MEBIBYTE)])
    response_store.check_size([message("x" * 7 * MEBIBYTE)])


# -- PostgreSQL away -------------------------------------------------------------------------------------------------------------------------


async def test_without_postgresql_nothing_is_answered_from_half_a_conversation(customer: Customer) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        refusing = Lane(f"postgres://a:b@127.0.0.1:{port}/x", deadline_seconds=5)
        with pytest.raises(DatabaseUnavailable):
            await ResponseStore(refusing, retention=stored.RETENTION).history(customer.account.pk, new_id(), now=NOW)
        silent.listen()  # it takes connections now and never says a word
        mute = Lane(f"postgres://a:b@127.0.0.1:{port}/x", deadline_seconds=0.2)
        store = ResponseStore(mute, retention=stored.RETENTION)
        with pytest.raises(DatabaseUnavailable):
            await store.history(customer.account.pk, new_id(), now=NOW)
        with pytest.raises(DatabaseUnavailable):
            await save(store, customer, response(new_id()), message("?"))


async def test_a_connection_lost_on_the_way_is_unavailable_and_not_unknown(
    store: ResponseStore, lane: Lane, customer: Customer, sql: psycopg.Connection[tuple[Any, ...]]
) -> None:
    kept = (await talk(store, customer, 1))[0]
    ((backend,),) = await lane.fetch("SELECT pg_backend_pid()")
    sql.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])
    with pytest.raises(DatabaseUnavailable):
        await store.history(customer.account.pk, kept["id"], now=NOW)


# -- Retention -------------------------------------------------------------------------------------------------------------------------------


def keep(customer: Customer, *, age: timedelta) -> str:
    kept = stored.keep(response(new_id()), [message("?")], account=customer.account, key=customer.key, now=timezone.now() - age)
    return str(kept["id"])


def left_of(customer: Customer) -> set[str]:
    return set(StoredResponse.objects.filter(account=customer.account).values_list("response_id", flat=True))


def test_expired_responses_are_removed_in_batches_and_the_others_stay(customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "DROPPED_AT_ONCE", 2)
    for _ in range(5):
        keep(customer, age=stored.RETENTION + timedelta(seconds=1))
    young = keep(customer, age=stored.RETENTION - timedelta(minutes=5))
    tasks.drop_expired_responses()
    assert left_of(customer) == {young}


def test_the_removal_runs_once_at_a_time(customer: Customer) -> None:
    old = keep(customer, age=stored.RETENTION + timedelta(seconds=1))
    with connect() as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended('tollgate:drop_expired_responses', 0))")
        tasks.drop_expired_responses()
        assert left_of(customer) == {old}
        other.execute("SELECT pg_advisory_unlock_all()")
    with singleton("drop_expired_responses") as alone:
        assert alone
    tasks.drop_expired_responses()
    assert left_of(customer) == set()


def test_what_is_stored_goes_with_its_account(customer: Customer) -> None:
    account = Account.objects.create(slug=f"a-{uuid.uuid4().hex[:16]}", name="short-lived")
    stored.keep(response(new_id()), [message("?")], account=account, key=customer.key)
    [row] = StoredResponse.objects.filter(account=account)
    assert (row.key_id, row.model, row.status) == (customer.key.pk, "demo/echo", "completed")
    account.delete()
    assert not StoredResponse.objects.filter(account_id=row.account_id).exists()


# -- What a request says itself ----------------------------------------------------------------------------------------------------------------


def test_a_text_is_what_the_user_says() -> None:
    assert own_input({"input": "hi"}) == [message("hi")]
    assert own_input({}) == own_input({"input": None}) == []


def test_items_stay_as_they_were_sent() -> None:
    items = [{"role": "user", "content": "hi", "x": None}, {"type": "function_call_output", "call_id": "c", "output": "1"}]
    assert own_input({"input": items}) == items


@pytest.mark.parametrize(("given", "param"), [(7, "input"), ({"role": "user"}, "input"), ([message("x"), "y"], "input[1]")])
def test_an_input_of_another_shape_is_refused(given: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        own_input({"input": given})
    assert caught.value.param == param


def test_a_request_expands_to_its_whole_conversation() -> None:
    history = [message("a"), answer("b")]
    fields = {"model": "m", "input": "c", "previous_response_id": "resp_1", "instructions": "Be brief."}
    assert expand(fields, history) == {"input": [*history, message("c")], "previous_response_id": None}
    assert len(history) == 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"conversation": "conv_1"}, "conversation"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ],
)
def test_what_would_live_at_a_provider_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        refuse_unsupported({"model": "m", "input": "x", **fields})
    assert caught.value.param == param


def test_what_is_not_asked_for_is_not_refused() -> None:
    refuse_unsupported({"model": "m", "input": "x", "conversation": None, "background": False, "prompt": None, "store": True})


def test_a_reference_to_an_item_of_the_history_is_that_item() -> None:
    history = [{"type": "message", "role": "user", "id": "msg_1", "content": "a"}]
    for reference in ({"type": "item_reference", "id": "msg_1"}, {"id": "msg_1"}):
        assert expand({"input": [reference, message("b")], "previous_response_id": "resp_1"}, history)["input"] == [*history, message("b")]


@pytest.mark.parametrize("reference", [{"type": "item_reference", "id": "msg_9"}, {"id": "msg_9"}])
def test_a_reference_to_an_item_of_no_history_is_refused(reference: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        response_store.resolve([message("a"), reference])
    assert refused.value.param == "input[1]"


def test_a_reference_to_a_stored_item_becomes_the_item_in_its_place() -> None:
    stands_for = {"type": "message", "role": "assistant", "id": "msg_9", "content": []}
    own = [message("a"), {"type": "item_reference", "id": "msg_9"}, message("b"), {"id": "msg_1"}]
    history = [{"type": "message", "role": "user", "id": "msg_1", "content": "a"}]
    assert response_store.references(own, history) == ["msg_9"]
    assert response_store.resolve(own, history, {"msg_9": stands_for}) == [message("a"), stands_for, message("b")]


@pytest.mark.parametrize("ident", [None, 7, "", "x" * 201, "msg_\x00", ["msg_1"]])
def test_what_cannot_be_an_id_is_not_looked_up_and_refused(ident: Any) -> None:
    reference = {"type": "item_reference", "id": ident}
    assert response_store.references([reference], history=[reference]) == []
    with pytest.raises(InvalidRequest):
        response_store.resolve([reference], history=[{"role": "user", "id": ident}])


@pytest.mark.parametrize("given", [7, "", ["resp_1"], {}])
def test_a_previous_response_is_named_by_its_id(given: Any) -> None:
    with pytest.raises(InvalidRequest):
        response_store.previous_id_of({"previous_response_id": given})
    assert response_store.previous_id_of({"previous_response_id": None}) is None
    assert response_store.previous_id_of({"previous_response_id": "resp_1"}) == "resp_1"
