"""Facts about bought plans: whatever order the news of a subscription takes, its account ends on the same plan, with the same credit."""

import itertools
import random
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from accounts.models import AuditEvent, OutboxMessage, User
from billing import assignments, ledger, reconciliation
from billing.admin.plans import PlanAssignmentForm
from billing.models import CreditGrant, Plan, PlanAssignment, StripeCustomer, StripeEvent, Subscription, Transfer
from billing.payments import plan_changes, stripe_client, stripe_plans, subscriptions
from tests.billing.payments.conftest import Till
from tests.conftest import USD
from tests.fakes.stripe import FakeStripe

DAY = timedelta(days=1)


def new_plan(fake: FakeStripe, usd: int, credit_usd: int = 0, **fields: Any) -> Plan:
    """A plan that is for sale."""
    slug = f"plan-{uuid.uuid4().hex[:12]}"
    price: Any = {
        "currency": "usd",
        "unit_amount": usd * 100,
        "recurring": {"interval": "month"},
        "product_data": {"name": slug},
        "metadata": {"plan": slug},
    }
    made = stripe_client.call(lambda ready: ready.v1.prices.create(price))["id"]
    return Plan.objects.create(slug=slug, price_nano=usd * USD, included_credit_nano=credit_usd * USD, stripe_price_id=made, **fields)


class Buyer(Till):
    """A customer who buys plans; the clock is the fake's."""

    def __init__(self, fake: FakeStripe) -> None:
        super().__init__(fake)
        self.ahead = timedelta()
        self.account = self.customer.account
        PlanAssignment.objects.filter(account=self.account).update(starts_at=timezone.now() - DAY)
        self.user = User.objects.create_user(f"{uuid.uuid4().hex}@example.com")
        self.account.billing_email = self.user.email
        self.account.save()

    @property
    def now(self) -> datetime:
        return timezone.now() + self.ahead

    def wait(self, days: float) -> None:
        """Let time pass, at Stripe too."""
        self.ahead += timedelta(days=days)
        self.fake.advance(days * 86_400)

    def ask(self, plan: Plan) -> str:
        self._seen = len(self.fake.events)
        return subscriptions.subscribe(
            account=self.account, plan=plan, user=self.user, success_url="http://x/{SUBSCRIPTION}", cancel_url="http://x/", now=self.now
        )

    def buy(self, plan: Plan, number: str = "4242424242424242") -> Subscription:
        """Buy a plan on the page; no event has been handled."""
        self.ask(plan)
        row = Subscription.objects.get(account=self.account, status="incomplete")
        self.fake.pay(row.session_id or "", number)
        return row

    def bought(self, plan: Plan) -> Subscription:
        """Buy a plan, and hear of it."""
        row = self.buy(plan)
        self.listen()
        row.refresh_from_db()
        assert row.status == "active"
        return row

    def hear(self, events: Iterable[dict[str, Any]], *, now: datetime | None = None) -> list[StripeEvent.State | None]:
        """As everybody's, on this clock, and a moment after the event was received."""
        return super().hear(events, now=(now or self.now) + timedelta(minutes=1))

    def listen(self) -> None:
        """Hear all news, one after the other."""
        news = self.news()
        self.hear(news)
        failed = StripeEvent.objects.filter(state__in=["failed", "quarantined"], id__in=[event["id"] for event in news])
        assert not failed, [event.last_error for event in failed]

    def change(self, plan: Plan, **more: Any) -> Subscription:
        return subscriptions.change_plan(account=self.account, plan=plan, user=self.user, now=self.now, **more)

    @property
    def plan(self) -> Plan:
        """The plan in effect."""
        return self.assigned[-1].plan

    @property
    def assigned(self) -> list[PlanAssignment]:
        return list(
            PlanAssignment.objects.filter(account=self.account, starts_at__lte=self.now + timedelta(minutes=2)).order_by("starts_at")
        )

    @property
    def grants(self) -> list[int]:
        return list(CreditGrant.objects.filter(wallet=self.customer.wallet, kind="plan").order_by("id").values_list("amount", flat=True))

    def mails(self) -> list[str]:
        rows = OutboxMessage.objects.filter(account=self.account, kind="mail").order_by("id")
        return [row.dedupe_key.split(":")[1] for row in rows]


