"""No address answers with a fault of ours, whatever its parameters hold: every page and every reading call, for who may see it."""

import base64
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from django.http import QueryDict
from django.test import Client
from django.utils import timezone

from keys import issuing
from tests.accounts.people import House
from tests.routes import ROUTES
from tests.test_every_role_and_page import address_of

MOMENTS = ("9999-12-31T23:59:59.999999+00:00", "0001-01-01T00:00:00+00:00", "1969-12-31T23:59:59+00:00", "2262-04-12T00:00:00Z")
# In an address, as it is sent: NUL, bytes that are no UTF-8, digits that are none of ours, numbers without end, moments at the edge of time.
ODD = (
    "%00",
    "a%00b",
    "%ED%A0%80%FF",
    "%C2%B2",
    "%D9%A1",
    "9" * 40,
    "-1",
    "1e400",
    "0001-01-01",
    "9999-12-31",
    "0000-00-00",
    "9999-12-31T23:59:59-23:59",
    "%E2%80%AE%F0%9F%92%A5%0D%0A",
    quote("'\"><script>{{7*7}}%s"),
    "x" * 3000,
    "00000000-0000-7000-8000-00000000000g",
    *(base64.urlsafe_b64encode(f"{moment}|{uuid.UUID(int=1)}".encode()).decode().rstrip("=") for moment in MOMENTS),  # a place in a log
    *map(quote, MOMENTS),
)
SHARPEST = ("%00", "%D9%A1", "9" * 40, ODD[-8])  # each parameter meets these alone, the others together
OF_THE_API = ("before", "limit", "start", "end", "name", "include_ended")  # read by serializers


@pytest.fixture(scope="module")
def house(_database: None) -> House:
    return House()


@pytest.fixture
def asked_for(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of parameters that have been asked for."""
    names: set[str] = set()
    get, contains = QueryDict.get, QueryDict.__contains__

    def noting_get(self: QueryDict, key: str, default: Any = None) -> Any:
        names.add(key)
        return get(self, key, default)

    def noting_contains(self: QueryDict, key: str) -> bool:
        names.add(key)
        return bool(contains(self, key))

    monkeypatch.setattr(QueryDict, "get", noting_get)
    monkeypatch.setattr(QueryDict, "__contains__", noting_contains)
    return names


def odd_addresses(client: Client, address: str, asked_for: set[str], *more: str) -> Iterator[str]:
    """Each parameter that the address asks for, with each odd value. What is only asked for once another is right is found on the way."""
    tried: set[str] = set()
    client.get(address)
    while found := (asked_for | set(more)) - tried:
        for name in sorted(found):
            for value in SHARPEST:
                yield f"{address}?{name}={value}"
        for value in ODD:
            yield f"{address}?{'&'.join(f'{name}={value}' for name in sorted(found))}"
        for begins, ends in (
            ("0001-01-01", "9999-12-31"),
            ("9999-12-31", "9999-12-31"),
            ("0001-01-01", "0001-01-01"),
            ("1960-01-01", "2400-01-01"),
        ):
            for first, last in (("from", "to"), ("start", "end")):
                if first in found:
                    yield f"{address}?{first}={begins}&{last}={ends}"
        tried |= found


@pytest.mark.parametrize("pattern", [pattern for pattern, route in ROUTES.items() if not route.only_post and route.policy != "key"])
def test_a_page_takes_odd_parameters(house: House, pattern: str, asked_for: set[str]) -> None:
    client = house.browser("owner")
    address = address_of(pattern, ROUTES[pattern], house) if "^" not in pattern else "/user/password/reset/key/a-b/"
    for odd in odd_addresses(client, address, asked_for):
        response = client.get(odd)
        assert response.status_code < 500, (odd, response.status_code)
        if response.streaming:
            assert response.getvalue() is not None


@pytest.mark.parametrize("pattern", [pattern for pattern in ROUTES if "<str:" in pattern and ROUTES[pattern].policy != "key"])
def test_a_page_takes_odd_addresses(house: House, pattern: str) -> None:
    client = house.browser("owner")
    for odd in ODD:
        address = "/" + pattern.replace("<slug:slug>", house.account.slug)
        while "<str:" in address:
            before, _, rest = address.partition("<str:")
            address = before + odd + rest.partition(">")[2]
        assert client.get(address).status_code < 500, address


@pytest.mark.parametrize("kind", ["live", "management"])
def test_the_api_takes_odd_parameters(house: House, kind: str, asked_for: set[str], settings: Any) -> None:
    settings.MANAGEMENT_RPM = 0
    owner = house.user("owner")
    _, secret = issuing.issue(account=house.account, name=uuid.uuid4().hex, kind=kind, created_by=owner, now=timezone.now())
    client = Client(headers={"Authorization": f"Bearer {secret}"})
    reading = {
        call.path
        for route in ROUTES.values()
        for call in route.calls
        if call.method == "GET" and call.plane == "control" and "/api/" not in call.path and call.management == (kind == "management")
    }
    for path in sorted(reading):
        address = path.format_map(Facts())
        asked_for.clear()
        for odd in odd_addresses(client, address, asked_for, *(OF_THE_API if kind == "management" else ())):
            response = client.get(odd)
            assert response.status_code < 500 and response.status_code != 429, (odd, response.status_code)


class Facts(dict[str, str]):
    """Something for everything that an address names."""

    def __missing__(self, name: str) -> str:
        return "00000000-0000-4000-8000-000000000001" if name in ("endpoint_id", "request_id") else "1"
