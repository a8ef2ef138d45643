"""Facts about the plans' prices at Stripe: made once for each amount, found again, and never taken from those who agreed to them."""

import io
import uuid
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from billing.models import Plan
from billing.payments import plan_prices, stripe_client, stripe_plans
from tests.fakes.stripe import FakeStripe


@pytest.fixture
def slug() -> str:
    return f"plan-{uuid.uuid4().hex[:12]}"


def apply(tmp_path: Path, text: str, *flags: str) -> str:
    file, out = tmp_path / f"{uuid.uuid4().hex}.yaml", io.StringIO()
    file.write_text(text)
    call_command("apply", str(file), *flags, stdout=out)
    return out.getvalue()


def test_the_command_makes_the_price_once_and_a_new_one_for_a_new_amount(fake: FakeStripe, slug: str, tmp_path: Path) -> None:
    text = f"plans: [{{slug: {slug}, price_usd: '49', included_credit_usd: '20.50'}}]"
    told = apply(tmp_path, text, "--sync-stripe")
    plan = Plan.objects.get(slug=slug)
    assert f"stripe_price none → {plan.stripe_price_id}" in told
    assert plan.included_credit_nano == 20_500_000_000
    first = fake.object(plan.stripe_price_id)
    assert (first["unit_amount"], first["lookup_key"], first["recurring"]["interval"]) == (4900, f"tollgate-plan-{slug}-4900", "month")
    assert apply(tmp_path, text, "--sync-stripe") == "= nothing to change\n"
    apply(tmp_path, text.replace("'49'", "'59'"), "--sync-stripe")
    plan.refresh_from_db()
    second = fake.object(plan.stripe_price_id)
    assert (second["unit_amount"], second["product"]) == (5900, first["product"])
    assert fake.object(first["id"])["active"]
    assert stripe_plans.plan_of(stripe_plans.read_price(first)) == plan
    apply(tmp_path, text, "--sync-stripe")
    plan.refresh_from_db()
    assert plan.stripe_price_id == first["id"]
    assert len(fake.objects("price")) == 2


def test_a_lost_answer_makes_no_second_price(fake: FakeStripe, slug: str) -> None:
    Plan.objects.create(slug=slug, price_nano=49 * 10**9)
    fake.break_next("POST /v1/prices", "lost")
    plan_prices.sync(slugs=[slug])
    Plan.objects.filter(slug=slug).update(stripe_price_id="")  # killed before it was written down
    plan_prices.sync(slugs=[slug])
    assert [one["id"] for one in fake.objects("price")] == [Plan.objects.get(slug=slug).stripe_price_id]


def test_a_dry_run_a_free_plan_and_a_price_that_is_named_are_left_alone(fake: FakeStripe, slug: str, tmp_path: Path) -> None:
    apply(tmp_path, f"plans: [{{slug: {slug}, price_usd: '49'}}]", "--sync-stripe", "--dry-run")
    apply(tmp_path, f"plans: [{{slug: {slug}, price_usd: '0'}}]", "--sync-stripe")
    apply(tmp_path, f"plans: [{{slug: {slug}-2, price_usd: '9', stripe_price: price_mine}}]", "--sync-stripe")
    assert Plan.objects.get(slug=f"{slug}-2").stripe_price_id == "price_mine"
    assert fake.objects("price") == []
    assert not [call for call in fake.calls if call.method == "POST"]


def test_what_cannot_be_charged_or_asked_is_told(fake: FakeStripe, slug: str, tmp_path: Path, settings: Any) -> None:
    with pytest.raises(CommandError, match="whole cents"):
        apply(tmp_path, f"plans: [{{slug: {slug}, price_usd: '0.501'}}]", "--sync-stripe")
    settings.STRIPE_SECRET_KEY = ""
    with pytest.raises(CommandError, match="STRIPE_SECRET_KEY"):
        apply(tmp_path, f"plans: [{{slug: {slug}, price_usd: '5'}}]", "--sync-stripe")
    assert Plan.objects.get(slug=slug).price_nano == 5 * 10**9
    with pytest.raises(stripe_client.NotConfigured):
        plan_prices.sync(slugs=[slug])
    assert fake.objects("price") == []