@pytest.fixture
def buyer(fake: FakeStripe) -> Buyer:
    if not Plan.objects.filter(is_default=True).exists():
        Plan.objects.create(slug=f"default-{uuid.uuid4().hex[:8]}", is_default=True)
    return Buyer(fake)


def drifts(buyer: Buyer) -> list[Any]:
    return reconciliation.audit(now=timezone.now(), accounts=[buyer.account.pk])


# -- Buying ------------------------------------------------------------------------------------------------------------------------------


def test_a_bought_plan_begins_with_its_credit_and_is_told(buyer: Buyer) -> None:
    team = new_plan(buyer.fake, 49, 20)
    row = buyer.bought(team)
    stripe = buyer.fake.object(str(row.stripe_id))
    assert (buyer.plan, buyer.balance, buyer.grants) == (team, 20 * USD, [20 * USD])
    assert buyer.assigned[-1].subscription == row
    assert buyer.assigned[-1].starts_at == datetime.fromtimestamp(stripe["start_date"], UTC)
    grant = CreditGrant.objects.get(wallet=buyer.customer.wallet, kind="plan")
    assert grant.expires_at == row.period_end
    assert AuditEvent.objects.filter(account=buyer.account, action="plan.started").count() == 1
    assert buyer.mails() == ["plan.started"]
    assert not drifts(buyer)


def test_asking_twice_gives_one_page_and_another_plan_closes_it(buyer: Buyer) -> None:
    team, pro = new_plan(buyer.fake, 49), new_plan(buyer.fake, 199)
    assert buyer.ask(team) == buyer.ask(team)
    (first,) = buyer.fake.objects("checkout.session")
    buyer.ask(pro)
    assert buyer.fake.object(first["id"])["status"] == "expired"
    assert Subscription.objects.get(session_id=first["id"]).status == "canceled"


def test_a_plan_bought_in_another_tab_is_noticed_before_a_second_is_sold(buyer: Buyer) -> None:
    team, pro = new_plan(buyer.fake, 49), new_plan(buyer.fake, 199)
    buyer.buy(team)
    with pytest.raises(assignments.SubscriptionRunning):
        buyer.ask(pro)
    assert buyer.plan == team


def test_a_second_subscription_waits_for_staff_and_grants_nothing(buyer: Buyer) -> None:
    team = new_plan(buyer.fake, 49, 20)
    row = buyer.bought(team)
    stripe = buyer.fake.object(str(row.stripe_id))
    twin = Subscription.objects.create(account=buyer.account, plan=team)
    session: Any = {
        "mode": "subscription", "customer": stripe["customer"], "line_items": [{"price": team.stripe_price_id, "quantity": 1}],
        "success_url": "http://x/", "metadata": {"subscription": str(twin.pk)}, "subscription_data": {"metadata": {"subscription": str(twin.pk)}},
    }  # fmt: skip
    made = stripe_client.create_session(session, idempotency_key=str(twin.pk))
    buyer.news()
    buyer.fake.pay(made.id)
    states = buyer.hear(buyer.news("customer.subscription.created", "invoice.paid"))
    assert states == [StripeEvent.State.QUARANTINED] * 2
    assert (buyer.balance, buyer.plan) == (20 * USD, team)


def test_news_that_is_handled_twice_at_the_same_moment_waits_for_nobody(buyer: Buyer, monkeypatch: pytest.MonkeyPatch) -> None:
    row = buyer.buy(new_plan(buyer.fake, 20, credit_usd=10))
    stripe_id = str(stripe_plans.fetch_session(row.session_id or "").subscription_id)
    asks = stripe_plans.fetch_subscription
    others: list[str] = []

    def slow(ident: str) -> stripe_plans.Standing:
        """Stripe answers after another process, told by another event, has done it all."""
        standing = asks(ident)
        if not others:
            others.append(ident)
            plan_changes.converge(stripe_id=ident, now=buyer.now)
        return standing

    monkeypatch.setattr(stripe_plans, "fetch_subscription", slow)
    found = plan_changes.converge(stripe_id=stripe_id, now=buyer.now)
    assert others == [stripe_id]
    assert found is not None
    assert (found.pk, found.status, found.stripe_id) == (row.pk, "active", stripe_id)
    assert len(buyer.grants) == 1


def test_what_is_not_for_sale_is_not_sold(buyer: Buyer) -> None:
    with pytest.raises(subscriptions.NotForSale):
        buyer.ask(Plan.objects.create(slug=f"given-{uuid.uuid4().hex[:8]}"))
    assert not Subscription.objects.filter(account=buyer.account).exists()


