"""Writes the catalog's provider manifests (`catalog/seeds/*.yaml`): prices out of genai-prices, limits out of `seed_models.yaml`.

Run by a maintainer when prices move, and reviewed like any other change: `python -m tools.build_seeds` writes the files and
`python -m tools.build_seeds --check` exits with 1 if they are not what the tool would write. No clock is read and no network is used,
so two runs write the same bytes; the day whose prices count is in the table. What our format cannot say exactly (three price tiers,
a price bucket of its own) is refused here rather than rounded.
"""

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from genai_prices import types as genai
from genai_prices.data import providers as genai_providers

TABLE = Path(__file__).with_name("seed_models.yaml")
SEEDS = Path(__file__).resolve().parent.parent / "catalog" / "seeds"

# Our price keys, in the order they are written, and the field of genai-prices each is read from.
PRICE_FIELDS = {
    "input": "input_mtok",
    "cached_input": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
    "audio_input": "input_audio_mtok",
    "output": "output_mtok",
}

SEARCHES = "web_searches_kcount"  # a thousand searches that the provider runs itself

# What a catalog of prices may leave out: searches in stored files are not metered, cached audio is charged as cached text, and an
# embedding model is offered for text only.
LEFT_OUT = {"storage_searches_kcount", "cache_audio_read_mtok"}
LEFT_OUT_OF_EMBEDDINGS = LEFT_OUT | {SEARCHES, "output_mtok", "cache_read_mtok", "input_audio_mtok", "input_image_mtok", "input_video_mtok"}


class UnpriceableModel(Exception):
    """A model of the table that has no price on the day, or one that the manifest cannot state exactly."""

    def __init__(self, slug: str, why: str) -> None:
        super().__init__(f"{slug}: {why}")


@dataclass(frozen=True)
class LongPrompt:
    """What a request costs, whole, when its prompt has more tokens than `above`."""

    above: int
    prices: dict[str, Decimal]


@dataclass(frozen=True)
class Priced:
    """One model as it will stand in a manifest. Prices are in USD per 1,000,000 tokens, `web_search` in USD for one."""

    slug: str
    entry: dict[str, Any]
    context: int
    prices: dict[str, Decimal]
    long_prompt: LongPrompt | None
    remarks: list[str]


def read_table() -> dict[str, Any]:
    """Read the hand-kept table, and refuse to run beside another version of the price data than the one it names."""
    table: dict[str, Any] = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    installed = version("genai-prices")
    if installed != str(table["data"]["version"]):
        raise SystemExit(
            f"seed_models.yaml is for genai-prices {table['data']['version']}, installed is {installed}: update `data` and review"
        )
    return table


def find_model(provider_id: str, name: str) -> genai.ModelInfo:
    """Find the price record of the provider's model `name`.

    Raises: UnpriceableModel when there is none, or more than one.
    """
    provider = next(p for p in genai_providers if p.id == provider_id)
    exact = [model for model in provider.models if model.id == name]
    found = exact or [model for model in provider.models if model.is_match(name)]
    if len(found) != 1:
        raise UnpriceableModel(f"{provider_id}/{name}", f"{len(found)} price records match")
    return found[0]


def prices_on(model: genai.ModelInfo, day: date) -> genai.ModelPrice:
    """Choose the prices of `day` (UTC); where they change with the hour, the dearest, so that no hour is sold below cost."""
    midnight = datetime.combine(day, time(), UTC)
    hours = [model.get_prices(midnight + timedelta(minutes=30 * half)) for half in range(48)]
    return max(hours, key=lambda price: (_base(price.input_mtok), _base(price.output_mtok)))


def _base(value: Decimal | genai.TieredPrices | None) -> Decimal:
    if value is None:
        return Decimal(0)
    return value.base if isinstance(value, genai.TieredPrices) else value


def next_change(model: genai.ModelInfo, day: date) -> tuple[date, Decimal, Decimal] | None:
    """The first announced price change after `day`: its date, then the input and output price it brings."""
    if isinstance(model.prices, genai.ModelPrice):
        return None
    starts = [c.constraint.start_date for c in model.prices if isinstance(c.constraint, genai.StartDateConstraint)]
    coming = sorted(start for start in starts if start > day)
    if not coming:
        return None
    after = prices_on(model, coming[0])
    return coming[0], _base(after.input_mtok), _base(after.output_mtok)


def price_model(provider: dict[str, Any], entry: dict[str, Any], day: date) -> Priced:
    """Join one table entry with its prices on `day`.

    Raises: UnpriceableModel.
    """
    slug = f"{provider['slug']}/{entry['name']}"
    embedding = entry.get("kind") == "embedding"
    model = find_model(provider["prices_of"], entry["name"])
    given = {name: value for name, value in vars(prices_on(model, day)).items() if value is not None and not name.startswith("_")}

    wanted = {"input": "input_mtok"} if embedding else PRICE_FIELDS
    unsaid = set(given) - set(wanted.values()) - (LEFT_OUT_OF_EMBEDDINGS if embedding else LEFT_OUT | {SEARCHES})
    if unsaid:
        raise UnpriceableModel(slug, f"prices our format has no word for: {', '.join(sorted(unsaid))}")
    values = {ours: given[theirs] for ours, theirs in wanted.items() if theirs in given}
    prices = {ours: _base(value) for ours, value in values.items()}
    for name in ("input",) if embedding else ("input", "output"):
        if prices.get(name, Decimal(0)) <= 0:
            raise UnpriceableModel(slug, f"no {name} price")
    searches = given.get(SEARCHES, provider.get(SEARCHES))
    if not embedding and searches is not None:
        prices["web_search"] = Decimal(searches) / 1000

    context = entry.get("context") or model.context_window
    if not context:
        raise UnpriceableModel(slug, "no context window in the price data: say it in the table")
    remarks = []
    if entry.get("assumed"):
        remarks.append("No output limit is published: max_output is a prudent choice.")
    if entry.get("retires"):
        remarks.append(f"Shut down by the provider on {entry['retires']}.")
    if (change := next_change(model, day)) is not None:
        remarks.append(f"Announced from {change[0]}: input {plain(change[1])}, output {plain(change[2])}.")
    return Priced(slug, entry, int(context), prices, long_prompt_of(slug, values, int(context)), remarks)


