"""Every route has a policy and keeps to it: who sends no usable key gets nothing, and a stranger's key shows nothing of the owner's.

The tests are generated from the URL table and `tests.routes`; a route that is in only one of them fails.
"""

import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from django.test import Client
from django.urls import URLResolver, get_resolver
from django.utils import timezone

from accounts import invitations
from accounts.models import Membership, User
from billing.models import WebhookEndpoint
from billing.notices import endpoints
from catalog.money import usd
from keys import issuing
from tests.billing.desk import Desk
from tests.billing.tenants import Shelf, Tenant, open_shelf
from tests.proxy import stored
from tests.routes import NAMESPACES, OWNER_MARKERS, ROUTES, SIGN_IN_PAGES, Call

pytestmark = pytest.mark.filterwarnings("ignore:No directory at")  # only a deployment has collected its static files

COST = 1_234_567_891  # nano-USD that nobody else pays by chance
CALLS = [
    pytest.param(call, id=f"{call.method} {call.path}{''.join(f' {name}={value}' for name, value in call.query.items())}"
                 f"{' streamed' if isinstance(call.body, dict) and call.body.get('stream') else ''}")
    for route in ROUTES.values() if route.policy == "key" for call in route.calls
]  # fmt: skip


@dataclass(frozen=True)
class Served:
    """A route as the URL table has it."""

    pattern: str
    namespace: str
    name: str


def walk(resolver: URLResolver, prefix: str = "", namespace: str = "") -> Iterator[Served]:
    for entry in resolver.url_patterns:
        pattern = prefix + str(entry.pattern)
        if isinstance(entry, URLResolver):
            yield from walk(entry, pattern, namespace or entry.namespace or "")
        else:
            yield Served(pattern, namespace, entry.name or "")


SERVED = list(walk(get_resolver()))


def filled(value: Any, facts: dict[str, str]) -> Any:
    """`value` with the owner's facts in place of `{request_id}` and the like."""
    if isinstance(value, str):
        return re.sub(r"\{(\w+)\}", lambda match: facts[match[1]], value)
    if isinstance(value, dict):
        return {name: filled(each, facts) for name, each in value.items()}
    return [filled(each, facts) for each in value] if isinstance(value, list) else value


@dataclass
class Cast:
    """Alice, who owns what the routes show, and Charlie, a stranger with an account and a key of his own."""

    alice: Tenant
    charlie: Tenant
    facts: dict[str, str]
    markers: dict[str, str]
    origin: str
    managers: dict[str, str]
    revoked: str = field(init=False)
    disabled: str = field(init=False)

    def __post_init__(self) -> None:
        revoked, self.revoked = self.alice.issue(name="revoked")
        disabled, self.disabled = self.alice.issue(name="disabled")
        issuing.revoke(key=revoked, now=timezone.now())
        issuing.disable(key=disabled)

    def keep_response(self) -> None:
        """Store Alice's response, also when it was deleted a moment ago."""
        said = stored.message(self.markers["said"])
        stored.keep(
            stored.response(self.facts["response_id"], self.markers["said"]), [said], account=self.alice.account, key=self.alice.key
        )

    def make_what_is_named(self, call: Call) -> None:
        """Make anew what the call's address names of Alice's account."""
        account, now, name = self.alice.account, timezone.now(), uuid.uuid4().hex
        if "{made_key_id}" in call.path:
            self.facts["made_key_id"] = str(self.alice.issue(name="made")[0].pk)
        if "{member_id}" in call.path:
            person = User.objects.create_user(f"{name}@example.com")
            self.facts["member_id"] = str(Membership.objects.create(account=account, user=person).pk)
        if "{invitation_id}" in call.path:
            owner = account.memberships.get(role="owner")
            made = invitations.invite(by=owner, email=f"{name}@example.com", role="viewer", link="{secret}", now=now)
            self.facts["invitation_id"] = str(made.pk)
        if "webhook-endpoints" in call.path:
            WebhookEndpoint.objects.filter(account=account).delete()
            endpoint, _ = endpoints.create(account=account, url="https://hooks.example.com/", events=[], actor=None, now=now)
            self.facts["endpoint_id"] = str(endpoint.pk)
        self.facts["address"] = f"{name}@example.com"

    def secret(self, who: str, call: Call) -> str:
        """The key that Alice or Charlie uses for a call."""
        tenant = self.alice if who == "alice" else self.charlie
        return self.managers[who] if call.management else tenant.secret

    def call(self, call: Call, headers: dict[str, str]) -> tuple[int, str]:
        """Make a call; returns its status and its body."""
        path, query, body = (filled(value, self.facts) for value in (call.path, dict(call.query), call.body))
        if call.plane == "data":
            answer = httpx.request(call.method, f"{self.origin}{path}", params=query, json=body, headers=headers, timeout=30)
            return answer.status_code, answer.text
        content: dict[str, Any] = {} if body is None else {"data": json.dumps(body), "content_type": "application/json"}
        served = Client(raise_request_exception=False).generic(call.method, path, query_params=query, headers=headers, **content)
        raw = b"".join(served.streaming_content) if served.streaming else served.content  # type: ignore[attr-defined]
        return served.status_code, raw.decode()