def test_a_lost_answer_to_subscribing_is_one_session(buyer: Buyer) -> None:
    buyer.fake.break_next("POST /v1/checkout/sessions", "lost")
    buyer.ask(new_plan(buyer.fake, 49))
    assert len(buyer.fake.objects("checkout.session")) == 1


def test_the_customers_return_is_enough_when_no_event_comes(buyer: Buyer) -> None:
    team = new_plan(buyer.fake, 49, 20)
    row = buyer.buy(team)
    assert plan_changes.converge_session(subscription_id=row.pk, now=buyer.now).status == "active"
    assert (buyer.plan, buyer.balance) == (team, 20 * USD)
    buyer.listen()
    assert (buyer.grants, len(buyer.assigned)) == ([20 * USD], len(buyer.assigned))


def test_a_page_that_nobody_paid_is_given_up(buyer: Buyer) -> None:
    buyer.ask(new_plan(buyer.fake, 49))
    row = Subscription.objects.get(account=buyer.account)
    buyer.wait(1.1)
    plan_changes.attend(now=buyer.now, limit=10_000)
    row.refresh_from_db()
    assert row.status == "canceled"
    assert not PlanAssignment.objects.filter(subscription=row).exists()


# -- Renewing ----------------------------------------------------------------------------------------------------------------------------


def test_a_renewal_grants_the_credit_again_and_the_old_one_expires(buyer: Buyer) -> None:
    team = new_plan(buyer.fake, 49, 20)
    row = buyer.bought(team)
    buyer.wait(32)
    buyer.listen()
    ledger.expire_grants(now=buyer.now, limit=1_000_000)
    assert (buyer.grants, buyer.balance) == ([20 * USD, 20 * USD], 20 * USD)
    assert [one.plan for one in buyer.assigned if one.subscription_id] == [team]
    row.refresh_from_db()
    assert row.period_start is not None
    assert row.period_start > row.created_at + 27 * DAY
    assert not drifts(buyer)


def test_a_changed_credit_leaves_what_was_granted_alone(buyer: Buyer) -> None:
    team = new_plan(buyer.fake, 49, 20)
    row = buyer.bought(team)
    Plan.objects.filter(pk=team.pk).update(included_credit_nano=99 * USD)
    plan_changes.converge(stripe_id=str(row.stripe_id), now=buyer.now)
    assert buyer.grants == [20 * USD]


def test_a_subscriber_at_an_old_price_keeps_plan_and_credit(buyer: Buyer) -> None:
    team = new_plan(buyer.fake, 49, 20)
    buyer.bought(team)
    Plan.objects.filter(pk=team.pk).update(stripe_price_id="price_new", price_nano=59 * USD)
    buyer.wait(32)
    buyer.listen()
    assert (buyer.grants, buyer.plan) == ([20 * USD, 20 * USD], team)


# -- Changing ----------------------------------------------------------------------------------------------------------------------------


def test_an_upgrade_begins_now_and_is_prorated_with_its_credit(buyer: Buyer) -> None:
    team, pro = new_plan(buyer.fake, 50, 20), new_plan(buyer.fake, 200, 100)
    row = buyer.bought(team)
    buyer.wait(15)
    quote = subscriptions.quote(account=buyer.account, plan=pro, now=buyer.now)
    changed = buyer.change(pro, quoted_at=quote.quoted_at)
    assert (quote.kind, changed.plan, buyer.plan) == ("now", pro, pro)
    (invoice,) = buyer.fake.objects("invoice", billing_reason="subscription_update")
    assert invoice["amount_paid"] == quote.due_minor
    share = quote.due_minor / 15_000
    assert 0.4 < share < 0.6
    assert buyer.grants[1] == pytest.approx(80 * USD * share, rel=0.001)
    buyer.listen()
    assert len(buyer.grants) == 2
    assert buyer.assigned[-1].anchor_day == next(one for one in buyer.assigned if one.subscription_id == row.pk).anchor_day
    assert not drifts(buyer)


