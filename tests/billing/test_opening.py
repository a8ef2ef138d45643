"""Facts about opening accounts, and about the commands that open, credit and audit."""

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.core.management.base import CommandError

from accounts.models import Account, Membership, User
from billing import opening
from billing.models import CreditGrant, Plan, PlanAssignment, Wallet
from tests.billing.desk import NOW, Desk, OpenDesk

USD = 10**9


@pytest.fixture
def slug() -> str:
    return f"t-{uuid.uuid4().hex[:20]}"


@pytest.fixture
def plan(slug: str) -> Plan:
    return Plan.objects.create(slug=slug)


def test_an_account_opens_with_wallet_owner_and_plan(slug: str, plan: Plan) -> None:
    email = f"Alice-{slug}@Example.com"
    account = opening.open_account(slug=slug, name="Alice's", owner_email=email, plan_slug=plan.slug, now=NOW)
    membership = Membership.objects.get(account=account)
    assert (membership.role, membership.user.email, membership.user.has_usable_password()) == ("owner", email.lower(), False)
    assert Wallet.objects.get(account=account).balance == 0
    assert PlanAssignment.objects.get(account=account).plan == plan


def test_opening_again_completes_and_changes_nothing(slug: str, plan: Plan) -> None:
    first = opening.open_account(slug=slug, name="Alice's", now=NOW, plan_slug=plan.slug)
    other = Plan.objects.create(slug=f"{slug}-2")
    for _ in range(2):
        again = opening.open_account(slug=slug, name="Other", owner_email=f"{slug}@example.com", plan_slug=other.slug, now=NOW)
        assert (again.pk, again.name) == (first.pk, "Alice's")
    assert PlanAssignment.objects.get(account=first).plan == plan
    assert Membership.objects.filter(account=first).count() == 1


def test_an_owner_who_exists_keeps_name_and_password(slug: str) -> None:
    user = User.objects.create_user(f"{slug}@example.com", "a long enough password")
    account = opening.open_account(slug=slug, name="Alice's", owner_email=f"{slug}@EXAMPLE.com", now=NOW)
    assert Membership.objects.get(account=account).user == user
    assert User.objects.get(pk=user.pk).check_password("a long enough password")


def test_an_unknown_plan_opens_nothing(slug: str) -> None:
    with pytest.raises(opening.PlanNotFound):
        opening.open_account(slug=slug, name="x", plan_slug="no-such-plan", now=NOW)
    assert not Account.objects.filter(slug=slug).exists()


@pytest.mark.parametrize(("name", "email"), [("Not A Slug", None), ("-x", None), ("fine", "nobody")])
def test_what_is_not_a_slug_or_an_address_opens_nothing(name: str, email: str | None, slug: str) -> None:
    chosen = f"{slug}-{name}" if name == "fine" else name
    with pytest.raises(ValidationError):
        opening.open_account(slug=chosen, name="x", owner_email=email, now=NOW)
    assert not Account.objects.filter(slug=chosen).exists()


def test_the_command_opens_an_account(slug: str, plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("create_account", slug, "--owner", f"{slug}@example.com", "--plan", plan.slug)
    assert slug in capsys.readouterr().out
    assert Wallet.objects.filter(account__slug=slug).exists()
    with pytest.raises(CommandError, match="no plan"):
        call_command("create_account", slug, "--plan", "no-such-plan")
    with pytest.raises(CommandError, match="lower-case"):
        call_command("create_account", "Not A Slug")


def test_the_command_grants_dollars_until_the_end_of_a_day_where_the_account_lives(
    open_desk: OpenDesk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = open_desk()
    Account.objects.filter(pk=desk.account.pk).update(timezone="Asia/Tokyo")
    call_command("grant", desk.slug, "12.5", "--reason", "welcome", "--expires", "2031-01-31")
    grant = CreditGrant.objects.get(wallet_id=desk.wallet_id)
    assert (grant.kind, grant.amount, grant.expires_at) == ("promo", 12_500_000_000, datetime(2031, 1, 31, 15, tzinfo=UTC))
    assert (grant.transfer.note, grant.transfer.debit_account) == ("welcome", "promo")
    assert "$12.50" in capsys.readouterr().out


def test_a_grant_with_a_reference_is_made_once(open_desk: OpenDesk) -> None:
    desk = open_desk()
    for _ in range(2):
        call_command("grant", desk.slug, "1", "--reason", "invoice", "--kind", "paid", "--reference", desk.slug)
    assert desk.balance == USD
    with pytest.raises(CommandError, match="booked"):
        call_command("grant", desk.slug, "2", "--reason", "invoice", "--kind", "paid", "--reference", desk.slug)


@pytest.mark.parametrize("amount", ["ten", "0", "-1", "0.0000000001", "NaN", "1e30"])
def test_what_is_not_an_amount_grants_nothing(open_desk: OpenDesk, amount: Any) -> None:
    desk = open_desk()
    with pytest.raises(CommandError):
        call_command("grant", desk.slug, "--reason", "x", "--", amount)
    assert desk.balance == 0


def test_nobody_is_granted_nothing() -> None:
    with pytest.raises(CommandError, match="no account"):
        call_command("grant", "no-such-account", "1", "--reason", "x")


def test_the_audit_command_is_silent_about_what_is_well(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("billing_audit", "--account", desk.slug)
    assert "Every invariant holds." in capsys.readouterr().out


def test_the_audit_command_fails_on_drift(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.sql.execute("UPDATE billing_wallet SET held = 5 WHERE id = %s", [desk.wallet_id])
    with pytest.raises(SystemExit) as ended:
        call_command("billing_audit", "--account", desk.slug, "--json")
    (drift,) = json.loads(capsys.readouterr().out)
    assert ended.value.code == 1
    assert (drift["invariant"], drift["account"], drift["expected"], drift["found"]) == ("I6", desk.slug, 0, 5)
    desk.sql.execute("UPDATE billing_wallet SET held = 0 WHERE id = %s", [desk.wallet_id])


def test_the_audit_command_knows_no_stranger() -> None:
    with pytest.raises(CommandError, match="no account"):
        call_command("billing_audit", "--account", "no-such-account")
