"""The URL table of the billing app: reports for API clients."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
