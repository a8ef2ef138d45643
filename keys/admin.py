"""Keys in the admin: issued with the secret shown once, changed, rerolled, revoked, disabled and enabled, by the rules of `keys.issuing`.

A secret is rendered into the one answer that made it, which is not to be stored. It never enters the database, the session, a message, a
URL or the admin's log.
"""

import uuid
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString

from accounts.models import Account, User
from catalog import dollars
from gateway_site.admin_base import DateTimeWidget, LinesField, ModelAdmin, ModelForm, Page, PageForm, badge, change_url, link
from keys import issuing, snippets
from keys.forms import OVERLAPS
from keys.models import ApiKey


def _checked(check: Callable[[Iterable[str]], list[str]]) -> Callable[[list[str]], list[str]]:
    """A rule of issuing as a form field asks it: without the field's name before the reason."""

    def ask(lines: list[str]) -> list[str]:
        try:
            return check(lines)
        except issuing.InvalidSetting as error:
            raise ValueError(error.message) from error

    return ask


# The admin asks the rules of issuing itself, so that a key cannot be changed into one that could not be issued.
_models = _checked(issuing._checked_models)  # noqa: SLF001
_endpoints = _checked(issuing._checked_endpoints)  # noqa: SLF001
_networks = _checked(issuing._checked_networks)  # noqa: SLF001
_name = issuing._checked_name  # noqa: SLF001


def _limit(label: str) -> forms.IntegerField:
    return forms.IntegerField(
        label=label, required=False, min_value=1, max_value=issuing.LARGEST_LIMIT, help_text="Empty: no limit of its own."
    )


LIMITS = (
    "name",
    "allowed_models",
    "allowed_endpoints",
    "allowed_ips",
    "rpm",
    "tpm",
    "concurrency",
    "budget_nano",
    "budget_window",
    "expires_at",
)


class ChangeForm(ModelForm):
    """What can be changed of a key: never whose it is, nor what proves it."""

    name = forms.CharField(max_length=100)
    allowed_models = LinesField(check=_models, help_text='One a line: a model, or a pattern such as "openai/*". Empty: all.')
    allowed_endpoints = LinesField(check=_endpoints, help_text='One a line, such as "chat" or "embeddings". Empty: all.')
    allowed_ips = LinesField(check=_networks, help_text="One a line: addresses or networks such as 203.0.113.0/24. Empty: any.")
    rpm = _limit("requests per minute")
    tpm = _limit("tokens per minute")
    concurrency = _limit("requests at once")
    budget_nano = dollars.UsdField(
        label="budget, USD", required=False, help_text="What it may spend in each window. Empty: what the wallet has."
    )
    budget_window = forms.ChoiceField(label="budget's window", choices=ApiKey.Window.choices, initial=ApiKey.Window.MONTH)
    expires_at = forms.SplitDateTimeField(label="expires", required=False, widget=DateTimeWidget, help_text="Empty: never.")

    class Meta:
        model = ApiKey
        fields: tuple[str, ...] = LIMITS

    def clean_name(self) -> str:
        """A name as issuing takes it."""
        try:
            return _name(str(self.cleaned_data["name"]))
        except issuing.InvalidSetting as error:
            raise forms.ValidationError(f"It {error.message}.") from error

    def clean_expires_at(self) -> datetime | None:
        """A new moment lies ahead; one that stays is not looked at, even if it has passed."""
        moment: datetime | None = self.cleaned_data["expires_at"]
        if moment is not None and moment <= timezone.now() and "expires_at" in self.changed_data:
            raise forms.ValidationError("This moment is past. To stop the key now, revoke or disable it.")
        return moment


class IssueForm(ChangeForm):
    """A new key. It is `issuing.issue` that saves it."""

    account = forms.ModelChoiceField(Account.objects.filter(is_active=True).order_by("slug"))
    kind = forms.ChoiceField(choices=ApiKey.Kind.choices, initial=ApiKey.Kind.LIVE)
    form_id = forms.UUIDField(widget=forms.HiddenInput)
    field_order = ("account", "name", "kind", *LIMITS[1:], "form_id")

    class Meta(ChangeForm.Meta):
        fields = ("account", "kind", *LIMITS)


class RerollForm(PageForm):
    """How long the old key still works."""

    overlap = forms.ChoiceField(label="the old key stops", choices=OVERLAPS, initial="86400")


