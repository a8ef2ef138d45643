"""Facts about alerts: each crossing is told exactly once, whoever looks, however often, and whenever somebody is killed."""

import itertools
import threading
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.db import connection, transaction
from django.utils import timezone

from accounts.models import Membership, OutboxMessage, User
from billing import ledger, task_runs, tasks
from billing.models import Alert, AlertSettings, CreditGrant, UsageSlot, WalletArming
from billing.notices import alerts, telling
from gateway_site.celery import app
from keys.models import ApiKey
from tests.conftest import USD, Customer

DAY = timedelta(days=1)
numbers = itertools.count(1)


def top_up(customer: Customer, usd: float) -> None:
    ledger.credit(
        wallet_id=customer.wallet.pk,
        amount=int(usd * USD),
        kind="promo",
        debit_account="promo",
        source_type="test",
        source_id=uuid.uuid4().hex,
        actor="test",
        note="",
        now=timezone.now(),
    )


def spend(customer: Customer, usd: float) -> None:
    ledger.debit(
        wallet_id=customer.wallet.pk,
        amount=int(usd * USD),
        kind="adjustment",
        credit_account="manual",
        source_type="test",
        source_id=uuid.uuid4().hex,
        actor="test",
        note="",
        now=timezone.now(),
    )


def look(customer: Customer) -> None:
    alerts.watch_balance(wallet_id=customer.wallet.pk, now=timezone.now())


def raised(customer: Customer, kind: str) -> int:
    return Alert.objects.filter(account=customer.account, kind=kind).count()


def told(customer: Customer, event: str = "") -> list[str]:
    found = OutboxMessage.objects.filter(account=customer.account, kind="mail", dedupe_key__startswith=f"mail:{event}")
    return list(found.order_by("id").values_list("subject", flat=True))


@pytest.fixture
def alice(new_customer: Callable[..., Customer]) -> Customer:
    """Ten dollars, and an address to be told at; she is warned below five."""
    made = new_customer(usd="10")
    made.account.billing_email = f"{uuid.uuid4().hex}@example.com"
    made.account.save()
    return made


# -- Low balance -------------------------------------------------------------------------------------------------------------------------


def test_a_crossing_is_told_once_however_often_somebody_looks(alice: Customer) -> None:
    look(alice)
    spend(alice, 6)
    for _ in range(3):
        look(alice)
        alerts.tell_alerts(now=timezone.now())
        spend(alice, 0.1)
    assert told(alice) == [f"Low balance: $4.00 left in {alice.account.name}"]


def test_a_top_up_that_lifts_the_balance_arms_again_and_a_small_one_does_not(alice: Customer) -> None:
    spend(alice, 6)
    look(alice)
    top_up(alice, 0.5)
    look(alice)
    spend(alice, 0.5)
    look(alice)
    assert raised(alice, "low_balance") == 1
    top_up(alice, 6)
    look(alice)
    spend(alice, 6)
    look(alice)
    assert raised(alice, "low_balance") == 2


def test_a_crossing_between_two_looks_is_not_missed_and_one_that_is_over_is_not_told(alice: Customer) -> None:
    look(alice)
    spend(alice, 6)
    top_up(alice, 6)
    look(alice)
    assert raised(alice, "low_balance") == 0, "it has been topped up already"
    spend(alice, 6)
    look(alice)
    top_up(alice, 6)
    spend(alice, 6)
    look(alice)
    assert raised(alice, "low_balance") == 2


def test_what_never_reached_the_threshold_does_not_fall_below_it(new_customer: Callable[..., Customer]) -> None:
    small = new_customer(usd="1")
    spend(small, 0.5)
    look(small)
    assert raised(small, "low_balance") == 0


def test_a_threshold_of_nothing_warns_never_and_another_is_kept_to(alice: Customer, new_customer: Callable[..., Customer]) -> None:
    bob = new_customer(usd="10")
    AlertSettings.objects.create(account=alice.account, low_balance_nano=0)
    AlertSettings.objects.create(account=bob.account, low_balance_nano=8 * USD)
    for someone in (alice, bob):
        spend(someone, 3)
        look(someone)
    assert [raised(alice, "low_balance"), raised(bob, "low_balance")] == [0, 1]


def test_only_wallets_that_moved_lately_are_looked_at_and_none_of_them_is_forgotten(alice: Customer) -> None:
    spend(alice, 6)
    alerts.watch_balances(since=timezone.now() + DAY, now=timezone.now())
    assert not WalletArming.objects.filter(wallet=alice.wallet).exists()
    alerts.watch_and_tell(since=None, now=timezone.now())
    assert len(told(alice)) == 1


