"""Plans that are bought, in the admin: where each stands, and what staff may ask of `billing.payments` about it. Money is Stripe's to move."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing import assignments
from billing.admin.payments import EVENT_TONES, NANO_PER_MINOR, STRIPE_DOWN, stripe_page
from billing.admin.tables import SHOWN, at, read_uuid
from billing.models import CreditGrant, PlanAssignment, StripeCustomer, StripeEvent, Subscription
from billing.payments import plan_changes, stripe_client, stripe_plans, subscriptions
from catalog import dollars, money
from gateway_site.admin_base import Page, PageForm, ReadOnlyAdmin, Table, badge, change_url, link_to

Status = Subscription.Status
TONES = {Status.INCOMPLETE: "info", Status.ACTIVE: "success", Status.PAST_DUE: "danger", Status.CANCELED: ""}
UNDECIDED = (plan_changes.UnknownSubscription, plan_changes.SecondSubscription)
STRIPE_PROBLEMS = (stripe_client.StripeUnavailable, stripe_client.StripeRefused, stripe_client.NotConfigured)
ENDED_ALREADY = "It has ended in the meantime, so nothing was changed."


class WhyForm(PageForm):
    """Why staff does what its customer could."""

    reason = forms.CharField(max_length=300, help_text="Stands in the account's audit log, which its members can read.")


@contextmanager
def problems_told(request: HttpRequest) -> Iterator[None]:
    """Says why a deed at Stripe was not done, instead of failing."""
    try:
        yield
    except subscriptions.NoSubscription:
        messages.warning(request, ENDED_ALREADY)
    except UNDECIDED as error:
        messages.error(request, f"A person has to look: {error}.")
    except STRIPE_PROBLEMS as error:
        messages.error(request, STRIPE_DOWN.format(error))


@admin.register(Subscription)
class SubscriptionAdmin(ReadOnlyAdmin):
    """Bought plans. What is written of them is what Stripe says; a deed asks Stripe first."""

    empty_text = "A subscription appears when somebody buys a plan that has a price."
    list_display = ("short_id", "created_at", "account", "plan", "standing", "period_end", "scheduled", "past_due_since")
    list_filter = ("status", "cancels_at_end", ("next_plan", admin.EmptyFieldListFilter), "plan")
    list_select_related = ("account", "plan", "next_plan")
    ordering = ("-created_at",)
    search_fields = ("pk",)  # shows the box; `get_search_results` reads it
    search_help_text = "An account's slug, an e-mail address, an id, or Stripe's of the subscription, its checkout, customer or invoice."
    fields = (
        "id",
        "account_link",
        ("plan_link", "standing"),
        ("period_start", "period_end"),
        "scheduled",
        ("past_due_since", "falls_back_at"),
        "included",
        ("at_stripe", "customer_at_stripe"),
        "session_id",
        "requested_by",
        ("created_at", "updated_at"),
    )
    readonly_fields = (
        "account_link",
        "plan_link",
        "standing",
        "scheduled",
        "falls_back_at",
        "included",
        "at_stripe",
        "customer_at_stripe",
    )
    pages = (
        Page(
            "cancel",
            "Cancel",
            ("billing.change_subscription",),
            icon="event_busy",
            danger=True,
            offered=lambda one: one.status in assignments.RUNNING and not one.cancels_at_end,
        ),
        Page(
            "resume",
            "Resume",
            ("billing.change_subscription",),
            icon="event_repeat",
            offered=lambda one: one.status in assignments.RUNNING and one.cancels_at_end,
        ),
        Page(
            "close_checkout",
            "Close the checkout",
            ("billing.change_subscription",),
            icon="block",
            danger=True,
            offered=lambda one: one.status == Status.INCOMPLETE,
        ),
        Page("ask_stripe", "Ask Stripe", ("billing.view_subscription",), icon="sync"),
        Page("invoices", "Invoices at Stripe", ("billing.view_subscription",), icon="receipt_long", offered=lambda one: one.stripe_id),
    )

    @admin.display(description="subscription")
    def short_id(self, obj: Subscription) -> str:
        """Enough of the id to see which it is."""
        return f"{str(obj.pk)[:8]}…"

    @admin.display(description="account")
    def account_link(self, obj: Subscription) -> SafeString | str:
        """Who buys it."""
        return link_to(obj.account)

    @admin.display(description="plan")
    def plan_link(self, obj: Subscription) -> SafeString | str:
        """What is bought."""
        return link_to(obj.plan)

    @admin.display(description="state", ordering="status")
    def standing(self, obj: Subscription) -> SafeString:
        """Where it is."""
        return badge(obj.get_status_display(), TONES[Status(obj.status)])

    @admin.display(description="scheduled")
    def scheduled(self, obj: Subscription) -> str:
        """What happens at the period's end, other than a renewal."""
        if obj.cancels_at_end:
            return f"ends {at(obj.period_end)} UTC"
        return "-" if obj.next_plan is None else f"{obj.next_plan.slug} from {at(obj.period_end)} UTC"

    @admin.display(description="returns to the default plan")
    def falls_back_at(self, obj: Subscription) -> str:
        """Until when an unpaid plan stays."""
        return "-" if obj.past_due_since is None else f"{at(obj.past_due_since + plan_changes.grace())} UTC"

    @admin.display(description="included credit of this period")
    def included(self, obj: Subscription) -> SafeString | str:
        """What was granted of it, and what is left."""
        found = [one for one in grants_of(obj) if obj.period_start and one.expires_at and obj.period_start < one.expires_at]
        if not found:
            return "-"
        granted, left = sum(one.amount for one in found), sum(one.remaining for one in found)
        return format_html("{} granted, {} left", dollars.show(granted), dollars.show(left))

    @admin.display(description="at Stripe")
    def at_stripe(self, obj: Subscription) -> SafeString | str:
        """The subscription's page there."""
        return stripe_page("subscriptions", obj.stripe_id, is_live=is_live(obj)) if obj.stripe_id else "-"

    @admin.display(description="customer at Stripe")
    def customer_at_stripe(self, obj: Subscription) -> SafeString | str:
        """The customer's page there."""
        customer = StripeCustomer.objects.filter(account=obj.account_id).first()
        return "-" if customer is None else stripe_page("customers", customer.customer_id, is_live=customer.is_live)

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:  # noqa: ARG002 - Django's
        """Look the term up as what it is, so that an index answers."""
        term = search_term.strip()
        by_prefix = {
            "sub_": Q(stripe_id=term),
            "cs_": Q(session_id=term),
            "si_": Q(stripe_item_id=term),
            "cus_": Q(account__stripe_customer__customer_id=term),
        }
        if term.startswith("in_"):
            granted = plan_changes.grant_of(term)
            return (queryset.none() if granted is None else queryset.filter(account__wallet=granted.wallet_id)), False
        for prefix, found in by_prefix.items():
            if term.startswith(prefix):
                return queryset.filter(found), False
        if (ident := read_uuid(term)) is not None:
            return queryset.filter(pk=ident), False
        if "@" in term:
            return queryset.filter(Q(account__billing_email__iexact=term) | Q(account__members__email=term.lower())).distinct(), False
        return (queryset.filter(account__slug__startswith=term.lower()) if term else queryset), False

    def tables(self, request: HttpRequest, obj: Subscription) -> Iterable[Table]:  # noqa: ARG002 - the signature is the base's
        """The credit it brought, the plans that followed from it, and what Stripe told of it."""
        granted = list(grants_of(obj)[:SHOWN])
        if granted:
            yield Table(
                "Included credit",
                ("granted", "for invoice", "amount", "left", "expires"),
                [
                    (
                        link_to(one.transfer, at(one.created_at)),
                        stripe_page("invoices", one.transfer.source_id, is_live=is_live(obj)),
                        dollars.show(one.amount),
                        dollars.show(one.remaining),
                        at(one.expires_at),
                    )
                    for one in granted
                ],
            )
        assigned = PlanAssignment.objects.filter(subscription=obj).select_related("plan").order_by("-starts_at")[:SHOWN]
        if assigned:
            yield Table("Plans it put the account on", ("plan", "from"), [(link_to(one.plan), at(one.starts_at)) for one in assigned])
        names = [name for name in (obj.stripe_id, obj.session_id, *(one.transfer.source_id for one in granted)) if name]
        heard = StripeEvent.objects.filter(object_id__in=names).defer("payload").order_by("-created_at")[:SHOWN]
        if heard:
            yield events_table(heard, more=f"{reverse('admin:billing_stripeevent_changelist')}?q={obj.stripe_id}" if obj.stripe_id else "")

    # -- Deeds

    def cancel(self, request: HttpRequest, subscription: Subscription) -> HttpResponse:
        """Let it end with its period, or at once when it is not paid; as its members can."""
        form = WhyForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            reason = form.cleaned_data["reason"]
            with problems_told(request):
                changed = subscriptions.cancel(
                    account=subscription.account,
                    user=request.user,  # type: ignore[arg-type]  # the admin lets nobody else in
                    now=timezone.now(),
                    reason=reason,
                )
                self.log_change(request, subscription, f"Cancelled: {reason}")
                ended = changed.status == Status.CANCELED
                messages.success(request, "It has ended." if ended else f"It ends {at(changed.period_end)} UTC.")
            return HttpResponseRedirect(change_url(subscription))
        about = (
            "It is past due, so it ends at once, and the account returns to the default plan. Nothing is given back."
            if subscription.status == Status.PAST_DUE
            else f"It ends {at(subscription.period_end)} UTC; until then nothing changes. Should Stripe say that it is not paid, it ends at once."
        )
        return self.form_page(
            request,
            subscription,
            title=f"Cancel the plan of {subscription.account}",
            form=form,
            submit="Cancel it",
            about=about,
            danger=True,
        )

    def resume(self, request: HttpRequest, subscription: Subscription) -> HttpResponse:
        """Let one that was to end go on; as its members can."""
        form = WhyForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            reason = form.cleaned_data["reason"]
            with problems_told(request):
                subscriptions.resume(
                    account=subscription.account,
                    user=request.user,  # type: ignore[arg-type]  # the admin lets nobody else in
                    now=timezone.now(),
                    reason=reason,
                )
                self.log_change(request, subscription, f"Resumed: {reason}")
                messages.success(request, "It goes on.")
            return HttpResponseRedirect(change_url(subscription))
        about = f"It was to end {at(subscription.period_end)} UTC. Instead it is renewed then, and its card is charged."
        return self.form_page(
            request, subscription, title=f"Resume the plan of {subscription.account}", form=form, submit="Resume it", about=about
        )

    def close_checkout(self, request: HttpRequest, subscription: Subscription) -> HttpResponse:
        """Close the checkout of one that was not bought; what was just paid in it is taken over instead."""
        form = WhyForm(request.POST or None)
        form.fields["reason"].help_text = "Stands in the log of the staff."
        if request.method == "POST" and form.is_valid():
            with problems_told(request):
                plan_changes.close_session(subscription_id=subscription.pk, now=timezone.now())
                self.log_change(request, subscription, f"Closed its checkout: {form.cleaned_data['reason']}")
                subscription.refresh_from_db()
                messages.success(request, f"As Stripe says: {subscription.get_status_display()}.")
            return HttpResponseRedirect(change_url(subscription))
        about = "Its page at Stripe is closed, so that nobody can pay in it any more. Should it have been paid just now, the plan begins."
        title = f"Close the checkout of {subscription.account}"
        return self.form_page(request, subscription, title=title, form=form, submit="Close it", about=about, danger=True)

    def ask_stripe(self, request: HttpRequest, subscription: Subscription) -> HttpResponse:
        """Bring it to where Stripe says it is."""
        form = PageForm(request.POST or None)
        if request.method == "POST":
            with problems_told(request):
                now_at = plan_changes.converge_session(subscription_id=subscription.pk, now=timezone.now())
                self.log_change(request, subscription, f"Asked Stripe: {now_at.get_status_display()}")
                messages.success(request, f"As Stripe says: {now_at.get_status_display()}.")
            return HttpResponseRedirect(change_url(subscription))
        about = "Fetches the subscription and its invoices, and applies what differs: state, plan, and credit. What is right already stays."
        return self.form_page(
            request, subscription, title=f"Ask Stripe about the plan of {subscription.account}", form=form, submit="Ask", about=about
        )

    def invoices(self, request: HttpRequest, subscription: Subscription) -> HttpResponse:
        """Show its invoices as Stripe has them now, what each brought, and what was heard of them."""
        try:
            found = stripe_plans.list_invoices(subscription_id=str(subscription.stripe_id))
        except STRIPE_PROBLEMS as error:
            messages.error(request, STRIPE_DOWN.format(error))
            return HttpResponseRedirect(change_url(subscription))
        heard = StripeEvent.objects.filter(object_id__in=[one.id for one in found]).defer("payload").order_by("-created_at")[:SHOWN]
        tables = [
            Table(
                "Invoices",
                ("invoice", "made", "state", "asked for, before tax", "included credit"),
                [self._invoice(subscription, one) for one in reversed(found)],
            ),
            *([events_table(heard)] if heard else []),
        ]
        title = f"Invoices of {subscription.account} for {subscription.plan}"
        return self.render_page(request, "admin/tables_page.html", subscription, title=title, tables=tables)

    def _invoice(self, subscription: Subscription, invoice: stripe_plans.Invoice) -> tuple[SafeString | str, ...]:
        granted = plan_changes.grant_of(invoice.id)
        tone = {"paid": "success", "open": "warning"}.get(invoice.status, "")
        return (
            stripe_page("invoices", invoice.id, is_live=is_live(subscription)),
            at(invoice.created_at),
            badge(invoice.status, tone),
            dollars.show(sum(line.amount_minor for line in invoice.lines) * NANO_PER_MINOR),
            "-" if granted is None else link_to(granted, money.usd_display(granted.amount)),
        )


