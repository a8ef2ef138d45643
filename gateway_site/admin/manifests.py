"""Manifests in the admin: pasted or uploaded, shown as what they would change, and applied when that is confirmed.

What is applied is what was shown: when the catalog has changed in between, the new difference is shown instead. Keys of providers are not
taken from here, neither as text nor by the name of an environment variable: that would let its author send any secret of the process away.
"""

import hashlib
from dataclasses import replace
from datetime import datetime
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils import timezone

from billing import plan_manifest
from catalog import manifest
from catalog.models import CatalogVersion
from gateway_site.admin_base import PageForm, Table, badge

LONGEST = 900_000  # characters
NEEDED = (
    *(f"catalog.{deed}_{model}" for model in ("model", "route", "provider", "alias") for deed in ("add", "change")),
    "catalog.add_price",
    "catalog.delete_route",
    "catalog.change_catalogversion",
    "catalog.change_providerkey",  # a manifest can move the address that stored keys are sent to
)
NEEDED_FOR_PLANS = ("billing.add_plan", "billing.change_plan")
TONES = {"+": "success", "~": "info", "-": "danger", "!": "warning"}
SIGNS = {"+": "new", "~": "changed", "-": "gone", "!": "note"}


class ManifestForm(PageForm):
    """The manifest, and what was shown of it."""

    file = forms.FileField(required=False, help_text="A manifest, or paste it below.")
    text = forms.CharField(
        required=False, max_length=LONGEST, strip=False, widget=forms.Textarea(attrs={"rows": 16, "spellcheck": "false"})
    )
    shown = forms.CharField(required=False, max_length=64, widget=forms.HiddenInput)

    def clean(self) -> dict[str, Any]:
        """Read the file in place of the text."""
        said = super().clean() or {}
        if (file := said.get("file")) is not None:
            if file.size > LONGEST:
                raise forms.ValidationError("This file is too large for a manifest.")
            try:
                said["text"] = file.read().decode()
            except UnicodeDecodeError:
                raise forms.ValidationError("This file is not UTF-8 text.") from None
        if not self.errors and not str(said.get("text") or "").strip():
            raise forms.ValidationError("Choose a file or paste a manifest.")
        return said


def manifest_view(request: HttpRequest) -> HttpResponse:
    """Show what a manifest would change; apply it when exactly that was shown and is confirmed."""
    if not request.user.has_perms(NEEDED):
        raise PermissionDenied
    form = ManifestForm(request.POST or None, request.FILES or None)
    found: list[manifest.Change] | None = None
    if request.method == "POST" and form.is_valid():
        text, shown = form.cleaned_data["text"], form.cleaned_data["shown"]
        try:
            found, done = _carry_out(text, shown=shown, now=timezone.now(), may_change_plans=request.user.has_perms(NEEDED_FOR_PLANS))
        except manifest.InvalidDocument as error:
            for problem in error.problems:
                form.add_error(None, str(problem))
        else:
            if done:
                _log(request, found)
                messages.success(request, f"{sum(not change.is_note for change in found)} changed.")
                return redirect("admin:manifest")
            if shown:
                messages.warning(request, "The catalog has changed since, so nothing was applied. This is the difference now.")
            form = ManifestForm(initial={"text": text, "shown": _digest(found)})
    rows = [(badge(SIGNS[change.sign], TONES[change.sign]), change.subject, change.detail or "-") for change in found or ()]
    context = {
        **admin.site.each_context(request),
        "title": "Apply a manifest",
        "form": form,
        "media": form.media,
        "found": found,
        "changes": sum(not change.is_note for change in found or ()),
        "tables": [Table("What it changes", ("Change", "What", "How"), rows)] if rows else [],
        "markup": f"{settings.DEFAULT_MARKUP_PPM / 10_000:g} %",
    }
    return TemplateResponse(request, "admin/manifest.html", context, headers={"Cache-Control": "no-store"})


def _carry_out(text: str, *, shown: str, now: datetime, may_change_plans: bool) -> tuple[list[manifest.Change], bool]:
    """Apply the manifest if `shown` is the digest of what it changes; (what it changes, whether it was applied).

    Raises: catalog.documents.InvalidDocument.
    """
    catalog, plans = manifest.read(text), plan_manifest.read(text)
    notes = [manifest.Change("!", f"provider {one.slug}", "its keys are not taken from here") for one in catalog.providers if one.keys]
    catalog = replace(catalog, providers=tuple(replace(one, keys=()) for one in catalog.providers))
    if plans and not may_change_plans:
        notes.append(manifest.Change("!", "plans", "you may not change them: they are left out"))
        plans = ()
    with transaction.atomic():
        note = "by a manifest in the admin"
        found = manifest.apply(catalog, now=now, dry_run=False, default_markup_ppm=settings.DEFAULT_MARKUP_PPM, environ={}, note=note)
        found = [*found, *plan_manifest.apply(plans, now=now, dry_run=False), *notes]
        done = bool(shown) and shown == _digest(found)
        if not done:  # drawn for real and taken back: plans and catalog may build on each other
            transaction.set_rollback(True)
    return found, done


def _digest(found: list[manifest.Change]) -> str:
    return hashlib.sha256("\n".join(map(str, found)).encode()).hexdigest()


def _log(request: HttpRequest, found: list[manifest.Change]) -> None:
    lines = "; ".join(str(change) for change in found if not change.is_note)
    version = CatalogVersion.objects.get(pk=1)
    text = f"Applied a manifest: {lines}"[:5000]
    LogEntry.objects.log_actions(int(request.user.pk or 0), [version], CHANGE, change_message=text, single_object=True)
