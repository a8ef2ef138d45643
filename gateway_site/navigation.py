"""Where the pages lead to: one table of entries, each with the permission it asks for, and what the shell around a page shows of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import SimpleLazyObject

from accounts import announcements
from accounts.announcements import Banner
from accounts.models import Account, Membership
from accounts.pages import LAST_ACCOUNT
from accounts.permissions import Permission


@dataclass(frozen=True, slots=True)
class Entry:
    """A link to a page. `url` is the name of an address; `icon` a symbol of icons.svg; `under` other names, or their beginnings where they
    end in an underscore, that light it up as well.

    An entry with a permission leads to a page of the account (`/a/<slug>/…`), one without to a page of the site or the person's own.
    """

    label: str
    url: str
    icon: str
    permission: Permission | None = None
    under: tuple[str, ...] = ()


# Add a page here when it exists. The order is the order on the page.
ACCOUNT: tuple[Entry, ...] = (
    Entry("Overview", "overview", "overview", Permission.READ),
    Entry("Keys", "keys", "key", Permission.READ, under=("key_page", "new_key", "change_key", "reroll_key")),
    Entry("Usage", "usage", "usage", Permission.READ),
    Entry("Requests", "requests", "requests", Permission.READ, under=("receipt", "content")),
    Entry("Billing", "billing", "billing", Permission.READ, under=("billing_", "statements", "statement")),
    Entry("Playground", "playground", "playground", Permission.MANAGE_KEYS),
    Entry("Models", "model_list", "models", under=("model_page",)),
    Entry("Docs", "docs", "docs", under=("docs_page", "errors", "api_reference", "management_reference")),
)
MANAGE: tuple[Entry, ...] = (
    Entry("Members", "members", "members", Permission.READ),
    Entry("Webhooks", "webhooks", "webhooks", Permission.READ, under=("webhook", "webhook_")),
    Entry("Settings", "account_settings", "settings", Permission.MANAGE_ACCOUNT, under=("close_account",)),
    Entry("Audit log", "audit_log", "audit", Permission.MANAGE_MEMBERS),
)
PERSONAL: tuple[Entry, ...] = (
    Entry("Profile", "profile", "person"),
    Entry(
        "Sign-in and security",
        "account_email",
        "security",
        under=("account_change_password", "account_set_password", "mfa_", "usersessions_", "socialaccount_"),
    ),
)


@dataclass(frozen=True, slots=True)
class Link:
    """An entry as it stands on this page."""

    label: str
    href: str
    icon: str
    is_current: bool


class Shell:
    """What stands around a signed-in person's page. Nothing is read from the database before a template asks for it."""

    def __init__(self, request: HttpRequest) -> None:
        self._request = request

    @cached_property
    def memberships(self) -> list[Membership]:
        """The person's memberships, by the accounts' names: what the switcher offers."""
        found = Membership.objects.filter(user=self._request.user).select_related("account")  # type: ignore[misc]
        return sorted(found, key=lambda membership: (not membership.account.is_active, membership.account.name.lower(), membership.pk))

    @cached_property
    def membership(self) -> Membership | None:
        """The membership of the page's account; on a page of no account, of the one that was used last."""
        here: Membership | None = getattr(self._request, "membership", None)
        if here is not None:
            return here
        last = self._request.session.get(LAST_ACCOUNT)
        return next((each for each in self.memberships if each.account_id == last), self.memberships[0] if self.memberships else None)

    @property
    def account(self) -> Account | None:
        """The account that the links lead to."""
        return self.membership.account if self.membership else None

    @cached_property
    def links(self) -> list[Link]:
        """The account's pages that the member may see."""
        return self._links(ACCOUNT)

    @cached_property
    def manage_links(self) -> list[Link]:
        """The pages about the account itself that the member may see."""
        return self._links(MANAGE)

    @cached_property
    def personal_links(self) -> list[Link]:
        """The person's own pages."""
        return self._links(PERSONAL)

    def _links(self, entries: Sequence[Entry]) -> list[Link]:
        match = self._request.resolver_match
        here = (match.url_name or "") if match else ""
        membership, found = self.membership, []
        for entry in entries:
            if entry.permission is None:
                href = reverse(entry.url)
            elif membership is not None and membership.may(entry.permission):
                href = reverse(entry.url, args=[membership.account.slug])
            else:
                continue
            found.append(Link(entry.label, href, entry.icon, _is_under(here, entry)))
        return found


def _is_under(here: str, entry: Entry) -> bool:
    return here == entry.url or any(here.startswith(name) if name.endswith("_") else here == name for name in entry.under)


def shell(request: HttpRequest) -> dict[str, object]:
    """Give every template `shell`, which is empty for strangers, the announcements to show, and what sign-in offers."""
    user = getattr(request, "user", None)
    if user is None:
        return {}
    frame: Any = SimpleLazyObject(lambda: Shell(request) if user.is_authenticated else None)
    return {
        "shell": frame,
        "banners": SimpleLazyObject(lambda: banners(request, lambda: frame.account)),
        "others_sign_in": bool(settings.SOCIALACCOUNT_PROVIDERS),  # by Google or GitHub
        "sign_up_is_open": settings.SIGN_UP == "open",
    }


def account_of(request: HttpRequest) -> Account | None:
    """The account that a signed-in person's links lead to."""
    return Shell(request).account if request.user.is_authenticated else None


def banners(request: HttpRequest, account: Callable[[], Account | None]) -> list[Banner]:
    """The announcements that this page shows."""
    return announcements.shown(
        is_signed_in=request.user.is_authenticated,
        account=account,
        dismissed=request.COOKIES.get(announcements.COOKIE, ""),
        now=timezone.now(),
    )
