"""manage.py reset_second_factor: take the second factors from somebody who has lost theirs, and end their sessions."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.models import User
from gateway_site import second_factors


class Command(BaseCommand):
    help = (
        "Take authenticator app, passkeys and recovery codes from a person who has lost them, so that a password signs them in again, and "
        "end their sessions. Make sure first that it is they who ask."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", metavar="EMAIL")

    def handle(self, *_args: Any, **options: Any) -> None:
        user = User.objects.filter(email=options["email"].strip().lower()).first()
        if user is None:
            raise CommandError(f"Nobody signs in with {options['email']}.")
        taken = second_factors.reset(user)
        self.stdout.write(f"{user.email}: {taken} second factors taken, sessions ended. They can set up new ones after signing in.")
