"""The URL table of the billing app: what a key holder can read, the link in mails, and where Stripe calls.

Every address for key holders is served under /v1 and under /api/v1, Gemini's under /v1beta.
"""

from collections.abc import Callable

from django.http.response import HttpResponseBase
from django.urls import URLPattern, URLResolver, include, path

from billing import api, content_pages, downloads, key_pages, request_pages, sample_pages, statement_pages, usage_pages
from billing.management_api import urls as management_urls
from billing.notices import views as notices
from billing.payments import views as payment_views

VIEWS: dict[str, tuple[Callable[..., HttpResponseBase], str]] = {
    "models": (api.models, "models"),
    "models/<path:name>": (api.model, "model"),
    "usage": (api.usage, "usage"),
    "credits": (api.credit, "credits"),
    "key": (api.key, "key"),
    "generation": (api.generation, "generation"),
}

urlpatterns: list[URLPattern | URLResolver] = [path(f"v1/{address}", view, name=name) for address, (view, name) in VIEWS.items()]
urlpatterns += [path(f"api/v1/{address}", view, name=f"api-{name}") for address, (view, name) in VIEWS.items()]
urlpatterns += [path("v1beta/models", api.models, name="gemini-models"), path("v1beta/models/<path:name>", api.model, name="gemini-model")]
urlpatterns += [path("v1/", include(management_urls)), path("api/v1/", include(management_urls))]
urlpatterns += [path("unsubscribe/<str:token>", notices.unsubscribe, name="unsubscribe")]

# Stripe posts to the address it was given, with a slash at the end or without: neither is redirected.
urlpatterns += [
    path("webhooks/stripe", payment_views.stripe_webhook, name="stripe-webhook"),
    path("webhooks/stripe/", payment_views.stripe_webhook, name="stripe-webhook-slash"),
]
urlpatterns += [
    path("a/<slug:slug>/", include("billing.pages.urls")),
    path("a/<slug:slug>/remove-sample", sample_pages.remove_sample, name="remove_sample"),
    path("a/<slug:slug>/billing/statements", statement_pages.months, name="statements"),
    path("a/<slug:slug>/billing/statements/<str:month>", statement_pages.month, name="statement"),
]
urlpatterns += [
    path("a/<slug:slug>/keys", key_pages.keys, name="keys"),
    path("a/<slug:slug>/keys/<int:key_id>", key_pages.key_page, name="key_page"),
    path("a/<slug:slug>/usage", usage_pages.usage, name="usage"),
    path("a/<slug:slug>/usage/table.csv", usage_pages.usage_file, {"form": "csv"}, name="usage_table_csv"),
    path("a/<slug:slug>/usage/table.json", usage_pages.usage_file, {"form": "json"}, name="usage_table_json"),
    path("a/<slug:slug>/requests", request_pages.requests, name="requests"),
    path("a/<slug:slug>/requests/<str:request_id>", request_pages.receipt, name="receipt"),
    path("a/<slug:slug>/requests/<str:request_id>/content", content_pages.content, name="content"),
    path("a/<slug:slug>/requests/<str:request_id>/content/delete", content_pages.delete_content, name="delete_content"),
    path("a/<slug:slug>/settings/stored-content", content_pages.choose_content, name="choose_content"),
]
for _form in ("csv", "jsonl"):
    urlpatterns += [
        path(f"a/<slug:slug>/billing/ledger.{_form}", downloads.ledger, {"form": _form}, name=f"ledger_{_form}"),
        path(f"a/<slug:slug>/usage.{_form}", downloads.usage, {"form": _form}, name=f"usage_{_form}"),
    ]
