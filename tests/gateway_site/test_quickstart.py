"""The quickstart: a first run makes everything once, and later runs change only what has newly appeared."""

import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from django.db import transaction
from django.db.models import CharField, F, Value
from django.db.models.functions import Cast, Concat
from django.utils import timezone

from accounts.models import Account, Membership, User
from billing.models import CreditGrant, Plan, PlanAssignment, Wallet
from catalog import manifest
from catalog.models import Alias, CatalogVersion, Model, Price, Provider, ProviderKey
from gateway_site import quickstart
from keys import issuing
from keys.models import ApiKey

URL = "http://127.0.0.1:8000"
FIELDS = {"base_url", "api_key", "admin_email", "admin_password", "customer_email", "customer_password"}


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A state folder, names and a catalog as on a first run, inside a transaction that is undone: seeds have fixed names."""
    folder, mark = tmp_path / "state", uuid4().hex[:8]
    monkeypatch.setenv("GATEWAY_STATE", str(folder))
    for names in quickstart.KEY_VARIABLES.values():
        for name in names:
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(quickstart, "ACCOUNT", f"quickstart-{mark}")
    monkeypatch.setattr(quickstart, "ADMIN_EMAIL", f"admin-{mark}@tollgate.local")
    monkeypatch.setattr(quickstart, "CUSTOMER_EMAIL", f"customer-{mark}@tollgate.local")
    with transaction.atomic():
        CatalogVersion.objects.update(default_model=None)
        Alias.objects.all().delete()
        Provider.objects.all().delete()
        Model.objects.update(slug=Concat(Value("before-"), Cast(F("pk"), CharField())), is_enabled=False)
        yield folder
        transaction.set_rollback(True)


def kept(folder: Path) -> dict[str, str]:
    content = json.loads((folder / "quickstart.json").read_text())
    assert isinstance(content, dict)
    return content


def test_the_first_run_gives_everything_that_a_reader_needs(state: Path) -> None:
    told = quickstart.prepare(URL + "/")
    assert set(told) == FIELDS
    assert told == kept(state)
    assert told["base_url"] == URL
    admin, customer = User.objects.get(email=told["admin_email"]), User.objects.get(email=told["customer_email"])
    assert admin.check_password(told["admin_password"])
    assert (admin.is_staff, admin.is_superuser) == (True, True)
    assert customer.check_password(told["customer_password"])
    assert (customer.is_staff, customer.is_superuser) == (False, False)
    account = Account.objects.get(slug=quickstart.ACCOUNT)
    assert issuing.find(told["api_key"]).account == account
    assert Membership.objects.get(account=account).role == Membership.Role.OWNER
    assert Membership.objects.get(account=account).user == customer
    assert PlanAssignment.objects.get(account=account).plan.slug == "pay-as-you-go"
    assert {"free", "pay-as-you-go", "team"} <= set(Plan.objects.values_list("slug", flat=True))
    wallet = Wallet.objects.get(account=account)
    assert wallet.balance == 5_000_000_000
    assert CreditGrant.objects.get(wallet=wallet).kind == "promo"


def test_the_file_is_for_its_owner_alone(state: Path) -> None:
    quickstart.prepare(URL)
    assert stat.S_IMODE((state / "quickstart.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert not list(state.glob("*.new"))


def test_the_first_run_seeds_every_model_and_only_the_demo_can_be_called() -> None:
    quickstart.prepare(URL)
    wanted = {model.slug for path in manifest.SEEDS.glob("*.yaml") for model in manifest.read(path.read_text()).models}
    seeded = Model.objects.filter(slug__in=wanted)
    assert set(seeded.values_list("slug", flat=True)) == wanted
    assert not seeded.filter(prices__isnull=True).exists()
    assert not seeded.filter(routes__isnull=True).exists()
    assert set(Provider.objects.filter(is_enabled=True).values_list("slug", flat=True)) == {"demo"}
    assert set(Provider.objects.filter(is_enabled=False).values_list("slug", flat=True)) == set(quickstart.KEY_VARIABLES)
    head = CatalogVersion.objects.get(pk=1)
    assert head.default_model is not None
    assert head.default_model.slug == "demo/echo"


def test_a_second_run_changes_nothing_but_the_address_and_is_quick(state: Path) -> None:
    first = quickstart.prepare(URL)
    version, keys, users = CatalogVersion.objects.get(pk=1).version, ApiKey.objects.count(), User.objects.count()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        second = quickstart.prepare("http://127.0.0.1:8123")
        times.append(time.perf_counter() - began)
    assert min(times) < 0.3, times
    assert second == {**first, "base_url": "http://127.0.0.1:8123"} == kept(state)
    assert (CatalogVersion.objects.get(pk=1).version, ApiKey.objects.count(), User.objects.count()) == (version, keys, users)
    assert Wallet.objects.get(account__slug=quickstart.ACCOUNT).balance == 5_000_000_000


def test_a_provider_with_a_key_in_the_environment_is_enabled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai-of-the-test-1")
    monkeypatch.setenv("GOOGLE_API_KEY", "google-of-the-test-2")
    quickstart.prepare(URL)
    assert set(Provider.objects.filter(is_enabled=True).values_list("slug", flat=True)) == {"demo", "openai", "google"}
    assert ProviderKey.objects.get(provider__slug="openai").secret() == "sk-openai-of-the-test-1"


def test_gemini_goes_before_google(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "gemini-of-the-test")
    monkeypatch.setenv("GOOGLE_API_KEY", "google-of-the-test")
    quickstart.prepare(URL)
    assert ProviderKey.objects.get(provider__slug="google").secret() == "gemini-of-the-test"


def test_a_key_that_appears_later_enables_its_provider_then(monkeypatch: pytest.MonkeyPatch) -> None:
    quickstart.prepare(URL)
    monkeypatch.setenv("MISTRAL_API_KEY", " mistral-of-the-test ")
    quickstart.prepare(URL)
    assert Provider.objects.get(slug="mistral").is_enabled
    assert ProviderKey.objects.get(provider__slug="mistral").secret() == "mistral-of-the-test"


def test_a_provider_that_an_operator_switched_off_stays_off_whatever_the_environment_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAI_API_KEY", "xai-of-the-test-old")
    quickstart.prepare(URL)
    Provider.objects.filter(slug="xai").update(is_enabled=False)
    monkeypatch.setenv("XAI_API_KEY", "xai-of-the-test-new")
    quickstart.prepare(URL)
    assert not Provider.objects.get(slug="xai").is_enabled
    assert ProviderKey.objects.get(provider__slug="xai").secret() == "xai-of-the-test-new"


def test_a_variable_that_is_no_key_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "paste your key here")
    quickstart.prepare(URL)
    assert not Provider.objects.get(slug="groq").is_enabled
    assert not ProviderKey.objects.filter(provider__slug="groq").exists()


def test_a_key_is_not_given_to_a_server_that_only_shares_the_companys_name(monkeypatch: pytest.MonkeyPatch) -> None:
    Provider.objects.create(slug="openai", kind="custom", base_url="https://elsewhere.example", created_at=timezone.now())
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai-of-the-test")
    quickstart.prepare(URL)
    assert not ProviderKey.objects.filter(provider__slug="openai").exists()


def test_a_lost_file_gives_a_new_key_and_resets_nothing_else(state: Path) -> None:
    first = quickstart.prepare(URL)
    (state / "quickstart.json").unlink()
    second = quickstart.prepare(URL)
    assert second["api_key"] != first["api_key"]
    assert issuing.find(second["api_key"]).account == issuing.find(first["api_key"]).account
    assert (second["admin_password"], second["customer_password"]) == ("", "")
    assert "changepassword" in second["note"]
    assert User.objects.get(email=first["admin_email"]).check_password(first["admin_password"])
    assert issuing.find(first["api_key"]).revoked_at is None
    assert Wallet.objects.get(account__slug=quickstart.ACCOUNT).balance == 5_000_000_000
    assert quickstart.prepare(URL) == second


def test_a_file_of_another_database_is_not_believed(state: Path) -> None:
    state.mkdir(mode=0o700)
    (state / "quickstart.json").write_text(json.dumps(dict.fromkeys(FIELDS, "of another database")))
    told = quickstart.prepare(URL)
    assert issuing.find(told["api_key"]).account.slug == quickstart.ACCOUNT
    assert User.objects.get(email=told["admin_email"]).check_password(told["admin_password"])


def test_a_damaged_file_is_a_lost_file(state: Path) -> None:
    first = quickstart.prepare(URL)
    (state / "quickstart.json").write_text('{"base_url": "http:')
    assert quickstart.prepare(URL)["api_key"] != first["api_key"]


def test_a_person_of_the_same_address_keeps_their_password() -> None:
    User.objects.create_user(quickstart.CUSTOMER_EMAIL, "a password of their own")
    told = quickstart.prepare(URL)
    assert told["customer_password"] == ""
    assert User.objects.get(email=quickstart.CUSTOMER_EMAIL).check_password("a password of their own")


@pytest.fixture
def other_seeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Seeds that a test may change."""
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    for name in ("demo.yaml", "plans.yaml"):
        (seeds / name).write_bytes((manifest.SEEDS / name).read_bytes())
    monkeypatch.setattr(manifest, "SEEDS", seeds)
    return seeds


