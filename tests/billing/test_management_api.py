"""The management API: what a key of its kind may do, that what is made is made once, that every input has an answer, and that it describes itself."""

import json
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jsonschema
import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone
from drf_spectacular.validation import validate_schema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.models import AuditEvent, Invitation, Membership, OutboxMessage, User
from billing.management_api import openapi, urls
from billing.models import WebhookEndpoint
from keys import issuing
from keys.models import ApiKey, ManagementCall
from tests.billing.desk import Desk
from tests.billing.tenants import Tenant
from tests.conftest import Customer, make_customer

pytestmark = pytest.mark.filterwarnings("ignore:No directory at")  # only a deployment has collected its static files

DOCUMENT = json.loads(openapi.document(urls.VIEWS))
USD = 1_000_000_000


class Caller:
    """An account, and one who calls with a management key of it."""

    def __init__(self, customer: Customer, role: str | None = "owner") -> None:
        self.account = customer.account
        self.customer = customer
        self.person = User.objects.create_user(f"{uuid.uuid4().hex}@example.com", is_staff=role is None)
        self.membership = Membership.objects.create(account=self.account, user=self.person, role=role) if role else None
        self.key, self.secret = issuing.issue(
            account=self.account, name="manager", kind="management", now=timezone.now(), created_by=self.person
        )

    def call(
        self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Make a call; what is answered has to be what the document says."""
        named = {"Authorization": f"Bearer {self.secret}", **(headers or {})}
        data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        answer = Client(raise_request_exception=False).generic(method, f"/v1/{path}", data, content_type="application/json", headers=named)
        read = json.loads(answer.content)
        check(method, f"/v1/{path}".partition("?")[0], answer.status_code, read)
        return answer.status_code, read, dict(answer.items())

    def ok(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        status, read, _ = self.call(method, path, body, headers=headers)
        assert status < 300, read
        return read

    def refused(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
        status, read, _ = self.call(method, path, body, headers=headers)
        return status, read["error"]["code"]


def operation(method: str, path: str) -> Any:
    parts = path.split("/")
    for template, operations in DOCUMENT["paths"].items():
        wanted = template.split("/")
        if len(wanted) == len(parts) and all(want.startswith("{") or want == part for want, part in zip(wanted, parts, strict=True)):
            return operations.get(method.lower())
    return None


def check(method: str, path: str, status: int, read: Any) -> None:
    """Hold an answer to the document: no status it does not name, no shape it does not have."""
    described = operation(method, path)
    if described is None or status in (413, 415):
        assert 400 <= status < 500
        return
    assert str(status) in described["responses"], (method, path, status, read)
    shape = described["responses"][str(status)]["content"]["application/json"]["schema"]
    jsonschema.validate(read, {**shape, "components": DOCUMENT["components"]})


@pytest.fixture
def caller(customer: Customer) -> Caller:
    return Caller(customer)


# -- Keys ---------------------------------------------------------------------------------------------------------------------------------


def test_a_key_is_made_read_changed_rerolled_and_revoked(caller: Caller) -> None:
    made = caller.ok("POST", "keys", {"name": "ci", "limit": "12.50", "limit_reset": "monthly", "rpm": 7, "allowed_models": ["demo/*"]})
    key, secret = made["data"], made["key"]
    assert (key["name"], key["limit"], key["limit_reset"], key["rpm"], key["state"]) == ("ci", 12.5, "monthly", 7, "active")
    assert key["budget"]["limit"] == "12.50"
    assert key["label"] == f"{secret[:10]}…{secret[-4:]}"
    assert caller.ok("GET", f"keys/{key['hash']}")["data"] == key
    changed = caller.ok("PATCH", f"keys/{key['id']}", {"limit": None, "disabled": True, "name": "ci 2"})["data"]
    assert (changed["limit"], changed["budget"], changed["state"], changed["name"], changed["rpm"]) == (None, None, "disabled", "ci 2", 7)
    assert caller.ok("PATCH", f"keys/{key['id']}", {"disabled": False})["data"]["state"] == "active"
    second = caller.ok("POST", f"keys/{key['id']}/reroll", {"overlap_seconds": 0})
    assert (second["data"]["replaces"], second["data"]["name"]) == (key["id"], "ci 2")
    assert second["key"] != secret
    assert caller.ok("GET", f"keys/{key['id']}")["data"]["state"] == "revoked"
    assert caller.refused("POST", f"keys/{key['id']}/reroll", {}) == (409, "key_ended")
    gone = caller.ok("DELETE", f"keys/{second['data']['id']}")
    assert (gone["deleted"], gone["data"]["state"]) == (True, "revoked")
    assert caller.ok("DELETE", f"keys/{second['data']['id']}")["data"]["revoked_at"] == gone["data"]["revoked_at"]
    events = list(AuditEvent.objects.filter(account=caller.account).order_by("pk").values_list("action", "actor", "details__through"))
    through = f"{caller.key.start}…{caller.key.last_four}"
    assert events == [(f"key.{deed}", caller.person.pk, through) for deed in ("issued", "changed", "changed", "rerolled", "revoked")]


def test_a_secret_is_shown_once_and_a_new_key_works(caller: Caller) -> None:
    made = caller.ok("POST", "keys", {"name": "n", "kind": "test"})
    assert made["data"]["kind"] == "test"
    mine = Client(headers={"Authorization": f"Bearer {made['key']}"}).get("/v1/key")
    assert (mine.status_code, json.loads(mine.content)["data"]["name"]) == (200, "n")
    assert made["key"] not in json.dumps(caller.ok("GET", "keys"))


def test_a_key_without_a_reset_has_its_limit_in_all_and_one_can_begin_disabled(caller: Caller) -> None:
    key = caller.ok("POST", "keys", {"name": "n", "limit": 3, "disabled": True})["data"]
    assert (key["limit"], key["limit_reset"], key["budget"]["window"], key["budget"]["resets_at"], key["state"]) == (
        3.0,
        None,
        "total",
        None,
        "disabled",
    )


def test_keys_are_listed_page_by_page_without_those_that_ended(caller: Caller) -> None:
    ids = [caller.ok("POST", "keys", {"name": f"k{number}"})["data"]["id"] for number in range(4)]
    caller.ok("DELETE", f"keys/{ids[0]}")
    listed, place = [], ""
    while True:
        page = caller.ok("GET", f"keys?limit=2&before={place}")
        listed += [key["id"] for key in page["data"]]
        place = page["next"]
        if place is None:
            break
    assert listed == [*reversed(ids[1:]), caller.key.pk, caller.customer.key.pk]
    assert ids[0] in [key["id"] for key in caller.ok("GET", "keys?include_ended=true")["data"]]
    assert [key["id"] for key in caller.ok("GET", "keys?name=k2")["data"]] == [ids[2]]


def test_a_list_takes_as_many_queries_for_many_keys_as_for_one(caller: Caller, django_assert_num_queries: Callable[[int], Any]) -> None:
    with django_assert_num_queries(6):
        caller.ok("GET", "keys")
    for number in range(5):
        issuing.issue(account=caller.account, name=f"k{number}", now=timezone.now())
    with django_assert_num_queries(6):
        assert len(caller.ok("GET", "keys")["data"]) == 7


def test_keys_and_budgets_show_what_was_spent() -> None:
    with_desk = Desk(usd=10)
    tenant = Tenant(with_desk, name="spender", budget_nano=5 * USD, budget_window="day")
    caller = Caller(Customer(tenant.account, None, tenant.key, tenant.secret))
    tenant.spend(1_500_000_000)
    key = caller.ok("GET", f"keys/{tenant.key.pk}")["data"]
    assert (key["usage"], key["usage_daily"], key["usage_monthly"], key["limit_remaining"]) == (1.5, 1.5, 1.5, 3.5)
    (budget,) = caller.ok("GET", "budgets")["data"]
    assert (budget["id"], budget["limit"], budget["spent"], budget["remaining"], budget["window"]) == (
        tenant.key.pk,
        "5.00",
        "1.50",
        "3.50",
        "day",
    )
    with_desk.close()


def test_a_management_key_neither_makes_nor_changes_its_own_kind_and_calls_no_model(
    caller: Caller, gateway: Any, new_model: Callable[..., str]
) -> None:
    assert caller.refused("POST", "keys", {"name": "n", "kind": "management"}) == (400, "invalid_request_error")
    for method, path in (("PATCH", ""), ("DELETE", ""), ("POST", "/reroll")):
        assert caller.refused(method, f"keys/{caller.key.pk}{path}", {}) == (403, "wrong_key_kind")
    body = {"model": new_model("hello"), "messages": [{"role": "user", "content": "Hi"}]}
    inference = httpx.post(f"{gateway.base_url}/chat/completions", json=body, headers={"Authorization": f"Bearer {caller.secret}"})
    assert (inference.status_code, inference.json()["error"]["code"]) == (403, "wrong_key_kind")
    for kind in ("live", "test"):
        _, other = issuing.issue(account=caller.account, name="n", kind=kind, now=timezone.now())
        answer = Client(headers={"Authorization": f"Bearer {other}"}).get("/v1/keys")
        assert (answer.status_code, json.loads(answer.content)["error"]["code"]) == (403, "wrong_key_kind")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a\u0000b"}, "name"),
        ({"name": "n", "limti": 5}, "limti"),
        ({"name": "n", "limit": -1}, "limit"),
        ({"name": "n", "limit": True}, "limit"),
        ({"name": "n", "limit": "1e400"}, "limit"),
        ({"name": "n", "limit_reset": "hourly"}, "limit_reset"),
        ({"name": "n", "rpm": 0}, "rpm"),
        ({"name": "n", "allowed_models": ["no spaces"]}, "allowed_models"),
        ({"name": "n", "allowed_ips": ["1.2.3.4/99"]}, "allowed_ips"),
        ({"name": "n", "expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ([], "body"),
    ],
)
def test_what_a_key_cannot_have_is_refused_by_the_name_of_its_field(caller: Caller, body: Any, param: str) -> None:
    status, read, headers = caller.call("POST", "keys", body)
    assert (status, read["error"]["code"], read["error"]["param"]) == (400, "invalid_request_error", param)
    assert read["error"]["request_id"] == headers["x-request-id"]


# -- Who may what -------------------------------------------------------------------------------------------------------------------------


def test_a_key_may_what_its_makers_role_grants_now(customer: Customer) -> None:
    caller = Caller(customer, role="developer")
    assert caller.ok("POST", "keys", {"name": "n"})
    assert caller.refused("POST", "members", {"email": "a@example.com"}) == (403, "not_permitted")
    assert caller.refused("POST", "webhook-endpoints", {"url": "https://hooks.example.com/"}) == (403, "not_permitted")
    assert caller.membership is not None
    caller.membership.role = "viewer"
    caller.membership.save()
    assert caller.refused("POST", "keys", {"name": "n"}) == (403, "not_permitted")
    assert caller.ok("GET", "keys")
    caller.membership.delete()
    assert caller.refused("GET", "keys") == (403, "not_permitted")


def test_a_key_of_the_operators_may_all_but_manage_members(customer: Customer) -> None:
    for caller in (Caller(customer, role=None), Caller(customer, role=None)):
        assert caller.ok("GET", "ledger")
        assert caller.ok("POST", "keys", {"name": "n"})
        assert caller.refused("POST", "members", {"email": "a@example.com"}) == (403, "not_permitted")
        ApiKey.objects.filter(pk=caller.key.pk).update(created_by=None)
        assert caller.ok("POST", "keys", {"name": "n"})
        event = AuditEvent.objects.filter(account=caller.account).latest("pk")
        assert event.actor_text == f"management key {caller.key.start}…{caller.key.last_four}"
        assert caller.refused("POST", "members", {"email": "a@example.com"}) == (403, "not_permitted")


def test_calls_are_limited_by_the_minute(caller: Caller) -> None:
    ApiKey.objects.filter(pk=caller.key.pk).update(rpm=2)
    statuses: list[int] = []
    while 429 not in statuses:
        status, read, headers = caller.call("GET", "budgets")
        statuses.append(status)
        assert len(statuses) < 6  # three, and as many again when a minute began
    assert read["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(headers["retry-after"]) <= 60


# -- Made once ----------------------------------------------------------------------------------------------------------------------------


def test_a_repeated_call_makes_no_second_key_and_says_which_it_made(caller: Caller) -> None:
    body, key = {"name": "once"}, uuid.uuid4().hex
    first = caller.ok("POST", "keys", body, headers={"Idempotency-Key": key})
    status, read, _ = caller.call("POST", "keys", body, headers={"Idempotency-Key": key})
    assert (status, read["error"]["code"]) == (409, "secret_shown_before")
    assert f"'{first['data']['id']}'" in read["error"]["message"]
    assert caller.refused("POST", "keys", {"name": "other"}, headers={"Idempotency-Key": key}) == (422, "idempotency_key_reused")
    assert caller.refused("POST", "keys", body, headers={"Idempotency-Key": "x" * 300}) == (400, "invalid_request_error")
    assert ApiKey.objects.filter(account=caller.account, name="once").count() == 1
    kept = ManagementCall.objects.get(account=caller.account)
    assert first["key"] not in json.dumps(kept.answer)


def test_a_repeated_invitation_is_answered_again_and_sent_once(caller: Caller) -> None:
    body, key = {"email": f"{uuid.uuid4().hex}@example.com", "role": "viewer"}, uuid.uuid4().hex
    first = caller.ok("POST", "members", body, headers={"Idempotency-Key": key})
    status, again, headers = caller.call("POST", "members", body, headers={"Idempotency-Key": key})
    assert (status, again, headers["idempotent-replayed"]) == (201, first, "true")
    assert Invitation.objects.filter(account=caller.account).count() == 1


def test_a_call_that_failed_gives_its_key_back_and_keys_are_forgotten_after_a_day(caller: Caller) -> None:
    key = uuid.uuid4().hex
    assert caller.refused("POST", "keys", {"name": "n", "allowed_models": ["no spaces"]}, headers={"Idempotency-Key": key}) == (
        400,
        "invalid_request_error",
    )
    assert caller.ok("POST", "keys", {"name": "n"}, headers={"Idempotency-Key": key})
    ManagementCall.objects.filter(account=caller.account).update(created_at=timezone.now() - timedelta(days=2))
    assert caller.ok("POST", "keys", {"name": "n"}, headers={"Idempotency-Key": key})


def test_of_many_at_once_one_makes_a_key(caller: Caller) -> None:
    key, start = uuid.uuid4().hex, threading.Barrier(6)

    def post() -> int:
        try:
            start.wait()
            return caller.call("POST", "keys", {"name": "raced"}, headers={"Idempotency-Key": key})[0]
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        statuses = [each.result() for each in [pool.submit(post) for _ in range(6)]]
    assert sorted(statuses) == [201] + [409] * 5
    assert ApiKey.objects.filter(account=caller.account, name="raced").count() == 1


# -- Members, ledger, webhooks -------------------------------------------------------------------------------------------------------------


def test_members_are_listed_invited_changed_and_removed(caller: Caller) -> None:
    address = f"{uuid.uuid4().hex}@example.com"
    invited = caller.ok("POST", "members", {"email": address.upper(), "role": "admin"})["data"]
    assert (invited["email"], invited["role"], invited["invited_by"]) == (address, "admin", caller.person.email)
    assert [each["email"] for each in caller.ok("GET", "members")["invitations"]] == [address]
    assert caller.ok("DELETE", f"invitations/{invited['id']}")["deleted"]
    assert caller.refused("DELETE", f"invitations/{invited['id']}") == (404, "invitation_not_found")
    colleague = Membership.objects.create(account=caller.account, user=User.objects.create_user(address), role="viewer")
    assert caller.ok("PATCH", f"members/{colleague.pk}", {"role": "billing"})["data"]["role"] == "billing"
    assert caller.refused("POST", "members", {"email": address}) == (409, "already_member")
    assert caller.refused("PATCH", f"members/{caller.membership.pk}", {"role": "viewer"}) == (409, "last_owner")  # type: ignore[union-attr]
    assert caller.ok("DELETE", f"members/{colleague.pk}") == {"id": colleague.pk, "deleted": True}
    assert caller.refused("DELETE", f"members/{colleague.pk}") == (404, "member_not_found")
    admin = Caller(caller.customer, role="admin")
    assert admin.refused("POST", "members", {"email": address, "role": "owner"}) == (403, "role_too_high")


def test_the_link_of_an_invitation_leads_to_this_installation_whatever_host_was_called(caller: Caller) -> None:
    caller.ok("POST", "members", {"email": f"{uuid.uuid4().hex}@example.com"}, headers={"Host": "localhost"})
    mail = OutboxMessage.objects.get(account=caller.account, kind="mail")
    assert "http://127.0.0.1:8000/invitations/" in mail.content["text"]


def test_the_ledger_is_read_page_by_page_and_adds_up() -> None:
    desk = Desk(usd=10)
    tenant = Tenant(desk)
    caller = Caller(Customer(tenant.account, None, tenant.key, tenant.secret))
    for _ in range(3):
        tenant.spend(250_000_000)
    entries: list[Any] = []
    place = ""
    while place is not None:
        page = caller.ok("GET", f"ledger?limit=2&before={place}")
        entries += page["data"]
        place = page["next"]
    versions = [entry["version"] for entry in entries]
    assert versions == list(range(len(entries), 0, -1))
    for older, newer in zip(entries[1:], entries, strict=False):
        assert float(newer["balance_after"]) == pytest.approx(float(older["balance_after"]) + float(newer["amount"]), abs=1e-12)
    assert entries[0]["balance_after"] == "9.25"
    assert caller.ok("GET", "ledger?start=2020-01-01&end=2020-02-01")["data"] == []
    assert caller.refused("GET", "ledger?before=x") == (400, "invalid_request_error")
    assert caller.refused("GET", "ledger?start=yesterday") == (400, "invalid_request_error")
    desk.close()


def test_a_webhook_endpoint_is_made_changed_tried_and_removed(caller: Caller) -> None:
    made = caller.ok("POST", "webhook-endpoints", {"url": "https://hooks.example.com/a"})
    endpoint = made["data"]
    assert made["secret"].startswith("whsec_")
    assert caller.ok("GET", "webhook-endpoints")["data"] == [endpoint]
    path = f"webhook-endpoints/{endpoint['id']}"
    changed = caller.ok("PATCH", path, {"url": "https://hooks.example.com/b", "enabled": False})["data"]
    assert (changed["url"], changed["enabled"]) == ("https://hooks.example.com/b", False)
    assert caller.ok("PATCH", path, {"enabled": True})["data"]["enabled"]
    assert caller.ok("POST", f"{path}/rotate-secret", {})["secret"] != made["secret"]
    assert caller.call("POST", f"{path}/test", {})[0] == 202
    assert caller.refused("PATCH", path, {"url": "ftp://hooks.example.com"}) == (400, "endpoint_refused")
    assert caller.refused("PATCH", path, {"events": ["no.such"]}) == (400, "invalid_request_error")
    assert caller.ok("DELETE", path)["deleted"]
    assert caller.refused("GET", path) == (404, "webhook_endpoint_not_found")
    assert not WebhookEndpoint.objects.filter(account=caller.account).exists()


# -- Every input has an answer ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"{", "invalid_json"),
        (b"\xff", "invalid_json"),
        (b'{"name": NaN}', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b"x" * 300_000, "body_too_large"),
    ],
)
def test_a_body_that_cannot_be_read_is_told_so(caller: Caller, raw: bytes, code: str) -> None:
    status, read, _ = caller.call("POST", "keys", raw=raw)
    assert (status, read["error"]["code"]) == (413 if code == "body_too_large" else 400, code)


def test_other_methods_and_content_types_are_refused(caller: Caller) -> None:
    assert caller.refused("PUT", "keys", {}) == (404, "not_found")
    assert caller.refused("OPTIONS", "keys") == (404, "not_found")
    form = Client(headers={"Authorization": f"Bearer {caller.secret}", "Accept": "text/html"}).post("/v1/keys", {"name": "n"})
    assert (form.status_code, json.loads(form.content)["error"]["code"]) == (415, "not_json")
    page = Client(headers={"Authorization": f"Bearer {caller.secret}", "Accept": "text/html"}).get("/api/v1/keys")
    assert (page.status_code, page.headers["Content-Type"], page.headers["Cache-Control"]) == (200, "application/json", "no-store")


_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=20))
_JSON = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6
)
_ODD: list[Any] = ["", "x" * 200, "\x00", "\ud7ff", -1, 0, 2**31, 2**63, 10**40, 1e-12, 1e300, "1e9", [], [[]], {}]
_MOMENTS = ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+14:00"]
_PLAUSIBLE = ["daily", "live", ["openai/*"], ["0.0.0.0/0"], "a@b.c", "https://[", "https://hooks.example.com/"]
_TYPICAL = st.sampled_from([*_ODD, *_MOMENTS, *_PLAUSIBLE])


@pytest.fixture(scope="module")
def fuzzed() -> Caller:
    caller = Caller(make_customer())
    ApiKey.objects.filter(pk=caller.key.pk).update(rpm=1_000_000)
    return caller


def _fields(described: Any) -> list[str]:
    reference = (
        described["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2] if "requestBody" in described else ""
    )
    return list(DOCUMENT["components"]["schemas"][reference].get("properties", {})) if reference else []


OPERATIONS = [(method.upper(), path, described) for path, methods in DOCUMENT["paths"].items() for method, described in methods.items()]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_no_input_is_an_error_of_ours(fuzzed: Caller, data: st.DataObject) -> None:
    method, path, described = data.draw(st.sampled_from(OPERATIONS))
    for parameter in described.get("parameters", []):
        if parameter["in"] == "path":
            value = (
                str(uuid.uuid4())
                if parameter["schema"].get("format") == "uuid"
                else str(data.draw(st.sampled_from([0, fuzzed.customer.key.pk, 2**63, 10**30])))
            )
            path = path.replace("{" + parameter["name"] + "}", value)
    names = st.sampled_from([*_fields(described), "name", "unknown"])
    body = data.draw(st.dictionaries(names, _TYPICAL | _JSON, max_size=5) | _JSON)
    query = data.draw(
        st.dictionaries(st.sampled_from(["limit", "before", "include_ended", "start", "end", "name"]), st.text(max_size=12), max_size=2)
    )
    headers = {"Authorization": f"Bearer {fuzzed.secret}"}
    if data.draw(st.booleans()):
        headers["Idempotency-Key"] = data.draw(st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40))
    content: dict[str, Any] = {"data": json.dumps(body), "content_type": "application/json"} if method in ("POST", "PATCH") else {}
    answer = Client(raise_request_exception=False).generic(method, path, query_params=query, headers=headers, **content)
    assert answer.status_code < 500, answer.content
    check(method, path, answer.status_code, json.loads(answer.content))


# -- The description -------------------------------------------------------------------------------------------------------------------------


def test_the_description_is_openapi_3_1_and_names_every_address() -> None:
    answer = Client().get("/v1/openapi.json")
    document = json.loads(answer.content)
    assert (answer.status_code, document["openapi"]) == (200, "3.1.1")
    validate_schema(document)
    assert set(document["paths"]) == {
        f"/v1/{pattern.pattern}".replace("<int:", "{").replace("<uuid:", "{").replace(">", "}") for pattern in urls.VIEWS
    }
    operations = [described for methods in document["paths"].values() for described in methods.values()]
    assert len({described["operationId"] for described in operations}) == len(operations)
    assert {need for described in operations for each in described["security"] for need in each["managementKey"]} == {
        "read", "manage_keys", "manage_billing", "manage_members",
    }  # fmt: skip


def test_moments_are_in_utc(caller: Caller) -> None:
    when = datetime(2040, 1, 1, 12, tzinfo=UTC)
    key = caller.ok("POST", "keys", {"name": "n", "expires_at": "2040-01-01T13:00:00+01:00"})["data"]
    assert key["expires_at"] == when.isoformat().replace("+00:00", "Z")
