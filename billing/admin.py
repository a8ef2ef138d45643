"""Money and its history in the admin: shown, never written. Credits, debits and freezing are asked of the ledger, on pages of a wallet.

Accounts are administered here because each has a wallet: a new one is opened by `billing.opening`. The tables that grow with traffic are
paged without counting, and read by their indexes: usage by its id, which is its time.
"""

import uuid
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import available_timezones

from django import forms
from django.contrib import admin, messages
from django.db import OperationalError, connection, transaction
from django.db.models import F, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts.admin import BaseAccountAdmin
from accounts.models import Account, Membership
from billing import ledger, opening, receipts, reconciliation
from billing.models import CreditGrant, Hold, HoldOwner, Plan, PlanAssignment, SpendWindow, TaskRun, Transfer, UsageRecord, Wallet
from catalog import dollars, money, pricing
from catalog.models import Provider
from gateway_site.admin_base import (
    BigTableAdmin,
    DateTimeWidget,
    LinesField,
    ModelAdmin,
    ModelForm,
    Page,
    PageForm,
    ReadOnlyAdmin,
    ReadOnlyInline,
    Table,
    TabularInline,
    badge,
    change_url,
    link,
    link_to,
)
from gateway_site.identifiers import lowest_uuid7
from keys import issuing
from keys.models import ApiKey

SHOWN = 50  # rows of a table on another object's page
SHOWN_USAGE = 100
AUDIT_SECONDS = 20
CLOCKS_DIFFER = timedelta(minutes=5)  # an id is made moments before its request is said to have started, by another clock perhaps
SOURCE = "admin"
PER_ONE = ("image", "request")  # rates for one, where all others are for a million tokens
DEBIT = "debit"
DEBIT_ACCOUNTS = {"promo": "promo", "paid": "manual"}
KINDS = (*DEBIT_ACCOUNTS, DEBIT)  # what the pages of a wallet book

TONES = {"ok": "success", "error": "danger", "swept": "danger", "cut": "warning", "aborted": "warning", "stopped": "warning"}


# -- Accounts and plans --------------------------------------------------------------------------------------------------------------


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


class PlanAssignmentInline(TabularInline):
    """Which plan from when on. An assignment stays; the next one ends it."""

    model = PlanAssignment
    fields = ("plan", "starts_at", "anchor_day")
    ordering = ("-starts_at",)
    can_delete = False
    per_page = 10

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002 - the signature is Django's
        """Nobody: quotas were counted by it."""
        return False


@admin.register(Account)
class AccountAdmin(BaseAccountAdmin):
    """Accounts with what they have: wallet, members, plan, keys."""

    form = AccountForm
    list_display = ("slug", "name", "balance", "held", "plan", "is_active", "billing_email", "created_at")
    list_select_related = ("wallet",)
    inlines = (MembershipInline, PlanAssignmentInline, KeyInline)
    pages = (
        Page("issue_key", "Issue a key", ("keys.add_apikey",), icon="vpn_key"),
        Page("show_wallet", "Wallet", ("billing.view_wallet",), icon="account_balance_wallet"),
    )

    @admin.display(description="balance", ordering="wallet__balance")
    def balance(self, obj: Account) -> SafeString | str:
        """Of its wallet."""
        wallet = _wallet_of(obj)
        return "-" if wallet is None else format_html('<a href="{}">{}</a>', change_url(wallet), dollars.show(int(wallet.balance)))

    @admin.display(description="held", ordering="wallet__held")
    def held(self, obj: Account) -> SafeString | str:
        """By requests under way."""
        wallet = _wallet_of(obj)
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
            )
            obj.pk, obj.created_at, obj._state.adding = opened.pk, opened.created_at, False  # noqa: SLF001 - it is saved now
        obj.save(update_fields=[field for field in ("name", "timezone", "billing_email", "is_active") if field in form.cleaned_data])

    def issue_key(self, _request: HttpRequest, obj: Account) -> HttpResponse:
        """Lead to the form for a new key of this account."""
        return HttpResponseRedirect(f"{reverse('admin:keys_apikey_add')}?account={obj.pk}")

    def show_wallet(self, _request: HttpRequest, obj: Account) -> HttpResponse:
        """Lead to the wallet of this account."""
        wallet = _wallet_of(obj)
        return HttpResponseRedirect(reverse("admin:billing_wallet_changelist") if wallet is None else change_url(wallet))


