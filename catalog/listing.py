"""What is for sale now (`for_sale`), and how a list of models shows it. The renderers are pure: one pair for each client's format.

Prices are shown as the customer pays them, the operator's markup included, as exact decimal strings.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Exists, OuterRef, Q

from catalog import money, pricing
from catalog.models import MODEL_SLUG, Alias, Model, Price, Provider, ProviderKey, Route

OWNER = "gateway"
_PER_UNIT, _PER_MILLION = 21, 15  # a rate (nano-USD per million) times its markup in millionths, read as dollars for one, or for a million

# What OpenRouter calls our buckets.
_PRICING_NAMES = (
    ("prompt", "input"),
    ("completion", "output"),
    ("input_cache_read", "cached_input"),
    ("input_cache_write", "cache_write"),
    ("input_cache_write_1h", "cache_write_1h"),
    ("internal_reasoning", "reasoning"),
    ("audio", "audio_input"),
    ("audio_output", "audio_output"),
    ("image", "image"),
    ("request", "request"),
)
_TOKEN_BUCKETS = ("input", "cached_input", "cache_write", "cache_write_1h", "audio_input", "output", "reasoning", "audio_output")


@dataclass(frozen=True, slots=True)
class Offer:
    """A model that can be called now, and the price in effect."""

    slug: str
    kind: str
    name: str
    description: str
    context: int
    max_output: int
    capabilities: tuple[str, ...]
    free_daily_requests: int | None
    created_at: datetime
    aliases: tuple[str, ...]
    price: pricing.Price


def for_sale(*, now: datetime, demo_only: bool = False, name: str | None = None) -> list[Offer]:
    """List the models that can be called at `now`, by name: enabled, priced, and with an enabled route to a provider that can be used.

    A provider can be used when it is enabled and has an enabled key; the demo provider needs none. `demo_only`: only what the demo
    provider serves. `name`: only the model of this name or alias.
    """
    usable = Q(provider__kind=Provider.Kind.DEMO)
    if not demo_only:
        usable |= Q(Exists(ProviderKey.objects.filter(provider=OuterRef("provider"), is_enabled=True)))
    routes = Route.objects.filter(usable, model=OuterRef("pk"), is_enabled=True, provider__is_enabled=True)
    wanted = Model.objects.filter(Exists(routes), is_enabled=True)
    if name is not None:
        if not MODEL_SLUG.regex.fullmatch(name):  # type: ignore[union-attr] # compiled when it is read
            return []
        wanted = wanted.filter(Q(slug=name) | Q(pk__in=Alias.objects.filter(name=name).values("model")))
    found = list(wanted.order_by("slug"))
    prices = {
        price.model_id: price
        for price in Price.objects.filter(model__in=found, effective_from__lte=now).order_by("model", "-effective_from").distinct("model")
    }
    aliases: dict[int, list[str]] = {}
    for model_id, alias in Alias.objects.filter(model__in=found).order_by("name").values_list("model", "name"):
        aliases.setdefault(model_id, []).append(alias)
    return [_offer(model, prices[model.pk], aliases.get(model.pk, [])) for model in found if model.pk in prices]


def _offer(model: Model, price: Price, aliases: Iterable[str]) -> Offer:
    return Offer(
        slug=model.slug,
        kind=model.kind,
        name=model.name,
        description=model.description,
        context=model.context,
        max_output=model.max_output,
        capabilities=tuple(model.capabilities),
        free_daily_requests=model.free_daily_requests,
        created_at=model.created_at,
        aliases=tuple(aliases),
        price=price.frozen(),
    )


# -- OpenAI's shape, with our additions ------------------------------------------------------------------------------------------------


def openai_list(offers: Iterable[Offer]) -> dict[str, Any]:
    """The list as `GET /v1/models` answers it."""
    return {"object": "list", "data": [openai_model(offer) for offer in offers]}


def openai_model(offer: Offer) -> dict[str, Any]:
    """One model as `GET /v1/models/{id}` answers it."""
    return {
        "id": offer.slug,
        "object": "model",
        "created": int(offer.created_at.timestamp()),
        "owned_by": OWNER,
        "name": offer.name or offer.slug,
        "description": offer.description,
        "kind": offer.kind,
        "context_length": offer.context,
        "max_output_tokens": offer.max_output,
        "capabilities": list(offer.capabilities),
        "aliases": list(offer.aliases),
        "free_daily_requests": offer.free_daily_requests,
        "pricing": _pricing(offer.price),
        "prices_per_million": _per_million(offer.price.rates, offer.price.markup_ppm),
    }


def _pricing(price: pricing.Price) -> dict[str, Any]:
    """Dollars for one token, image or request, under OpenRouter's names; `overrides` are the prices of longer prompts."""
    shown: dict[str, Any] = _per_unit(price.rates, price.markup_ppm)
    if price.long_rates is not None and price.long_prompt_above is not None:
        shown["overrides"] = [{"min_prompt_tokens": price.long_prompt_above + 1, **_per_unit(price.long_rates, price.markup_ppm)}]
    return shown


def _per_unit(rates: pricing.Rates, markup_ppm: int) -> dict[str, str]:
    return {name: _dollars(getattr(rates, bucket), markup_ppm, _PER_UNIT, least=0) for name, bucket in _PRICING_NAMES}


def _per_million(rates: pricing.Rates, markup_ppm: int) -> dict[str, str]:
    return {bucket: _dollars(getattr(rates, bucket), markup_ppm, _PER_MILLION, least=2) for bucket in _TOKEN_BUCKETS}


def _dollars(rate: int, markup_ppm: int, places: int, *, least: int) -> str:
    return money.exact(rate * (pricing.PER_UNITS + markup_ppm), places=places, least=least)
