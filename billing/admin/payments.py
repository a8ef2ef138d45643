"""Payments in the admin: top-ups, what was reversed of them, and the inbox of Stripe's events. Deeds are asked of `billing.payments`."""

import json
import uuid
from collections.abc import Iterable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing import ledger
from billing.admin.tables import WalletTableAdmin, at
from billing.admin.wallets import ReasonForm
from billing.models import Reversal, StripeCustomer, StripeEvent, TopUp, Transfer
from billing.payments import bookings, inbox, reversals, stripe_client, top_ups
from catalog import dollars, money
from gateway_site.admin_base import BigTableAdmin, Page, PageForm, ReadOnlyAdmin, Table, badge, change_url, link, link_to

NANO_PER_MINOR = 10_000_000
STRIPE_PAGES = "https://dashboard.stripe.com"
TOP_UP_TONES = {"paid": "success", "failed": "danger", "quarantined": "danger", "processing": "info", "action": "warning"}
EVENT_TONES = {"done": "success", "failed": "warning", "quarantined": "danger", "received": "info"}
LONGEST_PAYLOAD = 50_000
STRIPE_DOWN = "Stripe could not be asked: {}. Nothing is known to have happened; this form may be sent again."


class CreditPaidForm(PageForm):
    """What a quarantined payment is worth, and why."""

    amount = dollars.UsdField(lowest=1, label="credit, USD")
    reason = forms.CharField(max_length=500, help_text="Stands in the ledger for ever.")


class RefundForm(PageForm):
    """How much goes back, why, and an id of this very form: sent twice, it is one refund."""

    amount = dollars.UsdField(lowest=NANO_PER_MINOR, label="refund, USD", help_text="What was paid, tax included, or a part of it.")
    reason = forms.CharField(max_length=300, help_text="For the record; the customer does not see it.")
    form_id = forms.UUIDField(widget=forms.HiddenInput)

    def clean_amount(self) -> int:
        """Money goes back in whole cents."""
        amount = int(self.cleaned_data["amount"])
        if amount % NANO_PER_MINOR:
            raise forms.ValidationError("Enter whole cents.")
        return amount


