"""Facts about redemption codes."""

import threading
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connection

from accounts.models import Account, AuditEvent
from billing import opening
from billing.gifts import codes
from billing.models import CreditGrant, Redemption, RedemptionCode, Transfer

NOW = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)  # the night in which Europe's clocks go forward
USD = 1_000_000_000


def new_account() -> Account:
    slug = f"g-{uuid.uuid4().hex[:20]}"
    return opening.open_account(slug=slug, name=slug, now=NOW)


def new_code(**terms: Any) -> RedemptionCode:
    (code,) = codes.create_codes(**{"count": 1, "amount_nano": 2 * USD, "user": None, "now": NOW, **terms})
    return code


def balance_of(account: Account) -> int:
    account.wallet.refresh_from_db()
    return int(account.wallet.balance)


def together(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run every call in a thread of its own, all at once; gives what each returned or raised."""
    results: list[Any] = [None] * len(calls)
    gate = threading.Barrier(len(calls))

    def run(index: int) -> None:
        gate.wait()
        try:
            results[index] = calls[index]()
        except Exception as error:
            results[index] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_a_code_is_twelve_clear_characters_in_groups() -> None:
    made = codes.create_codes(count=500, amount_nano=1, user=None, now=NOW)
    assert len({code.code for code in made}) == 500
    for code in made:
        prefix, *groups = code.code.split("-")
        assert (prefix, [len(group) for group in groups]) == ("TG", [4, 4, 4])
        assert not set("".join(groups)) & set("01IO")
    assert len(codes.ALPHABET) ** 12 >= 2**60


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        ({"count": 0}, "count"),
        ({"count": 1001}, "count"),
        ({"amount_nano": 0}, "amount_nano"),
        ({"amount_nano": 2**63}, "amount_nano"),
        ({"most_uses": 0}, "most_uses"),
        ({"credit_days": 0}, "credit_days"),
        ({"expires_at": NOW}, "expires_at"),
    ],
)
def test_terms_that_make_no_sense_are_refused(terms: dict[str, Any], field: str) -> None:
    with pytest.raises(codes.BadTerms) as refused:
        new_code(**terms)
    assert refused.value.field == field


def test_redeeming_credits_a_promo_grant_that_expires_after_its_days() -> None:
    account = new_account()
    transfer = codes.redeem(account=account, code=new_code(credit_days=30).code, user=None, now=NOW)
    grant = CreditGrant.objects.get(transfer=transfer)
    assert (grant.kind, grant.remaining, grant.expires_at) == ("promo", 2 * USD, NOW + timedelta(days=30))
    assert (balance_of(account), transfer.debit_account) == (2 * USD, "promo")
    assert AuditEvent.objects.filter(account=account, action="wallet.code_redeemed").count() == 1


@pytest.mark.parametrize(
    "spell", [str.lower, lambda text: text.replace("-", ""), lambda text: text[3:], lambda text: f"  {text.replace('-', ' ')} "]
)
def test_a_code_is_found_however_it_is_typed(spell: Callable[[str], str]) -> None:
    account = new_account()
    codes.redeem(account=account, code=spell(new_code().code), user=None, now=NOW)
    assert balance_of(account) == 2 * USD


@pytest.mark.parametrize(
    "text", ["", "TG", "TG-0000-1111-IIII", "x" * 5000, "\x00", "TG-\x00AAA-AAAA-AAAA", "TG-%%%%-____-''''", "ｔｇ-aaaa"]
)
def test_what_is_no_code_is_unknown(text: str) -> None:
    with pytest.raises(codes.CodeUnknown):
        codes.redeem(account=new_account(), code=text, user=None, now=NOW)


def test_a_second_redemption_says_what_the_first_gave() -> None:
    account, code = new_account(), new_code(most_uses=5)
    first = codes.redeem(account=account, code=code.code, user=None, now=NOW)
    with pytest.raises(codes.CodeAlreadyRedeemed) as again:
        codes.redeem(account=account, code=code.code, user=None, now=NOW)
    assert again.value.transfer == first
    assert balance_of(account) == 2 * USD


def test_expired_used_up_and_disabled_codes_give_nothing() -> None:
    account, other = new_account(), new_account()
    used = new_code()
    codes.redeem(account=other, code=used.code, user=None, now=NOW)
    with pytest.raises(codes.CodeUsedUp):
        codes.redeem(account=account, code=used.code, user=None, now=NOW)
    with pytest.raises(codes.CodeExpired):
        codes.redeem(account=account, code=new_code(expires_at=NOW + timedelta(hours=1)).code, user=None, now=NOW + timedelta(hours=1))
    off = new_code()
    assert codes.set_enabled(code_ids=[off.pk], is_enabled=False) == 1
    with pytest.raises(codes.CodeUnknown):
        codes.redeem(account=account, code=off.code, user=None, now=NOW)
    assert balance_of(account) == 0


def test_guessing_ends_after_ten_wrong_tries_an_hour_for_this_account_alone() -> None:
    account, code = new_account(), new_code(most_uses=9)
    for _ in range(10):
        with pytest.raises(codes.CodeUnknown):
            codes.redeem(account=account, code="TG-AAAA-AAAA-AAAA", user=None, now=NOW)
    with pytest.raises(codes.TooManyTries) as refused:
        codes.redeem(account=account, code=code.code, user=None, now=NOW + timedelta(minutes=59))
    assert refused.value.again_at == NOW + timedelta(hours=1)
    codes.redeem(account=new_account(), code=code.code, user=None, now=NOW)
    codes.redeem(account=account, code=code.code, user=None, now=NOW + timedelta(hours=1))


def test_parallel_guesses_are_counted_one_by_one() -> None:
    account = new_account()
    results = together([lambda: codes.redeem(account=account, code="TG-AAAA-AAAA-AAAA", user=None, now=NOW)] * 16)
    assert sum(isinstance(result, codes.CodeUnknown) for result in results) == 10
    assert sum(isinstance(result, codes.TooManyTries) for result in results) == 6


@pytest.mark.parametrize("accounts", [1, 50])
def test_fifty_at_once_get_one_credit_of_a_code_for_one(accounts: int) -> None:
    code, people = new_code(), [new_account() for _ in range(accounts)]
    results = together([partial(codes.redeem, account=people[n % accounts], code=code.code, user=None, now=NOW) for n in range(50)])
    assert sum(isinstance(result, Transfer) for result in results) == 1
    assert {type(result) for result in results} == {Transfer, codes.CodeAlreadyRedeemed if accounts == 1 else codes.CodeUsedUp}
    assert Transfer.objects.filter(source_type="code", source_id__startswith=f"{code.pk}:").count() == 1
    assert sum(balance_of(account) for account in people) == 2 * USD


def test_a_code_for_seven_is_used_seven_times_by_thirty_at_once() -> None:
    code, people = new_code(most_uses=7), [new_account() for _ in range(30)]
    results = together([partial(codes.redeem, account=account, code=code.code, user=None, now=NOW) for account in people])
    assert sum(isinstance(result, Transfer) for result in results) == 7
    code.refresh_from_db()
    assert (code.uses, Redemption.objects.filter(code=code).count()) == (7, 7)


def test_two_codes_redeemed_crosswise_by_two_accounts_never_deadlock() -> None:
    first, second = new_code(most_uses=99), new_code(most_uses=99)
    people = [new_account() for _ in range(6)]
    calls = [partial(codes.redeem, account=account, code=code.code, user=None, now=NOW) for account in people for code in (first, second)]
    results = together(calls + calls[::-1])
    assert sum(isinstance(result, Transfer) for result in results) == len(calls)
    assert {type(result) for result in results} == {Transfer, codes.CodeAlreadyRedeemed}
    assert [balance_of(account) for account in people] == [4 * USD] * 6