def sign(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def code_of(body: str) -> str:
    """The gateway's own code of an error, whichever format it is told in."""
    error = json.loads(body)["error"]
    details = error.get("details")
    if isinstance(details, list):  # Google's
        return str(details[0]["reason"]).lower()
    return str(details["error_code"] if isinstance(details, dict) else error["code"])


@pytest.fixture(scope="module")
def shelf() -> Iterator[Shelf]:
    yield from open_shelf()


@pytest.fixture(scope="module")
def cast(shelf: Shelf, gateway: Any) -> Iterator[Cast]:
    mark = uuid.uuid4().hex[:12]
    desks = [Desk(usd=10), Desk(usd=10)]
    alice = Tenant(desks[0], name=f"key-name-{mark}", budget_nano=10**12)
    charlie = Tenant(desks[1], name="a stranger's key")
    managers: dict[str, str] = {}
    for who, tenant in (("alice", alice), ("charlie", charlie)):
        person = User.objects.create_user(f"user-{mark}@example.com" if who == "alice" else f"{uuid.uuid4().hex}@example.com")
        Membership.objects.create(account=tenant.account, user=person, role="owner")
        managers[who] = tenant.issue(name="manager", kind="management", created_by=person)[1]
    request_id = alice.spend(COST, model=f"model-{mark}", user_tag=f"user-{mark}")
    model = shelf.model("echo", rates={"input": 0, "output": 0})  # what the owner asks here must not change what she was charged
    model.routes.update(upstream_model="echo")
    embedding = shelf.model("embedding", kind="embedding", rates={"input": 0})
    image = shelf.model("image", kind="image", rates={"image": 0})
    gateway.sees_catalog()
    yield Cast(
        alice,
        charlie,
        facts={
            "request_id": request_id,
            "key_id": str(alice.key.pk),
            "response_id": f"resp_{mark}",
            "model": model.slug,
            "embedding_model": embedding.slug,
            "image_model": image.slug,
        },
        markers={
            "account": alice.account.slug,
            "key_name": alice.key.name,
            "key_start": alice.key.start,
            "user": f"user-{mark}",
            "model": f"model-{mark}",
            "request_id": request_id,
            "cost": usd(COST),
            "said": f"said-{mark}",
        },
        origin=gateway.origin,
        managers=managers,
    )
    for desk in desks:
        desk.close()


# -- The table -------------------------------------------------------------------------------------------------------------------------


def test_every_route_is_declared_with_its_policy() -> None:
    undeclared = [served.pattern for served in SERVED if served.namespace not in NAMESPACES and served.pattern not in ROUTES]
    assert undeclared == [], "declare these in tests/routes.py"


def test_every_declared_route_is_served() -> None:
    assert set(ROUTES) <= {served.pattern for served in SERVED}
    assert set(NAMESPACES) <= {served.namespace for served in SERVED}


def test_every_route_with_a_key_has_a_call_and_names_only_known_markers() -> None:
    for pattern, route in ROUTES.items():
        assert (route.policy == "key") == bool(route.calls), pattern
        assert all(set(call.owner_sees) <= set(OWNER_MARKERS) for call in route.calls), pattern


def test_the_markers_are_those_of_the_cast(cast: Cast) -> None:
    assert tuple(cast.markers) == OWNER_MARKERS


# -- Routes with a key -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
def test_without_a_usable_key_nothing_is_answered(cast: Cast, call: Call) -> None:
    cast.make_what_is_named(call)
    for headers in ({}, sign("sk-gw-not-a-key"), {"X-API-Key": f"{cast.alice.secret}x"}, sign(cast.revoked), {"Cookie": "sessionid=x"}):
        status, body = cast.call(call, headers)
        assert (status, code_of(body)) == (401, "invalid_api_key"), headers
    status, body = cast.call(call, sign(cast.disabled))
    assert (status, code_of(body)) == (403, "key_disabled")


@pytest.mark.parametrize("call", CALLS)
def test_a_stranger_sees_nothing_of_the_owners_and_changes_nothing(cast: Cast, call: Call) -> None:
    cast.keep_response()
    cast.make_what_is_named(call)
    status, body = cast.call(call, sign(cast.secret("charlie", call)))
    assert status in (200, 201, 400, 403, 404), body
    assert [name for name, marker in cast.markers.items() if marker in body] == []
    status, body = cast.call(call, sign(cast.secret("alice", call)))
    assert status == call.owner_status, body
    assert [name for name in call.owner_sees if cast.markers[name] not in body] == []


# -- Routes with a person ------------------------------------------------------------------------------------------------------------------


def guarded() -> list[tuple[str, str]]:
    """The addresses that ask for a person, with their policy; what is variable in them is filled in."""
    found: list[tuple[str, str]] = []
    for served in SERVED:
        policy = NAMESPACES.get(served.namespace) or ROUTES[served.pattern].policy
        if policy in ("staff", "session") and f"{served.namespace}:{served.name}" not in SIGN_IN_PAGES:
            address = re.sub(r"<[^>]*>", "1", re.sub(r"\(\?P<url>\.\*\)\$", "anything", served.pattern))
            address = re.sub(r"\^?\(\?P1([a-z]+)[^)]*\)(/\$)?", r"\1/", address)
            found.append((f"/{address}", policy))
    return found


def test_who_is_not_signed_in_gets_no_page_of_a_person() -> None:
    client = Client(raise_request_exception=False)
    answers = {address: client.get(address).status_code for address, _ in guarded()}
    assert {address: status for address, status in answers.items() if status not in (301, 302, 401, 403, 404, 405)} == {}


def test_who_is_signed_in_but_no_staff_gets_no_page_of_the_staff() -> None:
    user = User.objects.create_user(f"{uuid.uuid4().hex}@example.com")
    client = Client(raise_request_exception=False)
    client.force_login(user)
    answers = {address: client.get(address).status_code for address, policy in guarded() if policy == "staff"}
    assert {address: status for address, status in answers.items() if status not in (301, 302, 401, 403, 404, 405)} == {}
