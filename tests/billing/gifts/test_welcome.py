"""Facts about the welcome credit."""

import uuid
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from accounts.models import Account
from billing import opening
from billing.gifts import welcome
from billing.models import CreditGrant
from tests.billing.gifts.test_codes import balance_of, together

NOW = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
USD = 1_000_000_000


@pytest.fixture(autouse=True)
def _three_dollars_for_a_month(settings: Any) -> None:
    settings.WELCOME_CREDIT_USD = "3"
    settings.WELCOME_CREDIT_DAYS = 30


def new_account(owner: str | None = None) -> Account:
    slug = f"w-{uuid.uuid4().hex[:20]}"
    return opening.open_account(slug=slug, name=slug, owner_email=owner, now=NOW)


def new_address() -> str:
    return f"{uuid.uuid4().hex}@example.com"


def test_a_new_account_gets_it_once_as_a_promo_grant() -> None:
    account = new_account(new_address())
    transfer = welcome.grant_welcome(account=account, now=NOW)
    assert transfer is not None
    assert transfer.source_id == f"welcome:{account.pk}"
    assert welcome.grant_welcome(account=account, now=NOW) is None
    grant = CreditGrant.objects.get(wallet=account.wallet)
    assert (grant.kind, grant.expires_at, balance_of(account)) == ("promo", NOW + timedelta(days=30), 3 * USD)


def test_a_person_with_five_accounts_gets_it_once_even_at_the_same_moment() -> None:
    address = new_address()
    accounts = [new_account(address) for _ in range(5)]
    results = together([partial(welcome.grant_welcome, account=account, now=NOW) for account in accounts * 4])
    assert sum(result is not None for result in results) == 1, results
    assert sum(balance_of(account) for account in accounts) == 3 * USD


def test_an_account_without_an_owner_gets_it_for_itself() -> None:
    account = new_account()
    results = together([lambda: welcome.grant_welcome(account=account, now=NOW)] * 8)
    assert sum(result is not None for result in results) == 1
    assert balance_of(account) == 3 * USD


def test_without_the_setting_nothing_is_given(settings: Any) -> None:
    settings.WELCOME_CREDIT_USD = "0"
    account = new_account(new_address())
    assert welcome.grant_welcome(account=account, now=NOW) is None
    assert balance_of(account) == 0


def test_without_days_it_never_expires(settings: Any) -> None:
    settings.WELCOME_CREDIT_DAYS = 0
    account = new_account(new_address())
    welcome.grant_welcome(account=account, now=NOW)
    assert CreditGrant.objects.get(wallet=account.wallet).expires_at is None
