"""Members and invitations over the management API. A member made the key, and it is they who invite, change and remove."""

from typing import Any, ClassVar

from django.conf import settings
from django.http import HttpResponse
from django.urls import reverse
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request

from accounts import invitations, members
from accounts.models import Invitation, Membership
from accounts.permissions import Permission
from billing.management_api import shapes
from billing.management_api.door import ManagementView, answer
from keys.repeats import Made

MANAGE = Permission.MANAGE_MEMBERS
ROLES = Membership.Role.values


class NewMember(shapes.Strict):
    """Whom to invite."""

    email = serializers.EmailField(max_length=254)
    role = serializers.ChoiceField(choices=ROLES, default="developer")


class RoleChange(shapes.Strict):
    """Another role."""

    role = serializers.ChoiceField(choices=ROLES)


class Member(serializers.Serializer[Any]):
    """A person of the account."""

    id = serializers.IntegerField()
    email = serializers.CharField()
    name = serializers.CharField(allow_blank=True)
    role = serializers.ChoiceField(choices=ROLES)
    created_at = serializers.DateTimeField()


class Invited(serializers.Serializer[Any]):
    """An invitation that was neither taken nor taken back."""

    id = serializers.IntegerField()
    email = serializers.CharField()
    role = serializers.ChoiceField(choices=ROLES)
    invited_by = serializers.CharField(allow_null=True)
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField()


MemberList = shapes.answers(
    "MemberList",
    "Everybody of the account, and the open invitations (for keys that may manage members).",
    data=Member(many=True),
    invitations=Invited(many=True),
)


MemberAnswer = shapes.answers("MemberAnswer", "One member.", data=Member())


InvitedAnswer = shapes.answers("InvitedAnswer", "One invitation.", data=Invited())


class Removed(serializers.Serializer[Any]):
    """What is gone."""

    id = serializers.IntegerField()
    deleted = serializers.BooleanField()


class Members(ManagementView):
    """/v1/members."""

    needs: ClassVar = {"GET": Permission.READ, "POST": MANAGE}

    @extend_schema(operation_id="listMembers", summary="List members", tags=["members"], responses={200: MemberList, **shapes.REFUSALS})
    def get(self, request: Request) -> HttpResponse:  # noqa: ARG002 - the framework's signature
        """Everybody of the account, and who is invited."""
        self.asked(shapes.Nothing)
        everybody = self.account.memberships.select_related("user").order_by("created_at", "pk")
        invited = invitations.listed(self.account) if MANAGE in self.authority.permissions else []
        return answer({"data": [_show(member) for member in everybody], "invitations": [_show_invitation(each) for each in invited]})

    @extend_schema(
        operation_id="inviteMember",
        summary="Invite somebody",
        tags=["members"],
        parameters=[shapes.IDEMPOTENCY],
        request=NewMember,
        examples=shapes.example(email="grace@example.com", role="developer"),
        responses={201: InvitedAnswer, **shapes.REFUSALS, **shapes.conflict("already_member"), **shapes.REUSED},
    )
    def post(self, request: Request) -> HttpResponse:  # noqa: ARG002
        """Invite an address by mail, for seven days. An open invitation of the same address is replaced."""
        by, said, now = self.authority.member(MANAGE), self.said(NewMember), timezone.now()
        link = f"{settings.PUBLIC_URL}{reverse('invitation', args=['SECRET'])}".replace("SECRET", "{secret}")

        def invite() -> Made:
            invitation = invitations.invite(by=by, email=said["email"], role=said["role"], link=link, now=now, ip=self.address)
            return Made(201, {"data": _show_invitation(invitation)}, {})

        return self.make_once(invite, now=now)


class MemberView(ManagementView):
    """/v1/members/{member_id}."""

    needs: ClassVar = {"PATCH": MANAGE, "DELETE": MANAGE}

    @extend_schema(
        operation_id="changeRole",
        summary="Change a role",
        tags=["members"],
        request=RoleChange,
        examples=shapes.example(role="admin"),
        responses={200: MemberAnswer, **shapes.REFUSALS, **shapes.not_found("member_not_found"), **shapes.conflict("last_owner")},
    )
    def patch(self, request: Request, member_id: int) -> HttpResponse:  # noqa: ARG002
        """Give a member another role, neither from nor to one above that of the key's maker."""
        by, said = self.authority.member(MANAGE), self.said(RoleChange)
        return answer({"data": _show(members.change_role(member_id, role=said["role"], by=by, now=timezone.now(), ip=self.address))})

    @extend_schema(
        operation_id="removeMember",
        summary="Remove a member",
        tags=["members"],
        responses={200: Removed, **shapes.REFUSALS, **shapes.not_found("member_not_found"), **shapes.conflict("last_owner")},
    )
    def delete(self, request: Request, member_id: int) -> HttpResponse:  # noqa: ARG002
        """Take a member out of the account. The management keys that they made may do nothing from then on."""
        members.remove(member_id, by=self.authority.member(MANAGE), now=timezone.now(), ip=self.address)
        return answer({"id": member_id, "deleted": True})


class InvitationView(ManagementView):
    """/v1/invitations/{invitation_id}."""

    needs: ClassVar = {"DELETE": MANAGE}

    @extend_schema(
        operation_id="revokeInvitation",
        summary="Take an invitation back",
        tags=["members"],
        responses={200: Removed, **shapes.REFUSALS, **shapes.not_found("invitation_not_found")},
    )
    def delete(self, request: Request, invitation_id: int) -> HttpResponse:  # noqa: ARG002
        """Take back an open invitation: its link works no more."""
        invitations.revoke(invitation_id, by=self.authority.member(MANAGE), now=timezone.now(), ip=self.address)
        return answer({"id": invitation_id, "deleted": True})


def _show(member: Membership) -> dict[str, Any]:
    return {
        "id": member.pk,
        "email": member.user.email,
        "name": member.user.name,
        "role": member.role,
        "created_at": shapes.moment(member.created_at),
    }


def _show_invitation(invitation: Invitation) -> dict[str, Any]:
    return {
        "id": invitation.pk,
        "email": invitation.email,
        "role": invitation.role,
        "invited_by": invitation.invited_by.email if invitation.invited_by else None,
        "created_at": shapes.moment(invitation.created_at),
        "expires_at": shapes.moment(invitation.expires_at),
    }
