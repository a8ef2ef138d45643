"""The URL table of the control plane. The data plane's (`proxy.urls`) is served in front of Django and is included here so that it can be
walked and reversed; `proxy.asgi` answers it before Django would.
"""

from django.conf import settings
from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from gateway_site import probes, views

urlpatterns = [
    path("", views.landing, name="landing"),
    path("docs/errors", views.error_page, name="errors"),
    path("healthz", probes.healthz, name="healthz"),
    path("readyz", probes.readyz, name="readyz"),
    path("metrics", probes.metrics, name="metrics"),
    path(settings.ADMIN_PATH, RedirectView.as_view(pattern_name="admin:index"), name="admin"),
    path(f"{settings.ADMIN_PATH}/", admin.site.urls),
    path("", include("billing.urls")),  # before the data plane's: a model's name may have a colon in it, as Gemini's methods do
    path("", include("proxy.urls")),
    path("", include("proxy.control_urls")),
    path("", include("keys.urls")),
]
