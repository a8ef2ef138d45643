"""Decides which provider to try for a model, and in which order. Pure: values in, values out."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from catalog.snapshot import Catalog, KeyEntry, ModelEntry, ModelNotFound, ProviderEntry, RouteEntry
from proxy.formats.base import FormatName
from proxy.health import Health, State
from proxy.preferences import ANY, Preferences
from proxy.providers.registry import DECLARATIONS

MOST_ATTEMPTS = 3

# HaioAI's rules, the fallback behind explicit names and routes: (prefix, provider kind, what is stripped).
PREFIXES = (
    ("gpt-", "openai", ""),
    ("o1-", "openai", ""),
    ("o3-", "openai", ""),
    ("o4-", "openai", ""),
    ("chatgpt-", "openai", ""),
    ("gemini-", "google", ""),
    ("google/", "google", "google/"),
    ("deepseek/", "deepseek", "deepseek/"),
    ("deepseek", "deepseek", ""),
    ("openrouter/", "openrouter", "openrouter/"),
    ("zai/", "zai", "zai/"),
)


@dataclass(slots=True)
class Candidate:
    """One thing to try: a route, the key to use there (None where the provider needs none), and the format to speak."""

    route: RouteEntry
    key: KeyEntry | None
    format: FormatName


def by_prefix(name: str) -> tuple[str, str]:
    """The provider kind and upstream model that a name's prefix stands for; org/model is OpenRouter's, anything else OpenAI's."""
    for prefix, kind, stripped in PREFIXES:
        if name.startswith(prefix):
            return kind, name.removeprefix(stripped)
    return ("openrouter", name) if "/" in name else ("openai", name)


def find_model(catalog: Catalog, name: str, now: datetime) -> ModelEntry:
    """The sellable model a client means: by its name, an alias, or what its prefix stands for ("gpt-4o" is "openai/gpt-4o").

    Raises: ModelNotFound.
    """
    try:
        return catalog.find(name, now)
    except ModelNotFound:
        kind, upstream_model = by_prefix(name)
        for guess in (f"{kind}/{upstream_model}", upstream_model):
            entry = catalog.models.get(guess)
            if entry is not None and entry.price_at(now) is not None:
                return entry
        raise


def routes_of(catalog: Catalog, model: ModelEntry) -> Sequence[RouteEntry]:
    """The model's routes; without any, the one its name's prefix stands for."""
    if model.routes:
        return model.routes
    kind, upstream_model = by_prefix(model.slug)
    return [
        RouteEntry(-provider.id, provider, upstream_model, 0, 1, "") for provider in catalog.providers.values() if provider.kind == kind
    ]


def candidates(
    routes: Iterable[RouteEntry],
    *,
    health: Health,
    now: float,
    client: FormatName,
    bridges: bool = True,
    demo_only: bool = False,
    preferences: Preferences = ANY,
    choose: random.Random | None = None,
) -> list[Candidate]:
    """What to try, best first: healthy before cooling, then by priority, then by chance in proportion to the weights.

    Leaves out routes that ask us to wait, providers without a usable key, for a test key everything but the demo provider, what the client's
    `preferences` do not allow, and without `bridges` those that do not speak the client's format. The client's order goes before the
    operator's priorities, but not before health. At most `MOST_ATTEMPTS`, and one where the client wants no fallback.
    """
    dice = choose or random
    ranked: list[tuple[int, int, int, float, Candidate]] = []
    for route in routes:
        declaration = DECLARATIONS[route.provider.kind]
        spoken = format_for(route, client)
        if (demo_only and route.provider.kind != "demo") or (spoken != client and not bridges):
            continue
        if not preferences.allows(route.provider.slug):
            continue
        state = health.state(("route", route.id), now)
        if state is State.ASKED_TO_WAIT:
            continue
        for key in _keys(route.provider, health, now) if declaration.needs_key else [None]:
            # Weighted shuffle: the smallest of exponential draws wins in proportion to the weights.
            weight = route.weight * (key.weight if key else 1)
            rank = preferences.rank(route.provider.slug)
            ranked.append((state, rank, route.priority, dice.expovariate(weight), Candidate(route, key, spoken)))
    ranked.sort(key=lambda item: item[:4])
    return [item[4] for item in ranked[: MOST_ATTEMPTS if preferences.allow_fallbacks else 1]]


def format_for(route: RouteEntry, client: FormatName) -> FormatName:
    """How a route is called: as it says itself, else the client's own format where the provider speaks it, else the provider's first."""
    declaration = DECLARATIONS[route.provider.kind]
    formats = declaration.formats
    if client in declaration.endpoints:
        return client
    if route.format:
        return cast("FormatName", route.format)
    return client if client in formats else formats[0]


def is_served(routes: Iterable[RouteEntry], client: FormatName) -> bool:
    """Whether any of these routes, healthy or not, is called in the client's own format."""
    return any(format_for(route, client) == client for route in routes)


def shortest_wait(routes: Iterable[RouteEntry], *, health: Health, now: float) -> float | None:
    """The seconds until the first route that asked us to wait may be tried again; None when none did."""
    waits = [
        health.seconds_left(("route", route.id), now) for route in routes if health.state(("route", route.id), now) is State.ASKED_TO_WAIT
    ]
    return min(waits) if waits else None


def _keys(provider: ProviderEntry, health: Health, now: float) -> list[KeyEntry]:
    return [key for key in provider.keys if health.state(("key", key.id), now) is State.HEALTHY]