def grants_of(subscription: Subscription) -> QuerySet[CreditGrant]:
    """The credit that its invoices brought, the newest first. An account buys one plan at a time, so what came since is this one's."""
    found = CreditGrant.objects.filter(
        wallet__account=subscription.account_id,
        transfer__kind=plan_changes.GRANT,
        transfer__source_type=plan_changes.SOURCE,
        created_at__gte=subscription.created_at,
    )
    if subscription.status == Status.CANCELED:
        later = Subscription.objects.filter(account=subscription.account_id, created_at__gt=subscription.created_at).order_by("created_at")
        if (until := later.values_list("created_at", flat=True).first()) is not None:
            found = found.filter(created_at__lt=until)
    return found.select_related("transfer").order_by("-id")


def is_live(subscription: Subscription) -> bool:
    """Whether it is of Stripe's live mode: its customer knows."""
    known = StripeCustomer.objects.filter(account=subscription.account_id).values_list("is_live", flat=True).first()
    return stripe_client.is_live() if known is None else known


def events_table(events: Iterable[StripeEvent], *, more: str = "") -> Table:
    """What Stripe told."""
    rows = [
        (link_to(one, one.pk), one.type, one.object_id, at(one.created_at), badge(one.state, EVENT_TONES.get(one.state, "")))
        for one in events
    ]
    return Table("Stripe's events about it", ("event", "type", "about", "made", "state"), rows, more)
