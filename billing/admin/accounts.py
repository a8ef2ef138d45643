"""Accounts in the admin, with what they have. They are administered here because each has a wallet: `billing.opening` opens a new one."""

from datetime import timedelta
from typing import Any
from zoneinfo import available_timezones

from django import forms
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts import impersonation
from accounts.admin import BaseAccountAdmin
from accounts.models import Account, Membership, User
from billing import opening, sample
from billing.admin.plans import PlanAssignmentInline
from billing.admin.tables import wallet_of
from billing.models import Plan
from catalog import dollars
from gateway_site.admin_base import ModelForm, Page, PageForm, ReadOnlyInline, TabularInline, change_url, link
from keys.models import ApiKey


class AccountForm(ModelForm):
    """An account that exists."""

    timezone = forms.CharField(max_length=64, initial="UTC", help_text="IANA name, such as Europe/Berlin; where its days and months begin.")

    class Meta:
        model = Account
        fields: tuple[str, ...] = ("slug", "name", "timezone", "billing_email", "is_active")

    def clean_timezone(self) -> str:
        """A zone that nobody knows would quietly be read as UTC."""
        name = str(self.cleaned_data["timezone"])
        if name not in available_timezones():
            raise forms.ValidationError(f"There is no time zone {name!r}.")
        return name


class NewAccountForm(AccountForm):
    """An account to be opened."""

    owner_email = forms.EmailField(required=False, help_text="Becomes its owner; made without a password when nobody has this address yet.")
    plan = forms.ModelChoiceField(Plan.objects.order_by("slug"), required=False, empty_label="The default plan")

    class Meta(AccountForm.Meta):
        fields = ("slug", "name", "timezone", "billing_email")


