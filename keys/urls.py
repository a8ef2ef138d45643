"""The URL table of the keys app: where an account's keys are made, changed and stopped."""

from django.urls import URLPattern, path

from keys import pages

urlpatterns: list[URLPattern] = [
    path("a/<slug:slug>/keys/new", pages.new_key, name="new_key"),
    path("a/<slug:slug>/keys/<int:key_id>/change", pages.change_key, name="change_key"),
    path("a/<slug:slug>/keys/<int:key_id>/switch", pages.switch_key, name="switch_key"),
    path("a/<slug:slug>/keys/<int:key_id>/reroll", pages.reroll_key, name="reroll_key"),
    path("a/<slug:slug>/keys/<int:key_id>/revoke", pages.revoke_key, name="revoke_key"),
]