class PlanForm(ModelForm):
    allowed_models = LinesField(help_text='One a line: a model, or a pattern such as "openai/*". Empty: all.')
    price_nano = dollars.UsdField(label="price a month, USD", required=False)

    class Meta:
        model = Plan
        fields = "__all__"

    def clean_price_nano(self) -> int:
        """Left empty, the plan costs nothing."""
        return int(self.cleaned_data["price_nano"] or 0)


@admin.register(Plan)
class PlanAdmin(ModelAdmin):
    """Plans. One that was ever assigned cannot be deleted."""

    form = PlanForm
    list_display = ("slug", "name", "price", "monthly_input_tokens", "monthly_output_tokens", "rpm", "tpm", "is_default")
    search_fields = ("slug", "name")
    ordering = ("slug",)
    readonly_fields = ("created_at",)
    fieldsets = (
        (None, {"fields": ("slug", "name", "price_nano", "is_default")}),
        ("Quota", {"fields": (("monthly_input_tokens", "monthly_output_tokens"), "allowed_models")}),
        ("Rates", {"fields": (("rpm", "tpm", "concurrency"), "created_at")}),
    )
    price = dollars.column("price_nano", "price a month")

    def topics(self, obj: Plan) -> tuple[str, ...]:  # noqa: ARG002 - whoever is on it
        """Every account may be on it."""
        return ("account",)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Only a plan nobody was ever on."""
        return super().has_delete_permission(request, obj) and (obj is None or not obj.assignments.exists())


# -- Wallets and the ledger ----------------------------------------------------------------------------------------------------------


class MoveForm(PageForm):
    """An amount, why, and an id of this very form: sent twice, it is booked once."""

    amount = dollars.UsdField(lowest=1, label="amount, USD")
    reason = forms.CharField(max_length=500, help_text="Stands in the ledger for ever.")
    form_id = forms.UUIDField(widget=forms.HiddenInput)


class CreditForm(MoveForm):
    kind = forms.ChoiceField(
        choices=[("promo", "promo: a gift, burned first"), ("paid", "paid: money was received outside Stripe, burned last")],
        initial="promo",
    )
    expires_at = forms.SplitDateTimeField(label="expires", required=False, widget=DateTimeWidget, help_text="Empty: never.")
    field_order = ("amount", "kind", "reason", "expires_at", "form_id")

    def clean_expires_at(self) -> datetime | None:
        """What is expired already is no gift."""
        moment: datetime | None = self.cleaned_data["expires_at"]
        if moment is not None and moment <= timezone.now():
            raise forms.ValidationError("This moment is past.")
        return moment


class ReasonForm(PageForm):
    reason = forms.CharField(max_length=500)


@admin.register(Wallet)
class WalletAdmin(ReadOnlyAdmin):
    """Wallets. Their figures are the ledger's; what a person may do is ask the ledger for a credit, a debit, or a freeze."""

    list_display = ("account", "balance_usd", "held_usd", "free_usd", "state")
    list_filter = ("status",)
    list_select_related = ("account",)
    search_fields = ("account__slug", "account__name")
    ordering = ("account__slug",)
    fields = ("account", "state", "balance_usd", "held_usd", "free_usd", "credits_usd", "debits_usd", "version", "lists")
    readonly_fields = ("state", "balance_usd", "held_usd", "free_usd", "credits_usd", "debits_usd", "lists")
    balance_usd = dollars.column("balance")
    held_usd = dollars.column("held", "held by requests under way")
    credits_usd = dollars.column("credits", "credited ever")
    debits_usd = dollars.column("debits", "debited ever")
    pages = (
        Page("grant_credit", "Grant credit", ("billing.add_creditgrant",), icon="add_card"),
        Page("debit", "Debit", ("billing.add_transfer",), icon="remove_circle"),
        Page("freeze", "Freeze", ("billing.change_wallet",), icon="ac_unit", danger=True, offered=lambda wallet: wallet.status == "active"),
        Page("unfreeze", "Unfreeze", ("billing.change_wallet",), icon="sunny", offered=lambda wallet: wallet.status == "frozen"),
    )
    list_pages = (Page("audit", "Audit", ("billing.view_wallet", "billing.view_transfer"), icon="fact_check"),)

    @admin.display(description="free")
    def free_usd(self, obj: Wallet) -> SafeString | str:
        """What a new request may hold."""
        return dollars.show(obj.free)

    @admin.display(description="status", ordering="status")
    def state(self, obj: Wallet) -> SafeString:
        """Whether requests may be placed."""
        return badge(obj.status, {"active": "success", "frozen": "info"}.get(obj.status, "danger"))

    @admin.display(description="all of its")
    def lists(self, obj: Wallet) -> SafeString:
        """Where everything of this wallet is listed."""
        query = f"?wallet__id__exact={obj.pk}"
        return format_html(
            "{} · {} · {} · {}",
            link(reverse("admin:billing_transfer_changelist") + query, "transfers"),
            link(reverse("admin:billing_creditgrant_changelist") + query, "grants"),
            link(reverse("admin:billing_hold_changelist") + query, "holds"),
            link(f"{reverse('admin:billing_usagerecord_changelist')}?account__id__exact={obj.account_id}", "requests"),
        )

    def tables(self, request: HttpRequest, obj: Wallet) -> Iterable[Table]:  # noqa: ARG002 - the signature is the base's
        """What is held, what is left of the grants, and the last entries of the ledger."""
        query = f"?wallet__id__exact={obj.pk}"
        holds = Hold.objects.filter(wallet=obj).select_related("key").order_by("-started_at")[:SHOWN]
        yield Table(
            "Open holds",
            ("request", "key", "amount", "accrued", "started", "expires"),
            [
                (
                    link_to(one),
                    link_to(one.key),
                    dollars.show(one.amount),
                    dollars.show(one.accrued),
                    _at(one.started_at),
                    _at(one.expires_at),
                )
                for one in holds
            ],
            reverse("admin:billing_hold_changelist") + query,
        )
        grants = CreditGrant.objects.filter(wallet=obj, remaining__gt=0).order_by("priority", F("expires_at").asc(nulls_last=True), "id")[
            :SHOWN
        ]
        yield Table(
            "Grants with something left, in the order they burn",
            ("grant", "kind", "amount", "left", "expires"),
            [(link_to(one), one.kind, dollars.show(one.amount), dollars.show(one.remaining), _at(one.expires_at)) for one in grants],
            reverse("admin:billing_creditgrant_changelist") + query,
        )
        last = Transfer.objects.filter(wallet=obj).order_by("-created_at")[:SHOWN]
        yield Table(
            "Last transfers",
            ("when", "kind", "amount", "balance after", "by", "note"),
            [
                (
                    link_to(one, _at(one.created_at)),
                    one.kind,
                    _signed(one),
                    dollars.show(one.balance_after),
                    one.actor or "-",
                    one.note or "-",
                )
                for one in last
            ],
            reverse("admin:billing_transfer_changelist") + query,
        )

    def grant_credit(self, request: HttpRequest, wallet: Wallet) -> HttpResponse:
        """Put money in, as a grant."""

        def move(said: dict[str, Any]) -> Transfer:
            return ledger.credit(
                wallet_id=wallet.pk,
                amount=said["amount"],
                kind=said["kind"],
                debit_account=DEBIT_ACCOUNTS[said["kind"]],
                source_type=SOURCE,
                source_id=str(said["form_id"]),
                actor=request.user.get_username(),
                note=said["reason"],
                now=timezone.now(),
                expires_at=said["expires_at"],
            )

        return self._move(request, wallet, CreditForm, move, title=f"Grant credit to {wallet.account}", done="Granted")

    def debit(self, request: HttpRequest, wallet: Wallet) -> HttpResponse:
        """Take free money out."""

        def move(said: dict[str, Any]) -> Transfer:
            return ledger.debit(
                wallet_id=wallet.pk,
                amount=said["amount"],
                kind=DEBIT,
                credit_account="manual",
                source_type=SOURCE,
                source_id=str(said["form_id"]),
                actor=request.user.get_username(),
                note=said["reason"],
                now=timezone.now(),
            )

        return self._move(request, wallet, MoveForm, move, title=f"Debit {wallet.account}", done="Debited")

    def _move(
        self,
        request: HttpRequest,
        wallet: Wallet,
        form_class: type[MoveForm],
        move: Callable[[dict[str, Any]], Transfer],
        *,
        title: str,
        done: str,
    ) -> HttpResponse:
        form = form_class(request.POST or None, initial={"form_id": uuid.uuid4()})
        if request.method == "POST" and form.is_valid():
            try:
                with transaction.atomic():
                    known = Transfer.objects.filter(kind__in=KINDS, source_type=SOURCE, source_id=str(form.cleaned_data["form_id"])).first()
                    if known is not None and known.kind != form.cleaned_data.get("kind", DEBIT):
                        raise ledger.SourceConflict(known)
                    transfer = move(form.cleaned_data)
                    amount = f"${money.usd(transfer.amount)}"
                    if known is None:
                        self.log_change(request, wallet, f"{done} {amount}: {transfer.note}")
            except ledger.InsufficientBalance as error:
                form.add_error("amount", f"Only ${money.usd(error.free)} is free.")
            except ledger.NotPositive:
                form.add_error("amount", "This amount cannot be moved.")
            except ledger.SourceConflict:
                form.add_error(
                    None, "This form was sent before with something else in it, and that is booked. Open the page anew for another booking."
                )
            else:
                after = f"the balance then was ${money.usd(transfer.balance_after or 0)}"
                sent = " This form was sent before; it is booked once." if known else ""
                messages.success(request, f"{done} {amount}; {after}.{sent}")
                return HttpResponseRedirect(change_url(wallet))
        about = f"Balance {money.usd_display(int(wallet.balance))}, of which {money.usd_display(wallet.free)} is free."
        return self.form_page(request, wallet, title=title, form=form, submit=title, about=about)

    def freeze(self, request: HttpRequest, wallet: Wallet) -> HttpResponse:
        """Stop new requests on a wallet."""
        return self._set_status(
            request, wallet, Wallet.Status.FROZEN, "Freeze", "No request is placed until it is unfrozen; those under way are settled."
        )

    def unfreeze(self, request: HttpRequest, wallet: Wallet) -> HttpResponse:
        """Let requests be placed again."""
        return self._set_status(request, wallet, Wallet.Status.ACTIVE, "Unfreeze", "Requests are placed again.")

    def _set_status(self, request: HttpRequest, wallet: Wallet, status: Wallet.Status, deed: str, about: str) -> HttpResponse:
        form = ReasonForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            reason = form.cleaned_data["reason"]
            with transaction.atomic():
                ledger.set_status(wallet_id=wallet.pk, status=status, actor=request.user.get_username(), note=reason)
                self.log_change(request, wallet, f"{deed}: {reason}")
            messages.success(request, f"{wallet}: {status}.")
            return HttpResponseRedirect(change_url(wallet))
        frozen = status == Wallet.Status.FROZEN
        return self.form_page(request, wallet, title=f"{deed} {wallet}", form=form, submit=deed, about=about, danger=frozen)

    def audit(self, request: HttpRequest) -> HttpResponse:
        """Check every invariant of money, now."""
        drifts: list[reconciliation.Drift] | None = None
        if request.method == "POST":
            try:
                with transaction.atomic(), connection.cursor() as cursor:
                    cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                    cursor.execute(f"SET LOCAL statement_timeout = '{AUDIT_SECONDS}s'; SET LOCAL jit = off")
                    drifts = reconciliation.audit(now=timezone.now())
            except OperationalError:
                messages.warning(
                    request,
                    f"A check took longer than {AUDIT_SECONDS} s. The audit that runs every five minutes has no such limit: see its log.",
                )
                return HttpResponseRedirect(request.path)
        table = Table(
            "Drifts",
            ("invariant", "account", "what", "expected", "found"),
            [(drift.invariant, drift.account or "-", drift.sentence, drift.expected, drift.found) for drift in drifts or ()],
        )
        return self.render_page(
            request, "admin/audit.html", None, title="Audit of the books", drifts=drifts, tables=[table] if drifts else []
        )