class LookForm(PageForm):
    """As whom, and why."""

    membership = forms.ModelChoiceField(Membership.objects.none(), label="look as", empty_label=None)
    reason = forms.CharField(max_length=300, help_text="Stands in the account's audit log, which its members can read.")

    def __init__(self, *args: Any, account: Account, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        members = Membership.objects.filter(account=account, user__is_active=True).select_related("user", "account")
        self.fields["membership"].queryset = members.order_by("created_at")  # type: ignore[attr-defined]


class MembershipInline(TabularInline):
    model = Membership
    fields = ("user", "role")
    autocomplete_fields = ("user",)


class KeyInline(ReadOnlyInline):
    """The keys of an account, the newest first."""

    model = ApiKey
    fk_name = "account"
    fields = ("name", "recognised", "kind", "budget", "expires_at", "is_disabled", "revoked_at", "last_used_at")
    readonly_fields = ("recognised", "budget")
    ordering = ("-created_at",)
    per_page = 20
    budget = dollars.column("budget_nano", "budget", empty="none")

    @admin.display(description="key")
    def recognised(self, obj: ApiKey) -> str:
        """What people recognise it by."""
        return f"{obj.start}…{obj.last_four}"


@admin.register(Account)
class AccountAdmin(BaseAccountAdmin):
    """Accounts with what they have: wallet, members, plan, keys."""

    form = AccountForm
    list_display = ("slug", "name", "is_sample", "balance", "held", "plan", "is_active", "billing_email", "created_at")
    list_select_related = ("wallet",)
    inlines = (MembershipInline, PlanAssignmentInline, KeyInline)
    pages = (
        Page("issue_key", "Issue a key", ("keys.add_apikey",), icon="vpn_key"),
        Page("show_wallet", "Wallet", ("billing.view_wallet",), icon="account_balance_wallet"),
        Page(
            "remove_sample",
            "Remove the sample account",
            ("accounts.delete_account",),
            icon="delete",
            danger=True,
            offered=lambda account: account.is_sample,
        ),
        Page("look_as", "Look as a member", (impersonation.PERMISSION,), icon="visibility"),
    )

    @admin.display(description="balance", ordering="wallet__balance")
    def balance(self, obj: Account) -> SafeString | str:
        """Of its wallet."""
        wallet = wallet_of(obj)
        return "-" if wallet is None else format_html('<a href="{}">{}</a>', change_url(wallet), dollars.show(int(wallet.balance)))

    @admin.display(description="held", ordering="wallet__held")
    def held(self, obj: Account) -> SafeString | str:
        """By requests under way."""
        wallet = wallet_of(obj)
        return "-" if wallet is None else dollars.show(wallet.held)

    @admin.display(description="plan")
    def plan(self, obj: Account) -> str:
        """The one in effect."""
        now = timezone.now()
        current = max((one for one in obj.plan_assignments.all() if one.starts_at <= now), key=lambda one: one.starts_at, default=None)
        return current.plan.slug if current else "-"

    @admin.display(description="usage")
    def usage(self, obj: Account) -> SafeString:
        """Where its requests are."""
        return link(f"{reverse('admin:billing_usagerecord_changelist')}?account__id__exact={obj.pk}", "Its requests")

    def get_queryset(self, request: HttpRequest) -> Any:
        """With the plans, in one more query."""
        return super().get_queryset(request).prefetch_related("plan_assignments__plan")

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002
        """A new account also says who owns it and on which plan it begins."""
        return super().get_form(request, obj, change, **({"form": NewAccountForm} | kwargs if obj is None else kwargs))

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:  # noqa: ARG002 - the signature is Django's
        """What a new account needs; what an account has."""
        if obj is None:
            return ((None, {"fields": ("slug", "name", "timezone", "billing_email", "owner_email", "plan")}),)
        return (
            (None, {"fields": ("slug", "name", "timezone", "billing_email", "is_active")}),
            ("Money", {"fields": (("balance", "held"), "usage", "created_at")}),
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:  # noqa: ARG002 - the signature is Django's
        """A slug is what operators call the account by for ever."""
        return () if obj is None else ("slug", "balance", "held", "usage", "created_at")

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:  # noqa: ARG002 - the signature is Django's
        """Once the account exists."""
        return [] if obj is None else self.inlines

    def save_model(self, request: HttpRequest, obj: Account, form: Any, change: bool) -> None:  # noqa: ARG002, FBT001 - the signature is Django's
        """Open a new account with its wallet; write the settings of one that exists."""
        if not change:
            plan = form.cleaned_data["plan"]
            opened = opening.open_account(
                slug=obj.slug,
                name=obj.name,
                now=timezone.now(),
                owner_email=form.cleaned_data["owner_email"] or None,
                plan_slug=plan.slug if plan else None,
                welcome=True,
            )
            obj.pk, obj.created_at, obj._state.adding = opened.pk, opened.created_at, False  # noqa: SLF001 - it is saved now
        obj.save(update_fields=[field for field in ("name", "timezone", "billing_email", "is_active") if field in form.cleaned_data])

    def issue_key(self, _request: HttpRequest, obj: Account) -> HttpResponse:
        """Lead to the form for a new key of this account."""
        return HttpResponseRedirect(f"{reverse('admin:keys_apikey_add')}?account={obj.pk}")

    def show_wallet(self, _request: HttpRequest, obj: Account) -> HttpResponse:
        """Lead to the wallet of this account."""
        wallet = wallet_of(obj)
        return HttpResponseRedirect(reverse("admin:billing_wallet_changelist") if wallet is None else change_url(wallet))

    def remove_sample(self, request: HttpRequest, obj: Account) -> HttpResponse:
        """Remove the sample account with all that belongs to it."""
        if request.method == "POST":
            try:
                sample.remove(obj)
            except sample.NotASample:
                messages.error(request, f"{obj} is somebody's own account: it can be closed, not removed.")
                return HttpResponseRedirect(change_url(obj))
            except sample.StillBusy:
                messages.error(request, "A request of the sample account is under way. Try again in a moment.")
                return HttpResponseRedirect(change_url(obj))
            messages.success(request, "The sample account is removed.")
            return HttpResponseRedirect(reverse("admin:accounts_account_changelist"))
        about = "Its figures are invented; with it go its keys, its usage and its ledger. Nothing else changes."
        return self.form_page(
            request, obj, title="Remove the sample account", form=PageForm(), submit="Remove it", about=about, danger=True
        )

    def look_as(self, request: HttpRequest, obj: Account) -> HttpResponse:
        """See the account as one of its members does, reading only."""
        form = LookForm(request.POST or None, account=obj)
        if request.method == "POST" and form.is_valid():
            assert isinstance(request.user, User)  # noqa: S101 - the admin lets nobody else in
            membership, reason = form.cleaned_data["membership"], form.cleaned_data["reason"]
            try:
                impersonation.begin(
                    session=request.session,
                    staff=request.user,
                    membership=membership,
                    reason=reason,
                    now=timezone.now(),
                    ip=request.META.get("REMOTE_ADDR") or None,
                )
            except impersonation.CannotLook as error:
                messages.error(request, str(error))
                return HttpResponseRedirect(change_url(obj))
            self.log_change(request, obj, f"Looked as {membership.user.email}: {reason}")
            return HttpResponseRedirect(reverse("overview", args=[obj.slug]))
        minutes = impersonation.LASTS // timedelta(minutes=1)
        about = f"For {minutes} minutes you see this account's pages as the member does. Nothing can be changed there, and the account's audit log says so."
        return self.form_page(request, obj, title=f"Look at {obj} as a member", form=form, submit="Look", about=about)
