"""The search of the admin: one box for whatever somebody has in hand: a key or its start, a request's id, an address, a name, Stripe's id.

Every term is looked up as what it looks like, by an index, and only where this person may look. It is posted, not put into an address: what
is pasted may be a whole key.
"""

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.contrib import admin
from django.db.models import Model as AnyModel
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse

from accounts.models import Account, User
from billing.models import Adjustment, Hold, Plan, Reversal, StripeCustomer, StripeEvent, Subscription, TopUp, Transfer, UsageRecord
from catalog.models import Model, Provider
from gateway_site.admin_base import change_url, may_see
from keys import issuing
from keys.models import ApiKey

MOST = 10  # of each kind
LONGEST = 300
SHORTEST_START = len("sk-gw-") + 2  # of a key: less is the start of all
_UUID = re.compile(r"(?<![0-9A-Za-z_])[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}(?![0-9A-Za-z_])")
_STRIPE: Mapping[str, tuple[tuple[type[AnyModel], str], ...]] = {
    "cs": ((TopUp, "session_id"), (Subscription, "session_id"), (StripeEvent, "object_id")),
    "pi": ((TopUp, "payment_intent_id"), (StripeEvent, "object_id")),
    "ch": ((TopUp, "charge_id"), (StripeEvent, "object_id")),
    "py": ((TopUp, "charge_id"), (StripeEvent, "object_id")),
    "re": ((Reversal, "pk"), (StripeEvent, "object_id")),
    "pyr": ((Reversal, "pk"), (StripeEvent, "object_id")),
    "dp": ((Reversal, "pk"), (StripeEvent, "object_id")),
    "du": ((Reversal, "pk"), (StripeEvent, "object_id")),
    "cus": ((StripeCustomer, "customer_id"), (StripeEvent, "object_id")),
    "evt": ((StripeEvent, "pk"),),
    "sub": ((Subscription, "stripe_id"), (StripeEvent, "object_id")),
    "in": ((StripeEvent, "object_id"),),
}
_IDENTIFIED: tuple[type[AnyModel], ...] = (UsageRecord, Hold, TopUp, Subscription, Transfer, Adjustment)


@dataclass(frozen=True, slots=True)
class Hit:
    """Something that was found: what it is, its name, and where its page is."""

    kind: str
    name: str
    address: str


def find(term: str, *, may: Callable[[type[AnyModel]], bool]) -> list[Hit]:
    """What `term` may mean, of the tables that `may` allows."""
    term = term.strip()[:LONGEST]
    return (
        list({hit.address: hit for rows in _lookups(term, may) for hit in map(_hit, rows)}.values()) if term.isprintable() and term else []
    )


def search_view(request: HttpRequest) -> HttpResponse:
    """Look up what was typed; a single find is shown at once."""
    term = request.POST.get("term", "")
    hits = find(term, may=lambda model: may_see(request, model._meta.label_lower))  # noqa: SLF001 - Django's own name for it
    if len(hits) == 1:
        return redirect(hits[0].address)
    shown = "" if term.strip().startswith("sk-") and len(term.strip()) > len("sk-gw-test-") + 8 else term[:LONGEST]
    context = {
        **admin.site.each_context(request),
        "title": "Search",
        "hits": hits,
        "term": shown,
        "asked": bool(term.strip()),
        "most": MOST,
    }
    return TemplateResponse(request, "admin/search.html", context)


def _lookups(term: str, may: Callable[[type[AnyModel]], bool]) -> Iterator[QuerySet[Any] | list[Any]]:
    if match := _UUID.search(term):
        for model in filter(may, _IDENTIFIED):
            yield model._default_manager.filter(pk=uuid.UUID(match[0]))  # noqa: SLF001 - how Django reaches any table
        return
    prefix = term.partition("_")[0]
    if "_" in term and prefix in _STRIPE:
        for model, column in _STRIPE[prefix]:
            if may(model):
                yield model._default_manager.filter(**{column: term})[:MOST]  # noqa: SLF001 - how Django reaches any table
    if prefix == "sub" and may(Account) and not may(Subscription):
        yield Account.objects.filter(subscriptions__stripe_id=term)
    if term.startswith("sk-"):
        if may(ApiKey):
            yield _keys(term)
        return
    if "@" in term:
        if may(User):
            yield User.objects.filter(email__startswith=term.lower()).order_by("email")[:MOST]
        if may(Account):
            yield Account.objects.filter(Q(billing_email__iexact=term) | Q(members__email=term.lower())).distinct().order_by("slug")[:MOST]
        return
    if may(Account):
        yield Account.objects.filter(Q(slug__startswith=term.lower()) | Q(name__icontains=term)).order_by("slug")[:MOST]
    if may(Model):
        yield Model.objects.filter(Q(slug__icontains=term) | Q(aliases__name=term)).distinct().order_by("slug")[:MOST]
    if may(Provider):
        yield Provider.objects.filter(slug__startswith=term.lower()).order_by("slug")[:MOST]
    if may(Plan):
        yield Plan.objects.filter(Q(slug__startswith=term.lower()) | Q(name__icontains=term)).order_by("slug")[:MOST]
    if may(ApiKey):
        yield ApiKey.objects.filter(Q(last_four=term) | Q(name=term)).order_by("-created_at")[:MOST]


def _keys(term: str) -> QuerySet[ApiKey] | list[ApiKey]:
    try:
        return [issuing.find(term)]
    except issuing.KeyNotFound:
        start, _, end = term.replace("...", "…").partition("…")
        if len(start) < SHORTEST_START:
            return []
        found = ApiKey.objects.filter(start__startswith=start[:20]).order_by("-created_at")
        return (found.filter(last_four=end) if end else found)[:MOST]


def _hit(row: AnyModel) -> Hit:
    return Hit(str(row._meta.verbose_name), str(row), change_url(row))  # noqa: SLF001 - Django's own name for it
