"""Wallets in the admin. Credits, debits and freezing are asked of the ledger, on pages of a wallet."""

import uuid
from collections.abc import Iterable
from datetime import datetime

from django import forms
from django.contrib import admin, messages
from django.db import OperationalError, connection, transaction
from django.db.models import F
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts.models import User
from billing import ledger, reconciliation
from billing.admin.tables import SHOWN, at, signed
from billing.gifts import adjustments
from billing.models import CreditGrant, Hold, Transfer, Wallet
from catalog import dollars, money
from gateway_site.admin_base import DateTimeWidget, Page, PageForm, ReadOnlyAdmin, Table, badge, change_url, link, link_to

AUDIT_SECONDS = 20
DEBIT = "debit"


class MoveForm(PageForm):
    """An amount, why, and an id of this very form: sent twice, it is booked once."""

    amount = dollars.UsdField(lowest=1, label="amount, USD")
    reason = forms.CharField(max_length=400, help_text="Stands in the ledger for ever.")
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
                    at(one.started_at),
                    at(one.expires_at),
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
            [(link_to(one), one.kind, dollars.show(one.amount), dollars.show(one.remaining), at(one.expires_at)) for one in grants],
            reverse("admin:billing_creditgrant_changelist") + query,
        )
        last = Transfer.objects.filter(wallet=obj).order_by("-created_at")[:SHOWN]
        yield Table(
            "Last transfers",
            ("when", "kind", "amount", "balance after", "by", "note"),
            [
                (
                    link_to(one, at(one.created_at)),
                    one.kind,
                    signed(one),
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
        return self._adjust(request, wallet, CreditForm, title=f"Grant credit to {wallet.account}", done="Granted")

    def debit(self, request: HttpRequest, wallet: Wallet) -> HttpResponse:
        """Take free money out."""
        return self._adjust(request, wallet, MoveForm, title=f"Debit {wallet.account}", done="Debited")

    def _adjust(self, request: HttpRequest, wallet: Wallet, form_class: type[MoveForm], *, title: str, done: str) -> HttpResponse:
        form = form_class(request.POST or None, initial={"form_id": uuid.uuid4()})
        if request.method == "POST" and form.is_valid():
            said = form.cleaned_data
            assert isinstance(request.user, User)  # noqa: S101 - the admin lets nobody else in
            now = timezone.now()
            try:
                with transaction.atomic():
                    made = adjustments.request_adjustment(
                        wallet=wallet,
                        kind=said.get("kind", DEBIT),
                        amount_nano=said["amount"],
                        reason=said["reason"],
                        user=request.user,
                        now=now,
                        expires_at=said.get("expires_at"),
                        adjustment_id=said["form_id"],
                    )
                    amount = f"${money.usd(said['amount'])}"
                    is_new = made.created_at == now
                    if is_new:
                        deed = done if made.transfer else f"{title}, to be approved:"
                        self.log_change(request, wallet, f"{deed} {amount}: {made.reason}")
            except ledger.InsufficientBalance as error:
                form.add_error("amount", f"Only ${money.usd(error.free)} is free.")
            except adjustments.BadAdjustment as error:
                form.add_error(error.field, f"This {error.message}.")
            except adjustments.AdjustmentConflict:
                form.add_error(
                    None, "This form was sent before with something else in it, and that stands. Open the page anew for another."
                )
            else:
                sent = "" if is_new else " This form was sent before; it is booked once."
                if made.transfer is None:
                    messages.warning(request, f"{amount} is above what you may move alone: a second person has to approve it.{sent}")
                    return HttpResponseRedirect(change_url(made))
                after = f"the balance then was ${money.usd(made.transfer.balance_after or 0)}"
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
