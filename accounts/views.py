"""The pages about an account and about oneself: members and invitations, settings, the audit log, the profile, what is put away."""

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db import IntegrityError, transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST

from accounts import announcements, audit_log, form_tokens, invitations, members, tenancy
from accounts.forms import AccountSettingsForm, InvitationForm, ProfileForm
from accounts.models import Account, Membership, User
from accounts.pages import account_page, is_part, origin_of, render_page
from accounts.permissions import Permission

_PROBLEMS = {
    members.MemberNotFound: "This person is no member any more.",
    members.RoleTooHigh: "Your own role does not reach that far.",
    members.LastOwner: "An account keeps at least one owner: make somebody else an owner first.",
    invitations.InvitationNotFound: "This invitation was taken, taken back or replaced in the meantime.",
    invitations.AlreadyMember: "This person is a member already.",
    invitations.TooManyInvitations: "You have sent too many invitations within a day, or too many to this address. Try again tomorrow.",
}


@account_page(Permission.READ, post=Permission.MANAGE_MEMBERS)
def members_page(request: HttpRequest, account: Account, membership: Membership) -> HttpResponse:
    """Who belongs to the account; who may, invites."""
    roles = members.roles_to_give(membership)
    form = InvitationForm(request.POST or None, roles=roles)
    if request.method == "POST" and form.is_valid():
        link = f"{origin_of(request)}{reverse('invitation', args=['SECRET'])}".replace("SECRET", "{secret}")
        email, role, now = form.cleaned_data["email"], form.cleaned_data["role"], timezone.now()
        try:
            with form_tokens.once(request, now=now) as fresh:
                if fresh:
                    invitations.invite(by=membership, email=email, role=role, link=link, now=now, ip=_address(request))
        except (invitations.AlreadyMember, invitations.TooManyInvitations, members.RoleTooHigh) as problem:
            form.add_error("email", _PROBLEMS[type(problem)])
        else:
            messages.success(request, f"An invitation is on its way to {email}. It is open for {invitations.OPEN_FOR.days} days.")
            return redirect("members", account.slug)
    everybody = account.memberships.select_related("user").order_by("created_at", "pk")
    context = {
        "form": form,
        "membership": membership,
        "members": [(each, bool(roles) and each.role in roles) for each in everybody],
        "invitations": invitations.listed(account) if roles else [],
        "roles": [(value, label) for value, label in Membership.Role.choices if value in roles],
        "now": timezone.now(),
    }
    return render_page(request, "accounts/members.html", context, status=400 if form.errors else None)


@require_POST
@account_page(Permission.MANAGE_MEMBERS)
def change_role(request: HttpRequest, account: Account, membership: Membership, member_id: int) -> HttpResponse:
    """Give a member another role."""
    try:
        member = members.change_role(member_id, role=request.POST.get("role", ""), by=membership, now=timezone.now(), ip=_address(request))
    except (members.MemberNotFound, members.RoleTooHigh, members.LastOwner) as problem:
        messages.error(request, _PROBLEMS[type(problem)])
    else:
        messages.success(request, f"{member.user.email} is {member.get_role_display().lower()} now.")
    return redirect("members", account.slug)


@require_POST
@account_page(Permission.READ)
def remove_member(request: HttpRequest, account: Account, membership: Membership, member_id: int) -> HttpResponse:
    """Take a member out; everybody may take out themselves."""
    try:
        user = members.remove(member_id, by=membership, now=timezone.now(), ip=_address(request))
    except (members.MemberNotFound, members.RoleTooHigh, members.LastOwner) as problem:
        messages.error(request, _PROBLEMS[type(problem)])
        return redirect("members", account.slug)
    if user == request.user:
        messages.success(request, f"You have left {account.name}.")
        return redirect("landing")
    messages.success(request, f"{user.email} is no member any more.")
    return redirect("members", account.slug)


@require_POST
@account_page(Permission.MANAGE_MEMBERS)
def revoke_invitation(request: HttpRequest, account: Account, membership: Membership, invitation_id: int) -> HttpResponse:
    """Take an invitation back."""
    try:
        invitation = invitations.revoke(invitation_id, by=membership, now=timezone.now(), ip=_address(request))
    except invitations.InvitationNotFound as problem:
        messages.error(request, _PROBLEMS[type(problem)])
    else:
        messages.success(request, f"The invitation of {invitation.email} works no more.")
    return redirect("members", account.slug)


@account_page(Permission.MANAGE_ACCOUNT)
def account_settings(request: HttpRequest, account: Account, membership: Membership) -> HttpResponse:
    """Change what the account is called, its clock, its address and where its bills go."""
    before = {name: getattr(account, name) for name in tenancy.SETTINGS}
    form = AccountSettingsForm(request.POST or None, instance=account)
    if request.method == "POST" and form.is_valid():
        try:
            with transaction.atomic():
                tenancy.change_settings(account, before=before, by=membership, now=timezone.now(), ip=_address(request))
        except IntegrityError:
            form.add_error("slug", "Somebody took this address a moment ago.")
        else:
            messages.success(request, "The settings are saved.")
            return redirect("account_settings", account.slug)
    account.slug = before["slug"]  # the links of this page lead to where the account still is
    account.name = before["name"]
    most = settings.CONTENT_MAX_DAYS
    context = {"form": form, "content_days": min(account.content_days, most), "content_max_days": most}
    return render_page(request, "accounts/settings.html", context, status=400 if form.errors else None)


@account_page(Permission.MANAGE_MEMBERS)
def audit_page(request: HttpRequest, account: Account, membership: Membership) -> HttpResponse:  # noqa: ARG001 - the decorator's signature
    """Who did what, the latest first."""
    try:
        page = audit_log.page(account, before=request.GET.get("before", ""))
    except audit_log.NoSuchPlace:
        raise Http404 from None
    older = f"?before={page.older}" if page.older else ""
    return render_page(
        request,
        "accounts/audit_log.html",
        {"events": page.events, "older_url": older, "newer_url": "?" if request.GET.get("before") else ""},
    )


@login_required
def profile(request: HttpRequest) -> HttpResponse:
    """What a person is called."""
    assert isinstance(request.user, User)  # noqa: S101 - the decorator asks for a person
    form = ProfileForm(request.POST or None, instance=request.user)
    if request.method == "POST" and form.is_valid():
        form.save()
        messages.success(request, "Your profile is saved.")
        return redirect("profile")
    return render(request, "accounts/profile.html", {"form": form})


@require_POST
def dismiss_announcement(request: HttpRequest) -> HttpResponse:
    """POST /announcements/dismiss, by anybody: show the announcement with this mark no more in this browser, and go back."""
    there = request.POST.get("next", "")
    is_here = url_has_allowed_host_and_scheme(there, allowed_hosts=None) and there.startswith("/")
    response = HttpResponse() if is_part(request) else redirect(there if is_here else reverse("landing"))
    response.set_cookie(
        announcements.COOKIE,
        announcements.dismiss(request.COOKIES.get(announcements.COOKIE, ""), request.POST.get("mark", "")),
        max_age=announcements.REMEMBERED,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )
    return response


def _address(request: HttpRequest) -> str | None:
    return request.META.get("REMOTE_ADDR") or None