@admin.register(TopUp)
class TopUpAdmin(WalletTableAdmin):
    """Payments into wallets."""

    empty_text = "A top-up appears when somebody starts to pay: at a checkout, with a saved card, or for an invoice."
    own_id = "id"
    list_display = ("short_id", "created_at", "wallet_link", "kind", "status", "credit_usd", "paid_usd", "clawed_usd", "failure")
    list_filter = ("state", "kind", "is_live")
    list_select_related = ("wallet__account",)
    ordering = ("-created_at",)
    search_help_text = "A top-up's id, Stripe's id of its session, payment or charge, or an account's slug."
    fields = (
        "id",
        "wallet_link",
        ("kind", "status", "is_live"),
        ("credit_usd", "charge_usd", "paid_usd"),
        ("clawed_usd", "left_usd"),
        "failure",
        "at_stripe",
        ("session_id", "payment_intent_id", "charge_id"),
        ("requested_by", "receipt_url"),
        ("created_at", "sent_at", "paid_at", "updated_at"),
    )
    readonly_fields = ("wallet_link", "status", "credit_usd", "charge_usd", "paid_usd", "clawed_usd", "left_usd", "at_stripe")
    credit_usd = dollars.column("credit_nano", "credit")
    clawed_usd = dollars.column("clawed_nano", "taken back")
    pages = (
        Page(
            "refund",
            "Refund",
            ("billing.change_topup",),
            icon="undo",
            danger=True,
            offered=lambda one: one.paid_minor and one.payment_intent_id,
        ),
        Page(
            "credit_paid",
            "Credit what was paid",
            ("billing.change_topup",),
            icon="add_card",
            offered=lambda one: one.state == "quarantined",
        ),
        Page("reject", "Reject", ("billing.change_topup",), icon="block", danger=True, offered=lambda one: one.state == "quarantined"),
        Page("ask_stripe", "Ask Stripe", ("billing.view_topup",), icon="sync"),
    )

    @admin.display(description="top-up")
    def short_id(self, obj: TopUp) -> str:
        """Enough of the id to see which it is."""
        return f"{str(obj.pk)[:8]}…"

    @admin.display(description="wallet")
    def wallet_link(self, obj: TopUp) -> SafeString | str:
        """Whose money."""
        return link_to(obj.wallet, obj.wallet.account.slug)

    @admin.display(description="state")
    def status(self, obj: TopUp) -> SafeString:
        """Where it is."""
        return badge(obj.state, TOP_UP_TONES.get(obj.state, ""))

    @admin.display(description="asked for, before tax")
    def charge_usd(self, obj: TopUp) -> SafeString | str:
        """In dollars."""
        return dollars.show(obj.charge_minor * NANO_PER_MINOR)

    @admin.display(description="paid")
    def paid_usd(self, obj: TopUp) -> SafeString | str:
        """In dollars; a dash before it is paid."""
        return "-" if obj.paid_minor is None else dollars.show(obj.paid_minor * NANO_PER_MINOR)

    @admin.display(description="can be refunded")
    def left_usd(self, obj: TopUp) -> SafeString | str:
        """In dollars."""
        return dollars.show(reversals.left_minor(obj) * NANO_PER_MINOR)

    @admin.display(description="at Stripe")
    def at_stripe(self, obj: TopUp) -> SafeString | str:
        """The payment's page there."""
        if not obj.payment_intent_id:
            return "-"
        return stripe_page("payments", obj.payment_intent_id, is_live=obj.is_live)

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """By Stripe's ids too."""
        term = search_term.strip()
        for prefix, column in (("cs_", "session_id"), ("pi_", "payment_intent_id"), ("ch_", "charge_id"), ("py_", "charge_id")):
            if term.startswith(prefix):
                return queryset.filter(**{column: term}), False
        return super().get_search_results(request, queryset, term)

    def tables(self, request: HttpRequest, obj: TopUp) -> Iterable[Table]:  # noqa: ARG002 - the signature is the base's
        """What was reversed, and every entry of the ledger."""
        rows = obj.reversals.order_by("created_at")
        if rows:
            yield Table(
                "Refunds and disputes",
                ("id", "kind", "amount", "status", "money away", "reason", "evidence due"),
                [
                    (
                        link_to(one),
                        one.kind,
                        dollars.show(one.amount_minor * NANO_PER_MINOR),
                        one.status,
                        "yes" if one.is_active else "no",
                        one.reason or "-",
                        at(one.evidence_due_at),
                    )
                    for one in rows
                ],
            )
        credited = bookings.credit_of(obj)
        entries = [] if credited is None else [credited, *Transfer.objects.filter(reverses=credited).order_by("wallet_version")]
        if entries:
            yield Table(
                "In the ledger",
                ("when", "kind", "amount", "balance after", "note"),
                [
                    (link_to(one, at(one.created_at)), one.kind, dollars.show(one.amount), dollars.show(one.balance_after), one.note)
                    for one in entries
                ],
            )

    def refund(self, request: HttpRequest, top_up: TopUp) -> HttpResponse:
        """Send money back, and take its credit out of the wallet."""
        left = reversals.left_minor(top_up)
        form = RefundForm(request.POST or None, initial={"form_id": uuid.uuid4(), "amount": left * NANO_PER_MINOR})
        if request.method == "POST" and form.is_valid():
            said = form.cleaned_data
            try:
                reversals.refund(
                    top_up=top_up,
                    amount_minor=said["amount"] // NANO_PER_MINOR,
                    reason=said["reason"],
                    user=request.user,  # type: ignore[arg-type]  # the admin lets nobody else in
                    key=str(said["form_id"]),
                    now=timezone.now(),
                )
            except reversals.NotRefundable as error:
                form.add_error("amount", f"Only {money.usd_display(error.left_minor * NANO_PER_MINOR)} is left of this payment.")
            except stripe_client.StripeRefused as error:
                form.add_error(None, f"Stripe refused: {error.message}")
            except (stripe_client.StripeUnavailable, stripe_client.NotConfigured) as error:
                form.add_error(None, STRIPE_DOWN.format(error))
            else:
                self.log_change(request, top_up, f"Refunded ${money.usd(said['amount'])}: {said['reason']}")
                messages.success(request, f"Refunded ${money.usd(said['amount'])}.")
                return HttpResponseRedirect(change_url(top_up))
        balance = money.usd_display(int(top_up.wallet.balance))
        about = (
            f"{money.usd_display(left * NANO_PER_MINOR)} can go back. The credit that belongs to it is taken out of the wallet, whose balance is "
            f"{balance}; what was spent already leaves a debt."
        )
        return self.form_page(
            request, top_up, title=f"Refund {top_up.wallet.account}", form=form, submit="Refund", about=about, danger=True
        )

    def credit_paid(self, request: HttpRequest, top_up: TopUp) -> HttpResponse:
        """Credit a payment that is not what was asked for."""
        form = CreditPaidForm(request.POST or None, initial={"amount": (top_up.paid_minor or 0) * NANO_PER_MINOR})
        if request.method == "POST" and form.is_valid():
            said = form.cleaned_data
            try:
                with transaction.atomic():
                    top_ups.credit_quarantined(
                        top_up_id=top_up.pk,
                        credit_nano=said["amount"],
                        reason=said["reason"],
                        user=request.user,  # type: ignore[arg-type]  # the admin lets nobody else in
                        now=timezone.now(),
                    )
                    self.log_change(request, top_up, f"Credited ${money.usd(said['amount'])}: {said['reason']}")
            except top_ups.NothingToDecide:
                messages.warning(request, "Somebody has decided this already.")
            except ledger.NotPositive:
                messages.error(request, "This amount cannot be moved.")
            except top_ups.MoreThanPaid as error:
                messages.error(
                    request,
                    f"For this payment that is too much: {money.usd_display(error.most)} at most. Grant the rest on the wallet's page.",
                )
            else:
                messages.success(request, f"Credited ${money.usd(said['amount'])}.")
            return HttpResponseRedirect(change_url(top_up))
        return self.form_page(
            request, top_up, title=f"Credit {top_up.wallet.account}", form=form, submit="Credit", about=f"Quarantined: {top_up.failure}."
        )

    def reject(self, request: HttpRequest, top_up: TopUp) -> HttpResponse:
        """Close a payment without credit."""
        form = ReasonForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            reason = form.cleaned_data["reason"]
            try:
                with transaction.atomic():
                    top_ups.reject_quarantined(
                        top_up_id=top_up.pk,
                        reason=reason,
                        user=request.user,  # type: ignore[arg-type]  # the admin lets nobody else in
                        now=timezone.now(),
                    )
                    self.log_change(request, top_up, f"Rejected: {reason}")
            except top_ups.NothingToDecide:
                messages.warning(request, "Somebody has decided this already.")
            else:
                messages.success(request, "Rejected. The money is still at Stripe: refund it from here, or there.")
            return HttpResponseRedirect(change_url(top_up))
        about = f"Quarantined: {top_up.failure}. It is closed without credit; the money stays at Stripe until it is refunded."
        return self.form_page(
            request, top_up, title=f"Reject the payment of {top_up.wallet.account}", form=form, submit="Reject", about=about, danger=True
        )

    def ask_stripe(self, request: HttpRequest, top_up: TopUp) -> HttpResponse:
        """Bring a top-up to where Stripe says it is."""
        form = PageForm(request.POST or None)
        if request.method == "POST":
            try:
                top_ups.converge(top_up_id=top_up.pk, now=timezone.now())
                now_at = reversals.converge(top_up_id=top_up.pk, now=timezone.now())
            except (stripe_client.StripeUnavailable, stripe_client.StripeRefused, stripe_client.NotConfigured) as error:
                messages.error(request, STRIPE_DOWN.format(error))
            else:
                messages.success(request, f"As Stripe says: {now_at.state}.")
            return HttpResponseRedirect(change_url(top_up))
        about = "Fetches the payment, its refunds and its disputes, and books what differs. What is right already stays as it is."
        return self.form_page(request, top_up, title=f"Ask Stripe about {top_up}", form=form, submit="Ask", about=about)


