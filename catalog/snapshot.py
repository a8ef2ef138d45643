"""The live catalog: a frozen picture of it in memory, replaced whole when its version changes, the last good one kept when loading fails."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

import structlog
from django.db import close_old_connections, connection, reset_queries, transaction

from catalog import models, pricing, vault
from gateway_site.clients import DatabaseUnavailable, Lane

log = structlog.get_logger(__name__)

POLL_SECONDS = 1.0


class ModelNotFound(Exception):
    """No model of this name is for sale."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A credential at a provider, opened. Its secret stays in memory only and out of every representation."""

    id: str
    weight: int
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ProviderEntry:
    """A provider that is enabled."""

    id: int
    slug: str
    kind: str
    base_url: str
    allow_private: bool
    keys: tuple[KeyEntry, ...]
    api_version: str = ""


@dataclass(frozen=True, slots=True)
class RouteEntry:
    """A model at a provider."""

    id: int
    provider: ProviderEntry
    upstream_model: str
    priority: int
    weight: int
    format: str


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that is enabled, its routes by priority and its prices by date."""

    id: int
    slug: str
    kind: str
    name: str
    description: str
    context: int
    max_output: int
    usual_output: int
    capabilities: tuple[str, ...]
    free_daily_requests: int | None
    created_at: datetime
    routes: tuple[RouteEntry, ...]
    prices: tuple[pricing.Price, ...]

    def price_at(self, now: datetime) -> pricing.Price | None:
        """The price version in effect; None: not for sale."""
        return pricing.price_at(self.prices, now)


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything that can be called, at one version."""

    version: int
    models: dict[str, ModelEntry]
    aliases: dict[str, str]
    providers: dict[str, ProviderEntry]
    default_model: str | None

    def find(self, name: str, now: datetime) -> ModelEntry:
        """The sellable model of this name or alias.

        Raises: ModelNotFound.
        """
        entry = self.models.get(name) or self.models.get(self.aliases.get(name, ""))
        if entry is None or entry.price_at(now) is None:
            raise ModelNotFound(name)
        return entry


EMPTY = Catalog(0, {}, {}, {}, None)


def load() -> Catalog:
    """Read the whole catalog in one consistent transaction. A provider key that does not open is left out and reported."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        head = models.CatalogVersion.objects.select_related("default_model").get(pk=1)
        providers = {
            provider.pk: ProviderEntry(
                provider.pk,
                provider.slug,
                provider.kind,
                provider.base_url.rstrip("/"),
                provider.allow_private,
                _open_keys(provider),
                provider.api_version,
            )
            for provider in models.Provider.objects.filter(is_enabled=True).prefetch_related("keys")
        }
        entries = {}
        for model in models.Model.objects.filter(is_enabled=True).prefetch_related("routes", "prices"):
            entries[model.slug] = ModelEntry(
                id=model.pk,
                slug=model.slug,
                kind=model.kind,
                name=model.name,
                description=model.description,
                context=model.context,
                max_output=model.max_output,
                usual_output=model.usual_output,
                capabilities=tuple(model.capabilities),
                free_daily_requests=model.free_daily_requests,
                created_at=model.created_at,
                routes=tuple(
                    RouteEntry(route.pk, providers[route.provider_id], route.upstream_model, route.priority, route.weight, route.format)
                    for route in sorted(model.routes.all(), key=lambda route: (route.priority, route.pk))
                    if route.is_enabled and route.provider_id in providers
                ),
                prices=tuple(price.frozen() for price in sorted(model.prices.all(), key=lambda price: price.effective_from)),
            )
        aliases = dict(models.Alias.objects.values_list("name", "model__slug"))
        by_slug = {provider.slug: provider for provider in providers.values()}
        return Catalog(head.version, entries, aliases, by_slug, head.default_model.slug if head.default_model else None)


def _open_keys(provider: models.Provider) -> tuple[KeyEntry, ...]:
    opened = []
    for key in provider.keys.all():
        if not key.is_enabled:
            continue
        try:
            opened.append(KeyEntry(str(key.pk), key.weight, key.secret()))
        except vault.CannotOpen as error:
            log.error("provider_key_does_not_open", provider=provider.slug, key=key.name, error=str(error))
    return tuple(opened)


class LiveCatalog:
    """Holds the current picture for one process and keeps it fresh."""

    def __init__(self, lane: Lane) -> None:
        self.current = EMPTY
        self._lane = lane
        self._nudged = asyncio.Event()

    async def refresh(self) -> None:
        """Load the catalog if its version is not the one in memory.

        Raises: DatabaseUnavailable.
        """
        rows = await self._lane.fetch("SELECT version FROM catalog_catalogversion WHERE id = 1")
        if not rows or rows[0][0] != self.current.version:
            self.current = await asyncio.to_thread(_load_in_thread)

    async def keep_fresh(self) -> None:
        """Refresh when nudged or every second, until cancelled; a picture that cannot be replaced is kept."""
        while True:
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._nudged.wait()
            except TimeoutError:
                pass
            self._nudged.clear()
            try:
                await self.refresh()
            except DatabaseUnavailable:
                continue
            except Exception:
                log.exception("catalog_not_loaded")

    def nudge(self, _ident: str | None = None) -> None:
        """Look for a new version now."""
        self._nudged.set()


def _load_in_thread() -> Catalog:
    close_old_connections()
    try:
        return load()
    finally:
        # A thread of the pool, where no request begins or ends: nothing else would close it, or forget the queries that DEBUG remembers.
        connection.close()
        reset_queries()
