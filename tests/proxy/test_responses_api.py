"""Facts about the stored responses a key holder sees: OpenAI's shapes, through OpenAI's SDK against the live gateway, and by hand."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import openai
import pytest
from django.utils import timezone

from tests.conftest import Customer, Gateway, make_customer
from tests.proxy import stored
from tests.proxy.stored import answer, message, new_id, response


@pytest.fixture
def client(gateway: Gateway, customer: Customer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.base_url, api_key=customer.secret, max_retries=0) as sdk:
        yield sdk


@pytest.fixture
def api(gateway: Gateway, customer: Customer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.origin, headers=customer.headers, timeout=30) as plain:
        yield plain


def keep(
    customer: Customer, kept: dict[str, Any], *items: dict[str, Any], previous: str | None = None, age: timedelta | None = None
) -> str:
    now = timezone.now() - (age or timedelta(0))
    stored.keep(kept, items, account=customer.account, key=customer.key, previous_id=previous, now=now)
    return str(kept["id"])


def talk(customer: Customer, turns: int) -> list[str]:
    """A conversation of so many turns; returns their ids."""
    made: list[str] = []
    for number in range(turns):
        kept = response(new_id(), f"answer {number}")
        made.append(keep(customer, kept, message(f"question {number}"), previous=made[-1] if made else None))
    return made


def code_of(answered: httpx.Response) -> tuple[int, str, str | None]:
    error = answered.json()["error"]
    return answered.status_code, error["code"], error["param"]


# -- Through the SDK -----------------------------------------------------------------------------------------------------------------------


def test_the_sdk_retrieves_what_was_answered(client: openai.OpenAI, customer: Customer) -> None:
    kept = response(
        new_id(),
        "NUL \x00 and 😀",
        metadata={"a": "b"},
        output=[answer("NUL \x00 and 😀"), {"type": "reasoning", "id": "rs", "summary": []}],
    )
    keep(customer, kept, message("?"))
    found = client.responses.retrieve(kept["id"], include=["reasoning.encrypted_content"])
    assert (found.id, found.status, found.model, found.metadata) == (kept["id"], "completed", "demo/echo", {"a": "b"})
    assert found.output_text == "NUL \x00 and 😀"
    assert found.usage is not None
    assert found.usage.total_tokens == 2


def test_a_response_is_shown_as_the_client_saw_it(api: httpx.Client, customer: Customer) -> None:
    kept = response(new_id(), "hi", error=None, temperature=1.0, x_unknown={"b": 1, "a": None})
    keep(customer, kept, message("?"))
    for prefix in ("v1", "api/v1"):
        found = api.get(f"/{prefix}/responses/{kept['id']}")
        assert found.json() == kept
        assert list(found.json()) == list(kept)
        assert found.headers["cache-control"] == "no-store"


def test_the_sdk_deletes_and_then_finds_nothing(client: openai.OpenAI, customer: Customer) -> None:
    ident = keep(customer, response(new_id()), message("?"))
    client.responses.delete(ident)
    for ask in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list, client.responses.cancel):
        with pytest.raises(openai.NotFoundError) as caught:
            ask(ident)
        assert caught.value.code == "response_not_found"


def test_the_sdk_pages_through_the_whole_conversation(client: openai.OpenAI, customer: Customer) -> None:
    last = talk(customer, 13)[-1]
    said = [f"{who} {number}" for number in range(13) for who in ("question", "answer")][:-1]  # not the answer that was made from it
    pages: dict[str, list[Any]] = {order: list(client.responses.input_items.list(last, limit=4, order=order)) for order in ("asc", "desc")}
    assert [item.content[0].text for item in pages["asc"]] == said
    assert [item.content[0].text for item in pages["desc"]] == said[::-1]
    assert [item.id for item in pages["desc"]] == [item.id for item in pages["asc"]][::-1]
    assert len({item.id for item in pages["asc"]}) == len(said)
    assert {type(item).__name__ for item in pages["asc"]} == {"ResponseInputMessageItem", "ResponseOutputMessage"}


def test_the_sdk_counts_the_tokens_of_a_request(client: openai.OpenAI, customer: Customer) -> None:
    alone = client.responses.input_tokens.count(model="demo/echo", input="Say hello." * 100)
    assert alone.object == "response.input_tokens"
    assert 200 <= alone.input_tokens <= 400
    last = talk(customer, 5)[-1]
    continued = client.responses.input_tokens.count(model="demo/echo", input="Say hello." * 100, previous_response_id=last)
    assert continued.input_tokens > alone.input_tokens


# -- Lists -----------------------------------------------------------------------------------------------------------------------------------


def test_a_list_says_where_it_begins_and_ends(api: httpx.Client, customer: Customer) -> None:
    last = talk(customer, 2)[-1]
    page = api.get(f"/v1/responses/{last}/input_items", params={"limit": 2}).json()
    assert (page["object"], page["has_more"], len(page["data"])) == ("list", True, 2)
    assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][1]["id"])
    assert page["data"][0]["content"][0]["text"] == "question 1"
    rest = api.get(f"/v1/responses/{last}/input_items", params={"limit": 2, "after": page["last_id"]}).json()
    assert (rest["has_more"], [item["content"][0]["text"] for item in rest["data"]]) == (False, ["question 0"])
    assert api.get(f"/v1/responses/{last}/input_items").json()["data"] == page["data"] + rest["data"]


def test_items_get_the_forms_that_a_request_may_leave_out(api: httpx.Client, customer: Customer) -> None:
    given = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho"},
        {"type": "function_call_output", "call_id": "c", "output": "1"},
        {"id": "msg_own", **message("twice")},
        {"id": "msg_own", **message("twice")},
    ]
    ident = keep(customer, response(new_id()), *given)
    shown = api.get(f"/v1/responses/{ident}/input_items", params={"order": "asc"}).json()["data"]
    assert [item["type"] for item in shown] == ["message", "message", "function_call_output", "message", "message"]
    assert [item["content"][0]["type"] for item in shown[:2]] == ["input_text", "output_text"]
    assert shown[2]["output"] == "1"
    assert shown[3]["id"] == "msg_own"
    assert len({item["id"] for item in shown}) == 5


def test_a_response_made_from_nothing_lists_nothing(api: httpx.Client, customer: Customer) -> None:
    ident = keep(customer, response(new_id()))
    assert api.get(f"/v1/responses/{ident}/input_items").json() == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"order": "up"}, "order"),
        ({"after": "no"}, "after"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused(api: httpx.Client, customer: Customer, query: dict[str, str], param: str) -> None:
    ident = keep(customer, response(new_id()), message("?"))
    assert code_of(api.get(f"/v1/responses/{ident}/input_items", params=query)) == (400, "invalid_request_error", param)


# -- What is gone, and what is another's -----------------------------------------------------------------------------------------------------


def test_what_builds_on_a_deleted_turn_can_be_read_and_not_continued(api: httpx.Client, customer: Customer) -> None:
    first, second = talk(customer, 2)
    assert api.delete(f"/v1/responses/{first}").json() == {"id": first, "object": "response", "deleted": True}
    assert api.get(f"/v1/responses/{second}").status_code == 200
    gone = (404, "previous_response_not_found", "previous_response_id")
    assert code_of(api.get(f"/v1/responses/{second}/input_items")) == gone
    counted = api.post("/v1/responses/input_tokens", json={"input": "?", "previous_response_id": second})
    assert code_of(counted) == gone


def test_an_expired_response_is_gone_before_it_is_removed(api: httpx.Client, customer: Customer) -> None:
    ident = keep(customer, response(new_id()), message("?"), age=stored.RETENTION)
    assert code_of(api.get(f"/v1/responses/{ident}")) == (404, "response_not_found", None)
    assert code_of(api.delete(f"/v1/responses/{ident}")) == (404, "response_not_found", None)


def test_a_stranger_neither_reads_nor_deletes(api: httpx.Client, customer: Customer, stranger: Customer) -> None:
    (ident,) = talk(customer, 1)
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
        answered = api.request(method, f"/v1/responses/{ident}{path}", headers=stranger.headers)
        assert code_of(answered) == (404, "response_not_found", None)
    assert api.get(f"/v1/responses/{ident}").status_code == 200


def test_another_key_of_the_account_reads_it(gateway: Gateway, customer: Customer) -> None:
    from keys import issuing

    (ident,) = talk(customer, 1)
    _, other = issuing.issue(account=customer.account, name="other", now=timezone.now())
    _, narrow = issuing.issue(account=customer.account, name="narrow", now=timezone.now(), allowed_endpoints=["chat"])
    _, manager = issuing.issue(account=customer.account, name="manager", now=timezone.now(), kind="management")

    def ask(secret: str) -> httpx.Response:
        return httpx.get(f"{gateway.base_url}/responses/{ident}", headers={"X-API-Key": secret})

    assert ask(other).status_code == 200
    assert code_of(ask(narrow)) == (403, "endpoint_not_allowed", None)
    assert code_of(ask(manager)) == (403, "wrong_key_kind", None)


@pytest.mark.parametrize("ident", ["resp_unknown", "%00", "x" * 3000, "%F0%9F%98%80", "a%20b"])
def test_an_id_that_nobody_has_is_not_found(api: httpx.Client, ident: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
        assert code_of(api.request(method, f"/v1/responses/{ident}{path}")) == (404, "response_not_found", None)


# -- What is not offered -----------------------------------------------------------------------------------------------------------------------


def test_a_stored_response_is_not_streamed(api: httpx.Client, customer: Customer) -> None:
    (ident,) = talk(customer, 1)
    assert code_of(api.get(f"/v1/responses/{ident}", params={"stream": "true"})) == (400, "invalid_request_error", "stream")
    assert api.get(f"/v1/responses/{ident}", params={"stream": "false"}).status_code == 200


def test_only_background_responses_could_be_cancelled(api: httpx.Client, customer: Customer) -> None:
    (ident,) = talk(customer, 1)
    assert code_of(api.post(f"/v1/responses/{ident}/cancel")) == (400, "invalid_request_error", None)


@pytest.mark.parametrize(
    ("path", "method"), [("input_tokens", "DELETE"), ("resp_1", "PUT"), ("resp_1/cancel", "GET"), ("resp_1/input_items", "POST")]
)
def test_other_methods_are_not_served(api: httpx.Client, path: str, method: str) -> None:
    assert code_of(api.request(method, f"/v1/responses/{path}"))[:2] == (404, "not_found")


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b"[]", 400, None),
        (b'{"input": 7}', 400, "input"),
        (b'{"input": "x", "conversation": "c"}', 400, "conversation"),
        (b'{"input": "x", "previous_response_id": 7}', 400, "previous_response_id"),
        (b'{"input": "' + b"x" * 2 * 1024 * 1024 + b'"}', 413, None),
    ],
)
def test_a_count_of_something_else_is_refused(api: httpx.Client, body: bytes, status: int, param: str | None) -> None:
    answered = api.post("/v1/responses/input_tokens", content=body, headers={"Content-Type": "application/json"})
    assert (answered.status_code, answered.json()["error"]["param"]) == (status, param)


def test_a_large_request_is_counted(api: httpx.Client) -> None:
    answered = api.post("/v1/responses/input_tokens", json={"input": "x" * 1_600_000})
    assert answered.json()["input_tokens"] in range(400_000, 400_100)


def test_a_large_response_is_read_back(gateway: Gateway) -> None:
    customer = make_customer()
    kept = response(new_id(), "ü" * 3_000_000)
    keep(customer, kept, message("?"))
    found = httpx.get(f"{gateway.base_url}/responses/{kept['id']}", headers=customer.headers, timeout=30)
    assert json.loads(found.content) == kept
