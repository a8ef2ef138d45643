"""Facts about the catalog's pages that act: a manifest is applied as it was shown, a trial is a real request, and breakers can be closed."""

import json
import re
import time
import uuid
from typing import Any

import httpx
import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse

from catalog.models import Model, Provider, ProviderKey, Route
from proxy import breakers
from proxy.failures import BrokenAnswer
from proxy.health import Health, State
from tests.admin.staff import browser_of, new_staff
from tests.conftest import Gateway, make_customer, make_model
from tests.fakes.provider import FakeProvider

pytestmark = pytest.mark.filterwarnings("ignore:No directory at")


@pytest.fixture(scope="module")
def boss(_database: None) -> Client:
    return browser_of(new_staff(superuser=True))


def shown_of(page: Any) -> str:
    found = re.search(r'name="shown" value="([0-9a-f]{64})"', page.content.decode())
    return found[1] if found else ""


def priced(slug: str, usd: str) -> str:
    return json.dumps({"models": [{"slug": slug, "prices": {"input": usd, "output": "2"}}]})


# -- Manifests -------------------------------------------------------------------------------------------------------------------------


def test_a_manifest_is_shown_first_and_applied_when_it_is_confirmed(boss: Client) -> None:
    slug, there = f"house/{uuid.uuid4().hex[:12]}", reverse("admin:manifest")
    text = priced(slug, "1")
    seen = boss.post(there, {"text": text})
    assert not Model.objects.filter(slug=slug).exists()
    assert [change.sign for change in seen.context["found"]] == ["+", "+"]
    assert boss.post(there, {"text": text, "shown": shown_of(seen)}).status_code == 302
    assert Model.objects.get(slug=slug).prices.count() == 1
    dearer = boss.post(there, {"text": priced(slug, "1.5")})
    assert "input $1.00 → $1.50" in dearer.content.decode()
    # Sent twice, it is applied once.
    for _ in range(2):
        boss.post(there, {"text": priced(slug, "1.5"), "shown": shown_of(dearer)})
    assert Model.objects.get(slug=slug).prices.count() == 2
    assert LogEntry.objects.filter(change_message__contains=slug).exists()


def test_what_changed_since_it_was_shown_is_shown_again(boss: Client) -> None:
    slug, there = f"house/{uuid.uuid4().hex[:12]}", reverse("admin:manifest")
    boss.post(there, {"text": priced(slug, "1"), "shown": shown_of(boss.post(there, {"text": priced(slug, "1")}))})
    cheaper = shown_of(boss.post(there, {"text": priced(slug, "0.5")}))
    boss.post(there, {"text": priced(slug, "3"), "shown": shown_of(boss.post(there, {"text": priced(slug, "3")}))})
    answer = boss.post(there, {"text": priced(slug, "0.5"), "shown": cheaper})
    assert answer.status_code == 200
    assert "$3.00 → $0.50" in answer.content.decode()
    assert Model.objects.get(slug=slug).prices.count() == 2


@pytest.mark.parametrize("text", ["", "models: [", "models:\n- {slug: 5, colour: red}", "aliases: {a: nobody/nothing}"])
def test_a_manifest_that_cannot_be_is_refused_in_words(boss: Client, text: str) -> None:
    answer = boss.post(reverse("admin:manifest"), {"text": text})
    assert answer.status_code == 200
    assert answer.context["form"].non_field_errors()


