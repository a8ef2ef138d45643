"""People in the admin, what they are told on the pages, and the groups of staff. Accounts have wallets and so their page in `billing.admin`."""

import json
from collections.abc import Iterable
from typing import Any

from django.apps import apps
from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils import timezone

from accounts import announcements, outbox
from accounts.models import Account, Announcement, AuditEvent, Membership, OutboxMessage, User
from gateway_site.admin_base import (
    AdminPasswordChangeForm,
    BigTableAdmin,
    ModelAdmin,
    Page,
    PageForm,
    TabularInline,
    UserChangeForm,
    UserCreationForm,
    badge,
    change_url,
)

admin.site.unregister(Group)
# What allauth would show of second factors, sessions and tokens is nobody's to read or to change; addresses are verified by their owners.
admin.site.unregister([model for model in apps.get_models() if model.__module__.startswith("allauth.") and admin.site.is_registered(model)])
POWERS = ("is_staff", "is_superuser", "groups", "user_permissions")


class NewUserForm(UserCreationForm):  # type: ignore[type-arg]
    """A person with a password, or with none until they set one."""

    class Meta:
        model = User
        fields = ("email", "name")


class UserForm(UserChangeForm):  # type: ignore[type-arg]
    class Meta:
        model = User
        fields = "__all__"


