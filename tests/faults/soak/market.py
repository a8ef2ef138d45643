"""What there is before the first request: customers with and without money, models that answer, hesitate and fail, people who look at pages."""

from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.test import Client
from django.utils import timezone

from accounts.models import Membership
from billing import stored_content
from tests.accounts.people import new_person
from tests.conftest import Customer, make_customer, make_model

CUSTOMERS = 40
READERS = 4  # whose pages are looked at
# How the honest models behave, by name: the kind of their provider, its format, and what the fake provider is asked to be, route after route.
HONEST: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "chat": ("custom", "chat", ("chat:text=40",)),
    "paced": ("custom", "chat", ("chat:text=30;gap_ms=2",)),
    "late": ("custom", "chat", ("chat:text=20;delay_ms=150",)),
    "long": ("custom", "chat", ("chat:text=3000",)),
    "tools": ("anthropic", "messages", ("chat:think=5;tools=look",)),
    "messages": ("anthropic", "messages", ("chat:text=30;think=10",)),
    "gemini": ("google", "gemini", ("chat:text=30",)),
    "responses": ("openai", "responses", ("chat:text=30;reasoning=5",)),
    "refused first": ("custom", "chat", ("fault:status-503", "chat:text=10")),
    "reset first": ("custom", "chat", ("fault:reset", "chat:text=10")),
    "truncated first": ("custom", "chat", ("fault:content-length-short", "chat:text=10")),
    "error first": ("custom", "chat", ("fault:error-event-first", "chat:text=10")),
}
# Providers that fail, with nobody to turn to. Those that say nothing take the gateway's patience: they are asked seldom.
FAULTS = (
    "fault:status-500", "fault:status-502", "fault:status-529", "fault:reset", "fault:connect-close", "fault:truncated-chunked",
    "fault:content-length-short", "fault:drop-midstream", "fault:no-done", "fault:error-event-midstream", "fault:bad-json", "fault:ok-html",
    "fault:empty-body", "fault:non-http-banner;close=1", "fault:insufficient-quota-429", "fault:no-usage", "fault:huge-usage",
    "fault:unknown-events", "fault:split-utf8", "fault:huge-headers;kb=64",
)  # fmt: skip
SILENCES = ("fault:silence", "fault:stall-midstream", "fault:slow-first-byte;ms=400;headers=1")


@dataclass
class Market:
    """Who buys, and what is for sale."""

    customers: list[Customer]
    poor: Customer
    limited: Customer
    narrow: Customer  # its key allows one model
    pages: list[tuple[str, str]]  # an account's slug, and the cookie of somebody who owns it
    models: dict[str, str]
    faults: list[str]
    silences: list[str]
    idle_models: list[str] = field(default_factory=list)  # nobody asks for them: they come and go

    @property
    def accounts(self) -> list[int]:
        """The ids of all accounts."""
        return [one.account.pk for one in (*self.customers, self.poor, self.limited, self.narrow)]


def open_market(base_url: str, *, customers: int = CUSTOMERS) -> Market:
    """Make all of it at the fake provider of `base_url`."""
    models = {name: make_model(base_url, *upstream, kind=kind, route_format=format_) for name, (kind, format_, upstream) in HONEST.items()}
    rich = [make_customer(usd="1000") for _ in range(customers)]
    pages = [(one.account.slug, _sign_in(one)) for one in rich[:READERS]]
    return Market(
        customers=rich,
        poor=make_customer(usd="0"),
        limited=make_customer(rpm=1),
        narrow=make_customer(allowed_models=[models["chat"]]),
        pages=pages,
        models=models,
        faults=[make_model(base_url, name, route_format="chat") for name in FAULTS],
        silences=[make_model(base_url, name, route_format="chat") for name in SILENCES],
        idle_models=[make_model(base_url, "chat:text=1") for _ in range(4)],
    )


def _sign_in(customer: Customer) -> str:
    """Give an account an owner who has what is said stored for a day; returns the owner's cookie."""
    owner = new_person()
    Membership.objects.create(account=customer.account, user=owner, role=Membership.Role.OWNER)
    stored_content.choose(customer.account, days=1, by=owner, now=timezone.now())
    browser: Any = Client()
    browser.force_login(owner)
    return f"{settings.SESSION_COOKIE_NAME}={browser.cookies[settings.SESSION_COOKIE_NAME].value}"
