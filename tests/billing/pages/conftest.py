"""A house with members of every role, a fake Stripe that its pages pay at, and what a page says."""

import html
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from billing import ledger
from billing.models import TopUp, Transfer, Wallet
from catalog import money
from tests.accounts.people import House
from tests.billing.payments.conftest import fake  # noqa: F401 - a fixture
from tests.fakes.stripe import FakeStripe


class Purse(House):
    """A house with a wallet that things happen to."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.wallet: Wallet = self.account.wallet
        self._number = 0

    def give(self, usd: str, *, kind: str = "promo", note: str = "a gift", **more: Any) -> Transfer:
        """Put credit into the wallet."""
        self._number += 1
        return ledger.credit(
            wallet_id=self.wallet.pk, amount=money.nano_from_usd(Decimal(usd)), kind=kind, debit_account="promo", source_type="test",
            source_id=f"{self.account.slug}:{self._number}", actor="test", note=note, now=more.pop("now", timezone.now()), **more,
        )  # fmt: skip

    def take(self, usd: str, *, kind: str = "debit", **more: Any) -> Transfer:
        """Take money out of the wallet, into debt if need be."""
        self._number += 1
        return ledger.debit(
            wallet_id=self.wallet.pk, amount=money.nano_from_usd(Decimal(usd)), kind=kind, credit_account="manual", source_type="test",
            source_id=f"{self.account.slug}:{self._number}", actor="test", note="a reason", now=more.pop("now", timezone.now()),
            allow_debt=True, **more,
        )  # fmt: skip

    def text(self, address: str, *, role: str = "owner") -> str:
        """A page as its reader sees it."""
        answer = self.browser(role).get(f"{self.base}{address}")
        assert answer.status_code == 200, answer.status_code
        return text_of(answer.content)

    def start(self, client: Client, form_id: str, **fields: Any) -> Any:
        """Send the top-up form."""
        return client.post(f"{self.base}/billing/top-ups", {"form_id": form_id, **fields})

    @property
    def payments(self) -> list[TopUp]:
        """The account's payments, the latest first."""
        return list(TopUp.objects.filter(wallet=self.wallet).order_by("-created_at"))


def text_of(content: bytes) -> str:
    """The words of a page, with single spaces."""
    page = content.decode()
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", page[page.index("<main") if "<main" in page else 0 :])))


@pytest.fixture
def purse() -> Purse:
    return Purse()


@pytest.fixture
def paying(purse: Purse, fake: FakeStripe) -> Callable[..., TopUp]:  # noqa: F811
    """Start a payment on the page and, with a card number, pay it at Stripe; no webhook is delivered."""

    def pay(usd: int = 25, number: str = "4242424242424242", **more: Any) -> TopUp:
        import uuid

        assert purse.start(purse.browser("owner"), str(uuid.uuid4()), preset=usd, **more).status_code == 302
        top_up = purse.payments[0]
        if number:
            fake.pay(str(top_up.session_id), number)
        return top_up

    return pay
