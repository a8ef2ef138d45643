"""The page of alerts: what an account wants to be warned of, and the mails it wants."""

from django.contrib import messages
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.utils import timezone

from accounts.models import Account, Membership
from accounts.pages import account_page
from accounts.permissions import Permission
from billing.models import Alert, AlertSettings
from billing.notices import wishes
from billing.pages import frame
from billing.pages.forms import AlertSettingsForm

LATEST = 20


@account_page(Permission.READ, post=Permission.MANAGE_BILLING)
def alerts_page(request: HttpRequest, account: Account, membership: Membership) -> HttpResponseBase:
    """GET shows the settings and the alerts there were; POST changes the settings."""
    form = AlertSettingsForm(request.POST if request.method == "POST" else None, instance=wishes.of(account))
    if request.method == "POST" and form.is_valid():
        wanted: AlertSettings = form.instance
        wishes.change(account=account, wanted=wanted, actor=frame.visitor(request), now=timezone.now(), ip=frame.address(request))
        messages.success(request, "The alerts are saved.")
        return redirect("billing_alerts", account.slug)
    context = {"form": form, "alerts": Alert.objects.filter(account=account).order_by("-pk")[:LATEST]}
    return frame.show(request, account, membership, "billing/alerts.html", context, status=400 if form.errors else None)