def test_an_upgrade_whose_payment_is_refused_changes_nothing(buyer: Buyer) -> None:
    team, pro = new_plan(buyer.fake, 49, 20), new_plan(buyer.fake, 199, 100)
    row = buyer.bought(team)
    buyer.fake.change_card(buyer.fake.object(str(row.stripe_id))["default_payment_method"], "4000000000000002")
    with pytest.raises(subscriptions.PaymentRefused, match="declined"):
        buyer.change(pro)
    buyer.listen()
    assert (buyer.plan, buyer.grants) == (team, [20 * USD])
    row.refresh_from_db()
    assert row.status == "active"


def test_asking_twice_for_an_upgrade_charges_once(buyer: Buyer) -> None:
    team, pro = new_plan(buyer.fake, 49), new_plan(buyer.fake, 199)
    buyer.bought(team)
    buyer.change(pro)
    with pytest.raises(subscriptions.NothingToChange):
        buyer.change(pro)
    assert len(buyer.fake.objects("invoice", billing_reason="subscription_update")) == 1


def test_a_downgrade_begins_with_the_next_period_and_charges_nothing_before(buyer: Buyer) -> None:
    team, pro = new_plan(buyer.fake, 49, 20), new_plan(buyer.fake, 199, 100)
    row = buyer.bought(pro)
    assert subscriptions.quote(account=buyer.account, plan=team, now=buyer.now).kind == "at_end"
    changed = buyer.change(team)
    assert (changed.plan, changed.next_plan, buyer.plan) == (pro, team, pro)
    buyer.listen()
    assert (buyer.plan, len(buyer.fake.objects("invoice"))) == (pro, 1)
    end = changed.period_end
    buyer.wait(32)
    buyer.listen()
    row.refresh_from_db()
    assert (row.plan, row.next_plan, buyer.plan) == (team, None, team)
    assert buyer.assigned[-1].starts_at == end
    assert buyer.mails() == ["plan.started", "plan.changed", "plan.renewed"]
    assert buyer.grants == [100 * USD, 20 * USD]
    assert [one["amount_paid"] for one in buyer.fake.objects("invoice")] == [19_900, 4_900]
    assert not drifts(buyer)


def test_a_downgrade_can_be_undone_and_has_to_be_before_an_upgrade(buyer: Buyer) -> None:
    team, pro, top = (new_plan(buyer.fake, usd) for usd in (49, 199, 499))
    buyer.bought(pro)
    buyer.change(team)
    with pytest.raises(subscriptions.ChangeScheduled):
        buyer.change(top)
    with pytest.raises(subscriptions.NothingToChange):
        buyer.change(team)
    assert subscriptions.quote(account=buyer.account, plan=pro, now=buyer.now).kind == "undo"
    undone = buyer.change(pro)
    assert (undone.plan, undone.next_plan) == (pro, None)
    buyer.wait(32)
    buyer.listen()
    assert [one["amount_paid"] for one in buyer.fake.objects("invoice")] == [19_900, 19_900]
    assert buyer.change(top).plan == top


def test_a_crash_after_stripe_changed_the_plan_loses_nothing(buyer: Buyer, monkeypatch: pytest.MonkeyPatch) -> None:
    team, pro = new_plan(buyer.fake, 49, 20), new_plan(buyer.fake, 199, 100)
    buyer.bought(pro)

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(subscriptions, "_done", die)
        with pytest.raises(KeyboardInterrupt):
            buyer.change(team)
    buyer.listen()
    row = subscriptions.current(buyer.account)
    assert row is not None
    assert (row.plan, row.next_plan, buyer.plan) == (pro, team, pro)


# -- Ending ------------------------------------------------------------------------------------------------------------------------------


def test_a_cancelled_plan_stays_until_its_end_and_can_be_resumed(buyer: Buyer) -> None:
    team = new_plan(buyer.fake, 49, 20)
    buyer.bought(team)
    assert subscriptions.cancel(account=buyer.account, user=buyer.user, now=buyer.now).cancels_at_end
    with pytest.raises(subscriptions.CancelsAtEnd):
        buyer.change(new_plan(buyer.fake, 199))
    assert not subscriptions.resume(account=buyer.account, user=buyer.user, now=buyer.now).cancels_at_end
    row = subscriptions.cancel(account=buyer.account, user=buyer.user, now=buyer.now)
    assert buyer.plan == team
    buyer.wait(32)
    buyer.listen()
    assert buyer.plan == assignments.default_plan()
    assert buyer.assigned[-1].starts_at == row.period_end
    assert buyer.mails() == ["plan.started", "plan.ended"]
    assert subscriptions.current(buyer.account) is None
    with pytest.raises(subscriptions.NoSubscription):
        subscriptions.resume(account=buyer.account, user=buyer.user, now=buyer.now)
    assert {"plan.cancelled", "plan.resumed", "plan.ended"} <= set(
        AuditEvent.objects.filter(account=buyer.account).values_list("action", flat=True)
    )