def test_many_who_look_at_once_raise_one_alert_and_send_one_mail(alice: Customer) -> None:
    spend(alice, 6)
    start = threading.Barrier(6)

    def work() -> None:
        start.wait()
        look(alice)
        alerts.tell_alerts(now=timezone.now())
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert raised(alice, "low_balance") == 1
    assert len(told(alice)) == 1
    assert WalletArming.objects.get(wallet=alice.wallet).is_armed is False


def test_who_dies_before_the_commit_has_neither_looked_nor_told(alice: Customer) -> None:
    class Killed(BaseException):
        """What a killed worker leaves of its transaction."""

    spend(alice, 6)
    with pytest.raises(Killed), transaction.atomic():
        look(alice)
        raise Killed
    assert raised(alice, "low_balance") == 0
    look(alice)
    with pytest.raises(Killed), transaction.atomic():
        alerts.tell_alerts(now=timezone.now())
        raise Killed
    assert told(alice) == []
    alerts.tell_alerts(now=timezone.now())
    alerts.tell_alerts(now=timezone.now())
    assert len(told(alice)) == 1


# -- Days left ---------------------------------------------------------------------------------------------------------------------------


def use(customer: Customer, usd: float, *, days_ago: float, now: datetime) -> None:
    UsageSlot.objects.create(
        account=customer.account,
        key=customer.key,
        model=f"demo/{next(numbers)}",
        provider="demo",
        starts_at=now - days_ago * DAY,
        requests=1,
        cost=int(usd * USD),
    )


def test_a_balance_that_ends_soon_is_told_once_for_each_top_up(alice: Customer) -> None:
    now = timezone.now()
    use(alice, 34, days_ago=6.999, now=now)
    try:
        for _ in range(2):
            alerts.watch_days_left(now=now)
            alerts.tell_alerts(now=now)
        assert told(alice) == [f"$10.00 of {alice.account.name} lasts 2 more days"]
        top_up(alice, 100)
        alerts.watch_days_left(now=now)
        assert raised(alice, "days_left") == 1
        spend(alice, 96)
        alerts.watch_days_left(now=now)
        assert raised(alice, "days_left") == 2
    finally:
        UsageSlot.objects.filter(account=alice.account).delete()


def test_who_began_today_is_judged_by_a_day_and_who_wants_no_warning_gets_none(
    alice: Customer, new_customer: Callable[..., Customer]
) -> None:
    now, bob = timezone.now(), new_customer(usd="10")
    AlertSettings.objects.create(account=bob.account, days_left=0)
    for someone in (alice, bob):
        use(someone, 4, days_ago=0.2, now=now)
    try:
        alerts.watch_days_left(now=now)
        assert Alert.objects.get(account=alice.account, kind="days_left").value == 4 * USD
        assert raised(bob, "days_left") == 0
    finally:
        UsageSlot.objects.filter(account__in=[alice.account, bob.account]).delete()


def test_an_empty_wallet_and_a_slow_one_are_not_warned_of(alice: Customer) -> None:
    now = timezone.now()
    use(alice, 7, days_ago=6.999, now=now)
    try:
        alerts.watch_days_left(now=now)
        assert raised(alice, "days_left") == 0
        assert CreditGrant.objects.filter(wallet=alice.wallet).exists()
    finally:
        UsageSlot.objects.filter(account=alice.account).delete()


# -- Budgets, quotas, keys ---------------------------------------------------------------------------------------------------------------


def cross(customer: Customer, threshold: int, *, kind: str = "budget", limit: int = 10 * USD, window: str = "2026-11-01") -> None:
    subject = f"key:{customer.key.pk}" if kind == "budget" else "account"
    Alert.objects.create(
        account=customer.account,
        kind=kind,
        subject=subject,
        window=window,
        limit=limit,
        threshold=threshold,
        value=limit * threshold // 100,
    )


def make_owner(customer: Customer) -> None:
    user = User.objects.create_user(f"{uuid.uuid4().hex}@example.com")
    Membership.objects.create(account=customer.account, user=user, role="owner")


def test_each_threshold_of_a_budget_is_told_and_a_raised_limit_anew(alice: Customer) -> None:
    make_owner(alice)
    for threshold in (50, 80, 100):
        cross(alice, threshold)
        alerts.tell_alerts(now=timezone.now())
    cross(alice, 50, limit=30 * USD)
    alerts.tell_alerts(now=timezone.now())
    assert told(alice) == [f"Key test key has spent {threshold} % of its budget" for threshold in (50, 80, 100, 50)]