class KnownKindFilter(admin.SimpleListFilter):
    """Kinds of transfers that the project books; an open list is not read from the table."""

    title = "kind"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:  # noqa: ARG002 - the signature is Django's
        """The kinds."""
        return [(kind, kind) for kind in ("usage", "overrun", "writeoff", "paid", "promo", "plan", "debit", "expiry", "refund", "dispute")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:  # noqa: ARG002 - the signature is Django's
        """Those of the kind."""
        return queryset.filter(kind=self.value()) if self.value() else queryset


class WalletTableAdmin(BigTableAdmin):
    """A big table of wallets' rows: found by its own id, or by the account it belongs to."""

    own_id = ""  # the UUID that a search may name
    owner = "wallet"  # or "account": which column says whose the row is
    search_help_text = "An id, or an account's slug."
    search_fields = ("pk",)  # shows the box; `get_search_results` reads it

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:  # noqa: ARG002 - Django's
        """Look the term up as what it is, so that an index answers."""
        term = search_term.strip()
        if not term:
            return queryset, False
        found = _uuid(term)
        if found is not None and self.own_id:
            return queryset.filter(**{self.own_id: found}), False
        owner = Account.objects.filter(slug=term.lower()).values_list("wallet" if self.owner == "wallet" else "pk", flat=True).first()
        return (queryset.none() if owner is None else queryset.filter(**{self.owner: owner})), False


@admin.register(Transfer)
class TransferAdmin(WalletTableAdmin):
    """The ledger."""

    own_id = "id"
    list_display = (
        "short_id",
        "created_at",
        "kind",
        "wallet_link",
        "debit_account",
        "credit_account",
        "amount_usd",
        "balance_usd",
        "actor",
        "note",
    )
    list_filter = (KnownKindFilter,)
    list_select_related = ("wallet__account",)
    ordering = ("-created_at",)
    fields = (
        "id",
        "kind",
        "wallet_link",
        "debit_account",
        "credit_account",
        "amount_usd",
        "balance_usd",
        "wallet_version",
        "source_type",
        "source_id",
        "reverses",
        "actor",
        "note",
        "created_at",
    )
    readonly_fields = ("wallet_link", "amount_usd", "balance_usd")
    amount_usd = dollars.column("amount")
    balance_usd = dollars.column("balance_after", "balance after")

    @admin.display(description="transfer")
    def short_id(self, obj: Transfer) -> str:
        """Enough of the id to see which it is."""
        return f"{str(obj.pk)[:8]}…"

    @admin.display(description="wallet")
    def wallet_link(self, obj: Transfer) -> SafeString | str:
        """Whose money."""
        return "-" if obj.wallet is None else link_to(obj.wallet, obj.wallet.account.slug)

    def tables(self, request: HttpRequest, obj: Transfer) -> Iterable[Table]:  # noqa: ARG002 - the signature is the base's
        """What it was charged for."""
        records = UsageRecord.objects.filter(transfer=obj).select_related("key")[:SHOWN_USAGE]
        if records:
            yield Table(
                f"Requests it charges (at most {SHOWN_USAGE})",
                ("request", "started", "model", "key", "status", "cost"),
                [
                    (
                        link_to(one),
                        _at(one.started_at),
                        one.model,
                        link_to(one.key),
                        badge(one.status, TONES.get(one.status, "")),
                        dollars.show(one.cost),
                    )
                    for one in records
                ],
                f"{reverse('admin:billing_usagerecord_changelist')}?transfer__id__exact={obj.pk}",
            )
        undone = Transfer.objects.filter(reverses=obj)[:SHOWN]
        if undone:
            yield Table("Reversed by", ("transfer", "amount"), [(link_to(one), dollars.show(one.amount)) for one in undone])


@admin.register(CreditGrant)
class CreditGrantAdmin(WalletTableAdmin):
    """Grants and what is left of them."""

    list_display = ("id", "wallet_link", "kind", "amount_usd", "remaining_usd", "priority", "expires_at", "created_at")
    list_filter = ("kind",)
    list_select_related = ("wallet__account",)
    search_help_text = "An account's slug."
    ordering = ("-id",)
    fields = ("wallet_link", "kind", "amount_usd", "remaining_usd", "priority", "expires_at", "transfer", "created_at")
    readonly_fields = ("wallet_link", "amount_usd", "remaining_usd")
    amount_usd = dollars.column("amount")
    remaining_usd = dollars.column("remaining", "left")

    @admin.display(description="wallet")
    def wallet_link(self, obj: CreditGrant) -> SafeString | str:
        """Whose money."""
        return link_to(obj.wallet, obj.wallet.account.slug)


# -- Holds and windows ---------------------------------------------------------------------------------------------------------------


@admin.register(Hold)
class HoldAdmin(WalletTableAdmin):
    """Money set aside for requests under way."""

    own_id = "request_id"
    owner = "account"
    list_display = ("request_id", "account", "key", "amount_usd", "accrued_usd", "started_at", "expires_at")
    list_select_related = ("account", "key")
    ordering = ("-request_id",)
    fields = (
        "request_id",
        "account",
        "wallet",
        "key",
        "owner",
        "amount_usd",
        "accrued_usd",
        "free_after_usd",
        "input_tokens",
        "output_tokens",
        "quota_input_tokens",
        "quota_output_tokens",
        "about",
        "started_at",
        "expires_at",
    )
    readonly_fields = ("amount_usd", "accrued_usd", "free_after_usd")
    amount_usd = dollars.column("amount")
    accrued_usd = dollars.column("accrued")
    free_after_usd = dollars.column("free_after", "free once it was placed")


@admin.register(HoldOwner)
class HoldOwnerAdmin(BigTableAdmin):
    """The processes that place holds."""

    list_display = ("boot_id", "host", "pid", "started_at", "lease_until", "alive")
    search_fields = ("host",)
    ordering = ("-lease_until",)

    @admin.display(description="alive", boolean=True)
    def alive(self, obj: HoldOwner) -> bool:
        """Whether its lease runs."""
        return obj.lease_until > timezone.now()


@admin.register(TaskRun)
class TaskRunAdmin(ReadOnlyAdmin):
    """What Celery's tasks have done last."""

    list_display = ("name", "last_started_at", "last_finished_at", "runs", "findings", "last_error")
    ordering = ("name",)


@admin.register(SpendWindow)
class SpendWindowAdmin(WalletTableAdmin):
    """What budgets and quotas have counted."""

    owner = "account"
    list_display = ("id", "subject_kind", "subject_id", "account", "window_start", "window_end", "spent_usd", "held_usd", "requests")
    list_filter = ("subject_kind",)
    list_select_related = ("account",)
    search_help_text = "An account's slug."
    ordering = ("-id",)
    fields = (
        "subject_kind",
        "subject_id",
        "account",
        "window_start",
        "window_end",
        "spent_usd",
        "held_usd",
        "input_tokens",
        "output_tokens",
        "held_input_tokens",
        "held_output_tokens",
        "requests",
    )
    readonly_fields = ("spent_usd", "held_usd")
    spent_usd = dollars.column("spent")
    held_usd = dollars.column("held")


# -- Usage ---------------------------------------------------------------------------------------------------------------------------


class PeriodFilter(admin.SimpleListFilter):
    """When: a range of ids, which the primary key and the monthly partitions answer. Unsaid, the last seven days."""

    title = "period"
    parameter_name = "period"
    usual = "7d"
    spans = {"1h": timedelta(hours=1), "24h": timedelta(days=1), "7d": timedelta(days=7), "30d": timedelta(days=30)}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:  # noqa: ARG002 - the signature is Django's
        """The last hours and days, then months."""
        months, first = [], timezone.now().astimezone(UTC).date().replace(day=1)
        for _ in range(6):
            months.append((f"{first:%Y-%m}", f"{first:%B %Y}"))
            first = (first - timedelta(days=1)).replace(day=1)
        return [("1h", "Last hour"), ("24h", "Last 24 hours"), ("7d", "Last 7 days"), ("30d", "Last 30 days"), *months, ("all", "All")]

    def choices(self, changelist: Any) -> Any:
        """The periods, the usual one chosen when none is said."""
        for value, title in self.lookup_choices:
            yield {
                "selected": (self.value() or self.usual) == value,
                "query_string": changelist.get_query_string({self.parameter_name: value}),
                "display": title,
            }

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The records of the period; one that is named by its id or its transfer is found whenever it was."""
        said = self.value()
        if said is None and (_uuid(request.GET.get("q", "")) is not None or "transfer__id__exact" in request.GET):
            return queryset
        begin, end = self._bounds(said or self.usual)
        if begin is not None:
            queryset = queryset.filter(request_id__gte=lowest_uuid7(begin - CLOCKS_DIFFER), started_at__gte=begin)
        if end is not None:
            queryset = queryset.filter(request_id__lt=lowest_uuid7(end + CLOCKS_DIFFER), started_at__lt=end)
        return queryset

    def _bounds(self, said: str) -> tuple[datetime | None, datetime | None]:
        if said in self.spans:
            return timezone.now() - self.spans[said], None
        try:
            first = date.fromisoformat(f"{said}-01")
        except ValueError:
            return None, None
        following = (first + timedelta(days=32)).replace(day=1)
        return datetime.combine(first, time(), tzinfo=UTC), datetime.combine(following, time(), tzinfo=UTC)


class ProviderFilter(admin.SimpleListFilter):
    """Providers of the catalog: the names are not read from the records."""

    title = "provider"
    parameter_name = "provider"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:  # noqa: ARG002 - the signature is Django's
        """Their slugs."""
        return [(slug, slug) for slug in Provider.objects.order_by("slug").values_list("slug", flat=True)[:50]]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:  # noqa: ARG002 - the signature is Django's
        """What was served by it."""
        return queryset.filter(provider=self.value()) if self.value() else queryset


@admin.register(UsageRecord)
class UsageRecordAdmin(WalletTableAdmin):
    """Requests and their receipts."""

    own_id = "request_id"
    owner = "account"
    list_display = (
        "short_id",
        "started_at",
        "account",
        "key_text",
        "model",
        "provider",
        "state",
        "tokens_in",
        "tokens_out",
        "cost_usd",
        "latency_ms",
    )
    list_filter = (PeriodFilter, "status", ProviderFilter, "usage_source")
    list_select_related = ("account", "key")
    search_help_text = "A request's id, an account's slug, a model's name, or a key (sk-gw-1a2B…9xYz)."
    ordering = ("-request_id",)
    readonly_fields = (
        "state",
        "price_link",
        "transfer_link",
        "rule_text",
        "cost_usd",
        "list_cost_usd",
        "overrun_usd",
        "upstream_usd",
        "reported_usd",
        "hold_usd",
        "written_off_usd",
    )
    fieldsets = (
        (
            "Request",
            {
                "fields": (
                    "request_id",
                    ("account", "key"),
                    ("model", "provider", "upstream_model"),
                    ("endpoint", "format", "streamed"),
                    ("state", "status_code", "error_code", "finish_reason"),
                    ("started_at", "ended_at"),
                    ("latency_ms", "first_token_ms"),
                    ("user_tag", "flags"),
                )
            },
        ),
        (
            "Charge",
            {
                "fields": (
                    ("cost_usd", "list_cost_usd", "written_off_usd"),
                    ("hold_usd", "overrun_usd"),
                    ("upstream_usd", "reported_usd"),
                    ("usage_source", "rule"),
                    "rule_text",
                    ("price_link", "transfer_link"),
                )
            },
        ),
    )
    cost_usd = dollars.column("cost", "charged")
    list_cost_usd = dollars.column("list_cost", "at its price")
    overrun_usd = dollars.column("overrun_cost", "booked after a sweep")
    upstream_usd = dollars.column("upstream_cost", "what the provider charges")
    reported_usd = dollars.column("reported_cost", "what the provider said it charges")
    hold_usd = dollars.column("hold_amount", "held for it")
    written_off_usd = dollars.column("written_off")

    @admin.display(description="request")
    def short_id(self, obj: UsageRecord) -> str:
        """Enough of the id to see which it is."""
        return f"…{str(obj.pk)[-12:]}"

    @admin.display(description="key")
    def key_text(self, obj: UsageRecord) -> str:
        """What people recognise the key by."""
        key = _related(obj, "key")
        return f"{key.start}…{key.last_four}" if key else str(obj.key_id)

    @admin.display(description="status")
    def state(self, obj: UsageRecord) -> SafeString:
        """How it ended."""
        return badge(obj.status, TONES.get(obj.status, ""))

    @admin.display(description="in")
    def tokens_in(self, obj: UsageRecord) -> str:
        """All tokens that went in."""
        return f"{receipts.usage_of(obj).total_input_tokens:,}"

    @admin.display(description="out")
    def tokens_out(self, obj: UsageRecord) -> str:
        """All tokens that came out."""
        return f"{receipts.usage_of(obj).total_output_tokens:,}"

    @admin.display(description="why")
    def rule_text(self, obj: UsageRecord) -> str:
        """The rule in words."""
        return receipts.RULES.get(obj.rule, "-")

    @admin.display(description="price")
    def price_link(self, obj: UsageRecord) -> SafeString | str:
        """The price version it was charged at."""
        return link_to(_related(obj, "price"))

    @admin.display(description="transfer")
    def transfer_link(self, obj: UsageRecord) -> SafeString | str:
        """The entry of the ledger that charged it."""
        return link_to(_related(obj, "transfer"))

    def tables(self, request: HttpRequest, obj: UsageRecord) -> Iterable[Table]:  # noqa: ARG002 - the signature is the base's
        """The receipt, line by line, and what was tried."""
        yield _receipt(obj)
        if obj.attempts:
            yield Table(
                "Attempts",
                ("provider", "result", "milliseconds", "more"),
                [
                    (
                        one.get("provider", "-"),
                        badge(str(one.get("result", "-")), "success" if one.get("result") == "ok" else "warning"),
                        one.get("ms", "-"),
                        ", ".join(f"{name}: {value}" for name, value in one.items() if name not in ("provider", "result", "ms")) or "-",
                    )
                    for one in obj.attempts
                ],
            )

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """A request, an account, a key, else a model."""
        term = search_term.strip()
        if not term or _uuid(term) is not None or Account.objects.filter(slug=term.lower()).exists():
            return super().get_search_results(request, queryset, term)
        try:
            return queryset.filter(key=issuing.find(term)), False
        except issuing.KeyNotFound:
            return queryset.filter(model=term), False


def _receipt(record: UsageRecord) -> Table:
    receipt = receipts.explain(record)
    rows: list[tuple[Any, ...]] = []
    for line in receipt.lines:
        one = line.bucket in PER_ONE
        rate = dollars.show_parts(line.rate, per_nano=pricing.PER_UNITS) if one else dollars.show(line.rate)
        rows.append(
            (line.bucket.replace("_", " "), f"{line.quantity:,}", rate, dollars.show_parts(line.amount, per_nano=pricing.PER_UNITS))
        )
    if receipt.price is not None and receipt.price.markup_ppm:
        markup = receipt.total - receipt.subtotal * pricing.PER_UNITS
        rows.append((f"markup {receipt.price.markup_ppm / 10_000:g} %", "", "", dollars.show_parts(markup, per_nano=pricing.PER_UNITS**2)))
    if receipt.adjustment:
        rows.append(("adjustment", "", "", dollars.show(receipt.adjustment)))
    rows.append(("at its price, rounded up once", "", "", dollars.show(receipt.list_cost)))
    if receipt.written_off:
        rows.append(("written off", "", "", dollars.show(-receipt.written_off)))
    if receipt.not_charged:
        rows.append(("not charged by rule", "", "", dollars.show(-receipt.not_charged)))
    rows.append(("charged", "", "", dollars.show(receipt.charged)))
    return Table("Receipt", ("what", "quantity", "USD per 1M, or for one", "amount"), rows)


def _related(record: Any, name: str) -> Any:
    """What `name` points at; None when there is nothing: the table has no foreign keys, a row may outlive what it names."""
    field = record._meta.get_field(name)  # noqa: SLF001 - Django's own name for it
    if field.is_cached(record):
        return getattr(record, name)
    return field.related_model.objects.filter(pk=getattr(record, field.attname)).first()


def _wallet_of(account: Account) -> Wallet | None:
    return getattr(account, "wallet", None)


def _signed(transfer: Transfer) -> SafeString | str:
    """The amount as the wallet sees it: no sign for what moved between other accounts on its behalf (a write-off)."""
    code = ledger.wallet_code(transfer.wallet_id or 0)
    sign = {transfer.debit_account: "-", transfer.credit_account: "+"}.get(code, "")
    return format_html("{}{}", sign, dollars.show(transfer.amount))


def _at(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text.strip())
    except ValueError:
        return None
