"""Registers the proxy app with Django."""

from django.apps import AppConfig


class ProxyConfig(AppConfig):
    name = "proxy"
