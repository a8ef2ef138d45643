"""Registers the site's own management commands with Django."""

from django.apps import AppConfig


class GatewaySiteConfig(AppConfig):
    name = "gateway_site"
