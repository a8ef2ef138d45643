"""Markups of many models in the admin: named by patterns or by their provider, shown as what changes, and set when that is confirmed."""

import hashlib
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils import timezone

from catalog import dollars, markups
from catalog.models import CatalogVersion, Provider
from gateway_site.admin_base import LinesField, PageForm, Table

NEEDED = ("catalog.add_price", "catalog.view_model")


class MarkupForm(PageForm):
    """Which models get which markup."""

    models = LinesField(help_text='One a line: a model, or a pattern such as "openai/*". Empty: all.')
    provider = forms.ModelChoiceField(
        Provider.objects.order_by("slug"), required=False, empty_label="any", help_text="Only models with a route there."
    )
    markup = dollars.PercentField(label="markup, %")
    shown = forms.CharField(required=False, max_length=64, widget=forms.HiddenInput)


def markup_view(request: HttpRequest) -> HttpResponse:
    """Show which models' markups would change; change them when exactly that was shown and is confirmed."""
    if not request.user.has_perms(NEEDED):
        raise PermissionDenied
    form = MarkupForm(request.POST or None)
    found: list[markups.Markup] | None = None
    if request.method == "POST" and form.is_valid():
        said = form.cleaned_data
        asked: dict[str, Any] = {
            "patterns": said["models"],
            "provider": said["provider"].slug if said["provider"] else "",
            "markup_ppm": said["markup"],
            "now": timezone.now(),
        }
        found = markups.set_markup(**asked, dry_run=True)
        if found and said["shown"] == _digest(found):
            changed = markups.set_markup(**asked, note=f"markup by {request.user}")
            _log(request, changed)
            messages.success(request, f"{len(changed)} models have a new price.")
            return redirect("admin:markups")
        if said["shown"]:
            messages.warning(request, "Prices have changed since, so nothing was set. This is what changes now.")
        form = MarkupForm(initial={**said, "shown": _digest(found)})
    rows = [(one.model, _percent(one.before_ppm), _percent(one.after_ppm)) for one in found or ()]
    context = {
        **admin.site.each_context(request),
        "title": "Set markups",
        "form": form,
        "media": form.media,
        "found": found,
        "tables": [Table("Markups that change", ("Model", "Now", "Then"), rows)] if rows else [],
    }
    return TemplateResponse(request, "admin/markups.html", context)


def _digest(found: list[markups.Markup]) -> str:
    return hashlib.sha256(repr(found).encode()).hexdigest()


def _percent(ppm: int) -> str:
    return f"{ppm / 10_000:g} %"


def _log(request: HttpRequest, changed: list[markups.Markup]) -> None:
    lines = ", ".join(f"{one.model} {_percent(one.before_ppm)} → {_percent(one.after_ppm)}" for one in changed)
    version = CatalogVersion.objects.get(pk=1)
    LogEntry.objects.log_actions(int(request.user.pk or 0), [version], CHANGE, f"Set markups: {lines}"[:5000], single_object=True)
