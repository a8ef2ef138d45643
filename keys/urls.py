"""The URL table of the keys app."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
