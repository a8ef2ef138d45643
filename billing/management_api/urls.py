"""The URL table of the management API, under /v1 and under /api/v1."""

from django.urls import URLPattern, path

from billing.management_api import openapi
from billing.management_api.keys import Budgets, KeyReroll, Keys, KeyView
from billing.management_api.ledger import Ledger
from billing.management_api.members import InvitationView, Members, MemberView
from billing.management_api.webhook_endpoints import Endpoints, EndpointSecret, EndpointTest, EndpointView

VIEWS: tuple[URLPattern, ...] = (
    path("keys", Keys.as_view()),
    path("keys/<int:key_id>", KeyView.as_view()),
    path("keys/<int:key_id>/reroll", KeyReroll.as_view()),
    path("budgets", Budgets.as_view()),
    path("ledger", Ledger.as_view()),
    path("members", Members.as_view()),
    path("members/<int:member_id>", MemberView.as_view()),
    path("invitations/<int:invitation_id>", InvitationView.as_view()),
    path("webhook-endpoints", Endpoints.as_view()),
    path("webhook-endpoints/<uuid:endpoint_id>", EndpointView.as_view()),
    path("webhook-endpoints/<uuid:endpoint_id>/rotate-secret", EndpointSecret.as_view()),
    path("webhook-endpoints/<uuid:endpoint_id>/test", EndpointTest.as_view()),
)
urlpatterns: list[URLPattern] = [*VIEWS, path("openapi.json", openapi.serve(VIEWS), name="management_openapi")]
