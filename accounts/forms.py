"""The forms of people and accounts: what may be typed, and in which words it is refused."""

import zoneinfo
from functools import cache
from typing import Any, ClassVar

from django import forms
from django.http import HttpRequest

from accounts.models import SLUG, Account, Membership, User


@cache
def zones() -> list[tuple[str, str]]:
    """The IANA time zones that people live in, UTC first."""
    names = sorted(name for name in zoneinfo.available_timezones() if "/" in name and not name.startswith(("Etc/", "SystemV/", "US/")))
    return [(name, name.replace("_", " ")) for name in ("UTC", *names)]


class NameForm(forms.Form):
    """What a sign-up asks beside address and password."""

    name = forms.CharField(max_length=150, widget=forms.TextInput(attrs={"autocomplete": "name"}))
    field_order = ["name", "email", "password1"]

    def signup(self, request: HttpRequest, user: User) -> None:  # noqa: ARG002 - the signature is allauth's
        """Keep the name of who has just signed up."""
        user.name = self.cleaned_data["name"]
        user.save(update_fields=["name"])


class ProfileForm(forms.ModelForm):  # type: ignore[type-arg]
    """What a person says of themselves."""

    class Meta:
        model = User
        fields = ("name",)
        widgets: ClassVar[dict[str, Any]] = {"name": forms.TextInput(attrs={"autocomplete": "name"})}


class AccountForm(forms.Form):
    """A new account."""

    name = forms.CharField(max_length=150, help_text="A company, a team or a project. Each account has its own wallet, keys and members.")


class AccountSettingsForm(forms.ModelForm):  # type: ignore[type-arg]
    """What an account is called, where its days begin, and where its bills go."""

    timezone = forms.ChoiceField(
        label="Time zone", choices=zones, help_text="Days, months and budgets begin by this clock, and times are shown in it."
    )
    billing_email = forms.EmailField(
        label="Billing e-mail", required=False, help_text="Receipts and warnings about the balance go here, and to the owners without it."
    )
    slug = forms.SlugField(
        label="Address",
        max_length=50,
        validators=[SLUG],
        help_text="The part of the address after /a/. Changing it breaks bookmarks and links to the old one.",
    )

    class Meta:
        model = Account
        fields = ("name", "slug", "timezone", "billing_email")


class InvitationForm(forms.Form):
    """Whom to invite, and as what."""

    email = forms.EmailField(label="E-mail address", widget=forms.EmailInput(attrs={"autocomplete": "off"}))
    role = forms.ChoiceField(choices=Membership.Role.choices, initial=Membership.Role.DEVELOPER)

    def __init__(self, *args: Any, roles: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["role"].choices = [(value, label) for value, label in Membership.Role.choices if value in roles]  # type: ignore[attr-defined]


class CloseAccountForm(forms.Form):
    """The account's address, typed as a sign that it is meant."""

    slug = forms.CharField(label="Type the account's address to confirm", widget=forms.TextInput(attrs={"autocomplete": "off"}))

    def __init__(self, *args: Any, account: Account, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._account = account

    def clean_slug(self) -> str:
        """Refuse any other word."""
        slug = str(self.cleaned_data["slug"]).strip()
        if slug != self._account.slug:
            raise forms.ValidationError(f"This is not {self._account.slug}.")
        return slug
