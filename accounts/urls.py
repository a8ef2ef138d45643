"""The addresses of an account's own pages and of a person's."""

from django.urls import path

from accounts import views

urlpatterns = [
    path("user/profile", views.profile, name="profile"),
    path("announcements/dismiss", views.dismiss_announcement, name="dismiss_announcement"),
    path("a/<slug:slug>/members", views.members_page, name="members"),
    path("a/<slug:slug>/members/<int:member_id>/role", views.change_role, name="change_role"),
    path("a/<slug:slug>/members/<int:member_id>/remove", views.remove_member, name="remove_member"),
    path("a/<slug:slug>/invitations/<int:invitation_id>/revoke", views.revoke_invitation, name="revoke_invitation"),
    path("a/<slug:slug>/settings", views.account_settings, name="account_settings"),
    path("a/<slug:slug>/audit-log", views.audit_page, name="audit_log"),
]