def test_of_thresholds_crossed_at_once_the_highest_is_told(alice: Customer) -> None:
    for threshold in (50, 80):
        cross(alice, threshold, kind="quota_input", limit=1000)
    cross(alice, 50, kind="quota_output", limit=1000)
    alerts.tell_alerts(now=timezone.now())
    assert sorted(told(alice)) == [
        f"{alice.account.name} has used 50 % of its output tokens",
        f"{alice.account.name} has used 80 % of its input tokens",
    ]
    assert not Alert.objects.filter(account=alice.account, told_at=None).exists()


def test_who_wants_no_warnings_of_limits_gets_no_mail(alice: Customer) -> None:
    AlertSettings.objects.create(account=alice.account, limits=False)
    cross(alice, 80, kind="quota_input", limit=1000)
    alerts.tell_alerts(now=timezone.now())
    assert told(alice) == []
    assert not Alert.objects.filter(account=alice.account, told_at=None).exists()


def test_one_alert_that_cannot_be_told_does_not_silence_the_others(alice: Customer, stranger: Customer) -> None:
    broken = Alert.objects.create(
        account=stranger.account, kind="budget", subject="key:nonsense", window="x", limit=1, threshold=50, value=1
    )
    cross(alice, 80, kind="quota_input", limit=1000)
    alerts.tell_alerts(now=timezone.now())
    assert len(told(alice)) == 1
    broken.refresh_from_db()
    assert broken.told_at is None
    broken.delete()


def test_a_key_that_expires_is_told_a_week_and_a_day_before(alice: Customer) -> None:
    make_owner(alice)
    now = timezone.now()
    ApiKey.objects.filter(pk=alice.key.pk).update(created_at=now - 30 * DAY, expires_at=now + 10 * DAY)
    for days_later in (0, 4, 4, 9.5, 9.5, 11):
        alerts.look_ahead(now=now + days_later * DAY)
        alerts.tell_alerts(now=now + days_later * DAY)
    assert told(alice) == ["Key test key expires within 7 days", "Key test key expires within a day"]


def test_a_key_made_for_a_few_days_is_told_the_last_day_only_and_a_revoked_one_not_at_all(alice: Customer, stranger: Customer) -> None:
    now = timezone.now()
    ApiKey.objects.filter(pk=alice.key.pk).update(created_at=now, expires_at=now + 3 * DAY)
    ApiKey.objects.filter(pk=stranger.key.pk).update(created_at=now - 9 * DAY, expires_at=now + DAY, revoked_at=now)
    for days_later in (0, 1, 2.5):
        alerts.watch_keys(now=now + days_later * DAY)
    assert list(Alert.objects.filter(account=alice.account).values_list("threshold", flat=True)) == [1]
    assert raised(stranger, "key_expiring") == 0


def test_every_kind_of_alert_leads_to_an_event_that_is_declared(alice: Customer) -> None:
    make_owner(alice)
    ApiKey.objects.filter(pk=alice.key.pk).update(expires_at=timezone.now() + DAY)
    for kind, describe in alerts.DESCRIBED.items():
        subject = f"key:{alice.key.pk}" if kind in ("budget", "key_expiring") else "account"
        alert = Alert(account=alice.account, kind=kind, subject=subject, window="w", limit=2, threshold=1, value=1)
        event, context = describe(alert, timezone.now())
        assert set(context) >= set(telling.EVENTS[event].context), kind


# -- The tasks -----------------------------------------------------------------------------------------------------------------------------


def test_the_tasks_that_celery_wakes_carry_a_crossing_to_a_mail(alice: Customer) -> None:
    spend(alice, 6)
    began = timezone.now()
    for task in (tasks.look_ahead, tasks.raise_alerts, tasks.deliver_outbox, tasks.call_webhooks):
        task()
    message = OutboxMessage.objects.get(account=alice.account, kind="mail")
    while message.state == "waiting" and not message.attempts:  # behind what other tests left: a run ends after a thousand mails
        tasks.deliver_outbox()
        message.refresh_from_db()
    assert message.state == "sent"
    for name in ("look_ahead", "raise_alerts", "deliver_outbox", "call_webhooks"):
        finished = task_runs.last_finished(name)
        assert finished is not None
        assert finished >= began
    woken = {str(entry["task"]) for entry in app.conf.beat_schedule.values()}
    assert {f"billing.tasks.{name}" for name in ("look_ahead", "raise_alerts", "deliver_outbox", "call_webhooks")} <= woken
