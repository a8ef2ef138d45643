"""Accounts with a member of every role, and browsers that are signed in as them."""

import re
import uuid
from dataclasses import dataclass, field

from allauth.account.models import EmailAddress
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.test import Client
from django.utils import timezone

from accounts.models import Account, Membership, OutboxMessage, User
from billing.opening import open_account

PASSWORD = "correct horse battery staple"


def code_in(mail: OutboxMessage) -> str:
    """The code that a mail tells, on a line of its own."""
    return next(str(line) for line in mail.content["text"].splitlines() if re.fullmatch(r"[0-9A-Z-]{6,9}", line))


class QuickHasher(PBKDF2PasswordHasher):
    """Django's own hash, once instead of a million times."""

    algorithm = "quick"
    iterations = 1


def new_person(*, name: str = "", password: str | None = None, **powers: bool) -> User:
    """Somebody with a verified address."""
    user = User.objects.create_user(f"p-{uuid.uuid4().hex[:16]}@example.com", password, name=name, **powers)
    EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
    return user


def browser_of(user: User | None) -> Client:
    """A browser, signed in as `user`."""
    client = Client()
    if user is not None:
        client.force_login(user)
    return client


@dataclass
class House:
    """An account and a member of it for each role."""

    account: Account = field(init=False)
    members: dict[str, Membership] = field(init=False)

    def __post_init__(self) -> None:
        slug = f"h-{uuid.uuid4().hex[:16]}"
        self.account = open_account(slug=slug, name=f"House {slug}", now=timezone.now())
        self.members = {
            role: Membership.objects.create(account=self.account, user=new_person(name=f"the {role}"), role=role)
            for role in Membership.Role.values
        }

    @property
    def base(self) -> str:
        return f"/a/{self.account.slug}"

    def user(self, role: str) -> User:
        return self.members[role].user

    def browser(self, role: str) -> Client:
        return browser_of(self.user(role))