def test_a_plan_that_is_past_due_stays_for_its_grace_and_comes_back_when_it_is_paid(buyer: Buyer, settings: Any) -> None:
    settings.PAST_DUE_GRACE_DAYS = 7
    team = new_plan(buyer.fake, 49, 20)
    row = buyer.bought(team)
    card = buyer.fake.object(str(row.stripe_id))["default_payment_method"]
    buyer.fake.change_card(card, "4000000000000002")
    assert row.period_end is not None
    buyer.wait((row.period_end - buyer.now) / DAY + 0.1)
    buyer.listen()
    row.refresh_from_db()
    assert (row.status, buyer.plan, buyer.grants) == ("past_due", team, [20 * USD])
    with pytest.raises(subscriptions.PaymentMissing) as missing:
        buyer.change(new_plan(buyer.fake, 199))
    assert "/invoices/" in missing.value.pay_url
    buyer.wait(6.5)
    plan_changes.attend(now=buyer.now, limit=10_000)
    assert buyer.plan == team
    buyer.wait(1)
    plan_changes.attend(now=buyer.now, limit=10_000)
    plan_changes.attend(now=buyer.now, limit=10_000)
    assert buyer.plan == assignments.default_plan()
    buyer.fake.change_card(card, "4242424242424242")
    (late,) = buyer.fake.objects("invoice", status="open")
    stripe_client.call(lambda ready: ready.v1.invoices.pay(late["id"]))
    buyer.listen()
    assert (buyer.plan, buyer.grants) == (team, [20 * USD, 20 * USD])
    assert [one.plan for one in buyer.assigned[-3:]] == [team, assignments.default_plan(), team]
    assert buyer.mails() == ["plan.started", "plan.past_due", "plan.renewed"]


def test_a_past_due_plan_can_be_ended_at_once(buyer: Buyer) -> None:
    row = buyer.bought(new_plan(buyer.fake, 49))
    buyer.fake.change_card(buyer.fake.object(str(row.stripe_id))["default_payment_method"], "4000000000000002")
    buyer.wait(32)
    buyer.listen()
    assert subscriptions.cancel(account=buyer.account, user=buyer.user, now=buyer.now).status == "canceled"
    assert buyer.plan == assignments.default_plan()


def test_a_plan_that_ended_at_stripe_can_be_bought_again_before_the_news_is_here(buyer: Buyer) -> None:
    team, pro = new_plan(buyer.fake, 49, 20), new_plan(buyer.fake, 199, 100)
    first = buyer.bought(team)
    stripe_plans.end_subscription(str(first.stripe_id))
    ended = buyer.news()
    plan_changes.converge(stripe_id=str(first.stripe_id), now=buyer.now)
    buyer.bought(pro)
    buyer.hear(ended)
    assert (buyer.plan, buyer.grants) == (pro, [20 * USD, 100 * USD])


