"""Webhook endpoints over the management API."""

import uuid
from typing import Any, ClassVar

from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request

from accounts.permissions import Permission
from billing.management_api import shapes
from billing.management_api.door import ManagementView, answer
from billing.models import WebhookEndpoint
from billing.notices import endpoints, telling
from keys.repeats import Made

MANAGE = Permission.MANAGE_BILLING
MISSING = shapes.not_found("webhook_endpoint_not_found")
EVENTS = serializers.ListField(
    child=serializers.ChoiceField(choices=telling.FOR_WEBHOOKS),
    max_length=len(telling.FOR_WEBHOOKS),
    required=False,
    help_text="Empty: all.",
)


class EndpointNotFound(LookupError):
    """The account has no such endpoint."""


class NewEndpoint(shapes.Strict):
    """An endpoint to make."""

    url = serializers.CharField(max_length=500)
    events = EVENTS


class EndpointChange(shapes.Strict):
    """What can be changed of an endpoint; what is not named stays."""

    url = serializers.CharField(max_length=500, required=False)
    events = EVENTS
    enabled = serializers.BooleanField(required=False)


class Endpoint(serializers.Serializer[Any]):
    """An address that is told what happens."""

    id = serializers.UUIDField()
    url = serializers.CharField()
    events = serializers.ListField(child=serializers.CharField(), help_text="Empty: all.")
    enabled = serializers.BooleanField()
    failures = serializers.IntegerField(help_text="Deliveries in a row that failed for good.")
    disabled_reason = serializers.CharField(allow_blank=True)
    created_at = serializers.DateTimeField()


EndpointAnswer = shapes.answers("EndpointAnswer", "One endpoint.", data=Endpoint())


EndpointWithSecret = shapes.answers(
    "EndpointWithSecret",
    "An endpoint whose secret was made now.",
    data=Endpoint(),
    secret=serializers.CharField(help_text="What its signatures are made with: shown this once."),
)


EndpointList = shapes.answers("EndpointList", "All endpoints of the account: there are ten at most.", data=Endpoint(many=True))


class Gone(serializers.Serializer[Any]):
    """What is gone."""

    id = serializers.UUIDField()
    deleted = serializers.BooleanField()


class Endpoints(ManagementView):
    """/v1/webhook-endpoints."""

    needs: ClassVar = {"GET": Permission.READ, "POST": MANAGE}

    @extend_schema(
        operation_id="listWebhookEndpoints",
        summary="List webhook endpoints",
        tags=["webhooks"],
        responses={200: EndpointList, **shapes.REFUSALS},
    )
    def get(self, request: Request) -> HttpResponse:  # noqa: ARG002 - the framework's signature
        """The account's endpoints, in the order in which they were made."""
        self.asked(shapes.Nothing)
        return answer({"data": [_show(endpoint) for endpoint in self.account.webhook_endpoints.order_by("created_at", "pk")]})

    @extend_schema(
        operation_id="createWebhookEndpoint",
        summary="Create a webhook endpoint",
        tags=["webhooks"],
        parameters=[shapes.IDEMPOTENCY],
        request=NewEndpoint,
        examples=shapes.example(url="https://example.com/hooks", events=["balance.low"]),
        responses={201: EndpointWithSecret, **shapes.REFUSALS, **shapes.conflict("secret_shown_before"), **shapes.REUSED},
    )
    def post(self, request: Request) -> HttpResponse:  # noqa: ARG002
        """Add an address. Its secret is in this answer and nowhere else."""
        said, now = self.said(NewEndpoint), timezone.now()

        def create() -> Made:
            endpoint, secret = endpoints.create(
                account=self.account, url=said["url"], events=said.get("events", []), actor=self.key.created_by, now=now, ip=self.address
            )
            return Made(201, {"data": _show(endpoint)}, {"secret": secret})

        return self.make_once(create, now=now)


