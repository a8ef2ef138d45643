"""Facts about the outbox in the admin: what was given up can be sent again, by who may."""

import uuid
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from accounts import mailing, outbox
from accounts.models import OutboxMessage, User

pytestmark = pytest.mark.filterwarnings("ignore:No directory at")


def staff(*permissions: str) -> Client:
    user = User.objects.create_user(f"{uuid.uuid4().hex}@example.com", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


def given_up(**fields: Any) -> OutboxMessage:
    details: dict[str, Any] = {
        "kind": "webhook",
        "dedupe_key": uuid.uuid4().hex,
        "recipient": str(uuid.uuid4()),
        "subject": "plan.ended",
        "content": {"type": "plan.ended"},
        "state": "failed",
        "attempts": 22,
    }
    return OutboxMessage.objects.create(**{**details, **fields})


def address(message: OutboxMessage) -> str:
    return reverse("admin:accounts_outboxmessage_send_again", args=[message.pk])


def test_what_was_given_up_is_sent_again_after_asking() -> None:
    message = given_up()
    client = staff("view_outboxmessage", "change_outboxmessage")
    assert "twice" in client.get(address(message)).content.decode()
    message.refresh_from_db()
    assert message.state == "failed"
    assert client.post(address(message)).status_code == 302
    message.refresh_from_db()
    assert (message.state, message.attempts) == ("waiting", 0)
    OutboxMessage.objects.filter(pk=message.pk).update(state="failed")


def test_who_may_only_look_sends_nothing() -> None:
    message = given_up()
    assert staff("view_outboxmessage").post(address(message)).status_code == 403
    message.refresh_from_db()
    assert message.state == "failed"


def test_what_was_sent_is_not_sent_again() -> None:
    message = given_up(state="sent")
    staff("view_outboxmessage", "change_outboxmessage").post(address(message))
    message.refresh_from_db()
    assert message.state == "sent"


def test_a_mail_that_lets_its_reader_in_is_shown_to_no_staff_and_cannot_be_guessed() -> None:
    code, address_of_list = uuid.uuid4().hex, reverse("admin:accounts_outboxmessage_changelist")
    client = staff("view_outboxmessage")
    for begins in outbox.LETTING_IN:
        message = given_up(
            kind="mail", dedupe_key=f"{begins}{uuid.uuid4().hex}", recipient="ada@example.com", content={"text": code, "html": code}
        )
        page = client.get(reverse("admin:accounts_outboxmessage_change", args=[message.pk])).content.decode()
        assert code not in page and "for its reader alone" in page
    receipt = given_up(kind="mail", recipient="ada@example.com", content={"text": code, "html": code})
    assert code in client.get(reverse("admin:accounts_outboxmessage_change", args=[receipt.pk])).content.decode()
    for lookup in ("content__contains", "content__text__startswith", "content__text"):
        answer = client.get(address_of_list, {lookup: code[:1]})
        assert answer.status_code == 400, (lookup, answer.status_code)


def test_the_subject_of_a_code_does_not_tell_it() -> None:
    assert "123456" not in mailing.render("verify_email", {"code": "123456", "email": "ada@example.com"}).subject
