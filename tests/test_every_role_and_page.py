"""Every page of an account, for every role: generated from `tests.routes`, for members, members of another account, and strangers."""

import re
from typing import Any

import pytest
from django.conf import settings
from django.shortcuts import resolve_url
from django.test import Client
from django.urls import resolve

from accounts import permissions
from accounts.models import Membership
from tests.accounts.people import House, browser_of, new_person
from tests.routes import ROUTES, Route

PAGES = [pytest.param(pattern, route, id=pattern) for pattern, route in ROUTES.items() if route.policy == "account"]
ROLES = list(Membership.Role.values)
NO_POST = ("POST", 405)  # a page that only shows something may say so to anybody, before it looks who asks
ANY = r"<(?:\w+:)?(\w+)>"


@pytest.fixture(scope="module")
def house(_database: None) -> House:
    return House()


@pytest.fixture(scope="module")
def other(_database: None) -> House:
    return House()


def address_of(pattern: str, route: Route, house: House) -> str:
    """The page's address in `house`."""
    facts = {"slug": house.account.slug, **route.filled}
    return "/" + re.sub(ANY, lambda match: facts.get(match[1], "1"), pattern)


def methods_of(route: Route) -> list[str]:
    return ["POST"] if route.only_post else ["GET", "POST"]


def needed(route: Route, method: str) -> permissions.Permission:
    permission = route.post if route.post is not None and method != "GET" else route.permission
    assert permission is not None, "declare the permission"
    return permission


def call(client: Client, method: str, address: str) -> tuple[int, str]:
    response = client.generic(method, address)
    return response.status_code, response.get("Location", "")


@pytest.mark.parametrize(("pattern", "route"), PAGES)
def test_the_page_asks_for_the_permission_that_is_declared(house: House, pattern: str, route: Route) -> None:
    view: Any = resolve(address_of(pattern, route, house)).func
    while not hasattr(view, "permission"):
        view = view.__wrapped__
    assert view.permission == route.permission
    assert view.post_permission == (route.post or route.permission)


@pytest.mark.parametrize(("pattern", "route"), PAGES)
def test_a_member_sees_what_the_role_grants_and_is_told_what_it_does_not(house: House, pattern: str, route: Route) -> None:
    for role in ROLES:
        for method in methods_of(route):
            status, location = call(house.browser(role), method, address_of(pattern, route, house))
            if permissions.role_grants(role, needed(route, method)):
                assert status in (200, 302, 303, 400, 404, 405, 409), (role, method, status)
                assert not location.startswith(resolve_url(settings.LOGIN_URL)), (role, method)
            else:
                assert status == 403 or (method, status) == NO_POST, (role, method, status)


@pytest.mark.parametrize(("pattern", "route"), PAGES)
def test_a_member_of_another_account_finds_nothing_whatever_their_role_there(
    house: House, other: House, pattern: str, route: Route
) -> None:
    for role in ROLES:
        for method in methods_of(route):
            status = call(other.browser(role), method, address_of(pattern, route, house))[0]
            assert status == 404 or (method, status) == NO_POST, (role, method)


@pytest.mark.parametrize(("pattern", "route"), PAGES)
def test_a_missing_account_and_one_of_others_look_alike_and_who_is_not_signed_in_is_asked_to(
    house: House, pattern: str, route: Route
) -> None:
    address = address_of(pattern, route, house)
    nobody = browser_of(new_person())
    for method in methods_of(route):
        theirs = nobody.generic(method, address)
        missing = nobody.generic(method, address.replace(house.account.slug, "no-such-account"))
        assert theirs.status_code == missing.status_code
        assert without_ids(theirs.content) == without_ids(missing.content)
        if (method, theirs.status_code) == NO_POST:
            continue
        assert theirs.status_code == 404
        status, location = call(Client(), method, address)
        assert status == 302
        assert location.startswith(resolve_url(settings.LOGIN_URL) + "?next=")


def without_ids(html: bytes) -> bytes:
    return re.sub(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", b"", html)