class EndpointView(ManagementView):
    """/v1/webhook-endpoints/{endpoint_id}."""

    needs: ClassVar = {"GET": Permission.READ, "PATCH": MANAGE, "DELETE": MANAGE}

    @extend_schema(
        operation_id="getWebhookEndpoint",
        summary="Get a webhook endpoint",
        tags=["webhooks"],
        responses={200: EndpointAnswer, **shapes.REFUSALS, **MISSING},
    )
    def get(self, request: Request, endpoint_id: uuid.UUID) -> HttpResponse:  # noqa: ARG002
        """One endpoint."""
        return answer({"data": _show(find(self, endpoint_id))})

    @extend_schema(
        operation_id="updateWebhookEndpoint",
        summary="Change a webhook endpoint",
        tags=["webhooks"],
        request=EndpointChange,
        examples=shapes.example(enabled=False),
        responses={200: EndpointAnswer, **shapes.REFUSALS, **MISSING},
    )
    def patch(self, request: Request, endpoint_id: uuid.UUID) -> HttpResponse:  # noqa: ARG002
        """Give an endpoint another address or other events, or switch it off or on."""
        endpoint, said = find(self, endpoint_id), self.said(EndpointChange, partial=True)
        who: dict[str, Any] = {"actor": self.key.created_by, "now": timezone.now(), "ip": self.address}
        if "url" in said or "events" in said:
            endpoint = endpoints.change(
                endpoint=endpoint, url=said.get("url", endpoint.url), events=said.get("events", endpoint.events), **who
            )
        if said.get("enabled", endpoint.is_enabled) != endpoint.is_enabled:
            switch = endpoints.enable if said["enabled"] else endpoints.disable
            switch(endpoint=endpoint, **who)
            endpoint.refresh_from_db()
        return answer({"data": _show(endpoint)})

    @extend_schema(
        operation_id="deleteWebhookEndpoint",
        summary="Remove a webhook endpoint",
        tags=["webhooks"],
        responses={200: Gone, **shapes.REFUSALS, **MISSING},
    )
    def delete(self, request: Request, endpoint_id: uuid.UUID) -> HttpResponse:  # noqa: ARG002
        """Remove an endpoint and its secret; what waits for it is given up."""
        endpoints.remove(endpoint=find(self, endpoint_id), actor=self.key.created_by, now=timezone.now(), ip=self.address)
        return answer({"id": str(endpoint_id), "deleted": True})


class EndpointSecret(ManagementView):
    """/v1/webhook-endpoints/{endpoint_id}/rotate-secret."""

    needs: ClassVar = {"POST": MANAGE}

    @extend_schema(
        operation_id="rotateWebhookSecret",
        summary="Rotate a secret",
        tags=["webhooks"],
        parameters=[shapes.IDEMPOTENCY],
        request=shapes.Nothing,
        responses={201: EndpointWithSecret, **shapes.REFUSALS, **MISSING, **shapes.conflict("secret_shown_before"), **shapes.REUSED},
    )
    def post(self, request: Request, endpoint_id: uuid.UUID) -> HttpResponse:  # noqa: ARG002
        """Give an endpoint a new secret. For a day calls carry the signatures of both."""
        endpoint, now = find(self, endpoint_id), timezone.now()
        self.said(shapes.Nothing)

        def rotate() -> Made:
            secret = endpoints.rotate_secret(endpoint=endpoint, actor=self.key.created_by, now=now, ip=self.address)
            return Made(201, {"data": _show(endpoint)}, {"secret": secret})

        return self.make_once(rotate, now=now)


class EndpointTest(ManagementView):
    """/v1/webhook-endpoints/{endpoint_id}/test."""

    needs: ClassVar = {"POST": MANAGE}

    @extend_schema(
        operation_id="testWebhookEndpoint",
        summary="Send a test",
        tags=["webhooks"],
        request=shapes.Nothing,
        responses={202: EndpointAnswer, **shapes.REFUSALS, **MISSING},
    )
    def post(self, request: Request, endpoint_id: uuid.UUID) -> HttpResponse:  # noqa: ARG002
        """Queue a `webhook_endpoint.test` to an endpoint, whatever events it wants."""
        endpoint = find(self, endpoint_id)
        self.said(shapes.Nothing)
        endpoints.send_test(endpoint=endpoint, now=timezone.now())
        return answer({"data": _show(endpoint)}, status=202)


def find(view: ManagementView, endpoint_id: uuid.UUID) -> WebhookEndpoint:
    """The account's endpoint of this id. Raises: EndpointNotFound, also for another account's."""
    endpoint = view.account.webhook_endpoints.filter(pk=endpoint_id).select_related("account").first()
    if endpoint is None:
        raise EndpointNotFound
    return endpoint


def _show(endpoint: WebhookEndpoint) -> dict[str, Any]:
    return {
        "id": str(endpoint.pk),
        "url": endpoint.url,
        "events": endpoint.events,
        "enabled": endpoint.is_enabled,
        "failures": endpoint.failures,
        "disabled_reason": endpoint.disabled_reason,
        "created_at": shapes.moment(endpoint.created_at),
    }
