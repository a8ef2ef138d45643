"""The URL table of the billing app: what a key holder can read. Every address is served under /v1 and under /api/v1, Gemini's under /v1beta."""

from collections.abc import Callable

from django.http.response import HttpResponseBase
from django.urls import URLPattern, path

from billing import api

VIEWS: dict[str, tuple[Callable[..., HttpResponseBase], str]] = {
    "models": (api.models, "models"),
    "models/<path:name>": (api.model, "model"),
    "usage": (api.usage, "usage"),
    "credits": (api.credit, "credits"),
    "key": (api.key, "key"),
    "generation": (api.generation, "generation"),
}

urlpatterns: list[URLPattern] = [path(f"v1/{address}", view, name=name) for address, (view, name) in VIEWS.items()]
urlpatterns += [path(f"api/v1/{address}", view, name=f"api-{name}") for address, (view, name) in VIEWS.items()]
urlpatterns += [path("v1beta/models", api.models, name="gemini-models"), path("v1beta/models/<path:name>", api.model, name="gemini-model")]
