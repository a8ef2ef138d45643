"""The pages of webhook endpoints: made with a secret that is shown once, changed, tried out, switched off and on, and removed."""

import uuid
from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_POST

from accounts import form_tokens
from accounts.models import Account, Membership, OutboxMessage
from accounts.pages import account_page
from accounts.permissions import Permission
from billing.models import WebhookEndpoint
from billing.notices import endpoints
from billing.pages import frame
from billing.pages.forms import EndpointForm

LATEST = 25


@account_page(Permission.READ, post=Permission.MANAGE_BILLING)
def webhooks_page(request: HttpRequest, account: Account, membership: Membership) -> HttpResponseBase:
    """GET lists the endpoints; POST makes one and shows its secret, this once."""
    form = EndpointForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        now, made, secret = timezone.now(), None, ""
        try:
            with form_tokens.once(request, now=now) as fresh:
                if fresh:
                    made, secret = endpoints.create(
                        account=account, **form.cleaned_data, actor=frame.visitor(request), now=now, ip=frame.address(request)
                    )
        except endpoints.EndpointRefused as error:
            form.add_error("url", error.reason)
        else:
            if made is not None:
                return _show_secret(request, account, membership, made, secret)
            messages.info(request, "This endpoint was made already. Its secret was shown once; a new one can be made on its page.")
            return redirect("webhooks", account.slug)
    context = {"form": form, "endpoints": account.webhook_endpoints.order_by("created_at", "pk"), "most": endpoints.MOST}
    return frame.show(request, account, membership, "billing/webhooks.html", context, status=400 if form.errors else None)


@account_page(Permission.READ, post=Permission.MANAGE_BILLING)
def webhook_page(request: HttpRequest, account: Account, membership: Membership, endpoint_id: uuid.UUID) -> HttpResponseBase:
    """GET shows an endpoint with its latest deliveries; POST gives it another address or other events."""
    endpoint = _find(account, endpoint_id)
    form = EndpointForm(request.POST if request.method == "POST" else None, initial={"url": endpoint.url, "events": endpoint.events})
    if request.method == "POST" and form.is_valid():
        try:
            endpoints.change(
                endpoint=endpoint, **form.cleaned_data, actor=frame.visitor(request), now=timezone.now(), ip=frame.address(request)
            )
        except endpoints.EndpointRefused as error:
            form.add_error("url", error.reason)
        else:
            messages.success(request, "The endpoint is changed.")
            return redirect("webhook", account.slug, endpoint.pk)
    deliveries = OutboxMessage.objects.filter(account=account, kind=OutboxMessage.Kind.WEBHOOK, recipient=str(endpoint.pk))
    context = {
        "form": form,
        "endpoint": endpoint,
        "deliveries": deliveries.order_by("-created_at", "-pk")[:LATEST],
        "signs_twice": bool(endpoint.previous_until and endpoint.previous_until > timezone.now()),
    }
    return frame.show(request, account, membership, "billing/webhook.html", context, status=400 if form.errors else None)


@require_POST
@account_page(Permission.MANAGE_BILLING)
def rotate_secret(request: HttpRequest, account: Account, membership: Membership, endpoint_id: uuid.UUID) -> HttpResponseBase:
    """Give an endpoint a new secret and show it, this once."""
    endpoint, secret, now = _find(account, endpoint_id), "", timezone.now()
    with form_tokens.once(request, now=now) as fresh:
        if fresh:
            secret = endpoints.rotate_secret(endpoint=endpoint, actor=frame.visitor(request), now=now, ip=frame.address(request))
    if not secret:
        messages.info(request, "The secret was changed already, and shown once.")
        return redirect("webhook", account.slug, endpoint.pk)
    return _show_secret(request, account, membership, endpoint, secret)


@require_POST
@account_page(Permission.MANAGE_BILLING)
def do_deed(request: HttpRequest, account: Account, membership: Membership, endpoint_id: uuid.UUID, deed: str) -> HttpResponseBase:  # noqa: ARG001
    """Switch an endpoint off or on, send it a test, or remove it."""
    endpoint, now = _find(account, endpoint_id), timezone.now()
    act, told, stays = DEEDS[deed]
    with form_tokens.once(request, now=now) as fresh:
        if fresh:
            act(request, endpoint, now)
    messages.success(request, told)
    return redirect("webhook", account.slug, endpoint.pk) if stays else redirect("webhooks", account.slug)


def _by_visitor(rule: Callable[..., None]) -> Callable[..., None]:
    return lambda request, endpoint, now: rule(endpoint=endpoint, actor=frame.visitor(request), now=now, ip=frame.address(request))


# What a button does, what is said then, and whether the endpoint is still there.
DEEDS: dict[str, tuple[Callable[..., Any], str, bool]] = {
    "enable": (_by_visitor(endpoints.enable), "The endpoint is on.", True),
    "disable": (_by_visitor(endpoints.disable), "The endpoint is off: nothing is sent to it.", True),
    "remove": (_by_visitor(endpoints.remove), "The endpoint and its secret are gone.", False),
    "test": (lambda _, endpoint, now: endpoints.send_test(endpoint=endpoint, now=now), "A test is on its way.", True),
}


def _find(account: Account, endpoint_id: uuid.UUID) -> WebhookEndpoint:
    found = WebhookEndpoint.objects.filter(account=account, pk=endpoint_id).first()
    if found is None:
        raise Http404
    return found


def _show_secret(
    request: HttpRequest, account: Account, membership: Membership, endpoint: WebhookEndpoint, secret: str
) -> HttpResponseBase:
    return frame.show(request, account, membership, "billing/webhook_secret.html", {"endpoint": endpoint, "secret": secret})
