"""The declarative catalog: what a manifest says (`read`), what that would change (`plan_changes`), and making it so (`apply`).

A manifest speaks only of what it names. A model, provider, key or alias it omits is left alone, and so is a field it omits; a new row
takes the table's default. Two things are wholes: `prices` with `long_prompt` and `markup` are one price, and `routes` are all the routes of
their model. A price in effect is history: a different one begins now, as a new row. Applying the same manifest again changes nothing.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Literal

from django.db import models, transaction

from catalog import declarations, money, pricing, service_accounts, vault
from catalog.declarations import KeyEntry, Manifest, ModelEntry, PriceEntry, ProviderEntry, RouteEntry, read
from catalog.documents import InvalidDocument, Problem, did_you_mean
from catalog.models import RATE_FIELDS, Alias, CatalogVersion, Model, Price, Provider, ProviderKey, Route
from gateway_site import changes

__all__ = ["Change", "InvalidDocument", "Manifest", "apply", "as_text", "plan_changes", "read", "usual_base_url"]

SEEDS = Path(__file__).resolve().parent / "seeds"
CAPABILITIES = ("tools", "vision", "audio_in", "audio_out", "files", "json_object", "json_schema", "reasoning")

VERTEX_ENDING = "/publishers/google"
VERTEX_EXAMPLE = "https://REGION-aiplatform.googleapis.com/v1/projects/PROJECT/locations/REGION/publishers/google"

_COLUMN_NAMES = {"is_enabled": "enabled", "free_daily_requests": "free requests a day"}
_LONG_COLUMNS = {"description"}  # only named in the diff, not shown


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the diff: `+` new, `~` changed, `-` gone, `!` nothing changed but something is to be known."""

    sign: Literal["+", "~", "-", "!"]
    subject: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.sign} {self.subject}{f': {self.detail}' if self.detail else ''}"

    @property
    def is_note(self) -> bool:
        """Whether this tells of something without changing anything."""
        return self.sign == "!"


def plan_changes(
    manifest: Manifest, now: datetime, *, default_markup_ppm: int = 0, environ: Mapping[str, str] | None = None
) -> list[Change]:
    """List what `apply` would change at `now`, and change nothing.

    Raises: catalog.documents.InvalidDocument when the manifest names what is neither in it nor in the catalog.
    """
    return apply(manifest, now=now, dry_run=True, default_markup_ppm=default_markup_ppm, environ=environ)


def apply(
    manifest: Manifest,
    *,
    now: datetime,
    dry_run: bool,
    default_markup_ppm: int = 0,
    environ: Mapping[str, str] | None = None,
    note: str = "",
) -> list[Change]:
    """Make the catalog as the manifest says, in one transaction; return what changed (or, in a dry run, would have).

    `default_markup_ppm` (millionths) is for prices without a markup of their own, `environ` is where `secret_env` is looked up (the
    process's by default), `note` is written on new prices.

    Raises: catalog.documents.InvalidDocument when the manifest names what is neither in it nor in the catalog.
    """
    with transaction.atomic():
        head, _ = CatalogVersion.objects.select_for_update().get_or_create(pk=1)  # one apply at a time
        plan = _Plan(head, now, default_markup_ppm, os.environ if environ is None else environ, note)
        plan.draw(manifest)
        if plan.problems:
            raise InvalidDocument(plan.problems)
        if not dry_run and plan.carry_out():
            transaction.on_commit(lambda: changes.publish("catalog"))
    return plan.changes


def usual_base_url(kind: str) -> str:
    """Where the company of this kind of provider is reached, as its seed says; empty for a kind without a seed."""
    seed = SEEDS / f"{kind}.yaml"
    if not seed.exists():
        return ""
    entries = read(seed.read_text(encoding="utf-8")).providers
    return next((str(entry.said.get("base_url", "")) for entry in entries if entry.said.get("kind") == kind), "")