class MembershipInline(TabularInline):
    """The accounts of a person."""

    model = Membership
    autocomplete_fields = ("account",)
    fields = ("account", "role")


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin):  # type: ignore[type-arg]
    """Only a superuser gives powers over the admin and changes other staff: else who may edit people may do everything."""

    form = UserForm
    add_form = NewUserForm
    change_password_form = AdminPasswordChangeForm
    change_form_template = "admin/object_page.html"
    list_display = ("email", "name", "is_active", "is_staff", "is_superuser", "last_login", "created_at")
    list_filter = ("is_active", "is_staff", "is_superuser")
    search_fields = ("email", "name")
    ordering = ("email",)
    filter_horizontal = ("groups", "user_permissions")
    readonly_fields = ("last_login", "created_at")
    fieldsets = (
        (None, {"fields": ("email", "name", "password")}),
        ("Admin", {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")}),
        ("Dates", {"fields": ("last_login", "created_at")}),
    )
    add_fieldsets: Any = ((None, {"classes": ("wide",), "fields": ("email", "name", "usable_password", "password1", "password2")}),)

    def get_inlines(self, request: HttpRequest, obj: Any) -> list[Any]:  # noqa: ARG002 - the signature is Django's
        """Memberships, once the person exists."""
        return [] if obj is None else [MembershipInline]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Powers are a superuser's to give."""
        fields = tuple(super().get_readonly_fields(request, obj))
        return fields if _is_superuser(request) else (*fields, *POWERS)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A superuser, their password included, is changed by a superuser only; so is any other member of the staff."""
        allowed = super().has_change_permission(request, obj)
        return allowed and (obj is None or obj == request.user or not (obj.is_superuser or obj.is_staff) or _is_superuser(request))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002 - the signature is Django's
        """Nobody: what a person did in the admin would go with them. Make them inactive."""
        return False


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, ModelAdmin):
    """Groups of staff. Who may edit them may give themselves everything, so a superuser does."""

    change_form_template = "admin/object_page.html"

    def has_add_permission(self, request: HttpRequest) -> bool:
        """A superuser."""
        return _is_superuser(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002 - the signature is Django's
        """A superuser."""
        return _is_superuser(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002 - the signature is Django's
        """A superuser."""
        return _is_superuser(request)


@admin.register(OutboxMessage)
class OutboxMessageAdmin(BigTableAdmin):
    """Mails and webhook calls: what waits, what went out, what was given up."""

    empty_text = "A mail or a webhook call waits here until it is delivered."
    list_display = ("created_at", "kind", "recipient", "subject", "state_badge", "attempts", "next_try_at", "last_error")
    list_filter = ("state", "kind")
    search_fields = ("recipient", "dedupe_key", "account__slug")
    search_help_text = "An address, an endpoint's id, or an account's slug."
    ordering = ("-id",)
    fields = (
        "account",
        "kind",
        "recipient",
        "subject",
        "text",
        "state",
        "attempts",
        "next_try_at",
        "last_error",
        "created_at",
        "sent_at",
        "dedupe_key",
    )
    readonly_fields = ("text",)
    pages = (
        Page("send_again", "Send again", ("accounts.change_outboxmessage",), icon="send", offered=lambda message: message.state != "sent"),
    )

    @admin.display(description="state")
    def state_badge(self, obj: OutboxMessage) -> Any:
        """The state, coloured."""
        return badge(obj.get_state_display(), {"sent": "success", "failed": "danger"}.get(obj.state, "info"))

    @admin.display(description="text")
    def text(self, obj: OutboxMessage) -> str:
        """What it says; staff that may only look must not find a way into somebody's account here."""
        if outbox.lets_in(obj):
            return "Not shown: it has a code or a link in it that is for its reader alone."
        return str(obj.content["text"]) if obj.kind == OutboxMessage.Kind.MAIL else json.dumps(obj.content, indent=2)

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Any but what messages say: an address such as `?content__contains=a` would tell it letter by letter."""
        return not lookup.startswith("content") and bool(super().lookup_allowed(lookup, value, request))

    def send_again(self, request: HttpRequest, obj: OutboxMessage) -> HttpResponse:
        """Ask, then let the message be tried at once."""
        if request.method == "POST":
            if outbox.send_again(message=obj, now=timezone.now()):
                self.log_change(request, obj, "Sent again.")
                messages.success(request, "It is tried again within seconds.")
            return HttpResponseRedirect(change_url(obj))
        about = "Whoever got it already gets it twice; a program recognises it by its id."
        return self.form_page(request, obj, title="Send again", form=PageForm(), submit="Send again", about=about)


@admin.register(AuditEvent)
class AuditEventAdmin(BigTableAdmin):
    """Who did what in which account. The database refuses to change it."""

    list_display = ("at", "account", "actor_text", "action", "subject", "ip")
    list_select_related = ("account",)
    search_fields = ("account__slug", "actor_text", "action", "subject")
    ordering = ("-id",)
    fields = ("at", "account", "actor", "actor_text", "action", "subject", "details", "ip")


@admin.register(Announcement)
class AnnouncementAdmin(ModelAdmin):
    """What the operator has to say on the pages. Other processes are told of a change, and find it out by themselves where they are not."""

    list_display = ("title", "kind", "readers", "starts_at", "ends_at", "state")
    list_filter = ("kind", "audience")
    list_select_related = ("account",)
    search_fields = ("title", "text", "account__slug")
    ordering = ("-starts_at", "-pk")
    autocomplete_fields = ("account",)
    fields = ("kind", "title", "text", "audience", "account", ("starts_at", "ends_at"), "state", "as_shown")
    readonly_fields = ("state", "as_shown")
    pages = (
        Page(
            "end",
            "End now",
            ("accounts.change_announcement",),
            icon="stop_circle",
            danger=True,
            offered=lambda one: announcements.banner(one).is_running(timezone.now()),
        ),
    )

    @admin.display(description="for")
    def readers(self, obj: Announcement) -> str:
        """Who sees it."""
        return f"members of {obj.account}" if obj.account is not None else obj.get_audience_display()

    @admin.display(description="state")
    def state(self, obj: Announcement) -> Any:
        """Whether pages show it."""
        if obj.pk is None:
            return "-"
        banner, now = announcements.banner(obj), timezone.now()
        if banner.is_over(now):
            return badge("over")
        return badge("shown", "success") if banner.is_shown(now) else badge("to come", "info")

    @admin.display(description="as it is shown")
    def as_shown(self, obj: Announcement) -> Any:
        """The text as pages have it."""
        return announcements.banner(obj).html or "-"

    def topics(self, obj: Announcement) -> Iterable[str]:  # noqa: ARG002 - the signature is the base's
        """All of them are read anew."""
        return (announcements.TOPIC,)

    def announce(self, obj: Announcement) -> None:
        """Tell the other processes, and show the change on this one's next page."""
        super().announce(obj)
        transaction.on_commit(announcements.forget)

    def delete_model(self, request: HttpRequest, obj: Announcement) -> None:
        """Show it no more."""
        super().delete_model(request, obj)
        transaction.on_commit(announcements.forget)

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        """Show them no more."""
        super().delete_queryset(request, queryset)
        transaction.on_commit(announcements.forget)

    def end(self, request: HttpRequest, announcement: Announcement) -> HttpResponse:
        """Ask, then show it no more."""
        if request.method == "POST":
            announcements.end(announcement, now=timezone.now())
            self.announce(announcement)
            self.log_change(request, announcement, "Ended.")
            messages.success(request, "It has ended.")
            return HttpResponseRedirect(change_url(announcement))
        about = "Pages show it no more. To show it again, change when it ends."
        return self.form_page(
            request, announcement, title=f"End {announcement}", form=PageForm(), submit="End it", about=about, danger=True
        )


class BaseAccountAdmin(ModelAdmin):
    """What an account's page has of its own; `billing.admin` adds what money knows of it."""

    list_display: Any = ("slug", "name", "is_active", "timezone", "billing_email", "created_at")
    list_filter = ("is_active",)
    search_fields = ("slug", "name", "billing_email")
    ordering = ("slug",)

    def topics(self, obj: Account) -> tuple[str, ...]:
        """The account's keys and plan are cached by every process."""
        return (f"account:{obj.pk}",)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002 - the signature is Django's
        """Nobody: the ledger points at accounts. Make it inactive."""
        return False


def _is_superuser(request: HttpRequest) -> bool:
    return bool(request.user.is_active and getattr(request.user, "is_superuser", False))
