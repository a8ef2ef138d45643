"""manage.py make_staff_groups: make the groups of staff, with their permissions in the admin."""

from typing import Any

from django.core.management.base import BaseCommand

from gateway_site import staff_groups


class Command(BaseCommand):
    help = f"Make the groups of staff ({', '.join(staff_groups.GROUPS)}), or bring their permissions back to the usual ones."

    def handle(self, *_args: Any, **_options: Any) -> None:
        for name, count in staff_groups.make().items():
            self.stdout.write(f"{name}: {count} permissions")
