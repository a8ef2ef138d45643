"""Codes, redemptions and adjustments in the admin: codes are made and switched off, adjustments approved or rejected; nothing else is written."""

import csv
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils import timezone
from django.utils.safestring import SafeString

from accounts import form_tokens
from accounts.models import User
from billing import ledger
from billing.gifts import adjustments, codes
from billing.models import Adjustment, Redemption, RedemptionCode
from catalog import dollars, money
from gateway_site.admin_base import DateTimeWidget, Page, PageForm, ReadOnlyAdmin, badge, change_url, link_to

STATES = {"waiting": "warning", "done": "success", "rejected": "danger"}


class CodesForm(PageForm):
    """How many codes, and on what terms."""

    count = forms.IntegerField(min_value=1, max_value=codes.MOST_AT_ONCE, initial=1, label="how many codes")
    amount = dollars.UsdField(lowest=1, label="worth of each, USD")
    most_uses = forms.IntegerField(min_value=1, max_value=1_000_000, initial=1, label="uses of each", help_text="By different accounts.")
    expires_at = forms.SplitDateTimeField(label="codes expire", required=False, widget=DateTimeWidget, help_text="Empty: never.")
    credit_days = forms.IntegerField(
        min_value=1, max_value=36_500, required=False, label="days the credit lasts", help_text="From when it is redeemed. Empty: for ever."
    )
    note = forms.CharField(max_length=200, required=False, help_text="For staff: what they are for.")
    form_token = forms.CharField(widget=forms.HiddenInput)


@admin.register(RedemptionCode)
class RedemptionCodeAdmin(ReadOnlyAdmin):
    """Redemption codes, the newest first."""

    empty_text = "Make codes: who redeems one gets its credit."
    list_display = ("code", "worth", "used", "expires_at", "state", "note", "created_at")
    list_filter = ("is_enabled",)
    search_fields = ("code", "note")
    ordering = ("-id",)
    fields = ("code", "worth", "used", "expires_at", "credit_days", "state", "note", "created_by", "created_at")
    readonly_fields = ("worth", "used", "state")
    worth = dollars.column("amount_nano", "worth")
    list_pages = (Page("generate", "Make codes", ("billing.add_redemptioncode",), icon="add"),)
    pages = (
        Page("disable", "Disable", ("billing.change_redemptioncode",), icon="block", danger=True, offered=lambda code: code.is_enabled),
        Page("enable", "Enable", ("billing.change_redemptioncode",), icon="play_arrow", offered=lambda code: not code.is_enabled),
    )

    @admin.display(description="uses")
    def used(self, obj: RedemptionCode) -> str:
        """How often of how many times."""
        return f"{obj.uses} of {obj.most_uses}"

    @admin.display(description="state")
    def state(self, obj: RedemptionCode) -> SafeString:
        """Whether it can be redeemed."""
        if not obj.is_enabled:
            return badge("disabled", "danger")
        if obj.uses >= obj.most_uses:
            return badge("used up", "info")
        if obj.expires_at is not None and obj.expires_at <= timezone.now():
            return badge("expired", "warning")
        return badge("open", "success")

    def generate(self, request: HttpRequest) -> HttpResponse:
        """Make codes; the answer is the list of them, as CSV. A form that is sent twice makes them once."""
        form = CodesForm(request.POST or None, initial={"form_token": form_tokens.new()})
        if request.method == "POST" and form.is_valid():
            said = form.cleaned_data
            now = timezone.now()
            try:
                with form_tokens.once(request, now=now) as first:
                    if not first:
                        messages.warning(request, "This form was sent before; its codes were made then and are in the list.")
                        return HttpResponseRedirect(self.list_url())
                    made = codes.create_codes(
                        count=said["count"],
                        amount_nano=said["amount"],
                        most_uses=said["most_uses"],
                        expires_at=said["expires_at"],
                        credit_days=said["credit_days"],
                        note=said["note"],
                        user=_person(request),
                        now=now,
                    )
                    self.log_addition(request, made[0], f"Made {len(made)} codes of ${money.usd(said['amount'])}.")
            except codes.BadTerms as error:
                form.add_error(error.field if error.field in form.fields else None, error.message)
            except form_tokens.NoFormToken:
                form.add_error(None, "Open this page anew.")
            else:
                return _csv_of(made)
        return self.form_page(
            request,
            None,
            title="Make codes",
            form=form,
            submit="Make codes and download them",
            about="Whoever has a code can redeem it, once an account. The download begins when they are made.",
        )

    def disable(self, request: HttpRequest, code: RedemptionCode) -> HttpResponse:
        """Let nobody redeem it any more."""
        return self._switch(request, code, is_enabled=False)

    def enable(self, request: HttpRequest, code: RedemptionCode) -> HttpResponse:
        """Let it be redeemed again."""
        return self._switch(request, code, is_enabled=True)

    def _switch(self, request: HttpRequest, code: RedemptionCode, *, is_enabled: bool) -> HttpResponse:
        deed = "Enable" if is_enabled else "Disable"
        if request.method != "POST":
            about = "What was redeemed stays with whoever redeemed it."
            return self.form_page(request, code, title=f"{deed} {code}", form=PageForm(), submit=deed, about=about, danger=not is_enabled)
        if codes.set_enabled(code_ids=[code.pk], is_enabled=is_enabled):
            self.log_change(request, code, f"{deed}d.")
        messages.success(request, f"{deed}d: {code}.")
        return HttpResponseRedirect(change_url(code))