class _Plan:
    """Compares a manifest with the catalog, row by row, and keeps what is to be written: nothing is written until `carry_out`."""

    def __init__(self, head: CatalogVersion, now: datetime, default_markup_ppm: int, environ: Mapping[str, str], note: str) -> None:
        self.changes: list[Change] = []
        self.problems: list[Problem] = []
        self._head = head
        self._now = now
        self._default_markup_ppm = default_markup_ppm
        self._environ = environ
        self._note = note
        self._writes: list[Callable[[], object]] = []
        self._new: dict[type[models.Model], list[Any]] = {kind: [] for kind in (Provider, ProviderKey, Model, Price, Route, Alias)}

    def draw(self, manifest: Manifest) -> None:
        self._load(manifest)
        for provider in manifest.providers:
            self._draw_provider(provider)
        for model in manifest.models:
            self._draw_model(model)
        self._draw_aliases(manifest.aliases)
        if manifest.default_model is not None:
            self._draw_default(manifest.default_model)

    def carry_out(self) -> bool:
        """Write it all; whether there was anything to write."""
        for kind, rows in self._new.items():  # parents before children
            if rows:
                kind._base_manager.bulk_create(rows)  # noqa: SLF001 - how Django reaches a model it does not know by name
        for write in self._writes:
            write()
        return bool(self._writes) or any(self._new.values())

    def _load(self, manifest: Manifest) -> None:
        """Read what the manifest speaks of, a query for each table."""
        slugs = {model.slug for model in manifest.models} | set(manifest.aliases) | set(manifest.aliases.values())
        slugs |= {manifest.default_model} if manifest.default_model else set()
        self._providers = {row.slug: row for row in Provider.objects.all()}
        self._models = {row.slug: row for row in Model.objects.filter(slug__in=slugs)}
        self._aliases = {row.name: row for row in Alias.objects.filter(name__in=slugs).select_related("model")}
        self._keys: dict[tuple[int, str], ProviderKey] = {}
        for key in ProviderKey.objects.filter(provider__slug__in={provider.slug for provider in manifest.providers}):
            self._keys[key.provider_id, key.name] = key
        ids = [self._models[model.slug].pk for model in manifest.models if model.slug in self._models]
        self._routes: dict[int, list[Route]] = {}
        for route in Route.objects.filter(model__in=ids).select_related("provider"):
            self._routes.setdefault(route.model_id, []).append(route)
        self._prices = {
            price.model_id: price
            for price in Price.objects.filter(model__in=ids, effective_from__lte=self._now)
            .order_by("model", "-effective_from")
            .distinct("model")
        }

    def _draw_provider(self, entry: ProviderEntry) -> None:
        row = self._providers.get(entry.slug)
        if row is None:
            kind = entry.said.get("kind")
            if kind is None:
                self._problem(f"{entry.path}.kind", f"the provider {entry.slug!r} is new and has no 'kind'")
                return
            url = entry.said.get("base_url") or usual_base_url(kind)
            if not url and kind != Provider.Kind.DEMO:
                self._problem(f"{entry.path}.base_url", f"a provider of kind {kind!r} needs a 'base_url'")
                return
            row = Provider(slug=entry.slug, created_at=self._now, **{**entry.said, "base_url": url})
            self._providers[entry.slug] = row
            self._add(row, f"provider {entry.slug}", "" if row.is_enabled else "disabled")
        else:
            self._change(row, entry.said, f"provider {entry.slug}")
        if row.base_url.startswith("http:") and not row.allow_private:
            self._problem(f"{entry.path}.base_url", "plain http needs 'allow_private: true'")
        if row.kind == Provider.Kind.VERTEX and not row.base_url.endswith(VERTEX_ENDING):
            self._problem(f"{entry.path}.base_url", f"Vertex AI's must be like {VERTEX_EXAMPLE}")
        for key in entry.keys:
            self._draw_key(row, key)

    def _draw_key(self, provider: Provider, entry: KeyEntry) -> None:
        subject = f"key {provider.slug}:{entry.name}"
        secret = entry.secret
        if secret is None:
            secret = self._environ.get(entry.secret_env or "", "").strip()
            if not secret:
                self.changes.append(Change("!", subject, f"{entry.secret_env} is not set in the environment: no key is stored from it"))
            elif problem := declarations.problem_with_secret(secret):
                self._problem(f"{entry.path}.secret_env", f"what {entry.secret_env} holds cannot be a secret: it {problem}")
                return
        if secret and service_accounts.looks_like_one(secret) and provider.kind != Provider.Kind.VERTEX:
            self._problem(
                entry.path, f"a service account signs in to a provider of kind 'vertex', and {provider.slug!r} is {provider.kind!r}"
            )
            return
        row = self._keys.get((provider.pk, entry.name)) if provider.pk is not None else None
        if row is None:
            if secret:
                row = ProviderKey(provider=provider, name=entry.name, created_at=self._now, **entry.said)
                row.set_secret(secret)
                self._add(row, subject)
            return
        fields = dict(entry.said)
        if secret and not _holds(row, secret):
            row.set_secret(secret)
            # A key that was switched off for its provider's refusal starts afresh; one that an operator switched off does not.
            fields = ({"is_enabled": True, "disabled_reason": ""} if row.disabled_reason else {}) | fields
            self._change(row, fields, subject, also=("sealed_secret", "last_four"), details=["new secret"])
        else:
            self._change(row, fields, subject)

    def _draw_model(self, entry: ModelEntry) -> None:
        subject = f"model {entry.slug}"
        row = self._models.get(entry.slug)
        if entry.slug in self._aliases:
            self._problem(
                f"{entry.path}.slug", f"{entry.slug!r} is an alias of {self._aliases[entry.slug].model.slug!r} and cannot be a model"
            )
        current: Price | None = None
        routes: list[Route] = []
        if row is None:
            row = Model(slug=entry.slug, created_at=self._now, **entry.said)
            self._models[entry.slug] = row
            self._add(row, subject, "" if row.is_enabled else "disabled")
            if entry.price is None:
                self.changes.append(Change("!", subject, "it has no prices: it is not for sale until it has"))
        else:
            current, routes = self._prices.get(row.pk), self._routes.get(row.pk, [])
            self._change(row, entry.said, subject)
        for capability in entry.said.get("capabilities", ()):
            if capability not in CAPABILITIES:
                hint = did_you_mean(capability, CAPABILITIES)
                self.changes.append(Change("!", subject, f"nothing here reads the capability {capability!r}{hint}"))
        if entry.price is not None:
            self._draw_price(row, current, entry.price)
        if entry.routes is not None:
            self._draw_routes(row, routes, entry.routes)

    def _draw_price(self, model: Model, current: Price | None, entry: PriceEntry) -> None:
        if not entry.rates and current is not None:
            return  # a free model that has a price keeps it
        starts_at = self._now
        if current is not None and current.effective_from >= starts_at:
            starts_at = current.effective_from + timedelta(microseconds=1)
        new = Price(
            model=model,
            effective_from=starts_at,
            long_prompt=entry.long_prompt,
            markup_ppm=self._default_markup_ppm if entry.markup_ppm is None else entry.markup_ppm,
            note=self._note,
            created_at=self._now,
            **entry.rates,
        )
        if current is None:
            self._add(new, f"price {model.slug}", ", ".join(f"{name} {shown}" for name, shown in _parts(new).items()) or "free")
        elif _effect(current) != _effect(new):
            old, parts = _parts(current), _parts(new)
            names = [name for name in {**old, **parts} if old.get(name) != parts.get(name)]
            self.changes.append(
                Change(
                    "~", f"price {model.slug}", ", ".join(f"{name} {old.get(name, 'none')} → {parts.get(name, 'none')}" for name in names)
                )
            )
            self._new[Price].append(new)
        else:
            return
        if model.kind == Model.Kind.TEXT and new.input and not (new.output or new.request):
            self.changes.append(Change("!", f"price {model.slug}", "output tokens cost nothing"))

    def _draw_routes(self, model: Model, rows: list[Route], entries: Iterable[RouteEntry]) -> None:
        known = {(row.provider.slug, row.upstream_model, row.format): row for row in rows}
        for entry in entries:
            provider = self._providers.get(entry.provider)
            if provider is None:
                hint = did_you_mean(entry.provider, self._providers)
                self._problem(f"{entry.path}.provider", f"there is no provider {entry.provider!r}{hint}")
                continue
            row = known.pop(entry.identity, None)
            subject = f"route {model.slug} → {entry.provider}:{entry.upstream_model}{f' as {entry.format}' if entry.format else ''}"
            if row is None:
                new = Route(model=model, provider=provider, upstream_model=entry.upstream_model, format=entry.format, **entry.said)
                self._add(new, subject)
            else:
                self._change(row, entry.said, subject)
        for row in known.values():
            self.changes.append(Change("-", f"route {row}{f' as {row.format}' if row.format else ''}"))
            self._writes.append(row.delete)

    def _draw_aliases(self, aliases: Mapping[str, str]) -> None:
        for name, slug in aliases.items():
            model = self._models.get(slug)
            if model is None:
                self._problem(f'aliases["{name}"]', f"there is no model {slug!r}{_model_hint(slug)}")
            elif name in self._models:
                self._problem(f'aliases["{name}"]', f"{name!r} is a model: an alias would hide it")
            elif (row := self._aliases.get(name)) is None:
                self._add(Alias(name=name, model=model), f"alias {name} → {slug}")
            elif row.model.slug != slug:
                self.changes.append(Change("~", f"alias {name}", f"{row.model.slug} → {slug}"))
                row.model = model
                self._writes.append(partial(_save, row, ["model"]))

    def _draw_default(self, slug: str) -> None:
        model = self._models.get(slug)
        if model is None:
            self._problem("default_model", f"there is no model {slug!r}{_model_hint(slug)}")
            return
        old = self._head.default_model
        if old is None or old.slug != slug:
            self.changes.append(Change("~", "default model", f"{old.slug if old else 'none'} → {slug}"))
            self._head.default_model = model
            self._writes.append(partial(_save, self._head, ["default_model"]))

    def _add(self, row: models.Model, subject: str, detail: str = "") -> None:
        self.changes.append(Change("+", subject, detail))
        self._new[type(row)].append(row)

    def _change(
        self, row: models.Model, said: Mapping[str, Any], subject: str, *, also: Iterable[str] = (), details: Iterable[str] = ()
    ) -> None:
        """Set the columns of `row` that differ; `also` names columns that are set already, told of by `details`."""
        columns, shown = list(also), list(details)
        for column, value in said.items():
            old = getattr(row, column)
            if old != value:
                setattr(row, column, value)
                columns.append(column)
                name = _COLUMN_NAMES.get(column, column)
                shown.append(name if column in _LONG_COLUMNS else f"{name} {as_text(old)} → {as_text(value)}")
        if columns:
            self.changes.append(Change("~", subject, ", ".join(shown)))
            self._writes.append(partial(_save, row, columns))

    def _problem(self, path: str, message: str) -> None:
        self.problems.append(Problem(path, message))