@admin.register(Reversal)
class ReversalAdmin(BigTableAdmin):
    """Refunds and disputes, as Stripe says they stand."""

    empty_text = "Refunds and disputes appear when Stripe tells of them."
    list_display = ("id", "created_at", "kind", "top_up_link", "amount", "status", "is_active", "reason", "evidence_due_at")
    list_filter = ("kind", "is_active")
    list_select_related = ("top_up__wallet__account",)
    ordering = ("-created_at",)
    search_fields = ("=id",)
    fields = (
        "id",
        "kind",
        "top_up_link",
        "amount",
        "status",
        "is_active",
        "reason",
        "evidence_due_at",
        "requested_by",
        "created_at",
        "updated_at",
    )
    readonly_fields = ("top_up_link", "amount")

    @admin.display(description="top-up")
    def top_up_link(self, obj: Reversal) -> SafeString | str:
        """Of which payment."""
        return link_to(obj.top_up, f"{obj.top_up.wallet.account.slug} {str(obj.top_up_id)[:8]}…")

    @admin.display(description="amount")
    def amount(self, obj: Reversal) -> SafeString | str:
        """In dollars."""
        return dollars.show(obj.amount_minor * NANO_PER_MINOR)


@admin.register(StripeEvent)
class StripeEventAdmin(BigTableAdmin):
    """The inbox: every event of Stripe, as it came."""

    empty_text = (
        "Events appear when Stripe calls the webhook. None while customers pay: see whether its address and secret are set at Stripe."
    )
    list_display = ("id", "received_at", "type", "object_id", "status", "attempts", "source", "next_try_at", "error")
    list_filter = ("state", "source", "is_live")
    ordering = ("-received_at",)
    search_fields = ("=id", "=object_id")
    search_help_text = "An event's id, or the id of what it is about."
    fields = (
        ("id", "type"),
        ("object_id", "status", "source"),
        ("api_version", "is_live"),
        ("created_at", "received_at", "done_at"),
        ("attempts", "next_try_at"),
        "last_error",
        "payload_text",
    )
    readonly_fields = ("status", "payload_text")
    pages = (Page("replay", "Handle again", ("billing.change_stripeevent",), icon="replay"),)

    @admin.display(description="state")
    def status(self, obj: StripeEvent) -> SafeString:
        """What became of it."""
        return badge(obj.state, EVENT_TONES.get(obj.state, ""))

    @admin.display(description="error")
    def error(self, obj: StripeEvent) -> str:
        """The beginning of the last one."""
        return obj.last_error[:80] or "-"

    @admin.display(description="payload")
    def payload_text(self, obj: StripeEvent) -> SafeString:
        """As it came, indented."""
        text = json.dumps(obj.payload, indent=2, ensure_ascii=False)
        return format_html('<pre class="overflow-x-auto text-xs">{}</pre>', text[:LONGEST_PAYLOAD])

    def tables(self, request: HttpRequest, obj: StripeEvent) -> Iterable[Table]:  # noqa: ARG002 - the signature is the base's
        """What else came about the same object."""
        others = (
            StripeEvent.objects.filter(object_id=obj.object_id).exclude(pk=obj.pk).order_by("-created_at")[:20] if obj.object_id else []
        )
        if others:
            yield Table(
                "Other events about the same",
                ("event", "type", "made", "state"),
                [(link_to(one, one.pk), one.type, at(one.created_at), one.state) for one in others],
                f"{reverse('admin:billing_stripeevent_changelist')}?q={obj.object_id}",
            )

    def replay(self, request: HttpRequest, event: StripeEvent) -> HttpResponse:
        """Handle an event again; nothing is doubled by it."""
        form = PageForm(request.POST or None)
        if request.method == "POST":
            state = inbox.replay(event_id=event.pk, now=timezone.now())
            self.log_change(request, event, f"Handled again: {state}")
            tone = messages.SUCCESS if state in (StripeEvent.State.DONE, StripeEvent.State.IGNORED) else messages.WARNING
            messages.add_message(request, tone, f"Handled again: {state or 'somebody else is at it'}.")
            return HttpResponseRedirect(change_url(event))
        about = "What it is about is fetched from Stripe, and what differs is booked. An event that was done before changes nothing."
        return self.form_page(request, event, title=f"Handle {event.pk} again", form=form, submit="Handle again", about=about)


@admin.register(StripeCustomer)
class StripeCustomerAdmin(ReadOnlyAdmin):
    """Accounts' records at Stripe, and their saved cards."""

    empty_text = "An account gets a record at Stripe with its first payment."
    list_display = ("customer_id", "account", "is_live", "card", "is_deleted", "created_at")
    list_filter = ("is_live", "is_deleted")
    list_select_related = ("account",)
    search_fields = ("=customer_id", "=account__slug")
    ordering = ("-id",)

    @admin.display(description="card")
    def card(self, obj: StripeCustomer) -> str:
        """As people recognise it."""
        return f"{obj.card_brand} …{obj.card_last_four} {obj.card_expires}" if obj.payment_method_id else "-"


def stripe_page(kind: str, ident: str, *, is_live: bool) -> SafeString:
    """A link to an object's page at Stripe; `kind` is the page's folder there."""
    mode = "" if is_live else "test/"
    return link(f"{STRIPE_PAGES}/{mode}{kind}/{ident}", ident)
