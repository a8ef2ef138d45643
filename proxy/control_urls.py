"""The URL table of what Django serves of the proxy app: stored responses. Every address is served under /v1 and under /api/v1."""

from collections.abc import Callable

from django.http.response import HttpResponseBase
from django.urls import URLPattern, path

from proxy import responses_api

VIEWS: dict[str, tuple[Callable[..., HttpResponseBase], str]] = {
    "responses/input_tokens": (responses_api.input_tokens, "response-input-tokens"),
    "responses/<str:response_id>": (responses_api.response, "response"),
    "responses/<str:response_id>/input_items": (responses_api.input_items, "response-input-items"),
    "responses/<str:response_id>/cancel": (responses_api.cancel, "response-cancel"),
}

urlpatterns: list[URLPattern] = [path(f"v1/{address}", view, name=name) for address, (view, name) in VIEWS.items()]
urlpatterns += [path(f"api/v1/{address}", view, name=f"api-{name}") for address, (view, name) in VIEWS.items()]
