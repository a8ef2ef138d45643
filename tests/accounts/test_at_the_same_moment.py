"""Two at the same moment: a double click, two owners against each other, two tabs that both arrive first."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

from django.db import connection
from django.test import RequestFactory
from django.utils import timezone

from accounts import form_tokens, members
from accounts.models import Membership
from gateway_site import front_door
from tests.accounts.people import House, new_person


def together(*deeds: Callable[[], Any]) -> list[Any]:
    """Do all at once, each with a connection of its own; a condition that was raised stands for the result."""
    barrier = Barrier(len(deeds))

    def run(deed: Callable[[], Any]) -> Any:
        try:
            barrier.wait()
            return deed()
        except Exception as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(len(deeds)) as pool:
        return list(pool.map(run, deeds))


def test_a_form_that_arrives_four_times_at_once_acts_once() -> None:
    request = RequestFactory().post("/", {form_tokens.FIELD: form_tokens.new()})
    request.user = new_person()

    def send() -> bool:
        with form_tokens.once(request, now=timezone.now()) as fresh:
            return fresh

    assert sorted(together(*[send] * 4)) == [False, False, False, True]


def test_a_deed_that_fails_leaves_its_form_to_be_sent_again() -> None:
    request = RequestFactory().post("/", {form_tokens.FIELD: form_tokens.new()})
    request.user = new_person()
    for expected in (True, True, False):
        try:
            with form_tokens.once(request, now=timezone.now()) as fresh:
                assert fresh is expected
                if expected and not request.META.setdefault("failed", ""):
                    request.META["failed"] = "yes"
                    raise LookupError
        except LookupError:
            pass


def test_a_person_who_arrives_in_four_tabs_gets_one_account() -> None:
    user = new_person()
    found = together(*[lambda: front_door.account_for(user, last=None, now=timezone.now()).pk] * 4)
    assert len(set(found)) == 1
    assert Membership.objects.filter(user=user).count() == 1


def test_two_owners_who_demote_each_other_leave_one() -> None:
    house = House()
    first = house.members["owner"]
    second = members.change_role(house.members["admin"].pk, role="owner", by=first, now=timezone.now())
    answers = together(
        lambda: members.change_role(second.pk, role="viewer", by=first, now=timezone.now()),
        lambda: members.change_role(first.pk, role="viewer", by=second, now=timezone.now()),
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["Membership", "RoleTooHigh"]
    assert Membership.objects.filter(account=house.account, role="owner").count() == 1
