"""The data plane's URL table: what `proxy.asgi` serves in front of Django. All but what Google keeps for a client is POST."""

import re

from django.urls import URLPattern, path

from proxy import views
from proxy.asgi import View

VIEWS: dict[str, View] = {
    "/v1/chat/completions": views.chat_completions,
    "/v1/messages": views.messages,
    "/v1/messages/count_tokens": views.count_message_tokens,
    "/v1/responses": views.responses,
    "/v1/completions": views.completions,
    "/v1/embeddings": views.embeddings,
    "/v1/images/generations": views.images,
    "/v1/estimate": views.estimate,
    "/api/v1/estimate": views.estimate,
    "/api/v1/chat": views.chat_with_default,
    "/api/v1/chat/completions": views.chat_with_default,
    "/api/v1/messages": views.messages,
    "/api/v1/messages/count_tokens": views.count_message_tokens,
    "/api/v1/responses": views.responses,
    "/api/v1/completions": views.completions,
    "/api/v1/embeddings": views.embeddings,
    "/api/v1/images/generations": views.images,
}

# google-genai calls /v1; and the last, in the mode that Vertex AI has: only there it makes pictures and videos.
_GEMINI = re.compile(r"/(?:v1beta/|v1/|v1(?:beta1)?/(?:projects/[^/]+/locations/[^/]+/)?publishers/google/)models/")


_KEPT = re.compile(r"/v1(?:beta)?/(?:(?:models/.+/)?(operations)/[^/]+|(files)/[^/]+:download)")
_LONGEST = 300  # what is longer is no mistaken address


def find_view(method: str, address: str) -> View | None:
    """The view that serves this address."""
    if method != "POST":
        kept = _KEPT.fullmatch(address) if method == "GET" else None
        return None if kept is None else views.gemini_operation if kept[1] else views.gemini_file
    view = VIEWS.get(address)
    if view is None and ":" in address.rpartition("/")[2] and _GEMINI.match(address):
        return views.gemini_method
    return view


def find_meant(address: str) -> str | None:
    """The address a client meant whose base address is wrong: `/v1` is there twice or not at all, or a whole endpoint, or a slash at the end."""
    if len(address) > _LONGEST:
        return None
    parts = address.strip("/").split("/")
    tails = ("/" + "/".join(parts[start:]) for start in range(len(parts)))
    candidates = (prefix + tail for tail in tails for prefix in ("", "/v1beta", "/v1"))
    return next((candidate for candidate in candidates if find_view("POST", candidate) is not None), None)


urlpatterns: list[URLPattern] = [
    *(path(address.removeprefix("/"), view, name=view.__name__) for address, view in VIEWS.items()),
    path("v1beta/models/<path:model>:<str:method>", views.gemini_method, name="gemini_method"),
    path("v1beta1/publishers/google/models/<path:model>:<str:method>", views.gemini_method, name="vertex_method"),
    path("v1beta/models/<path:model>/operations/<str:operation>", views.gemini_operation, name="gemini_model_operation"),
    path("v1beta/operations/<str:operation>", views.gemini_operation, name="gemini_operation"),
    path("v1beta/files/<str:file>:download", views.gemini_file, name="gemini_file"),
]
