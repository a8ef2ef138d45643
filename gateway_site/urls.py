"""The URL table of the control plane. The data plane's (`proxy.urls`) is served in front of Django and is included here so that it can be
walked and reversed; `proxy.asgi` answers it before Django would.
"""

from django.conf import settings
from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from gateway_site import joining, overview, playground, probes, views
from gateway_site.admin import door  # noqa: F401 - it closes the admin by being imported
from gateway_site.public import docs, models, openapi, status

urlpatterns = [
    path("", views.landing, name="landing"),
    path("models", models.model_list, name="model_list"),
    path("models/<path:name>", models.model_page, name="model_page"),
    path("status", status.status, name="status"),
    path("docs", docs.docs, name="docs"),
    path("docs/reference", docs.reference, {"described": openapi.API}, name="api_reference"),
    path("docs/reference.md", docs.reference_source, {"described": openapi.API}, name="api_reference_source"),
    path("docs/reference/management", docs.reference, {"described": openapi.MANAGEMENT}, name="management_reference"),
    path("docs/reference/management.md", docs.reference_source, {"described": openapi.MANAGEMENT}, name="management_reference_source"),
    path("docs/errors", docs.docs_page, {"page": "errors"}, name="errors"),  # where the `help_url` of an error points to
    path("docs/<str:page>", docs.docs_page, name="docs_page"),
    path("openapi.json", openapi.openapi, name="openapi"),
    path("llms.txt", docs.llms, name="llms"),
    path("llms-full.txt", docs.llms_full, name="llms_full"),
    path("a/<slug:slug>/playground", playground.playground, name="playground"),
    path("a/<slug:slug>/playground/key", playground.playground_key, name="playground_key"),
    path("healthz", probes.healthz, name="healthz"),
    path("readyz", probes.readyz, name="readyz"),
    path("metrics", probes.metrics, name="metrics"),
    path(settings.ADMIN_PATH, RedirectView.as_view(pattern_name="admin:index"), name="admin"),
    path(f"{settings.ADMIN_PATH}/", admin.site.urls),
    path("user/", include("allauth.urls")),
    path("invitations/<str:secret>", joining.invitation, name="invitation"),
    path("accounts/new", joining.new_account, name="new_account"),
    path("a/<slug:slug>/", overview.overview, name="overview"),
    path("a/<slug:slug>/first-steps", overview.steps, name="first_steps"),
    path("a/<slug:slug>/first-steps/hide", overview.hide_steps, name="hide_first_steps"),
    path("a/<slug:slug>/keys/<int:key_id>/first-request", overview.first_request, name="first_request"),
    path("a/<slug:slug>", RedirectView.as_view(pattern_name="overview")),
    path("a/<slug:slug>/close", joining.close_account, name="close_account"),
    path("", include("accounts.urls")),
    path("", include("billing.urls")),  # before the data plane's: a model's name may have a colon in it, as Gemini's methods do
    path("", include("proxy.urls")),
    path("", include("proxy.control_urls")),
    path("", include("keys.urls")),
]

handler400 = "gateway_site.views.bad_request"
handler403 = "gateway_site.views.permission_denied"
handler404 = "gateway_site.views.not_found"
handler500 = "gateway_site.views.server_error"