def long_prompt_of(slug: str, values: dict[str, Decimal | genai.TieredPrices], context: int) -> LongPrompt | None:
    """Read the long-prompt tier out of `values`, with every price of the model in it; None where no prompt can be that long.

    Raises: UnpriceableModel when there is more than one tier, or the buckets disagree where it begins.
    """
    tiered = [value for value in values.values() if isinstance(value, genai.TieredPrices)]
    reachable = {tier.start for value in tiered for tier in value.tiers if tier.start < context}
    if not reachable:
        return None
    if len(reachable) > 1 or any(len(value.tiers) != 1 for value in tiered):
        raise UnpriceableModel(slug, f"prompt tiers begin at {sorted(reachable)}: only one can be stated")
    prices = {name: value.tiers[0].price if isinstance(value, genai.TieredPrices) else value for name, value in values.items()}
    return LongPrompt(reachable.pop(), prices)


def plain(amount: Decimal) -> str:
    """Write a price without exponent or trailing zeros."""
    return format(amount.normalize(), "f")


def _flow(prices: dict[str, Decimal]) -> str:
    return "{" + ", ".join(f'{name}: "{plain(amount)}"' for name, amount in prices.items()) + "}"


def alias_names(model: Priced) -> list[str]:
    """The bare names under which a client may ask for this model."""
    return [str(model.entry["name"]), *(str(alias) for alias in model.entry.get("aliases", []))]


def write_manifest(provider: dict[str, Any], models: list[Priced], taken: set[str], data: dict[str, Any]) -> str:
    """Write one provider's manifest. `taken` are the names that would be ambiguous as an alias."""
    unit = "; a web search, each" if any("web_search" in model.prices for model in models) else ""
    lines = [
        f"# Prices of {provider['title']}, read from {provider['price_page']}",
        f"# on {data['date']} (via genai-prices {data['version']}). USD per 1,000,000 tokens{unit}.",
        "# Written by `python -m tools.build_seeds` from tools/seed_models.yaml: change those, not this file.",
    ]
    if "note" in provider:
        lines.append(f"# {provider['note']}")
    lines += [
        f'source: {{name: genai-prices {data["version"]}, url: "{provider["price_page"]}", date: {data["date"]}}}',
        "providers:",
        f'  - {{slug: {provider["slug"]}, kind: {provider["kind"]}, base_url: "{provider["base_url"]}"}}',
        "models:",
    ]
    for model in models:
        entry = model.entry
        kind = entry.get("kind", "text")
        lines.append(f"  - slug: {model.slug}")
        lines += [f"    # {remark}" for remark in model.remarks]
        lines += [f"    kind: {kind}", f"    context: {model.context}"]
        if kind == "text":
            lines.append(f"    max_output: {entry['max_output']}")
            lines.append(f"    capabilities: [{', '.join(entry['capabilities'])}]")
        lines.append(f"    prices: {_flow(model.prices)}")
        if model.long_prompt is not None:
            lines.append(f"    long_prompt: {{above: {model.long_prompt.above}, prices: {_flow(model.long_prompt.prices)}}}")
        format_ = f", format: {entry['format']}" if "format" in entry else ""
        lines.append(f"    routes: [{{provider: {provider['slug']}, upstream_model: {entry['name']}{format_}}}]")
    aliases = [(name, model.slug) for model in models for name in alias_names(model) if name not in taken]
    if aliases:
        lines.append("aliases:")
        lines += [f"  {name}: {slug}" for name, slug in aliases]
    return "\n".join(lines) + "\n"


def build(table: dict[str, Any]) -> dict[str, str]:
    """Build every manifest of the table: file name to text.

    Raises: UnpriceableModel.
    """
    day = table["valid_on"]
    served = {
        provider["slug"]: [
            price_model(provider, entry, day) for entry in provider["models"] if "retires" not in entry or entry["retires"] > day
        ]
        for provider in table["providers"]
    }
    models = [model for group in served.values() for model in group]
    counts = Counter(name for model in models for name in alias_names(model))
    taken = {name for name, count in counts.items() if count > 1} | {model.slug for model in models}
    return {
        f"{provider['slug']}.yaml": write_manifest(provider, served[provider["slug"]], taken, table["data"])
        for provider in table["providers"]
    }


def main(arguments: list[str] | None = None) -> int:
    """Write the manifests, or with `--check` only compare; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file differs")
    options = parser.parse_args(arguments)
    stale = 0
    for name, text in build(read_table()).items():
        path = SEEDS / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        print(f"{'stale' if options.check else 'written'}: {path.relative_to(SEEDS.parent.parent)}")
        if not options.check:
            path.write_text(text, encoding="utf-8")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
