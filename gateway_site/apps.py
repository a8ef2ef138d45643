"""Registers the site's own management commands with Django, and has the groups of staff kept up after each migration."""

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class GatewaySiteConfig(AppConfig):
    name = "gateway_site"

    def ready(self) -> None:
        """Connect to what Django itself tells of: nothing of ours sends signals."""
        from gateway_site import staff_groups  # it has models, which are not there before

        post_migrate.connect(staff_groups.after_migrate, dispatch_uid="staff_groups")
