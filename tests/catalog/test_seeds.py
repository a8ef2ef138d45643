"""The catalog seeds are sound: every file parses, no name stands twice, and every price is an exact number of nano-USD."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools import build_seeds

SEEDS = Path(__file__).resolve().parents[2] / "catalog" / "seeds"
FILES = sorted(SEEDS.glob("*.yaml"))
OURS = {"demo.yaml", "plans.yaml"}  # their prices are our own, so they name no source
BOUGHT = [path for path in FILES if path.name not in OURS]

KINDS = {"openai", "anthropic", "google", "azure", "deepseek", "openrouter", "xai", "zai", "mistral", "groq", "custom", "demo"}
FORMATS = {"chat", "responses", "messages", "gemini"}
CAPABILITIES = {"tools", "vision", "audio_in", "files", "json_object", "json_schema", "reasoning"}
PRICES = {"input", "cached_input", "cache_write", "cache_write_1h", "audio_input", "output", "image", "web_search", "request"}
MODEL_FIELDS = {"slug", "kind", "context", "max_output", "capabilities", "prices", "long_prompt", "routes"}
NANO = 1_000_000_000


class OneKeyOnce(yaml.SafeLoader):
    """A loader that refuses a mapping with the same key twice, where YAML itself would keep the last."""


def _mapping(loader: OneKeyOnce, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    assert len(keys) == len(set(keys)), f"a key stands twice at {node.start_mark}"
    return {loader.construct_object(key): loader.construct_object(value, deep=True) for key, value in node.value}


OneKeyOnce.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read(path: Path) -> dict[str, Any]:
    document = yaml.load(path.read_text(encoding="utf-8"), Loader=OneKeyOnce)  # noqa: S506  a SafeLoader
    assert isinstance(document, dict)
    return document


def all_models() -> list[dict[str, Any]]:
    return [model for path in FILES for model in read(path).get("models", [])]


def all_prices() -> list[tuple[str, str, Any]]:
    """Every price of the catalog: model, bucket, and the value as written."""
    tables = [(model["slug"], model["prices"]) for model in all_models()]
    tables += [(model["slug"], model["long_prompt"]["prices"]) for model in all_models() if "long_prompt" in model]
    return [(slug, name, value) for slug, prices in tables for name, value in prices.items()]


def test_there_is_a_file_for_every_provider_we_know_the_prices_of() -> None:
    providers = {"openai", "anthropic", "google", "deepseek", "xai", "openrouter", "zai", "mistral", "groq"}
    assert {path.stem for path in FILES} == providers | {"demo", "plans"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_has_only_the_sections_that_apply_reads(path: Path) -> None:
    assert set(read(path)) <= {"source", "providers", "models", "aliases", "plans", "default_model"}


@pytest.mark.parametrize("path", BOUGHT, ids=lambda path: path.name)
def test_a_price_file_names_its_page_and_its_date(path: Path) -> None:
    source = read(path)["source"]
    assert source["url"].startswith("https://")
    assert source["date"].isoformat() >= "2026-11-10"
    assert source["name"].startswith("genai-prices ")


def test_no_model_slug_stands_twice() -> None:
    slugs = [model["slug"] for model in all_models()]
    assert len(slugs) == len(set(slugs))


def test_no_provider_stands_twice() -> None:
    slugs = [provider["slug"] for path in FILES for provider in read(path).get("providers", [])]
    assert len(slugs) == len(set(slugs))


def test_no_alias_stands_twice_and_none_hides_a_model() -> None:
    aliases = [alias for path in FILES for alias in read(path).get("aliases", {})]
    assert len(aliases) == len(set(aliases))
    assert not set(aliases) & {model["slug"] for model in all_models()}


def test_every_alias_leads_to_a_model_of_its_own_file() -> None:
    for path in FILES:
        document = read(path)
        assert set(document.get("aliases", {}).values()) <= {model["slug"] for model in document.get("models", [])}


def test_every_provider_says_where_and_how_it_is_reached() -> None:
    for path in FILES:
        for provider in read(path).get("providers", []):
            assert provider["kind"] in KINDS
            assert provider["base_url"].startswith("https://") or provider["kind"] == "demo"
            assert not provider["base_url"].endswith("/")


def test_every_route_names_a_provider_of_its_own_file_and_a_model_there() -> None:
    for path in FILES:
        document = read(path)
        known = {provider["slug"] for provider in document.get("providers", [])}
        for model in document.get("models", []):
            assert model["routes"], model["slug"]
            for route in model["routes"]:
                assert route["provider"] in known
                assert isinstance(route["upstream_model"], str)
                assert model["slug"] == f"{route['provider']}/{route['upstream_model']}"
                assert route.get("format", "chat") in FORMATS


def test_a_model_has_only_fields_and_capabilities_with_a_meaning() -> None:
    for model in all_models():
        assert set(model) <= MODEL_FIELDS, model["slug"]
        assert model["kind"] in {"text", "embedding", "image"}
        assert set(model.get("capabilities", [])) <= CAPABILITIES, model["slug"]
        assert len(model.get("capabilities", [])) == len(set(model.get("capabilities", [])))


def test_every_text_model_has_both_prices_and_both_limits() -> None:
    for model in all_models():
        if model["kind"] == "text":
            assert Decimal(model["prices"]["input"]) > 0, model["slug"]
            assert Decimal(model["prices"]["output"]) > 0, model["slug"]
            assert isinstance(model["context"], int), model["slug"]
            assert 0 < model["max_output"] <= model["context"], model["slug"]


def test_every_embedding_and_image_model_has_the_one_price_it_is_charged_by() -> None:
    charged_by = {"embedding": "input", "image": "image"}
    for model in all_models():
        if model["kind"] in charged_by:
            assert set(model["prices"]) == {charged_by[model["kind"]]}, model["slug"]


def test_every_price_is_a_string_of_whole_nano_dollars_and_none_is_free() -> None:
    for slug, name, value in all_prices():
        assert name in PRICES, slug
        assert isinstance(value, str), f"{slug} {name}: a number would pass through a float"
        nano = Decimal(value) * NANO
        assert nano == nano.to_integral_value(), f"{slug} {name}"
        assert nano > 0, f"{slug} {name}"


def test_reading_from_a_cache_is_cheaper_and_writing_to_it_is_not() -> None:
    for model in all_models():
        prices = {name: Decimal(value) for name, value in model["prices"].items()}
        assert prices.get("cached_input", Decimal(0)) <= prices.get("input", Decimal(0)), model["slug"]
        if "cache_write" in prices:
            assert prices["cache_write"] >= prices["input"], model["slug"]
        if "cache_write_1h" in prices:
            assert prices["cache_write_1h"] > prices["cache_write"], model["slug"]


def test_a_long_prompt_is_reachable_costs_more_and_prices_the_same_buckets() -> None:
    tiered = [model for model in all_models() if "long_prompt" in model]
    assert tiered
    for model in tiered:
        assert 0 < model["long_prompt"]["above"] < model["context"], model["slug"]
        assert set(model["long_prompt"]["prices"]) == set(model["prices"]) - {"web_search"}, model["slug"]
        for name, value in model["long_prompt"]["prices"].items():
            assert Decimal(value) > Decimal(model["prices"][name]), f"{model['slug']} {name}"


def test_the_default_model_is_a_free_to_try_model_of_the_demo_provider() -> None:
    demo = read(SEEDS / "demo.yaml")
    assert demo["default_model"] in {model["slug"] for model in demo["models"]}
    assert [path.name for path in FILES if "default_model" in read(path)] == ["demo.yaml"]


def test_the_plans_are_complete_and_priced_exactly() -> None:
    plans = read(SEEDS / "plans.yaml")["plans"]
    assert [plan["slug"] for plan in plans] == ["free", "pay-as-you-go", "team"]
    for plan in plans:
        assert set(plan) - {"default"} == {
            "slug",
            "monthly_input_tokens",
            "monthly_output_tokens",
            "allowed_models",
            "rpm",
            "tpm",
            "price_usd",
        }
        assert isinstance(plan["price_usd"], str)
        assert Decimal(plan["price_usd"]) >= 0
        assert plan["allowed_models"]
    assert [plan["slug"] for plan in plans if plan.get("default")] == ["pay-as-you-go"]  # who ends a subscription returns there


def test_the_files_are_exactly_what_the_tool_writes() -> None:
    built = build_seeds.build(build_seeds.read_table())
    assert set(built) == {path.name for path in BOUGHT}
    for name, text in built.items():
        assert (SEEDS / name).read_text(encoding="utf-8") == text, f"{name}: run python -m tools.build_seeds"


def test_a_retired_model_leaves_the_files_on_the_day_it_is_shut_down() -> None:
    table = build_seeds.read_table()
    retiring = {
        f"{provider['slug']}/{entry['name']}": entry["retires"]
        for provider in table["providers"]
        for entry in provider["models"]
        if "retires" in entry
    }
    offered = {model["slug"] for model in all_models()}
    assert {slug for slug, day in retiring.items() if day > table["valid_on"]} <= offered
    assert not {slug for slug, day in retiring.items() if day <= table["valid_on"]} & offered


def test_prices_that_change_with_the_hour_are_written_at_their_dearest() -> None:
    deepseek = {model["slug"]: model["prices"] for model in read(SEEDS / "deepseek.yaml")["models"]}
    assert deepseek["deepseek/deepseek-flash"] == {"input": "0.3", "cached_input": "0.006", "output": "1.2"}


def test_a_well_known_model_reads_as_its_price_page_does() -> None:
    anthropic = {model["slug"]: model for model in read(SEEDS / "anthropic.yaml")["models"]}
    haiku = anthropic["anthropic/claude-haiku-5-5"]
    assert haiku["prices"] == {
        "input": "0.1",
        "cached_input": "0.01",
        "cache_write": "0.125",
        "cache_write_1h": "0.2",
        "output": "0.5",
        "web_search": "0.01",  # ten dollars a thousand
    }
    assert haiku["long_prompt"] == {
        "above": 100_000,
        "prices": {"input": "0.5", "cached_input": "0.05", "cache_write": "0.625", "cache_write_1h": "1", "output": "2.5"},
    }