def latest(slug: str) -> Price:
    return Price.objects.filter(model__slug=slug).latest("effective_from")


def test_changed_seeds_are_applied_on_the_next_run(other_seeds: Path) -> None:
    quickstart.prepare(URL)
    demo = other_seeds / "demo.yaml"
    demo.write_text(demo.read_text().replace('output: "0.60"', 'output: "0.70"', 1))
    os.utime(demo)
    quickstart.prepare(URL)
    assert latest("demo/echo").output == 700_000_000
    assert latest("demo/lorem").output == 600_000_000
    assert Price.objects.filter(model__slug="demo/lorem").count() == 1


def test_changed_seeds_leave_what_an_operator_has_decided(other_seeds: Path) -> None:
    quickstart.prepare(URL)
    echo = Model.objects.get(slug="demo/echo")
    Price.objects.create(model=echo, effective_from=timezone.now(), input=1, output=2, markup_ppm=3)
    Model.objects.filter(slug="demo/lorem").update(is_enabled=False)
    Model.objects.get(slug="demo/tools").routes.all().delete()
    Provider.objects.filter(slug="demo").update(is_enabled=False)
    CatalogVersion.objects.update(default_model=Model.objects.get(slug="demo/json"))
    Plan.objects.filter(slug="team").update(rpm=1)
    demo = other_seeds / "demo.yaml"
    demo.write_text(demo.read_text().replace('output: "0.60"', 'output: "0.70"'))
    quickstart.prepare(URL)
    assert (latest("demo/echo").output, latest("demo/echo").markup_ppm) == (2, 3)
    assert latest("demo/lorem").output == 700_000_000
    assert not Model.objects.get(slug="demo/lorem").is_enabled
    assert not Model.objects.get(slug="demo/tools").routes.exists()
    assert not Provider.objects.get(slug="demo").is_enabled
    head = CatalogVersion.objects.get(pk=1)
    assert head.default_model is not None
    assert head.default_model.slug == "demo/json"
    assert Plan.objects.get(slug="team").rpm == 1
