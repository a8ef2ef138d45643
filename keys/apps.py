"""Registers the keys app with Django."""

from django.apps import AppConfig


class KeysConfig(AppConfig):
    name = "keys"
