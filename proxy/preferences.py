"""What a client may ask of the routing: `models` (a fallback list) and `provider` (which to use, in which order, at what price). Pure.

The names and meanings are OpenRouter's. Both fields are the gateway's own: they are taken out of the body before it goes upstream.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from catalog import money, pricing
from proxy.body import Body
from proxy.formats.base import InvalidRequest

MOST_MODELS = 5
MOST_PROVIDERS = 20
FIELDS = ("order", "only", "ignore", "sort", "max_price", "allow_fallbacks")
SORTS = ("price", "throughput", "latency")
MAXIMA = {"prompt": "input", "completion": "output", "request": "request", "image": "image", "web_search": "web_search"}


@dataclass(frozen=True, slots=True)
class Preferences:
    """Which providers (by slug) a request may go to. `max_price` holds nano-USD per million units, by the price's own bucket."""

    order: tuple[str, ...] = ()
    only: frozenset[str] = frozenset()
    ignore: frozenset[str] = frozenset()
    max_price: tuple[tuple[str, int], ...] = ()
    allow_fallbacks: bool = True

    def allows(self, provider: str) -> bool:
        """Whether the request may go to this provider."""
        return (
            provider not in self.ignore
            and (not self.only or provider in self.only)
            and (self.allow_fallbacks or not self.order or provider in self.order)
        )

    def rank(self, provider: str) -> int:
        """Where a provider stands in the order asked for; those not named come last."""
        return self.order.index(provider) if provider in self.order else len(self.order)

    def affords(self, price: pricing.Price) -> bool:
        """Whether a model's price (markup included) is within what the client pays at most."""
        return all(getattr(price.rates, bucket) * (1_000_000 + price.markup_ppm) <= most * 1_000_000 for bucket, most in self.max_price)


ANY = Preferences()


@dataclass(frozen=True, slots=True)
class Wishes:
    """The models to try, best first (at least one, where the client names any), and where."""

    models: tuple[str, ...]
    preferences: Preferences


NONE = Wishes((), ANY)


def read(body: Body) -> tuple[Body, Wishes]:
    """Take the gateway's own fields out of a body. Raises: InvalidRequest."""
    fields = body.fields
    if "models" not in fields and "provider" not in fields:
        name = fields.get("model")
        return body, Wishes((name,) if isinstance(name, str) and name else (), ANY)
    names = _read_models(fields.get("models"))
    first = fields.get("model")
    if isinstance(first, str) and first:
        names = (first, *(name for name in names if name != first))
    preferences = _read_provider(fields.get("provider"))
    kept = body.without({"models", "provider"})
    if names and kept.fields.get("model") in (None, ""):
        kept = Body(kept.splice({"model": orjson.dumps(names[0])}), {**kept.fields, "model": names[0]})
    return kept, Wishes(names[:MOST_MODELS], preferences)


def _read_models(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise InvalidRequest("'models' must be a list of model names, tried in order.", param="models")
    if len(value) > MOST_MODELS:
        raise InvalidRequest(f"'models' may name at most {MOST_MODELS} models.", param="models")
    return tuple(dict.fromkeys(value))


def _read_provider(value: Any) -> Preferences:
    if value is None:
        return ANY
    if not isinstance(value, dict):
        raise InvalidRequest('\'provider\' must be an object such as {"order": ["openai"]}.', param="provider")
    for name in value:
        if name not in FIELDS:
            raise InvalidRequest(f"'provider.{name}' is not known. Known: {', '.join(FIELDS)}.", param=f"provider.{name}")
    if value.get("sort") not in (None, *SORTS):
        raise InvalidRequest(f"'provider.sort' must be one of {', '.join(SORTS)}.", param="provider.sort")
    fallbacks = value.get("allow_fallbacks")
    if fallbacks not in (None, True, False):
        raise InvalidRequest("'provider.allow_fallbacks' must be true or false.", param="provider.allow_fallbacks")
    return Preferences(
        order=tuple(_read_slugs(value, "order")),
        only=frozenset(_read_slugs(value, "only")),
        ignore=frozenset(_read_slugs(value, "ignore")),
        max_price=_read_maxima(value.get("max_price")),
        allow_fallbacks=fallbacks is not False,
    )


def _read_slugs(value: dict[str, Any], name: str) -> Sequence[str]:
    slugs = value.get(name)
    if slugs is None:
        return ()
    if not isinstance(slugs, list) or len(slugs) > MOST_PROVIDERS or not all(isinstance(slug, str) for slug in slugs):
        raise InvalidRequest(f"'provider.{name}' must be a list of at most {MOST_PROVIDERS} providers.", param=f"provider.{name}")
    return tuple(dict.fromkeys(slug.lower() for slug in slugs))


def _read_maxima(value: Any) -> tuple[tuple[str, int], ...]:
    """Dollars per million tokens, or per request or image, as numbers or decimal strings."""
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise InvalidRequest("'provider.max_price' must be an object of dollars, such as {\"prompt\": 1}.", param="provider.max_price")
    maxima = []
    for name, dollars in value.items():
        param = f"provider.max_price.{name}"
        if name not in MAXIMA:
            raise InvalidRequest(f"'{param}' is not known. Known: {', '.join(MAXIMA)}.", param=param)
        if isinstance(dollars, bool) or not isinstance(dollars, int | float | str):
            raise InvalidRequest(f"'{param}' must be an amount in dollars.", param=param)
        try:
            nano = money.nano_from_usd(str(dollars))
        except money.NotAnAmount as error:
            raise InvalidRequest(f"'{param}' must be an amount in dollars.", param=param) from error
        # Prices of requests and images are kept per million of them, like tokens.
        maxima.append((MAXIMA[name], nano if MAXIMA[name] in ("input", "output") else nano * 1_000_000))
    return tuple(maxima)
