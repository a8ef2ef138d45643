"""A tenant as its API sees it: a desk whose keys can really be used, and models with prices of their own."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.http import HttpResponse
from django.test import Client
from django.utils import timezone

from billing.models import Plan, PlanAssignment
from catalog import pricing
from catalog.models import Alias, Model, Price, Provider, ProviderKey, Route
from catalog.usage import BUCKETS, TokenUsage
from keys import issuing
from keys.models import ApiKey
from tests.billing.desk import Desk

USD = 1_000_000_000


@dataclass(frozen=True)
class Answer:
    """What the API answered."""

    status: int
    body: Any
    raw: str

    @property
    def code(self) -> str:
        return str(self.body["error"]["code"])


def get(path: str, secret: str = "", **query: Any) -> Answer:
    """GET a path with a key."""
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    answer = Client(headers=headers, raise_request_exception=False).get(path, query)
    raw = b"".join(answer.streaming_content) if answer.streaming else answer.content  # type: ignore[attr-defined]
    is_json = answer.headers.get("Content-Type", "").startswith("application/json")
    assert isinstance(answer, HttpResponse) or answer.streaming
    return Answer(answer.status_code, json.loads(raw) if is_json else None, raw.decode())


class Tenant:
    """An account, its desk, and a key that can be used."""

    def __init__(self, desk: Desk, **key_fields: Any) -> None:
        self.desk = desk
        self.account = desk.account
        self.key, self.secret = self.issue(**key_fields)

    def issue(self, *, name: str = "reader", **fields: Any) -> tuple[ApiKey, str]:
        return issuing.issue(account=self.account, name=name, now=timezone.now(), **fields)

    def get(self, path: str, **query: Any) -> Answer:
        return get(path, self.secret, **query)

    def spend(self, cost: int, *, key: ApiKey | None = None, started: datetime | None = None, **fields: Any) -> str:
        """Place and settle one request that costs `cost` nano-USD; returns its id."""
        request = self.desk.spend(cost, key=key or self.key, started=started or timezone.now(), **fields)
        return str(request["id"])

    def settle(self, usage: TokenUsage, price: Price, *, held: int | None = None, **fields: Any) -> str:
        """Settle a request with this usage at this price; returns its id."""
        list_cost = pricing.cost(price.frozen(), usage)
        cost = fields.pop("cost", list_cost)
        request = self.desk.hold(list_cost if held is None else held, key=self.key, started=timezone.now())
        details = {
            **{bucket: getattr(usage, bucket) for bucket in BUCKETS},
            "price": price.pk,
            "model": price.model.slug,
            "list_cost": list_cost,
            **fields,
        }
        self.desk.settle(self.desk.record(request, cost, **details))
        return str(request["id"])

    def put_on_plan(self, **fields: Any) -> Plan:
        plan = Plan.objects.create(slug=f"p-{uuid.uuid4().hex[:20]}", **fields)
        PlanAssignment.objects.create(account=self.account, plan=plan, starts_at=timezone.now() - timedelta(seconds=1))
        return plan


@dataclass
class Shelf:
    """Models for sale under one prefix of their own."""

    prefix: str
    provider: Provider
    made: list[Model]

    def model(self, name: str, *, provider: Provider | None = None, rates: dict[str, Any] | None = None, **fields: Any) -> Model:
        model = Model.objects.create(slug=f"{self.prefix}/{name}", **fields)
        self.made.append(model)
        if rates is not None:
            Price.objects.create(model=model, effective_from=timezone.now() - timedelta(hours=1), **rates)
        Route.objects.create(model=model, provider=provider or self.provider, upstream_model=name)
        return model

    def alias(self, model: Model) -> str:
        return Alias.objects.create(name=f"{self.prefix}-{uuid.uuid4().hex[:8]}", model=model).name

    def company(self, *, kind: str = "openai", with_key: bool = True, **fields: Any) -> Provider:
        provider = Provider.objects.create(slug=f"p-{uuid.uuid4().hex[:16]}", kind=kind, base_url="http://127.0.0.1:9", **fields)
        if with_key:
            key = ProviderKey(provider=provider)
            key.set_secret(f"sk-{uuid.uuid4().hex}")
            key.save()
        return provider

    def listed(self, answer: Answer) -> list[str]:
        """The names, under this shelf's prefix, of the models in an answer."""
        return [entry["id"].removeprefix(f"{self.prefix}/") for entry in answer.body["data"] if entry["id"].startswith(self.prefix)]


def open_shelf() -> Iterator[Shelf]:
    """A shelf at a demo provider; what it sold is taken off sale when the test is over."""
    shelf = Shelf(f"s-{uuid.uuid4().hex[:12]}", Provider.objects.create(slug=f"p-{uuid.uuid4().hex[:16]}", kind="demo"), [])
    yield shelf
    Model.objects.filter(pk__in=[model.pk for model in shelf.made]).update(is_enabled=False)
