"""What is for sale now (`for_sale`), and how a list of models shows it. The renderers are pure: one pair for each client's format.

Prices are shown as the customer pays them, the operator's markup included, as exact decimal strings.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
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
    ("web_search", "web_search"),
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
    is_gemini: bool = False  # whether it can be called in Gemini's own format


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
    gemini = Q(format="gemini") | Q(format="", provider__kind=Provider.Kind.GOOGLE)
    found = list(wanted.annotate(is_gemini=Exists(routes.filter(gemini))).order_by("slug"))
    prices = {
        price.model_id: price
        for price in Price.objects.filter(model__in=found, effective_from__lte=now).order_by("model", "-effective_from").distinct("model")
    }
    aliases: dict[int, list[str]] = {}
    for model_id, alias in Alias.objects.filter(model__in=found).order_by("name").values_list("model", "name"):
        aliases.setdefault(model_id, []).append(alias)
    return [_offer(model, prices[model.pk], aliases.get(model.pk, []), is_gemini=model.is_gemini) for model in found if model.pk in prices]


def _offer(model: Model, price: Price, aliases: Iterable[str], *, is_gemini: bool) -> Offer:
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
        is_gemini=is_gemini,
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
    """Dollars for one token, image, search or request, under OpenRouter's names; `overrides` are the prices of longer prompts."""
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


# -- Anthropic's shape -----------------------------------------------------------------------------------------------------------------


def anthropic_list(offers: Sequence[Offer], *, has_more: bool) -> dict[str, Any]:
    """One page of the list as Anthropic's `GET /v1/models` answers it."""
    return {
        "data": [anthropic_model(offer) for offer in offers],
        "has_more": has_more,
        "first_id": offers[0].slug if offers else None,
        "last_id": offers[-1].slug if offers else None,
    }


def anthropic_model(offer: Offer) -> dict[str, Any]:
    """One model as Anthropic shows it."""
    return {
        "type": "model",
        "id": offer.slug,
        "display_name": offer.name or offer.slug,
        "created_at": offer.created_at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": offer.context,
        "max_tokens": offer.max_output,
    }


# -- Gemini's shape --------------------------------------------------------------------------------------------------------------------

_GEMINI_METHODS = {
    Model.Kind.TEXT: ("generateContent", "streamGenerateContent", "countTokens"),
    Model.Kind.EMBEDDING: ("embedContent", "batchEmbedContents", "countTokens"),
    Model.Kind.IMAGE: ("predict",),
    Model.Kind.VIDEO: ("predictLongRunning",),
}


def gemini_list(offers: Sequence[Offer], *, next_page: str | None) -> dict[str, Any]:
    """One page of the list as Gemini's `GET /v1beta/models` answers it; `next_page` is the token that asks for the one behind it."""
    return {"models": [gemini_model(offer) for offer in offers], **({"nextPageToken": next_page} if next_page is not None else {})}


def gemini_model(offer: Offer) -> dict[str, Any]:
    """One model as Gemini shows it; one that is not called in Gemini's format supports none of its methods."""
    return {
        "name": f"models/{offer.slug}",
        "baseModelId": offer.slug,
        "version": "001",
        "displayName": offer.name or offer.slug,
        "description": offer.description,
        "inputTokenLimit": offer.context,
        "outputTokenLimit": offer.max_output,
        "supportedGenerationMethods": list(_GEMINI_METHODS[Model.Kind(offer.kind)]) if offer.is_gemini else [],
    }
