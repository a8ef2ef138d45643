"""The catalog, and who is there to run it: something can be sold and reached, somebody can sign in to the admin, new accounts get a plan."""

from collections.abc import Iterator
from datetime import datetime

from accounts.models import User
from billing.models import Plan
from catalog import pricing
from catalog.models import Model, Provider, Route
from gateway_site.diagnosis.findings import Finding, counted, error, note, some, warning
from gateway_site.diagnosis.secrets import opens
from proxy import routing
from proxy.providers.registry import DECLARATIONS


def check_catalog(*, now: datetime) -> Iterator[Finding]:
    """Something can be sold, and what is enabled can be reached."""
    providers = list(Provider.objects.filter(is_enabled=True).prefetch_related("keys"))
    usable = {provider.pk: provider for provider in providers if _is_usable(provider)}
    routed = set(Route.objects.filter(is_enabled=True, model__is_enabled=True).values_list("provider_id", flat=True))
    if mute := [provider.slug for provider in providers if provider.pk not in usable and provider.pk in routed]:
        yield warning(
            "providers",
            f"{counted(len(mute), 'provider')} enabled without a key that can be used: {some(mute)}.",
            "Give each a key in the admin or in a manifest, or switch it off.",
        )
    priced, unpriced, unreachable = 0, [], []
    for model in Model.objects.filter(is_enabled=True).prefetch_related("routes", "prices").order_by("slug"):
        if pricing.price_at([price.frozen() for price in sorted(model.prices.all(), key=lambda price: price.effective_from)], now) is None:
            unpriced.append(model.slug)
        elif _is_reachable(model, usable):
            priced += 1
        else:
            unreachable.append(model.slug)
    if not priced:
        yield error(
            "models",
            "No model can be sold: none is enabled with a price and a provider that has a key.",
            "Apply a manifest (`manage.py apply catalog/seeds/demo.yaml` is one to try with), or enable models in the admin.",
        )
    if unpriced:
        yield note(
            "models",
            f"{counted(len(unpriced), 'model')} enabled without a price, and not for sale: {some(unpriced)}.",
            "Price or disable them.",
        )
    if unreachable and priced:
        yield note(
            "models",
            f"{counted(len(unreachable), 'model')} with a price and no provider to answer: {some(unreachable)}.",
            "Give their providers keys, or disable them: they are listed, and calls end in 503.",
        )


def _is_usable(provider: Provider) -> bool:
    return not DECLARATIONS[provider.kind].needs_key or any(key.is_enabled and opens(key) for key in provider.keys.all())


def _is_reachable(model: Model, usable: dict[int, Provider]) -> bool:
    routes = [route for route in model.routes.all() if route.is_enabled]
    if routes:
        return any(route.provider_id in usable for route in routes)
    kind, _ = routing.by_prefix(model.slug)
    return any(provider.kind == kind for provider in usable.values())


def check_people_and_plans() -> Iterator[Finding]:
    """Somebody can sign in to the admin, and a new account gets a plan."""
    if not User.objects.filter(is_superuser=True, is_active=True).exists():
        yield warning("people", "There is no active superuser: nobody can do everything in the admin.", "Run `manage.py createsuperuser`.")
    if Plan.objects.exists() and not Plan.objects.filter(is_default=True).exists():
        yield note("plans", "No plan is the default: new accounts start without limits.", "Mark one as default in the admin.")
