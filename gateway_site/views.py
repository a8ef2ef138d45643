"""The pages that belong to no app: the landing page, and what the errors mean."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from proxy import errors


def landing(request: HttpRequest) -> HttpResponse:
    """What this is and where to go."""
    return render(request, "landing.html", {"base_url": request.build_absolute_uri("/v1")})


def error_page(request: HttpRequest) -> HttpResponse:
    """Every error with its remedy: where the `help_url` of an error points to."""
    entries = sorted(
        {entry.code: entry for entry in [*errors.TABLE.values(), errors.INTERNAL]}.values(), key=lambda entry: (entry.status, entry.code)
    )
    return render(request, "docs/errors.html", {"entries": entries})
