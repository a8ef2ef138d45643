"""Facts about the audit log: it says who did what, and the database refuses to change it."""

import uuid
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from accounts import audit
from accounts.models import AuditEvent, User


def test_an_event_names_who_did_what(customer: Any) -> None:
    actor = User.objects.create_user(f"{uuid.uuid4().hex}@example.com")
    audit.record(account=customer.account, actor=actor, action="key.created", subject="CI", details={"kind": "live"}, now=timezone.now())
    audit.record(account=customer.account, actor=None, action="wallet.topped_up", now=timezone.now(), actor_text="stripe")
    events = list(customer.account.audit_events.order_by("id").values_list("actor_text", "action", "subject", "details"))
    assert events == [(actor.email, "key.created", "CI", {"kind": "live"}), ("stripe", "wallet.topped_up", "", {})]


def test_an_event_cannot_be_changed_or_deleted(customer: Any) -> None:
    audit.record(account=customer.account, actor=None, action="key.created", now=timezone.now())
    events = AuditEvent.objects.filter(account=customer.account)
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
        events.update(action="nothing")
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
        events.delete()
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("TRUNCATE accounts_auditevent")


def test_a_person_who_is_deleted_leaves_what_they_did(customer: Any) -> None:
    actor = User.objects.create_user(f"{uuid.uuid4().hex}@example.com")
    audit.record(account=customer.account, actor=actor, action="key.created", now=timezone.now())
    address = actor.email
    actor.delete()
    event = AuditEvent.objects.get(account=customer.account)
    assert (event.actor, event.actor_text) == (None, address)