@admin.register(Redemption)
class RedemptionAdmin(ReadOnlyAdmin):
    """Who redeemed which code."""

    empty_text = "A row appears when somebody redeems a code."
    list_display = ("created_at", "code", "account", "redeemed_by", "worth")
    list_select_related = ("code", "account", "redeemed_by", "transfer")
    search_fields = ("code__code", "account__slug")
    ordering = ("-id",)
    fields = ("created_at", "code", "account", "redeemed_by", "worth", "entry")
    readonly_fields = ("worth", "entry")

    @admin.display(description="worth")
    def worth(self, obj: Redemption) -> SafeString | str:
        """What was credited."""
        return dollars.show(obj.transfer.amount)

    @admin.display(description="transfer")
    def entry(self, obj: Redemption) -> SafeString | str:
        """Where it stands in the ledger."""
        return link_to(obj.transfer)


class DecideForm(PageForm):
    """Nothing but the button."""


@admin.register(Adjustment)
class AdjustmentAdmin(ReadOnlyAdmin):
    """What staff credited or debited, and what waits for a second person."""

    empty_text = "Credits and debits by hand are listed here; large ones wait for a second person."
    list_display = ("created_at", "wallet", "kind", "amount", "reason", "progress", "requested_by", "decided_by")
    list_filter = ("state", "kind")
    list_select_related = ("wallet__account", "requested_by", "decided_by")
    search_fields = ("wallet__account__slug", "reason", "requested_by__email")
    ordering = ("-created_at",)
    fields = (
        "wallet",
        "kind",
        "amount",
        "reason",
        "expires_at",
        "progress",
        "requested_by",
        "created_at",
        "decided_by",
        "decided_at",
        "entry",
    )
    readonly_fields = ("amount", "progress", "entry")
    amount = dollars.column("amount_nano", "amount")
    pages = (
        Page("approve", "Approve", (adjustments.APPROVE,), icon="check", offered=lambda one: one.state == Adjustment.State.WAITING),
        Page(
            "reject", "Reject", (adjustments.APPROVE,), icon="close", danger=True, offered=lambda one: one.state == Adjustment.State.WAITING
        ),
    )

    @admin.display(description="state", ordering="state")
    def progress(self, obj: Adjustment) -> SafeString:
        """Whether it is booked."""
        return badge(obj.get_state_display(), STATES[obj.state])

    @admin.display(description="transfer")
    def entry(self, obj: Adjustment) -> SafeString | str:
        """Where it stands in the ledger."""
        return link_to(obj.transfer)

    def approve(self, request: HttpRequest, adjustment: Adjustment) -> HttpResponse:
        """Book it."""
        return self._decide(request, adjustment, "Approve", adjustments.approve)

    def reject(self, request: HttpRequest, adjustment: Adjustment) -> HttpResponse:
        """End it without booking."""
        return self._decide(request, adjustment, "Reject", adjustments.reject)

    def _decide(self, request: HttpRequest, adjustment: Adjustment, deed: str, decide: Any) -> HttpResponse:
        about = (
            f"{adjustment.kind} of ${money.usd(abs(adjustment.amount_nano))}, asked for by {adjustment.requested_by}: {adjustment.reason}"
        )
        if request.method != "POST":
            return self.form_page(
                request, adjustment, title=f"{deed} an adjustment", form=DecideForm(), submit=deed, about=about, danger=deed == "Reject"
            )
        try:
            decided = decide(adjustment_id=adjustment.pk, user=_person(request), now=timezone.now())
        except adjustments.SamePerson:
            messages.error(request, "You asked for this adjustment: somebody else has to approve it.")
        except adjustments.NotWaiting as error:
            messages.error(request, f"It was decided before: {error.adjustment.get_state_display()}.")
        except adjustments.BadAdjustment:
            messages.error(request, "Its credit would have expired by now: reject it and ask for another.")
        except ledger.InsufficientBalance as error:
            messages.error(request, f"Only ${money.usd(error.free)} is free in the wallet.")
        else:
            self.log_change(request, adjustment, f"{deed}: {about}")
            messages.success(request, f"{adjustment.wallet}: {decided.get_state_display()}.")
        return HttpResponseRedirect(change_url(adjustment))


def _csv_of(made: list[RedemptionCode]) -> HttpResponse:
    response = HttpResponse(content_type="text/csv; charset=utf-8")
    response.headers["Content-Disposition"] = 'attachment; filename="codes.csv"'
    response.headers["Cache-Control"] = "no-store"
    writer = csv.writer(response)
    writer.writerow(["code", "amount_usd", "uses", "expires_at"])
    for code in made:
        writer.writerow([code.code, money.usd(code.amount_nano), code.most_uses, code.expires_at.isoformat() if code.expires_at else ""])
    return response


def _person(request: HttpRequest) -> User:
    assert isinstance(request.user, User)  # noqa: S101 - the admin lets nobody else in
    return request.user
