"""What a manifest says: its entries, and the strict reading of its YAML into them. Pure: nothing here knows what the catalog holds."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from catalog import documents, money, pricing, service_accounts
from catalog.documents import UNSAID, Section, Unsaid
from catalog.models import FORMATS, RATE_FIELDS, Model, Provider

SECTIONS = ("source", "providers", "models", "aliases", "default_model", "plans")
SECRET = re.compile(r"[\x21-\x7e]+")

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,149}")
_MODEL_HINT = "use letters, digits and . _ : / @ + - only, with a letter or digit first"
_PROVIDER = re.compile(r"[A-Za-z0-9_-]+")
_API_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
_MARKUP = re.compile(r"([0-9]{1,4}(?:\.[0-9]{1,4})?) ?%?")


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A credential at a provider: its secret, or the environment variable that holds it."""

    path: str
    name: str
    secret: str | None = field(default=None, repr=False)
    secret_env: str | None = None
    said: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProviderEntry:
    """A provider; `said` holds the columns that the manifest gives."""

    path: str
    slug: str
    said: dict[str, Any] = field(default_factory=dict)
    keys: tuple[KeyEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class PriceEntry:
    """A whole price, in nano-USD per 1,000,000 units; `markup_ppm` None: the installation's."""

    rates: dict[str, int]
    long_prompt: dict[str, int] | None = None
    markup_ppm: int | None = None


@dataclass(frozen=True, slots=True)
class RouteEntry:
    """A route: provider, the model's name there, and the format it is called in."""

    path: str
    provider: str
    upstream_model: str
    format: str = ""
    said: dict[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> tuple[str, str, str]:
        """What makes it this route and no other of its model."""
        return self.provider, self.upstream_model, self.format


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model; `routes` None: they are left as they are."""

    path: str
    slug: str
    said: dict[str, Any] = field(default_factory=dict)
    price: PriceEntry | None = None
    routes: tuple[RouteEntry, ...] | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """One manifest, checked as far as it can be without the database."""

    providers: tuple[ProviderEntry, ...] = ()
    models: tuple[ModelEntry, ...] = ()
    aliases: dict[str, str] = field(default_factory=dict)
    default_model: str | None = None


def read(text: str) -> Manifest:
    """Read a manifest. Its `plans` are billing's (`billing.plan_manifest`).

    Raises: catalog.documents.InvalidDocument with every problem, each by its path, such as `models[3].prices.input`.
    """
    return documents.read(text, _read_manifest)


def _read_manifest(top: Section) -> Manifest:
    top.skip(*SECTIONS)
    source = _read_source(top)
    provider_sections, model_sections = _listed(top, "providers"), _listed(top, "models")
    providers = [_read_provider(section) for section in provider_sections]
    models = [_read_model(section, source) for section in model_sections]
    refuse_twins(provider_sections, "slug", [provider.slug for provider in providers])
    refuse_twins(model_sections, "slug", [model.slug for model in models])
    aliases = _read_aliases(top)
    default = top.text("default_model", longest=150, shape=_MODEL, hint=_MODEL_HINT)
    for name in aliases:
        if any(model.slug == name for model in models):
            top.report("aliases", f"{name!r} is a model of this manifest: an alias would hide it")
    return Manifest(tuple(providers), tuple(models), aliases, default if isinstance(default, str) else None)


def _listed(parent: Section, key: str) -> list[Section]:
    sections = parent.sections(key)
    return [] if isinstance(sections, Unsaid) else sections


def refuse_twins(sections: Sequence[Section], key: str, names: Sequence[str]) -> None:
    """Report each section whose name an earlier one of the list has."""
    first: dict[str, str] = {}
    for section, name in zip(sections, names, strict=True):
        if name and first.setdefault(name, section.path) != section.path:
            section.report(key, f"{name!r} is {first[name]} already")


def _read_source(top: Section) -> str | None:
    """Where the numbers come from: text, or `{name, url, date}`."""
    if "source" not in top:
        return None
    if not top.is_mapping("source"):
        text = top.text("source", longest=300)
        return text if isinstance(text, str) else None
    section = top.section("source")
    if not isinstance(section, Section):
        return None
    parts = [section.text(key, longest=300) for key in ("name", "url", "date")]
    section.close()
    source = " · ".join(part for part in parts if isinstance(part, str))
    if len(source) > 300:
        top.report("source", "is longer than 300 characters")
    return source


def _read_provider(section: Section) -> ProviderEntry:
    section.need("slug")
    slug = section.text("slug", longest=50, shape=_PROVIDER, hint="use letters, digits, - and _ only")
    columns: dict[str, Any] = documents.said(
        {
            "kind": section.choice("kind", Provider.Kind.values),
            "base_url": section.text("base_url", longest=300, empty=True),
            "api_version": section.text("api_version", longest=40, shape=_API_VERSION, hint="such as 2024-10-21", empty=True),
            "allow_private": section.flag("allow_private"),
            "is_enabled": section.flag("enabled"),
        }
    )
    if columns.get("base_url"):
        columns["base_url"] = columns["base_url"].rstrip("/")
        if problem := _problem_with_url(columns["base_url"]):
            section.report("base_url", problem)
    key_sections = _listed(section, "keys")
    keys = [_read_key(entry) for entry in key_sections]
    refuse_twins(key_sections, "name", [key.name for key in keys])
    section.close()
    return ProviderEntry(section.path, slug if isinstance(slug, str) else "", columns, tuple(keys))


def _problem_with_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        return "must be a URL that begins with https:// (or http:// for a server of your own)"
    if parts.username or parts.password or parts.fragment:
        return "must hold no user name, password or fragment"
    return ""


def _read_key(section: Section) -> KeyEntry:
    name = section.text("name", longest=100)
    secret = section.text("secret", longest=8000)
    if isinstance(secret, str) and (problem := problem_with_secret(secret)):
        section.report("secret", problem)
    variable = section.text("secret_env", longest=200)
    if ("secret" in section) == ("secret_env" in section):
        section.report("", "give either 'secret' or 'secret_env' (the name of an environment variable)")
    columns = documents.said({"weight": section.whole("weight", lowest=1), "is_enabled": section.flag("enabled")})
    section.close()
    return KeyEntry(
        section.path,
        name if isinstance(name, str) else "default",
        secret if isinstance(secret, str) else None,
        variable if isinstance(variable, str) else None,
        columns,
    )


def problem_with_secret(secret: str) -> str:
    """Why a secret cannot be one; empty when it can. A service account's key file is read; anything else is one word."""
    if service_accounts.looks_like_one(secret):
        try:
            service_accounts.read(secret)
        except service_accounts.NotAServiceAccount as error:
            return f"is no key file of a service account: {error}"
        return ""
    return "" if SECRET.fullmatch(secret) else "must be printable ASCII without spaces"


def _read_model(section: Section, source: str | None) -> ModelEntry:
    section.need("slug")
    slug = section.text("slug", longest=150, shape=_MODEL, hint=_MODEL_HINT)
    columns: dict[str, Any] = documents.said(
        {
            "kind": section.choice("kind", Model.Kind.values),
            "name": section.text("name", longest=150, empty=True),
            "description": section.text("description", longest=10_000, empty=True),
            "context": section.whole("context", lowest=1),
            "max_output": section.whole("max_output", lowest=1),
            "usual_output": section.whole("usual_output", lowest=1),
            "capabilities": section.texts("capabilities", longest=50),
            "free_daily_requests": _read_free(section),
            "is_enabled": section.flag("enabled"),
            "source": UNSAID if source is None else source,
        }
    )
    if columns.get("max_output", 0) > columns.get("context", documents.LARGEST_INTEGER):
        section.report("max_output", f"is more than the context of {columns['context']}")
    price = _read_price(section, columns)
    routes: tuple[RouteEntry, ...] | None = None
    if not isinstance(entries := section.sections("routes"), Unsaid):
        routes = tuple(_read_route(entry) for entry in entries)
        seen: set[tuple[str, str, str]] = set()
        for entry, route in zip(entries, routes, strict=True):
            if route.identity in seen:
                entry.report("", "this route stands twice")
            seen.add(route.identity)
    section.close()
    return ModelEntry(section.path, slug if isinstance(slug, str) else "", columns, price, routes)


def _read_free(section: Section) -> int | Unsaid | None:
    free = section.section("free")
    if not isinstance(free, Section):
        return free
    free.need("daily_requests")
    requests = free.whole("daily_requests")
    free.close()
    return requests


def _read_price(section: Section, columns: dict[str, Any]) -> PriceEntry | None:
    prices, long_prompt = section.section("prices"), section.section("long_prompt")
    markup = section.text("markup", longest=20, shape=_MARKUP, hint='expected percent, such as "5%" or "2.5%"')
    if not isinstance(prices, Section):
        if prices is None:
            section.report("prices", "is null: a price in effect cannot be taken back; use 'enabled: false'")
        for key in ("long_prompt", "markup"):
            if key in section:
                section.report(key, "stands beside 'prices' only: they are one price")
        # A new model that is free needs no price list: what is beyond the free requests is refused, not charged.
        return PriceEntry({}) if prices is UNSAID and columns.get("free_daily_requests") else None
    rates = _read_rates(prices)
    if not rates and not columns.get("free_daily_requests"):
        prices.report("", "names no price")
    long_rates: dict[str, int] | None = None
    if isinstance(long_prompt, Section):
        long_prompt.need("above", "prices")
        above, inner = long_prompt.whole("above", lowest=1), long_prompt.section("prices")
        if isinstance(above, int) and isinstance(inner, Section):
            long_rates = {"above": above, **_read_rates(inner)}
            if len(long_rates) == 1:
                inner.report("", "names no price")
        elif inner is None:
            long_prompt.report("prices", "is null")
        long_prompt.close()
    return PriceEntry(rates, long_rates, _ppm(markup) if isinstance(markup, str) else None)


def _read_rates(section: Section) -> dict[str, int]:
    rates = {}
    for name in RATE_FIELDS:
        dollars = section.decimal(name)
        if isinstance(dollars, Decimal):
            try:
                rates[name] = money.nano_from_usd(dollars * pricing.PER_UNITS if name in pricing.PER_ONE else dollars)
            except money.NotAnAmount:
                section.report(name, "has more decimals than a nano-dollar can hold, or is too large")
    section.close()
    return rates


def _ppm(percent: str) -> int:
    found = _MARKUP.fullmatch(percent)
    return int(Decimal(found[1]) * 10_000) if found else 0


def _read_route(section: Section) -> RouteEntry:
    section.need("provider", "upstream_model")
    provider = section.text("provider", longest=50)
    upstream = section.text("upstream_model", longest=200)
    format_ = section.choice("format", [name for name, _ in FORMATS])
    columns = documents.said(
        {"priority": section.whole("priority"), "weight": section.whole("weight", lowest=1), "is_enabled": section.flag("enabled")}
    )
    section.close()
    return RouteEntry(
        section.path,
        provider if isinstance(provider, str) else "",
        upstream if isinstance(upstream, str) else "",
        format_ if isinstance(format_, str) else "",
        columns,
    )


def _read_aliases(top: Section) -> dict[str, str]:
    """Aliases are a mapping of names to model slugs."""
    section = top.section("aliases")
    if not isinstance(section, Section):
        return {}
    aliases = {}
    for name in section.keys():  # noqa: SIM118 - a Section is no dict
        if not _MODEL.fullmatch(name):
            section.report(name, f"an alias is a name: {_MODEL_HINT}")
        slug = section.text(name, longest=150, shape=_MODEL, hint=_MODEL_HINT)
        if isinstance(slug, str):
            aliases[name] = slug
    section.close()
    return aliases
