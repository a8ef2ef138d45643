"""Open operations: videos that nobody polls are looked after, and what was not delivered is paid back, once, whoever finds it out."""

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.db import connection
from django.utils import timezone

from accounts.models import Account
from billing import undelivered
from billing.models import TaskRun, UsageRecord
from billing.reconciliation import audit
from catalog.models import Provider, ProviderKey
from gateway_site.clients import Lane
from proxy import envelopes, open_operations, tasks
from proxy.models import OpenOperation
from proxy.open_operations import OpenOperations, Round
from proxy.operations import Names
from tests.billing.desk import connect
from tests.conftest import Customer, free_port
from tests.proxy.test_videos import ASKED, look, order_of, refunds, sell

USD = 1_000_000_000
FAILED = "polls=0;error=The service is out of resources."
NOT_YET = "polls=1000"
DUE = timedelta(minutes=16)


@dataclass
class Order:
    """A video that was ordered and that nobody asks about: its address, its usage record, and the provider that makes it."""

    address: str
    record: Any
    provider: Provider

    @property
    def row(self) -> OpenOperation | None:
        return OpenOperation.objects.filter(pk=self.record.request_id).first()

    def is_open(self) -> bool:
        return self.row is not None


@pytest.fixture
def order(gateway: Any, provider: Any, customer: Customer, usage_of: Any) -> Callable[..., Order]:
    def make(knobs: str, who: Customer = customer, **parameters: Any) -> Order:
        slug = sell(provider, knobs)
        gateway.sees_catalog()
        answer = order_of(gateway, slug, who, **parameters)
        record = usage_of(answer.headers["x-request-id"])
        return Order(f"{gateway.origin}/v1beta/{answer.json()['name']}", record, Provider.objects.get(routes__model__slug=slug))

    return make


def look_after(*, after: timedelta = DUE, seconds: float = 60.0) -> Round:
    """A round of looks so long after now, which reaches every row that is due, those of other tests as well."""
    return open_operations.look_after(now=timezone.now() + after, limit=100_000, seconds=seconds)


def is_settled(customer: Customer) -> bool:
    """Whether nothing is held any more, and every cent adds up."""
    return customer.fresh_wallet().held == 0 and audit(now=timezone.now(), accounts=[customer.account.pk]) == []


def names() -> Names:
    return Names(envelopes.read_keys(settings.ENCRYPTION_KEYS))


def another_of(row: OpenOperation) -> OpenOperation:
    """The same operation as if another request had begun it, of which nothing is booked."""
    operation = names().read_operation(row.name, account_id=row.account_id)
    assert operation is not None
    request_id = uuid.uuid4()
    name = names().name_operation(replace(operation, request_id=str(request_id)), account_id=row.account_id)
    return OpenOperation.objects.create(
        request_id=request_id, account=row.account, name=name, created_at=row.created_at, next_look_at=row.next_look_at
    )


# -- What is written down --------------------------------------------------------------------------------------------------------------


def test_an_order_is_written_down_before_it_is_charged(order: Any, customer: Customer, stranger: Customer) -> None:
    made = order(NOT_YET)
    row = made.row
    assert row.account_id == customer.account.pk
    assert (row.looks, row.next_look_at - row.created_at) == (0, timedelta(minutes=15))
    assert row.created_at < made.record.ended_at
    assert made.address.endswith(f"/operations/{row.name}")
    assert names().read_operation(row.name, account_id=stranger.account.pk) is None


def test_what_is_not_accepted_is_not_written_down(provider: Any, gateway: Any, customer: Customer) -> None:
    slug = sell(provider, "polls=0")
    Provider.objects.filter(routes__model__slug=slug).update(base_url=f"http://127.0.0.1:{free_port()}/v1")
    gateway.sees_catalog()
    answer = httpx.post(f"{gateway.origin}/v1beta/models/{slug}:predictLongRunning", json=ASKED, headers=customer.headers, timeout=30)
    assert answer.status_code == 502
    assert not OpenOperation.objects.filter(account=customer.account).exists()


