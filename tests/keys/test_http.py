"""Who may call a view of the control plane's API: which headers carry the key, what refuses it, and that nothing is remembered."""

import json
import secrets
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.test import Client, RequestFactory
from django.utils import timezone

from keys import authentication, issuing, secret
from keys.http import KeyedRequest, prove, with_key
from keys.models import ApiKey
from tests.conftest import Customer

pytestmark = pytest.mark.filterwarnings("ignore:No directory at")  # only a deployment has collected its static files


def ask(headers: dict[str, str], address: str = "198.51.100.7", **meta: Any) -> tuple[int, dict[str, Any]]:
    answer = Client(headers=headers, REMOTE_ADDR=address).get("/v1/key", **meta)
    return answer.status_code, json.loads(answer.content)


def code_of(headers: dict[str, str], address: str = "198.51.100.7") -> tuple[int, str]:
    status, body = ask(headers, address)
    return status, body["error"]["code"] if status != 200 else ""


# -- Which headers carry the key -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        ("Authorization", "Bearer {}"),
        ("Authorization", "bearer   {}"),
        ("X-API-Key", "{}"),
        ("x-api-key", " {} "),
        ("x-goog-api-key", "{}"),
    ],
)
def test_each_header_of_the_three_client_families_carries_a_key(customer: Customer, header: tuple[str, str]) -> None:
    status, body = ask({header[0]: header[1].format(customer.secret)})
    assert (status, body["data"]["id"]) == (200, customer.key.pk)


def test_the_same_key_twice_is_one_key(customer: Customer) -> None:
    assert code_of({"Authorization": f"Bearer {customer.secret}", "X-API-Key": customer.secret}) == (200, "")


def test_two_different_keys_are_refused_because_which_one_pays_is_not_ours_to_guess(customer: Customer, stranger: Customer) -> None:
    assert code_of({"Authorization": f"Bearer {customer.secret}", "x-goog-api-key": stranger.secret}) == (400, "two_keys")


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic dXNlcjpwYXNz"}, {"Authorization": "Bearer "}, {"X-API-Key": " "}])
def test_without_a_key_the_answer_is_401(headers: dict[str, str]) -> None:
    assert code_of(headers) == (401, "invalid_api_key")


@pytest.mark.parametrize("text", ["sk-gw-short", "sk-other-" + "a" * 49, "é" * 60, "sk-gw-" + "a" * 5000, "\x00", "sk-gw-" + "0" * 49])
def test_a_malformed_key_is_401_and_never_an_error_of_ours(text: str) -> None:
    assert code_of({"X-API-Key": text}) == (401, "invalid_api_key")


def test_a_typing_error_is_refused_by_the_checksum_without_asking_the_database(
    customer: Customer, django_assert_num_queries: Callable[[int], Any]
) -> None:
    wrong = customer.secret[:-8] + ("a" if customer.secret[-8] != "a" else "b") + customer.secret[-7:]
    with django_assert_num_queries(0), pytest.raises(authentication.InvalidKey):
        prove(wrong, now=timezone.now(), address="198.51.100.7")


def test_a_key_nobody_was_given_is_401() -> None:
    assert code_of({"X-API-Key": secret.generate()}) == (401, "invalid_api_key")


# -- What refuses a key ---------------------------------------------------------------------------------------------------------------


def test_a_revoked_key_is_refused_by_the_very_next_request(customer: Customer) -> None:
    assert code_of(customer.headers) == (200, "")
    issuing.revoke(key=customer.key, now=timezone.now())
    assert code_of(customer.headers) == (401, "invalid_api_key")


def test_an_expired_key_is_refused(new_customer: Callable[..., Customer]) -> None:
    customer = new_customer(expires_at=timezone.now() + timedelta(hours=1))
    assert code_of(customer.headers) == (200, "")
    ApiKey.objects.filter(pk=customer.key.pk).update(expires_at=timezone.now())
    assert code_of(customer.headers) == (401, "invalid_api_key")


def test_a_disabled_key_is_told_so_and_works_again_when_it_is_enabled(customer: Customer) -> None:
    issuing.disable(key=customer.key)
    assert code_of(customer.headers) == (403, "key_disabled")
    issuing.enable(key=customer.key)
    assert code_of(customer.headers) == (200, "")


def test_a_closed_account_has_no_working_key(customer: Customer) -> None:
    customer.account.is_active = False
    customer.account.save()
    assert code_of(customer.headers) == (403, "key_disabled")


def test_a_key_works_only_from_its_networks(new_customer: Callable[..., Customer]) -> None:
    customer = new_customer(allowed_ips=["203.0.113.0/24", "2001:db8::/32"])
    assert code_of(customer.headers, "203.0.113.9") == (200, "")
    assert code_of(customer.headers, "2001:db8::1") == (200, "")
    assert code_of(customer.headers, "198.51.100.7") == (403, "address_not_allowed")
    assert code_of(customer.headers, "") == (403, "address_not_allowed")


def test_a_key_under_an_older_pepper_still_works(customer: Customer, settings: Any) -> None:
    settings.KEY_PEPPERS = [f"2:{secrets.token_hex(32)}", *settings.KEY_PEPPERS]
    assert code_of(customer.headers) == (200, "")
    settings.KEY_PEPPERS = settings.KEY_PEPPERS[:1]
    assert code_of(customer.headers) == (401, "invalid_api_key")


# -- Where a request comes from ---------------------------------------------------------------------------------------------------------


def test_what_a_client_claims_of_its_address_is_not_believed(new_customer: Callable[..., Customer]) -> None:
    customer = new_customer(allowed_ips=["203.0.113.0/24"])
    assert code_of({**customer.headers, "X-Forwarded-For": "203.0.113.9"}) == (403, "address_not_allowed")


# -- The decorator --------------------------------------------------------------------------------------------------------------------


@with_key(kinds=("management",))
def manage(request: KeyedRequest, name: str) -> HttpResponseBase:
    return JsonResponse(
        {"name": name, "key": request.key.pk, "account": request.key.account.slug, "models": request.grant.models.allows("x")}
    )


def sign(request: HttpRequest, text: str) -> HttpRequest:
    request.META["HTTP_AUTHORIZATION"] = f"Bearer {text}"
    return request


def test_a_key_of_another_kind_is_refused(customer: Customer) -> None:
    with pytest.raises(authentication.WrongKeyKind) as refused:
        manage(sign(RequestFactory().get("/"), customer.secret), "x")
    assert refused.value.kind == "live"


def test_the_view_gets_the_key_its_account_and_its_grant_and_needs_no_csrf_token(new_customer: Callable[..., Customer]) -> None:
    customer = new_customer(kind="management")
    request = sign(RequestFactory(enforce_csrf_checks=True).post("/"), customer.secret)
    answer = manage(request, "x")
    assert isinstance(answer, HttpResponse)
    assert json.loads(answer.content) == {"name": "x", "key": customer.key.pk, "account": customer.account.slug, "models": True}
    assert answer.headers["Cache-Control"] == "no-store"
    assert getattr(manage, "csrf_exempt", False)


def test_the_key_and_its_account_take_one_query(customer: Customer, django_assert_num_queries: Callable[[int], Any]) -> None:
    with django_assert_num_queries(1):
        key, grant = prove(customer.secret, now=timezone.now(), address="198.51.100.7")
        assert (key.account.slug, grant.account_slug) == (customer.account.slug, customer.account.slug)
