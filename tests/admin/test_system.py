"""Facts about the admin's page of the installation: steps are judged by the data, the doctor's findings stand there, and a test mail goes out."""

import uuid
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import OutboxMessage
from catalog.models import Model, Price, Provider, ProviderKey, Route
from gateway_site import set_up
from tests.admin.staff import browser_of, new_staff

pytestmark = pytest.mark.filterwarnings("ignore:No directory at")


def step(title: str, **asked: Any) -> set_up.Step:
    user = asked.pop("user", None) or new_staff(superuser=True)
    return next(one for one in set_up.look(user=user, now=timezone.now()) if one.title == title)


def new_provider(kind: str = "custom") -> Provider:
    return Provider.objects.create(slug=f"p-{uuid.uuid4().hex[:12]}", kind=kind, base_url="https://models.example.com/v1")


def test_the_page_has_the_steps_the_findings_and_the_versions() -> None:
    page = browser_of(new_staff(superuser=True)).get(reverse("admin:system"))
    steps, findings, versions = page.context["tables"]
    assert [row[0] for row in versions.rows] == ["Python, Django", "PostgreSQL", "Valkey or Redis"]
    assert "of data" in versions.rows[1][1]
    assert len(steps.rows) == 8
    assert findings.rows
    assert "Give a provider its key" in page.content.decode()


def test_only_superusers_see_it() -> None:
    other = browser_of(new_staff("catalog.change_provider", "billing.view_usagerecord"))
    assert other.get(reverse("admin:system")).status_code == 403
    assert other.post(reverse("admin:system")).status_code == 403
    assert reverse("admin:system") not in other.get(reverse("admin:index")).content.decode()
    assert Client().get(reverse("admin:system")).status_code == 302


def test_the_first_page_names_the_next_step_while_one_is_left() -> None:
    page = browser_of(new_staff(superuser=True)).get(reverse("admin:index"))
    (figure,) = [one for one in page.context["figures"] if one.title == "Set up"]
    assert figure.address == reverse("admin:system")
    assert figure.note.startswith("next: ")


def test_a_key_at_a_real_provider_is_a_step_and_a_model_that_it_can_serve_another() -> None:
    provider = new_provider()
    key = ProviderKey(provider=provider, name="first")
    key.set_secret("sk-upstream-0001")
    key.save()
    assert step("Give a provider its key").is_done
    model = Model.objects.create(slug=f"m-{uuid.uuid4().hex[:12]}", kind="text")
    Route.objects.create(model=model, provider=provider, upstream_model="m")
    Price.objects.create(model=model, effective_from=timezone.now(), input=1, output=1)
    assert step("Put a model up for sale").is_done


def test_a_second_factor_is_the_persons_own() -> None:
    user, other = new_staff(superuser=True), new_staff(superuser=True)
    Authenticator.objects.create(user=user, type=Authenticator.Type.WEBAUTHN, data={"name": "key"})
    assert step("Sign in with a second factor", user=user).is_done
    assert not step("Sign in with a second factor", user=other).is_done


def test_an_address_without_tls_is_left_to_do(settings: Any) -> None:
    settings.DEBUG = False
    settings.PUBLIC_URL = "http://gateway.example"
    assert not step("Say where you are to be found").is_done
    settings.PUBLIC_URL = "https://gateway.example"
    assert step("Say where you are to be found").is_done


def test_payments_are_optional_and_played_ones_do_not_count(settings: Any) -> None:
    settings.STRIPE_SECRET_KEY = ""
    assert step("Take payments").is_optional
    assert step("Hear from Stripe").is_optional
    settings.STRIPE_SECRET_KEY, settings.STRIPE_SIMULATED = "sk_live_1234567890", True
    assert not step("Take payments").is_done
    settings.STRIPE_SIMULATED = False
    assert step("Take payments").is_done
    assert not step("Hear from Stripe").is_optional


def test_a_test_mail_asked_for_twice_is_one_mail_and_its_fate_stands_on_the_page() -> None:
    user = new_staff(superuser=True)
    now = timezone.now()
    assert set_up.send_test_mail(to=user, now=now) == set_up.send_test_mail(to=user, now=now)
    client = browser_of(user)
    client.post(reverse("admin:system"))
    mails = OutboxMessage.objects.filter(recipient=user.email)
    assert 1 <= mails.count() <= 2  # the minute may have turned
    assert all("Test mail" in mail.subject for mail in mails)
    mails.update(state=OutboxMessage.State.FAILED, last_error="no such host")
    assert "no such host" in client.get(reverse("admin:system")).content.decode()
