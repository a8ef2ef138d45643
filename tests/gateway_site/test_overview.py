"""An account's first page: what is left and how long it lasts, and the first steps, which turn done one by one and can be put away."""

import html
import re
from datetime import timedelta
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import Membership
from gateway_site import first_steps
from keys import issuing
from tests.accounts.people import browser_of, new_person
from tests.billing.desk import Desk

USD = 1_000_000_000
POLL = re.compile(r'hx-get="([^"]+)"')


@pytest.fixture
def desk(_database: None) -> Any:
    desk = Desk()
    desk.credit(70 * USD, kind="promo", debit_account="promo")
    desk.account.keys.all().delete()  # the desk's own, which nobody was issued
    yield desk
    desk.close()


def member_of(desk: Desk, role: str = "owner") -> Membership:
    return Membership.objects.create(account=desk.account, user=new_person(), role=role)


def page(client: Client, desk: Desk, path: str = "", **headers: str) -> str:
    answer = client.get(f"/a/{desk.slug}/{path}", headers=headers)
    assert answer.status_code == 200, answer.content
    return html.unescape(answer.content.decode())


def done(text: str) -> list[str]:
    return [title.removesuffix(": done") for title in re.findall(r'class="step-title">([^<]+)<span class="visually-hidden">: done', text)]


def poll(client: Client, text: str) -> Any:
    found = POLL.search(text)
    assert found, "the page waits for nothing"
    return client.get(html.unescape(found[1]), headers={"HX-Request": "true"})


def test_the_first_steps_turn_done_while_the_page_waits(desk: Desk, settings: Any) -> None:
    settings.STRIPE_SECRET_KEY = "sk_test_x"
    membership = member_of(desk)
    client = browser_of(membership.user)
    text = page(client, desk)
    assert done(text) == ["Verify your e-mail address"]
    assert poll(client, text).status_code == 204  # nothing happened: nothing on the page moves
    key, _ = issuing.issue(account=desk.account, name="first", now=timezone.now())
    text = poll(client, text).content.decode()
    assert done(text) == ["Verify your e-mail address", "Make a key"]
    assert f"{key.start}…{key.last_four}" in text
    assert poll(client, text).status_code == 204
    desk.spend(2_500_000, key=key, started=timezone.now(), input_tokens=9, output_tokens=1234, latency_ms=1500, first_token_ms=200)
    text = poll(client, text).content.decode()
    assert done(text) == ["Verify your e-mail address", "Make a key", "Make a request"]
    for said in ("9 tokens in", "1,234 out", "$0.0025", "1.5 s", "200 ms to the first token"):
        assert said in text, said
    issuing.change(key=key, now=timezone.now(), budget_nano=USD)
    assert "Set a budget" in done(page(client, desk))
    assert 'class="step done"' in page(client, desk)
    settings.STRIPE_SECRET_KEY = ""  # nothing can be paid here, so nothing is left to do
    assert "First steps" not in page(client, desk)


def test_a_page_that_has_waited_long_enough_asks_no_more(desk: Desk) -> None:
    client = browser_of(member_of(desk).user)
    long_ago = int((timezone.now() - timedelta(hours=1)).timestamp())
    mark = POLL.search(page(client, desk))
    assert mark
    address = re.sub(r"since=\d+", f"since={long_ago}", html.unescape(mark[1]))
    answer = client.get(address, headers={"HX-Request": "true"})
    assert answer.status_code == 200
    assert not POLL.search(answer.content.decode())


def test_the_list_can_be_put_away_by_each_member_for_themselves(desk: Desk) -> None:
    ann, ben = member_of(desk, "viewer"), member_of(desk, "viewer")
    assert browser_of(ann.user).post(f"/a/{desk.slug}/first-steps/hide")["Location"] == f"/a/{desk.slug}/"
    assert "First steps" not in page(browser_of(ann.user), desk)
    assert "First steps" in page(browser_of(ben.user), desk)


def test_an_address_that_is_not_verified_is_the_first_step(desk: Desk) -> None:
    membership = member_of(desk)
    EmailAddress.objects.filter(user=membership.user).update(verified=False)
    assert done(page(browser_of(membership.user), desk)) == []


def test_the_page_of_a_secret_waits_for_that_keys_first_request(desk: Desk) -> None:
    client = browser_of(member_of(desk).user)
    keys = [issuing.issue(account=desk.account, name=name, now=timezone.now())[0] for name in ("one", "two")]
    desk.spend(1, key=keys[0], started=timezone.now())
    address = f"/a/{desk.slug}/keys/{{}}/first-request"
    assert "It works" in client.get(address.format(keys[0].pk), headers={"HX-Request": "true"}).content.decode()
    assert client.get(address.format(keys[1].pk), headers={"HX-Request": "true"}).status_code == 204
    assert client.get(address.format(keys[1].pk)).status_code == 302  # opened by hand: the key's own page


def test_a_failed_request_is_not_the_first(desk: Desk) -> None:
    key, _ = issuing.issue(account=desk.account, name="one", now=timezone.now())
    now = timezone.now()
    desk.spend(1, key=key, started=now, status="error")
    assert first_steps.first_request(account=desk.account) is None
    desk.spend(1, key=key, started=now + timedelta(milliseconds=5))
    found = first_steps.first_request(account=desk.account)
    assert found is not None
    assert found.status == "ok"


def test_what_is_left_how_long_it_lasts_and_what_was_spent(desk: Desk) -> None:
    key, _ = issuing.issue(account=desk.account, name="one", now=timezone.now())
    now = timezone.now()
    for days in range(7):
        desk.spend(USD, key=key, started=now - timedelta(days=days, minutes=1), model="house/steady")
    desk.spend(0, key=key, started=now, model="house/broken", status="error")
    desk.spend(3 * USD, key=key, started=now - timedelta(days=20), model="house/past")
    desk.hold(2 * USD, key=key, started=now)
    text = page(browser_of(member_of(desk, "viewer").user), desk)
    for said in ("$60.00", "for one request under way", "lasts about", "house/steady", "house/past", "in the last 30 days", ">Cost</h2>"):
        assert said in text, said
    week = page(browser_of(member_of(desk, "viewer").user), desk, "?days=7")
    assert "in the last 7 days" in week
    assert 'model=house%2Fpast"' not in week


def test_the_page_asks_a_fixed_number_of_queries(desk: Desk) -> None:
    client, now, counts = browser_of(member_of(desk).user), timezone.now(), []
    page(client, desk)  # the first page of a session notes where its member was last
    for size in (1, 40):
        for number in range(size):
            key, _ = issuing.issue(account=desk.account, name=f"key {number}", now=now)
            desk.spend(1, key=key, started=now - timedelta(hours=number), model=f"many/{number}")
        with CaptureQueriesContext(connection) as queries:
            page(client, desk)
        counts.append(len(queries))
    assert counts[1] <= counts[0] + 1 <= 25


def test_an_account_without_anything_opens(desk: Desk) -> None:
    for role in ("owner", "viewer", "billing"):
        assert "First steps" in page(browser_of(member_of(desk, role).user), desk)
