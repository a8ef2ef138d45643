"""Markups for many models at once: a new price for each, the same but for what is added on top. What was charged before stays as it was."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction

from catalog.matching import ModelPatterns
from catalog.models import RATE_FIELDS, CatalogVersion, Model, Price
from gateway_site import changes

MOMENT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Markup:
    """A model whose markup changes, in millionths."""

    model: str
    before_ppm: int
    after_ppm: int


@transaction.atomic
def set_markup(
    *, patterns: Iterable[str], markup_ppm: int, now: datetime, provider: str = "", note: str = "", dry_run: bool = False
) -> list[Markup]:
    """Give every model of `patterns` (and, where it is named, of routes to `provider`) this markup from `now` on; returns what changes.

    Models without a price in effect, and those that have this markup, are left alone, and so are prices to come. A dry run writes nothing.
    """
    CatalogVersion.objects.select_for_update().get(pk=1)  # one at a time with manifests
    wanted = ModelPatterns(list(patterns))
    models = Model.objects.filter(routes__provider__slug=provider) if provider else Model.objects.all()
    ids = [pk for pk, slug in models.values_list("pk", "slug").distinct() if wanted.allows(slug)]
    current = Price.objects.filter(model__in=ids, effective_from__lte=now).select_related("model")
    old = [price for price in current.order_by("model", "-effective_from").distinct("model") if price.markup_ppm != markup_ppm]
    if not dry_run and old:
        Price.objects.bulk_create(
            Price(
                model=price.model,
                effective_from=max(now, price.effective_from + MOMENT),
                markup_ppm=markup_ppm,
                long_prompt=price.long_prompt,
                note=note[:200],
                created_at=now,
                **{field: getattr(price, field) for field in RATE_FIELDS},
            )
            for price in old
        )
        transaction.on_commit(lambda: changes.publish("catalog"))
    return sorted((Markup(price.model.slug, price.markup_ppm, markup_ppm) for price in old), key=lambda one: one.model)
