"""Which provider is tried, and in which order."""

import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from catalog import pricing
from catalog.snapshot import EMPTY, Catalog, KeyEntry, ModelEntry, ModelNotFound, ProviderEntry, RouteEntry
from proxy import failures, routing
from proxy.health import FAILURES_TO_OPEN, Health
from proxy.routing import Candidate

NOW = datetime(2026, 5, 1, tzinfo=UTC)
PRICE = pricing.Price(1, NOW - timedelta(days=1), pricing.fill_rates({"input": 1}), None, None, 0)


def provider(ident: int, kind: str = "custom", keys: int = 1) -> ProviderEntry:
    return ProviderEntry(ident, f"p{ident}", kind, "https://x", False, tuple(KeyEntry(f"k{ident}.{n}", 1, "s") for n in range(keys)))


def route(ident: int, *, kind: str = "custom", keys: int = 1, priority: int = 0, weight: int = 1, format_: str = "") -> RouteEntry:
    return RouteEntry(ident, provider(ident, kind, keys), f"m{ident}", priority, weight, format_)


def model(slug: str, *, priced: bool = True) -> ModelEntry:
    return ModelEntry(1, slug, "text", "", "", 1000, 100, 10, (), None, NOW, (), (PRICE,) if priced else ())


def tried(
    routes: list[RouteEntry], health: Health | None = None, *, now: float = 0, demo_only: bool = False, seed: int = 1
) -> list[Candidate]:
    return routing.candidates(
        routes, health=health or Health(), now=now, client="chat", bridges=False, demo_only=demo_only, choose=random.Random(seed)
    )


def order(candidates: list[Candidate]) -> list[int]:
    return [candidate.route.id for candidate in candidates]


def test_lower_priorities_come_first() -> None:
    assert order(tried([route(1, priority=2), route(2, priority=0), route(3, priority=1)])) == [2, 3, 1]


def test_at_most_three_are_tried() -> None:
    assert len(tried([route(number) for number in range(10)])) == routing.MOST_ATTEMPTS == 3


def test_equal_routes_are_chosen_in_proportion_to_their_weights() -> None:
    routes = [route(1, weight=3), route(2, weight=1)]
    first = Counter(order(tried(routes, seed=seed))[0] for seed in range(4000))
    assert first[1] / 4000 == pytest.approx(0.75, abs=0.03)


def test_the_keys_of_one_provider_share_the_work() -> None:
    first = Counter(tried([route(1, keys=4)], seed=seed)[0].key.id for seed in range(2000))  # type: ignore[union-attr]
    assert all(count == pytest.approx(500, abs=100) for count in first.values())
    assert len(first) == 4


def test_another_key_of_the_same_route_is_another_attempt() -> None:
    assert order(tried([route(1, keys=2)])) == [1, 1]


def test_a_cooling_route_comes_last_whatever_its_priority_and_is_still_tried() -> None:
    health = Health()
    for _ in range(FAILURES_TO_OPEN):
        health.note_failure(1, "k1.0", failures.ProviderFault(500), 0)
    assert order(tried([route(1, priority=0), route(2, priority=5)], health)) == [2, 1]
    assert order(tried([route(1)], health)) == [1]


def test_a_route_that_asked_to_wait_is_left_out_until_then() -> None:
    health = Health()
    health.note_failure(1, "k1.0", failures.ProviderBusy(429, 5), 0)
    health.note_failure(2, "k2.0", failures.ProviderBusy(429, 3), 0)
    routes = [route(1), route(2)]
    assert tried(routes, health) == []
    assert routing.shortest_wait(routes, health=health, now=1) == 2
    assert order(tried(routes, health, now=4)) == [2]


def test_no_wait_is_told_where_nobody_asked_for_one() -> None:
    assert routing.shortest_wait([route(1)], health=Health(), now=0) is None


def test_a_resting_key_is_left_out() -> None:
    health = Health()
    health.note_failure(1, "k1.0", failures.ProviderKeyRefused(402, out_of_money=True), 0)
    assert [candidate.key.id for candidate in tried([route(1, keys=2)], health) if candidate.key] == ["k1.1"]
    assert tried([route(1, keys=1)], health) == []


def test_a_provider_without_keys_is_left_out_unless_it_needs_none() -> None:
    assert order(tried([route(1, keys=0), route(2, kind="demo", keys=0)])) == [2]


def test_a_test_key_sees_the_demo_provider_only() -> None:
    assert order(tried([route(1), route(2, kind="demo", keys=0)], demo_only=True)) == [2]


def test_a_route_of_another_format_is_left_out() -> None:
    assert order(tried([route(1, format_="messages"), route(2, format_="chat"), route(3)])) in ([2, 3], [3, 2])


@pytest.mark.parametrize(
    ("name", "kind", "upstream"),
    [
        ("gpt-4o", "openai", "gpt-4o"),
        ("o1-mini", "openai", "o1-mini"),
        ("o3-mini", "openai", "o3-mini"),
        ("o4-mini", "openai", "o4-mini"),
        ("chatgpt-4o-latest", "openai", "chatgpt-4o-latest"),
        ("gemini-2.0-flash", "google", "gemini-2.0-flash"),
        ("google/gemini-2.0-flash", "google", "gemini-2.0-flash"),
        ("deepseek-chat", "deepseek", "deepseek-chat"),
        ("deepseek/deepseek-chat", "deepseek", "deepseek-chat"),
        ("openrouter/meta/llama", "openrouter", "meta/llama"),
        ("zai/glm-4.6", "zai", "glm-4.6"),
        ("meta/llama", "openrouter", "meta/llama"),
        ("whatever", "openai", "whatever"),
    ],
)
def test_a_prefix_stands_for_a_provider(name: str, kind: str, upstream: str) -> None:
    assert routing.by_prefix(name) == (kind, upstream)


def catalog(*models: ModelEntry, aliases: dict[str, str] | None = None, providers: tuple[ProviderEntry, ...] = ()) -> Catalog:
    return replace(EMPTY, models={one.slug: one for one in models}, aliases=aliases or {}, providers={one.slug: one for one in providers})


def test_a_model_is_found_by_name_alias_and_bare_name() -> None:
    here = catalog(model("openai/gpt-4o"), model("mine"), aliases={"best": "mine"})
    assert [routing.find_model(here, name, NOW).slug for name in ("openai/gpt-4o", "gpt-4o", "best", "mine")] == ["openai/gpt-4o"] * 2 + [
        "mine"
    ] * 2


@pytest.mark.parametrize("name", ["gpt-5", "", "MINE", "mine ", "a" * 300])
def test_what_is_not_for_sale_is_not_found(name: str) -> None:
    here = catalog(model("mine"), model("openai/gpt-5", priced=False))
    with pytest.raises(ModelNotFound):
        routing.find_model(here, name, NOW)


def test_a_model_without_routes_goes_where_its_prefix_says() -> None:
    openai, other = provider(7, "openai"), provider(8)
    routes = routing.routes_of(catalog(providers=(openai, other)), model("gpt-4o"))
    assert [(one.provider, one.upstream_model) for one in routes] == [(openai, "gpt-4o")]
