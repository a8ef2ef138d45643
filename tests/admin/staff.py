"""People of the staff, and their browsers."""

import uuid

from django.contrib.auth.models import Permission
from django.test import Client

from accounts.models import User


def new_staff(*permissions: str, superuser: bool = False) -> User:
    """Somebody of the staff with these permissions ("billing.view_wallet")."""
    user = User.objects.create_user(f"s-{uuid.uuid4().hex[:16]}@example.com", is_staff=True, is_superuser=superuser)
    for each in permissions:
        app, codename = each.split(".")
        user.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
    return user


def browser_of(user: User) -> Client:
    """Their browser, signed in."""
    client = Client()
    client.force_login(user)
    return client