def _save(row: models.Model, columns: list[str]) -> None:
    row.save(update_fields=columns)


def _holds(key: ProviderKey, secret: str) -> bool:
    try:
        return key.secret() == secret
    except vault.CannotOpen:
        return False


def _model_hint(slug: str) -> str:
    return did_you_mean(slug, Model.objects.values_list("slug", flat=True))


def _effect(price: Price) -> tuple[object, ...]:
    """What a price makes requests cost, whichever way it says it."""
    frozen = price.frozen()
    return frozen.rates, frozen.long_prompt_above, frozen.long_rates, frozen.markup_ppm


def _parts(price: Price) -> dict[str, str]:
    """What a price says, part by part, as it is written in a manifest."""
    parts = {name: _dollars(name, rate) for name in RATE_FIELDS if (rate := getattr(price, name)) is not None}
    for name, value in (price.long_prompt or {}).items():
        parts[f"long prompt {name}"] = str(value) if name == "above" else _dollars(name, value)
    if price.markup_ppm:
        parts["markup"] = f"{(Decimal(price.markup_ppm) / 10_000).normalize():f}%"
    return parts


def _dollars(name: str, rate: int) -> str:
    if name not in pricing.PER_ONE:
        return f"${money.usd(rate)}"
    whole, part = divmod(rate, pricing.PER_UNITS)
    return f"${money.usd(whole)}" if not part else f"${(Decimal(rate) / pricing.PER_UNITS / money.NANO_PER_USD).normalize():f}"


def as_text(value: object) -> str:
    """Write a column's value as the diff shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return "none" if value is None or value == "" else str(value)