async def test_a_database_that_is_away_keeps_nobody_from_an_operation() -> None:
    lane = Lane(f"postgres://nobody@127.0.0.1:{free_port()}/nothing", deadline_seconds=1)
    ours = OpenOperations(lane)
    await ours.note(uuid.uuid4(), "name", account_id=1, now=timezone.now())
    await ours.forget(uuid.uuid4())


async def test_the_first_order_after_a_restart_of_postgresql_is_written_down(customer: Customer) -> None:
    lane, request_id = Lane(settings.DATABASE_URL, deadline_seconds=5), uuid.uuid4()
    ((backend,),) = await lane.fetch("SELECT pg_backend_pid()")
    with connect() as database:
        assert database.execute("SELECT pg_terminate_backend(%s)", [backend]).fetchone() == (True,)
    await OpenOperations(lane).note(request_id, "name", account_id=customer.account.pk, now=timezone.now() + timedelta(days=9))
    await lane.close()
    with connect() as database:
        assert database.execute("DELETE FROM proxy_openoperation WHERE request_id = %s RETURNING name", [request_id]).fetchall() == [
            ("name",)
        ]


def test_an_open_operation_goes_with_its_account() -> None:
    account = Account.objects.create(slug=f"a-{uuid.uuid4().hex[:16]}", name="short-lived")
    row = OpenOperation.objects.create(
        request_id=uuid.uuid4(), account=account, name="", created_at=timezone.now(), next_look_at=timezone.now() + timedelta(days=9)
    )
    account.delete()
    assert not OpenOperation.objects.filter(pk=row.pk).exists()


# -- What was not delivered ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("knobs", [FAILED, "polls=0;videos=0;filtered=1", "polls=0;elsewhere=1"])
def test_a_video_that_nobody_polled_and_that_was_not_made_is_paid_back_once(order: Any, customer: Customer, knobs: str) -> None:
    made = order(knobs)
    assert customer.fresh_wallet().balance == 5 * USD - made.record.cost
    for _ in range(3):
        look_after()
    assert not made.is_open()
    assert refunds(made.record) == [made.record.cost]
    assert look(made.address, customer).json()["done"] is True
    assert refunds(made.record) == [made.record.cost]
    assert customer.fresh_wallet().balance == 5 * USD
    assert is_settled(customer)


def test_rounds_at_the_same_time_pay_back_once(order: Any, customer: Customer) -> None:
    made = [order(FAILED) for _ in range(3)]

    def one_round(_: int) -> None:
        try:
            look_after()
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one_round, range(4)))
    assert [refunds(each.record) for each in made] == [[each.record.cost] for each in made]
    assert not any(each.is_open() for each in made)
    assert is_settled(customer)


def test_the_task_looks_after_what_is_due_and_is_recorded(order: Any) -> None:
    due, young = order(FAILED), order(FAILED)
    OpenOperation.objects.filter(pk=due.record.request_id).update(next_look_at=timezone.now() - timedelta(days=400))
    tasks.look_after_videos()
    assert (refunds(due.record), refunds(young.record)) == ([due.record.cost], [])
    assert (due.is_open(), young.is_open()) == (False, True)
    run = TaskRun.objects.get(name="look_after_videos")
    assert (run.last_finished_at is not None, run.last_error) == (True, "")


