"""The data plane's URL table: what `proxy.asgi` serves in front of Django. All of it is POST."""

from django.urls import URLPattern, path

from proxy import views
from proxy.asgi import View

VIEWS: dict[str, View] = {
    "/v1/chat/completions": views.chat_completions,
}

urlpatterns: list[URLPattern] = [path(address.removeprefix("/"), view, name=view.__name__) for address, view in VIEWS.items()]  # type: ignore[attr-defined,arg-type]
