"""Registers the billing app with Django."""

from django.apps import AppConfig


class BillingConfig(AppConfig):
    name = "billing"
