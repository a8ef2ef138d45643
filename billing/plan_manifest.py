"""The plans of a manifest: what it says of them (`read`), and making it so (`apply`). What it omits, plan or field, is left alone."""

import re
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db import transaction

from billing.models import Plan
from catalog import documents, manifest, money
from catalog.declarations import SECTIONS, refuse_twins
from catalog.documents import UNSAID, Section, Unsaid
from catalog.manifest import Change
from gateway_site import changes

_SLUG = re.compile(r"[A-Za-z0-9_-]+")
_PATTERN = re.compile(r"[A-Za-z0-9*?\[][A-Za-z0-9._:/@+*?\[\]!-]{0,149}")
_PRICE = re.compile(r"[A-Za-z0-9_]*")
_MONEY = ("price_nano", "included_credit_nano")
_COLUMN_NAMES = {
    "price_nano": "price_usd",
    "included_credit_nano": "included_credit_usd",
    "stripe_price_id": "stripe_price",
    "is_default": "default",
}


@dataclass(frozen=True, slots=True)
class PlanEntry:
    """A plan; `said` holds the columns that the manifest gives."""

    path: str
    slug: str
    said: dict[str, Any] = field(default_factory=dict)


def read(text: str) -> tuple[PlanEntry, ...]:
    """Read the plans of a manifest; its other sections are the catalog's (`catalog.manifest`).

    Raises: catalog.documents.InvalidDocument with every problem, each by its path, such as `plans[1].price_usd`.
    """
    return documents.read(text, _read_plans)


def apply(plans: tuple[PlanEntry, ...], *, now: datetime, dry_run: bool) -> list[Change]:
    """Make the plans as the manifest says, in one transaction; return what changed (or, in a dry run, would have).

    A new default plan takes the place of the old one.
    """
    found: list[Change] = []
    with transaction.atomic():
        rows = {row.slug: row for row in Plan.objects.select_for_update().order_by("pk")}
        for entry in plans:
            row = rows.get(entry.slug)
            if row is None:
                row = Plan(slug=entry.slug, created_at=now)
                details = [f"{_name(column)} {_as_text(column, value)}" for column, value in entry.said.items()]
                found.append(Change("+", f"plan {entry.slug}", ", ".join(details)))
                columns = None
            else:
                columns = [column for column, value in entry.said.items() if getattr(row, column) != value]
                if not columns:
                    continue
                details = [f"{_name(c)} {_as_text(c, getattr(row, c))} → {_as_text(c, entry.said[c])}" for c in columns]
                found.append(Change("~", f"plan {entry.slug}", ", ".join(details)))
            if dry_run:
                continue
            if entry.said.get("is_default"):
                Plan.objects.filter(is_default=True).exclude(slug=entry.slug).update(is_default=False)
            for column, value in entry.said.items():
                setattr(row, column, value)
            row.save(update_fields=columns)
        if found and not dry_run:
            transaction.on_commit(lambda: changes.publish("account"))  # without an id: the terms of every account
    return found


def _read_plans(top: Section) -> tuple[PlanEntry, ...]:
    top.skip(*SECTIONS)
    sections = top.sections("plans")
    if isinstance(sections, Unsaid):
        return ()
    plans = tuple(_read_plan(section) for section in sections)
    refuse_twins(sections, "slug", [plan.slug for plan in plans])
    if len(defaults := [section for section, plan in zip(sections, plans, strict=True) if plan.said.get("is_default")]) > 1:
        defaults[1].report("default", f"{defaults[0].path} is the default already")
    return plans


def _read_plan(section: Section) -> PlanEntry:
    section.need("slug")
    slug = section.text("slug", longest=50, shape=_SLUG, hint="use letters, digits, - and _ only")
    big = documents.LARGEST_BIG_INTEGER
    columns = documents.said(
        {
            "name": section.text("name", longest=100, empty=True),
            "monthly_input_tokens": section.whole_or_null("monthly_input_tokens", highest=big),
            "monthly_output_tokens": section.whole_or_null("monthly_output_tokens", highest=big),
            "allowed_models": section.texts(
                "allowed_models", longest=150, shape=_PATTERN, hint='expected a model or a pattern such as "openai/*"'
            ),
            "rpm": section.whole_or_null("rpm", lowest=1),
            "tpm": section.whole_or_null("tpm", lowest=1),
            "concurrency": section.whole_or_null("concurrency", lowest=1),
            "price_nano": _read_dollars(section, "price_usd", "write 0 for a plan that costs nothing"),
            "included_credit_nano": _read_dollars(section, "included_credit_usd", "write 0 for a plan without credit"),
            "stripe_price_id": section.text(
                "stripe_price", longest=100, shape=_PRICE, hint='expected the id of a price at Stripe, such as "price_1Abc"', empty=True
            ),
            "is_default": section.flag("default"),
        }
    )
    section.close()
    return PlanEntry(section.path, slug if isinstance(slug, str) else "", columns)


def _read_dollars(section: Section, key: str, instead: str) -> int | Unsaid:
    dollars = section.decimal(key)
    if dollars is None:
        section.report(key, f"is null: {instead}")
    if isinstance(dollars, Decimal):
        try:
            return money.nano_from_usd(dollars)
        except money.NotAnAmount:
            section.report(key, "has more than nine decimals, or is too large")
    return UNSAID


def _name(column: str) -> str:
    return _COLUMN_NAMES.get(column, column)


def _as_text(column: str, value: object) -> str:
    return f"${money.usd(value)}" if column in _MONEY and isinstance(value, int) else manifest.as_text(value)