def test_no_key_comes_from_a_manifest_of_the_admin(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SECRET", "sk-some-secret-1234")
    slug, there = f"p-{uuid.uuid4().hex[:12]}", reverse("admin:manifest")
    entry = {
        "slug": slug,
        "kind": "custom",
        "base_url": "https://models.example.com/v1",
        "keys": [{"name": "a", "secret_env": "SOME_SECRET"}],
    }
    text = json.dumps({"providers": [entry]})
    seen = boss.post(there, {"text": text})
    assert "not taken from here" in seen.content.decode()
    boss.post(there, {"text": text, "shown": shown_of(seen)})
    assert Provider.objects.get(slug=slug).keys.count() == 0


def test_who_may_not_write_the_catalog_applies_no_manifest() -> None:
    clerk = browser_of(new_staff("catalog.view_model", "catalog.change_model"))
    assert clerk.get(reverse("admin:manifest")).status_code == 403
    assert clerk.post(reverse("admin:manifest"), {"text": "models: []"}).status_code == 403


# -- Markups ---------------------------------------------------------------------------------------------------------------------------


def test_markups_are_shown_first_and_set_once_when_confirmed(boss: Client, provider: FakeProvider) -> None:
    slugs = sorted(make_model(provider.base_url, "m") for _ in range(2))
    unpriced = Model.objects.create(slug=f"fake/{uuid.uuid4().hex[:16]}")
    there, form = reverse("admin:markups"), {"models": "\n".join([*slugs, unpriced.slug]), "markup": "12.5"}
    seen = boss.post(there, form)
    assert [(one.model, one.before_ppm, one.after_ppm) for one in seen.context["found"]] == [(slug, 0, 125_000) for slug in slugs]
    confirmed = {**form, "shown": shown_of(seen)}
    assert boss.post(there, confirmed).status_code == 302
    assert "Nothing to change" in boss.post(there, confirmed).content.decode()
    for slug in slugs:
        new, old = Model.objects.get(slug=slug).prices.order_by("-effective_from")
        assert (new.markup_ppm, new.input, new.output, old.markup_ppm) == (125_000, old.input, old.output, 0)


def test_markups_are_set_for_the_models_of_a_provider(boss: Client, provider: FakeProvider) -> None:
    here, elsewhere = make_model(provider.base_url, "m"), make_model(provider.base_url, "m")
    form = {"provider": Route.objects.get(model__slug=here).provider_id, "markup": "5"}
    found = boss.post(reverse("admin:markups"), form).context["found"]
    assert [one.model for one in found] == [here]
    assert elsewhere not in str(found)
    assert boss.post(reverse("admin:markups"), {"markup": "-1"}).context["form"].errors
    assert browser_of(new_staff("catalog.view_model")).post(reverse("admin:markups"), form).status_code == 403


# -- Trials ----------------------------------------------------------------------------------------------------------------------------


def try_at(boss: Client, slug: str) -> str:
    route = Route.objects.get(model__slug=slug)
    key = ProviderKey.objects.get(provider=route.provider)
    there = reverse("admin:catalog_provider_send_test_request", args=[route.provider_id])
    page = boss.post(there, {"route": route.pk, "key": key.pk}, follow=True).content.decode()
    assert key.secret() not in page
    said = LogEntry.objects.filter(object_id=str(route.provider_id), change_message__contains="Sent a test request").latest("id")
    return said.get_change_message()


@pytest.mark.parametrize("spoken", ["", "responses", "messages", "gemini"])
def test_a_trial_is_a_real_request_in_the_routes_own_format(boss: Client, provider: FakeProvider, spoken: str) -> None:
    kind = {"": "custom", "responses": "openai", "messages": "anthropic", "gemini": "google"}[spoken]
    slug = make_model(provider.base_url, "chat:text=4", kind=kind, route_format=spoken)
    assert ": ok, status 200, " in try_at(boss, slug)


def test_a_trial_tells_what_went_wrong(boss: Client, provider: FakeProvider) -> None:
    assert ": ProviderFault, status 500, " in try_at(boss, make_model(provider.base_url, "fault:status-500"))
    assert ": CannotConnect, " in try_at(boss, make_model("http://127.0.0.1:9/v1", "m"))


def test_who_may_only_look_sends_no_trial(provider: FakeProvider) -> None:
    route = Route.objects.get(model__slug=make_model(provider.base_url, "echo"))
    clerk = browser_of(new_staff("catalog.view_provider"))
    assert clerk.post(reverse("admin:catalog_provider_send_test_request", args=[route.provider_id])).status_code == 403


# -- Breakers --------------------------------------------------------------------------------------------------------------------------


def test_health_tells_what_rests_and_forgets_it_when_asked() -> None:
    health = Health()
    for _ in range(3):
        health.note_failure(7, None, BrokenAnswer("x"), 100.0)
    assert [(subject, waits) for subject, _, waits in health.resting(100.0)] == [(("route", 7), False)]
    for said in (None, "", "route", "route/x", "key/", "nothing/7", "route/8"):
        breakers.forget(health, said)
    assert health.state(("route", 7), 100.0) is State.COOLING
    breakers.forget(health, "route/7")
    assert health.state(("route", 7), 100.0) is State.HEALTHY
    assert health.resting(100.0) == []


def test_an_open_breaker_is_seen_and_closed_from_the_admin(boss: Client, gateway: Gateway, provider: FakeProvider) -> None:
    slug = make_model(provider.base_url, "fault:status-500")
    gateway.sees_catalog()
    route = Route.objects.get(model__slug=slug)
    headers = make_customer().headers
    for _ in range(6):  # each failure after the third doubles the rest
        httpx.post(
            f"{gateway.base_url}/chat/completions", headers=headers, json={"model": slug, "messages": [{"role": "user", "content": "x"}]}
        )

    def resting() -> bool:
        return any(one.ident == str(route.pk) for one in breakers.read(now=time.time()) or ())

    gateway.wait_until(resting)
    assert "Breakers that are open" in boss.get(reverse("admin:catalog_provider_change", args=[route.provider_id])).content.decode()
    assert "1 route open in 1 process" in boss.get(reverse("admin:index")).content.decode()
    assert boss.post(reverse("admin:catalog_provider_close_breakers", args=[route.provider_id])).status_code == 302
    gateway.wait_until(lambda: not resting())


def test_only_who_may_change_keys_moves_the_address_they_are_sent_to(provider: FakeProvider) -> None:
    route = Route.objects.get(model__slug=make_model(provider.base_url, "hello"))
    page = reverse("admin:catalog_provider_change", args=[route.provider_id])
    editor = browser_of(new_staff("catalog.view_provider", "catalog.change_provider"))
    assert b'name="base_url"' not in editor.get(page).content
    editor.post(page, {"slug": route.provider.slug, "kind": "custom", "base_url": "https://thief.example/v1", "is_enabled": "on"})
    assert Provider.objects.get(pk=route.provider_id).base_url == provider.base_url
    keeper = browser_of(new_staff("catalog.view_provider", "catalog.change_provider", "catalog.change_providerkey"))
    assert b'name="base_url"' in keeper.get(page).content
