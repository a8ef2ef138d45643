"""What is for sale, as people look for it: which models a visitor wants to see, in which order, and what each costs in words. Pure.

Prices are what the customer pays, the operator's markup included, as exact decimal strings.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from catalog import money, pricing
from catalog.listing import Offer
from catalog.models import Model

_PER_MILLION, _PER_UNIT = 15, 21  # a rate (nano-USD per million) times its markup in millionths, read as dollars for a million, or for one
TOKEN_BUCKETS: Mapping[str, str] = {
    "input": "Input",
    "cached_input": "Input read from a cache",
    "cache_write": "Input written to a cache (5 minutes)",
    "cache_write_1h": "Input written to a cache (1 hour)",
    "audio_input": "Audio input",
    "output": "Output",
    "reasoning": "Reasoning",
    "audio_output": "Audio output",
}
_ALIKE = {  # a bucket that costs what this one costs is not told apart
    "cached_input": "input",
    "cache_write": "input",
    "cache_write_1h": "cache_write",
    "audio_input": "input",
    "reasoning": "output",
    "audio_output": "output",
}
UNITS = {Model.Kind.IMAGE.value: "picture", Model.Kind.VIDEO.value: "second of video"}
SEARCH = "search"  # run by the provider, where a request asks for it
ORDERS: Mapping[str, str] = {"name": "Name", "price": "Price", "context": "Context", "newest": "Newest"}
CONTEXTS = (32_000, 128_000, 200_000, 1_000_000)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a visitor wants to see; what is empty limits nothing."""

    text: str = ""
    kind: str = ""
    maker: str = ""
    capability: str = ""
    context: int = 0
    free: bool = False
    order: str = "name"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a price: what it is for, dollars (exact), and for how much of it; `long` for prompts beyond the price's limit."""

    label: str
    usd: str
    unit: str
    long: str = ""


@dataclass(frozen=True, slots=True)
class Choices:
    """What can be chosen from, as the offers have it."""

    kinds: tuple[str, ...]
    makers: tuple[str, ...]
    capabilities: tuple[str, ...]


def maker_of(offer: Offer) -> str:
    """The first part of a name such as openai/gpt-5; nothing where there is none."""
    first, slash, _ = offer.slug.partition("/")
    return first if slash else ""


def choices(offers: Iterable[Offer]) -> Choices:
    """What the filters can be set to."""
    kinds, makers = set(), set()
    capabilities: set[str] = set()
    for offer in offers:
        kinds.add(offer.kind)
        makers.add(maker_of(offer))
        capabilities.update(offer.capabilities)
    return Choices(tuple(sorted(kinds)), tuple(sorted(makers - {""})), tuple(sorted(capabilities)))


def choose(offers: Iterable[Offer], wish: Wish) -> list[Offer]:
    """The offers that fit, in the order that is wanted."""
    words = wish.text.lower().split()
    found = [
        offer
        for offer in offers
        if (not wish.kind or offer.kind == wish.kind)
        and (not wish.maker or maker_of(offer) == wish.maker)
        and (not wish.capability or wish.capability in offer.capabilities)
        and offer.context >= wish.context
        and (not wish.free or is_free(offer))
        and all(word in _searched(offer) for word in words)
    ]
    return sorted(found, key=_SORTED_BY.get(wish.order, _SORTED_BY["name"]))


def is_free(offer: Offer) -> bool:
    """Whether some requests a day, or all, cost nothing."""
    return offer.free_daily_requests is not None or _dearness(offer) == 0


def lines(offer: Offer) -> list[Line]:
    """The price, line by line: tokens per million, pictures, seconds, searches and requests each. What a bucket shares with its like is left out."""
    price, rates, long_rates = offer.price, offer.price.rates, offer.price.long_rates
    found = []
    for bucket, label in TOKEN_BUCKETS.items():
        rate, like = getattr(rates, bucket), _ALIKE.get(bucket)
        long = getattr(long_rates, bucket) if long_rates is not None else rate
        is_apart = like is None or rate != getattr(rates, like) or (long_rates is not None and long != getattr(long_rates, like))
        if (is_apart and (rate or long)) or (bucket in ("input", "output") and offer.kind == "text"):
            shown_long = per_million(long, price) if long_rates is not None else ""
            found.append(Line(label, per_million(rate, price), "1M tokens", shown_long))
    if rates.image:
        unit = UNITS.get(offer.kind, "picture")
        found.append(Line(unit.capitalize(), per_unit(rates.image, price), unit))
    if rates.web_search:
        found.append(Line("Web search", per_unit(rates.web_search, price), SEARCH))
    if rates.request:
        found.append(Line("Request", per_unit(rates.request, price), "request"))
    return found


def headline(offer: Offer) -> list[Line]:
    """The two or three lines that a list has room for."""
    main = [line for line in lines(offer) if line.label in ("Input", "Output") or line.unit not in ("1M tokens", SEARCH)]
    return main[:3]


def per_million(rate: int, price: pricing.Price) -> str:
    """Dollars for a million tokens."""
    return money.exact(rate * (pricing.PER_UNITS + price.markup_ppm), places=_PER_MILLION, least=2)


def per_unit(rate: int, price: pricing.Price) -> str:
    """Dollars for one."""
    return money.exact(rate * (pricing.PER_UNITS + price.markup_ppm), places=_PER_UNIT, least=2)


def _searched(offer: Offer) -> str:
    return " ".join((offer.slug, offer.name, offer.description, *offer.aliases)).lower()


def _dearness(offer: Offer) -> int:
    """What orders by price: a typical request has three parts of input to one of output; pictures and requests count as they are."""
    rates = offer.price.rates
    return (rates.input * 3 + rates.output + rates.image + rates.request) * (pricing.PER_UNITS + offer.price.markup_ppm)


_SORTED_BY: Mapping[str, Callable[[Offer], tuple[int | float | str, ...]]] = {
    "name": lambda offer: (offer.slug,),
    "price": lambda offer: (offer.kind != "text", _dearness(offer), offer.slug),
    "context": lambda offer: (-offer.context, offer.slug),
    "newest": lambda offer: (-offer.created_at.timestamp(), offer.slug),
}
