"""The pages that belong to no app: for now, the landing page."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def landing(request: HttpRequest) -> HttpResponse:
    """What this is and where to go."""
    return render(request, "landing.html", {"admin_path": settings.ADMIN_PATH, "base_url": request.build_absolute_uri("/v1")})