def test_of_two_videos_that_nobody_polled_the_filtered_one_is_paid_back(order: Any, customer: Customer) -> None:
    made = order("polls=0;videos=1;filtered=1", sampleCount=2, durationSeconds=5)
    look_after()
    assert refunds(made.record) == [made.record.cost // 2]
    assert not made.is_open()
    assert is_settled(customer)


def test_a_video_that_was_made_stays_paid(order: Any, customer: Customer) -> None:
    made = order("polls=0")
    look_after()
    assert (refunds(made.record), made.is_open()) == ([], False)
    assert is_settled(customer)


@pytest.mark.parametrize("knobs", [FAILED, "polls=0"])
def test_what_a_client_has_seen_the_end_of_is_not_looked_after(order: Any, customer: Customer, knobs: str) -> None:
    made = order(knobs)
    assert look(made.address, customer).json()["done"] is True
    before = refunds(made.record)
    assert not made.is_open()
    look_after()
    assert refunds(made.record) == before
    assert is_settled(customer)


def test_a_poll_of_what_is_not_done_leaves_it_open(order: Any, customer: Customer) -> None:
    made = order(NOT_YET)
    assert "done" not in look(made.address, customer).json()
    assert made.is_open()


def test_whoever_dies_after_paying_back_leaves_a_row_that_pays_nothing_more(order: Any, customer: Customer) -> None:
    made = order(FAILED)
    undelivered.refund(request_id=made.record.request_id, account_id=customer.account.pk, delivered=0, now=timezone.now())
    assert made.is_open()
    look_after()
    assert (refunds(made.record), made.is_open()) == ([made.record.cost], False)
    assert is_settled(customer)


def test_whoever_dies_before_the_row_is_gone_has_paid_nothing_back(order: Any, customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    made = order(FAILED)

    def die(_: OpenOperation) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(OpenOperation, "delete", die)
        with pytest.raises(KeyboardInterrupt):
            look_after()
    assert (refunds(made.record), made.is_open()) == ([], True)
    look_after(after=timedelta(hours=1))
    assert (refunds(made.record), made.is_open()) == ([made.record.cost], False)
    assert is_settled(customer)


# -- What nobody can tell the end of -----------------------------------------------------------------------------------------------------


def test_what_is_still_being_made_is_looked_at_again_after_growing_pauses(order: Any) -> None:
    made, began = order(NOT_YET), timezone.now()
    moments: list[datetime] = []
    for _ in range(4):
        moments.append(made.row.next_look_at)
        open_operations.look_after(now=moments[-1] - timedelta(seconds=1), limit=100_000, seconds=60)
        assert made.row.next_look_at == moments[-1]
        open_operations.look_after(now=moments[-1], limit=100_000, seconds=60)
    assert [round((moment - began) / timedelta(minutes=15)) for moment in moments] == [1, 3, 7, 15]
    assert (made.row.looks, refunds(made.record)) == (4, [])


def test_a_video_that_fails_late_is_paid_back_by_a_later_look(order: Any) -> None:
    made = order("polls=1;error=The service is out of resources.")
    look_after()
    assert (refunds(made.record), made.is_open()) == ([], True)
    look_after(after=timedelta(hours=1))
    assert (refunds(made.record), made.is_open()) == ([made.record.cost], False)


def test_the_pauses_grow_up_to_six_hours() -> None:
    minutes = [open_operations.wait_after(looks) // timedelta(minutes=1) for looks in (0, 1, 2, 3, 4, 5, 1000)]
    assert minutes == [15, 30, 60, 120, 240, 360, 360]


def test_a_provider_that_is_down_keeps_nobody_elses_money(order: Any, customer: Customer) -> None:
    down, up = [order(FAILED) for _ in range(4)], order(FAILED)
    there = {each.provider.pk: each.provider.base_url for each in down}
    Provider.objects.filter(pk__in=there).update(base_url=f"http://127.0.0.1:{free_port()}/v1")
    look_after()
    assert ([refunds(each.record) for each in down], refunds(up.record)) == ([[]] * 4, [up.record.cost])
    assert all(each.is_open() for each in down)
    for pk, base_url in there.items():
        Provider.objects.filter(pk=pk).update(base_url=base_url)
    look_after(after=timedelta(hours=1))
    assert [refunds(each.record) for each in down] == [[each.record.cost] for each in down]
    assert is_settled(customer)


def test_one_that_cannot_be_paid_back_keeps_nobody_elses_money(order: Any, customer: Customer) -> None:
    odd = order("polls=0;videos=1;filtered=1", sampleCount=2, durationSeconds=1)
    others = [order(FAILED) for _ in range(3)]
    price = odd.record.price_id
    UsageRecord.objects.filter(pk=odd.record.pk).update(price_id=2**31 - 1)
    look_after()
    UsageRecord.objects.filter(pk=odd.record.pk).update(price_id=price)
    assert ([refunds(each.record) for each in others], odd.is_open()) == ([[each.record.cost] for each in others], True)
    look_after(after=timedelta(hours=1))
    assert refunds(odd.record) == [odd.record.cost // 2]
    assert is_settled(customer)


def test_a_provider_that_is_busy_is_left_alone_for_the_round(order: Any, provider: Any) -> None:
    knobs = f"status=429;error={uuid.uuid4().hex}"
    first = order(knobs)
    more = [another_of(first.row) for _ in range(3 * open_operations.AT_ONCE)]
    look_after()
    asked = [request for request in provider.requests if f"chat:{knobs}".encode().hex() in request.path]
    assert 1 <= len(asked) <= open_operations.AT_ONCE
    assert all(row.looks == 1 for row in OpenOperation.objects.filter(pk__in=[row.pk for row in more]))


def test_another_key_of_the_provider_asks_when_the_first_is_gone(order: Any) -> None:
    made = order(FAILED)
    made.provider.keys.all().delete()
    look_after()
    assert (refunds(made.record), made.is_open()) == ([], True)  # nobody can ask
    key = ProviderKey(provider=made.provider)
    key.set_secret(f"sk-fake-{uuid.uuid4().hex}")
    key.save()
    look_after(after=timedelta(hours=1))
    assert (refunds(made.record), made.is_open()) == ([made.record.cost], False)


def test_a_provider_that_is_switched_off_may_come_back(order: Any) -> None:
    made = order(FAILED)
    Provider.objects.filter(pk=made.provider.pk).update(is_enabled=False)
    look_after()
    assert (refunds(made.record), made.is_open()) == ([], True)
    Provider.objects.filter(pk=made.provider.pk).update(is_enabled=True)
    look_after(after=timedelta(hours=1))
    assert (refunds(made.record), made.is_open()) == ([made.record.cost], False)


def test_what_has_no_end_after_three_days_is_given_up_and_stays_paid(order: Any, customer: Customer) -> None:
    made = order(NOT_YET)
    look_after(after=timedelta(days=3) - timedelta(minutes=1))
    assert made.is_open()
    look_after(after=timedelta(days=3, hours=7))
    assert (refunds(made.record), made.is_open()) == ([], False)
    assert is_settled(customer)


def test_what_failed_is_paid_back_by_the_last_look_too(order: Any) -> None:
    made = order(FAILED)
    look_after(after=timedelta(days=9))
    assert refunds(made.record) == [made.record.cost]


def test_what_its_provider_does_not_know_any_more_stays_paid(order: Any) -> None:
    made = order("status=404")
    look_after()
    assert (refunds(made.record), made.is_open()) == ([], False)


def test_another_key_that_does_not_know_an_operation_proves_nothing(order: Any) -> None:
    made = order("status=404")
    made.provider.keys.all().delete()
    key = ProviderKey(provider=made.provider)
    key.set_secret(f"sk-fake-{uuid.uuid4().hex}")
    key.save()
    look_after()
    assert made.is_open()


def test_a_name_that_does_not_open_waits_for_its_key(order: Any) -> None:
    made = order(FAILED)
    name = made.row.name
    OpenOperation.objects.filter(pk=made.record.request_id).update(name="gw1.old.AAAA")
    look_after()
    assert made.is_open()
    OpenOperation.objects.filter(pk=made.record.request_id).update(name=name)
    look_after(after=timedelta(hours=1))
    assert refunds(made.record) == [made.record.cost]


def test_what_is_not_booked_yet_waits(order: Any) -> None:
    row = another_of(order(FAILED).row)
    look_after()
    assert OpenOperation.objects.filter(pk=row.pk, looks=1).exists()
    look_after(after=timedelta(days=4))
    assert not OpenOperation.objects.filter(pk=row.pk).exists()


def test_what_was_not_reached_in_time_is_due_again_at_once(order: Any) -> None:
    made = order(FAILED)
    look_after(seconds=0)
    assert (made.row.looks, refunds(made.record)) == (0, [])
    look_after()
    assert refunds(made.record) == [made.record.cost]