# -- Whatever the order ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_every_order_of_a_history_ends_in_the_same_plan_and_balance(buyer: Buyer, seed: int) -> None:
    """Bought, upgraded, renewed, cancelled, ended: the events of all of it arrive at the end, or on the way, in any order, some twice."""
    chance = random.Random(seed)
    team, pro = new_plan(buyer.fake, 50, 20), new_plan(buyer.fake, 200, 100)
    row = buyer.buy(team)
    waiting = buyer.news()

    def hear_some() -> None:
        waiting.extend(buyer.news())
        chance.shuffle(waiting)
        for _ in range(chance.randint(0, len(waiting) // 2)):
            buyer.hear([waiting.pop()])

    hear_some()
    plan_changes.converge_session(subscription_id=row.pk, now=buyer.now)
    buyer.change(pro, quoted_at=buyer.now)
    hear_some()
    buyer.wait(32)
    hear_some()
    stripe_client.call(lambda ready: ready.v1.subscriptions.cancel(str(Subscription.objects.get(pk=row.pk).stripe_id)))
    hear_some()
    waiting += [*buyer.news(), *chance.sample(waiting, len(waiting) // 3)]
    chance.shuffle(waiting)
    buyer.hear(waiting)
    row.refresh_from_db()
    assert (row.status, buyer.plan) == ("canceled", assignments.default_plan())
    assert buyer.grants == [20 * USD, pytest.approx(80 * USD, rel=0.001), 100 * USD]
    starts = [one.starts_at for one in buyer.assigned]
    assert starts == sorted(set(starts))
    ledger.expire_grants(now=buyer.now, limit=1_000_000)
    assert buyer.balance == 100 * USD
    assert not drifts(buyer)


def test_first_news_in_every_order_are_one_start(buyer: Buyer) -> None:
    team = new_plan(buyer.fake, 49, 20)
    kinds = ("customer.subscription.created", "invoice.paid", "checkout.session.completed")
    for order in itertools.permutations(kinds):
        one = Buyer(buyer.fake)
        one.buy(team)
        news = {event["type"]: event for event in one.news(*kinds)}
        one.hear([news[kind] for kind in order])
        assert (one.plan, one.grants, len([a for a in one.assigned if a.subscription_id])) == (team, [20 * USD], 1)
        assert AuditEvent.objects.filter(account=one.account, action="plan.started").count() == 1


# -- Beside it ---------------------------------------------------------------------------------------------------------------------------


def test_staff_cannot_undo_what_is_paid_for(buyer: Buyer) -> None:
    given = Plan.objects.create(slug=f"given-{uuid.uuid4().hex[:8]}")
    assignments.assign_by_staff(account=buyer.account, plan=given, user=buyer.user, now=buyer.now)
    assignments.assign_by_staff(account=buyer.account, plan=given, user=buyer.user, now=buyer.now, starts_at=buyer.now + 9 * DAY)
    team = new_plan(buyer.fake, 49)
    buyer.bought(team)
    with pytest.raises(assignments.SubscriptionRunning):
        assignments.assign_by_staff(account=buyer.account, plan=given, user=buyer.user, now=buyer.now)
    buyer.ahead = 10 * DAY
    assert buyer.plan == team


def test_the_card_that_pays_the_plan_becomes_the_saved_one_of_an_account_without(buyer: Buyer) -> None:
    buyer.bought(new_plan(buyer.fake, 49))
    customer = StripeCustomer.objects.get(account=buyer.account)
    assert (customer.card_brand, customer.card_last_four) == ("visa", "4242")


def test_the_quota_begins_anew_on_the_day_it_was_bought_where_the_account_is(buyer: Buyer) -> None:
    buyer.account.timezone = "Pacific/Kiritimati"  # 14 hours ahead
    buyer.account.save()
    row = buyer.bought(new_plan(buyer.fake, 49))
    anchor = datetime.fromtimestamp(buyer.fake.object(str(row.stripe_id))["billing_cycle_anchor"], UTC) + timedelta(hours=14)
    assert buyer.assigned[-1].anchor_day == anchor.day


def test_another_use_of_the_same_stripe_account_is_nothing_of_ours(buyer: Buyer) -> None:
    team = new_plan(buyer.fake, 49)
    customer = stripe_client.create_customer(name="Someone", email="", metadata={})
    session: Any = {
        "mode": "subscription", "customer": customer.id, "line_items": [{"price": team.stripe_price_id, "quantity": 1}], "success_url": "http://x/",
    }  # fmt: skip
    made = stripe_client.create_session(session, idempotency_key=uuid.uuid4().hex)
    buyer.news()
    buyer.fake.pay(made.id)
    states = buyer.hear(buyer.news("checkout.session.completed", "customer.subscription.created", "invoice.paid"))
    assert states == [StripeEvent.State.IGNORED] * 3
    assert not Transfer.objects.filter(kind="plan", wallet=buyer.customer.wallet).exists()


def test_the_admin_refuses_a_free_plan_beside_a_bought_one(buyer: Buyer) -> None:
    given = Plan.objects.create(slug=f"given-{uuid.uuid4().hex[:8]}")

    def form() -> PlanAssignmentForm:
        said = {"plan": given.pk, "starts_at": buyer.now, "anchor_day": 1}
        return PlanAssignmentForm(data=said, instance=PlanAssignment(account=buyer.account))

    assert form().is_valid()
    team = new_plan(buyer.fake, 49)
    buyer.bought(team)
    assert f"buys the plan {team}" in str(form().errors)