@admin.register(ApiKey)
class ApiKeyAdmin(ModelAdmin):
    """Keys of all accounts."""

    empty_text = "Issue one here, or at its account."
    form = ChangeForm
    list_display = ("recognised", "name", "account_link", "kind", "state", "rpm", "budget", "expires_at", "last_used_at", "created_at")
    list_filter = ("kind", "is_disabled", "budget_window")
    list_select_related = ("account",)
    search_fields = ("start", "last_four", "name", "account__slug")
    search_help_text = "How it is recognised (sk-gw-1a2B…9xYz), the start or the last four of it, its name, or an account."
    ordering = ("-created_at", "-id")
    sortable_by = ("created_at", "last_used_at", "expires_at")
    readonly_fields = (
        "recognised",
        "account_link",
        "kind",
        "state",
        "created_at",
        "created_by",
        "last_used_at",
        "revoked_at",
        "replaces",
        "usage",
    )
    fieldsets = (
        (None, {"fields": ("recognised", "account_link", "kind", "state", "name")}),
        ("What it may do", {"fields": ("allowed_models", "allowed_endpoints", "allowed_ips", "expires_at")}),
        ("How much", {"fields": (("rpm", "tpm", "concurrency"), ("budget_nano", "budget_window"))}),
        ("History", {"fields": ("created_at", "created_by", "replaces", "last_used_at", "revoked_at", "usage")}),
    )
    actions = None
    pages = (
        Page(
            "reroll",
            "Reroll",
            ("keys.add_apikey", "keys.change_apikey"),
            icon="autorenew",
            offered=lambda key: key.state(timezone.now()) in ("active", "disabled"),
        ),
        Page("disable", "Disable", ("keys.change_apikey",), icon="pause", offered=lambda key: key.state(timezone.now()) == "active"),
        Page("enable", "Enable", ("keys.change_apikey",), icon="play_arrow", offered=lambda key: key.state(timezone.now()) == "disabled"),
        Page("revoke", "Revoke", ("keys.change_apikey",), icon="block", danger=True, offered=lambda key: key.revoked_at is None),
    )
    budget = dollars.column("budget_nano", "budget", empty="none")

    # -- what is shown

    @admin.display(description="key", ordering="start")
    def recognised(self, obj: ApiKey) -> str:
        """What people recognise it by."""
        return f"{obj.start}…{obj.last_four}"

    @admin.display(description="account", ordering="account__slug")
    def account_link(self, obj: ApiKey) -> SafeString:
        """Whose it is."""
        return link(change_url(obj.account), obj.account.slug)

    @admin.display(description="state")
    def state(self, obj: ApiKey) -> SafeString:
        """Whether it works."""
        state = obj.state(timezone.now())
        return badge(state, {"active": "success", "disabled": "warning"}.get(state, "danger"))

    @admin.display(description="requests")
    def usage(self, obj: ApiKey) -> SafeString:
        """Where its usage is."""
        return link(f"{reverse('admin:billing_usagerecord_changelist')}?key__id__exact={obj.pk}", "Requests made with it")

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """Find by everything a person may have of a key."""
        try:
            return queryset.filter(pk=issuing.find(search_term).pk), False
        except issuing.KeyNotFound:
            return super().get_search_results(request, queryset, search_term)

    # -- who may what

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A revoked key stays as it is."""
        return super().has_change_permission(request, obj) and (obj is None or obj.revoked_at is None)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002 - the signature is Django's
        """Nobody: usage points at keys. Revoke it."""
        return False

    def topics(self, obj: ApiKey) -> tuple[str, ...]:
        """What it may do is cached by every process."""
        return (f"key:{obj.pk}",)

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:  # noqa: ARG002, FBT001 - the signature is Django's
        """Change what the form says anew and nothing else; a key that was revoked meanwhile stays as it is."""
        said: Any = {field: form.cleaned_data[field] for field in form.changed_data if field in LIMITS}
        try:
            issuing.change(key=obj, now=timezone.now(), **said)
        except issuing.KeyEnded as error:
            raise PermissionDenied(str(error)) from error

    # -- issuing

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:  # noqa: ARG002 - the signature is Django's
        """Issue a key: the form, then its secret."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = IssueForm(request.POST or None, initial={"form_id": uuid.uuid4(), "account": request.GET.get("account")})
        if request.method == "POST" and form.is_valid():
            said = dict(form.cleaned_data)
            try:
                key, secret = issuing.issue(form_token=said.pop("form_id"), **said, now=timezone.now(), created_by=_person(request))
            except issuing.AlreadyIssued as error:
                messages.warning(
                    request, "This form was sent before and its key issued then. The secret cannot be shown again: reroll the key."
                )
                return HttpResponseRedirect(change_url(error.key))
            except issuing.InvalidSetting as error:
                form.add_error(error.field if error.field in form.fields else None, error.message)
            else:
                self.log_addition(request, key, [{"added": {}}])
                return self._show_once(request, key, secret, "Issued.")
        return self.render_page(
            request,
            "admin/form_page.html",
            None,
            title="Issue a key",
            form=form,
            submit="Issue",
            about="",
            danger=False,
            media=self.media + form.media,
        )

    def reroll(self, request: HttpRequest, key: ApiKey) -> HttpResponse:
        """Issue a key in place of another: the form, then its secret."""
        form = RerollForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            overlap = timedelta(seconds=int(form.cleaned_data["overlap"]))
            try:
                new, secret = issuing.reroll(key=key, overlap=overlap, now=timezone.now(), created_by=_person(request))
            except issuing.KeyEnded as error:
                messages.error(request, f"Not rerolled: {error}.")
                return HttpResponseRedirect(change_url(key))
            until = dict(OVERLAPS)[form.cleaned_data["overlap"]]
            self.log_change(request, key, f"Rerolled into key {new.pk}; stops {until}.")
            self.log_addition(request, new, f"In place of key {key.pk}.")
            return self._show_once(request, new, secret, f"It replaces {key.start}…{key.last_four}, which stops {until}.")
        about = (
            "A new key with the same settings takes the place of this one. Its budget begins empty: until the old key stops, "
            "the two together can spend at most two budgets of a window."
        )
        return self.form_page(request, key, title=f"Reroll {key}", form=form, submit="Reroll", about=about)

    def _show_once(self, request: HttpRequest, key: ApiKey, secret: str, note: str) -> HttpResponse:
        response = self.render_page(
            request,
            "admin/secret_once.html",
            key,
            title=f"{key.name} of {key.account}",
            note=note,
            samples=[{"title": "Key", "text": secret}, *_samples(request, key, secret)],
        )
        response.headers["Cache-Control"] = "no-store"
        return response

    # -- stopping

    def revoke(self, request: HttpRequest, key: ApiKey) -> HttpResponse:
        """Confirm, then stop a key for ever."""
        return self._confirm(
            request, key, "Revoke", "Everything that uses this key stops within a second. This cannot be taken back.", _revoke, danger=True
        )

    def disable(self, request: HttpRequest, key: ApiKey) -> HttpResponse:
        """Confirm, then stop a key for now."""
        return self._confirm(request, key, "Disable", "The key stops until it is enabled again.", lambda key: issuing.disable(key=key))

    def enable(self, request: HttpRequest, key: ApiKey) -> HttpResponse:
        """Confirm, then let a disabled key work again."""
        return self._confirm(request, key, "Enable", "The key works again.", lambda key: issuing.enable(key=key))

    def _confirm(
        self, request: HttpRequest, key: ApiKey, deed: str, about: str, act: Callable[[ApiKey], ApiKey], *, danger: bool = False
    ) -> HttpResponse:
        if request.method != "POST":
            return self.form_page(request, key, title=f"{deed} {key}", form=PageForm(), submit=deed, about=about, danger=danger)
        try:
            act(key)
        except issuing.KeyEnded as error:
            messages.error(request, f"{deed}: {error}.")
        else:
            self.log_change(request, key, f"{deed}d.")
            messages.success(request, f"{deed}d: {key}.")
        return HttpResponseRedirect(change_url(key))


def _revoke(key: ApiKey) -> ApiKey:
    return issuing.revoke(key=key, now=timezone.now())


def _person(request: HttpRequest) -> User:
    assert isinstance(request.user, User)  # noqa: S101 - the admin lets nobody else in
    return request.user


def _samples(request: HttpRequest, key: ApiKey, secret: str) -> list[dict[str, str]]:
    shown = snippets.for_key(key, origin=snippets.origin_of(request), secret=secret, now=timezone.now())
    return [{"title": each.name, "text": each.text} for each in shown]
