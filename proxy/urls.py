"""The data plane's URL table: what `proxy.asgi` serves in front of Django. All of it is POST."""

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
    "/api/v1/chat": views.chat_with_default,
    "/api/v1/chat/completions": views.chat_with_default,
    "/api/v1/messages": views.messages,
    "/api/v1/messages/count_tokens": views.count_message_tokens,
    "/api/v1/responses": views.responses,
    "/api/v1/completions": views.completions,
    "/api/v1/embeddings": views.embeddings,
    "/api/v1/images/generations": views.images,
}

GEMINI_ADDRESSES = ("/v1beta/models/", "/v1/models/")  # google-genai calls the second


def find_view(address: str) -> View | None:
    """The view that serves this address."""
    view = VIEWS.get(address)
    if view is None and address.startswith(GEMINI_ADDRESSES) and ":" in address.rpartition("/")[2]:
        return views.gemini_method
    return view


urlpatterns: list[URLPattern] = [
    *(path(address.removeprefix("/"), view, name=view.__name__) for address, view in VIEWS.items()),
    path("v1beta/models/<path:model>:<str:method>", views.gemini_method, name="gemini_method"),
]
