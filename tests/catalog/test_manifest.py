"""Manifests: strict reading with exact numbers, a diff that tells all but secrets, and an apply that changes what differs and no more."""

import io
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis
from django.conf import settings
from django.core.management import CommandError, call_command

from billing import plan_manifest
from billing.models import Plan
from catalog import manifest, pricing
from catalog.models import Alias, CatalogVersion, Model, Price, Provider, ProviderKey, Route
from catalog.usage import TokenUsage
from gateway_site.changes import CHANNEL

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
SECRET = "sk-upstream-this-must-not-be-seen-0123456789"


@pytest.fixture
def ours() -> str:
    """A name that no other test has: of this test's provider, and the first part of its models."""
    return f"m-{uuid4().hex[:10]}"


@pytest.fixture
def default_model() -> Iterator[None]:
    """Puts the installation's default model back."""
    before = CatalogVersion.objects.get(pk=1).default_model
    yield
    CatalogVersion.objects.filter(pk=1).update(default_model=before)


def apply(text: str, *, now: datetime = NOW, **options: Any) -> list[str]:
    return [str(change) for change in manifest.apply(manifest.read(text), now=now, **{"dry_run": False, "environ": {}, **options})]


def problems(text: str, read: Callable[[str], object] = manifest.read) -> list[str]:
    with pytest.raises(manifest.InvalidDocument) as caught:
        read(text)
    return [str(problem) for problem in caught.value.problems]


def version() -> int:
    return CatalogVersion.objects.get(pk=1).version


def whole(ours: str) -> str:
    """A manifest that uses everything."""
    return f"""
source: {{name: price list, url: "https://prices.example", date: 2026-11-10}}
providers:
  - slug: {ours}
    kind: custom
    base_url: http://127.0.0.1:9/v1/
    allow_private: true
    enabled: true
    keys:
      - {{name: main, secret: {SECRET}, weight: 3}}
      - {{name: spare, secret_env: SPARE}}
models:
  - slug: {ours}/large
    kind: text
    name: Large
    description: A large one.
    context: 1_000_000
    max_output: 64000
    usual_output: 800
    capabilities: [tools, vision]
    markup: "5%"
    prices: {{input: 2.50, cached_input: "0.25", cache_write: 3.125, cache_write_1h: 5, audio_input: 40, output: 10, reasoning: 12,
      audio_output: 80, image: "0.04", request: "0.000001"}}
    long_prompt: {{above: 200000, prices: {{input: "5", output: "15"}}}}
    routes:
      - {{provider: {ours}, upstream_model: large-1, priority: 1, weight: 2, format: chat}}
      - {{provider: {ours}, upstream_model: 4.1}}
  - slug: {ours}/gift
    free: {{daily_requests: 100}}
    routes: [{{provider: {ours}, upstream_model: gift}}]
aliases: {{{ours}-l: {ours}/large}}
"""


# -- Reading -------------------------------------------------------------------------------------------------------------------------


def test_numbers_are_exactly_as_written() -> None:
    text = "models: [{slug: m, prices: {input: 0.1, output: 0.0028, cached_input: '0.000000001', image: 0.1}}]"
    (model,) = manifest.read(text).models
    assert model.price is not None
    assert model.price.rates == {"input": 100_000_000, "output": 2_800_000, "cached_input": 1, "image": 100_000_000 * 1_000_000}


@pytest.mark.parametrize(
    ("text", "path", "says"),
    [
        ("models: [{slug: a}, {slug: b, prices: {input: '1,5'}}]", "models[1].prices.input", "decimal number"),
        ("models: [{slug: a, prices: {input: 1e-3}}]", "models[0].prices.input", "decimal number"),
        ("models: [{slug: a, prices: {input: -1}}]", "models[0].prices.input", "decimal number"),
        ("models: [{slug: a, prices: {input: .inf}}]", "models[0].prices.input", "decimal number"),
        ("models: [{slug: a, prices: {input: 010}}]", "models[0].prices.input", "decimal number"),
        ("models: [{slug: a, prices: {input: 1:30}}]", "models[0].prices.input", "decimal number"),
        ("models: [{slug: a, prices: {input: true}}]", "models[0].prices.input", "found true or false"),
        ("models: [{slug: a, prices: {input: '0.0000000001'}}]", "models[0].prices.input", "more decimals"),
        ("models: [{slug: a, prices: {input: 99999999999}}]", "models[0].prices.input", "too large"),
        ("models: [{slug: a, prices: {inptu: 1}}]", "models[0].prices.inptu", "did you mean 'input'?"),
        ("models: [{slug: a, prices: {}}]", "models[0].prices", "names no price"),
        ("models: [{slug: a, prices: null}]", "models[0].prices", "enabled: false"),
        ("models: [{slug: a, prices: {input: 1}, markup: 5 percent}]", "models[0].markup", "expected percent"),
        ("models: [{slug: a, markup: 5%}]", "models[0].markup", "beside 'prices' only"),
        (
            "models: [{slug: a, prices: {input: 1}, long_prompt: {above: 0, prices: {input: 2}}}]",
            "models[0].long_prompt.above",
            "between 1",
        ),
        ("models: [{slug: a, prices: {input: 1}, long_prompt: {prices: {input: 2}}}]", "models[0].long_prompt", "'above' is missing"),
        ("models: [{slug: a b}]", "models[0].slug", "letters, digits"),
        ("models: [{name: a}]", "models[0]", "'slug' is missing"),
        ("models: [{slug: a}, {slug: a}]", "models[1].slug", "models[0] already"),
        ("models: [{slug: a, context: 10, max_output: 11}]", "models[0].max_output", "more than the context of 10"),
        ("models: [{slug: a, context: 12.5}]", "models[0].context", "whole number"),
        ("models: [{slug: a, kind: txet}]", "models[0].kind", "did you mean 'text'?"),
        ("models: [{slug: a, enabled: 1}]", "models[0].enabled", "true or false"),
        ("models: [{slug: a, slug: b}]", "models[0].slug", "stands twice"),
        ("models: [{slug: a, capabilities: [tools, tools]}]", "models[0].capabilities[1]", "twice"),
        ("models: [{slug: a, free: {daily: 1}}]", "models[0].free.daily", "did you mean 'daily_requests'?"),
        ("models: [{slug: a, routes: [{provider: p}]}]", "models[0].routes[0]", "'upstream_model' is missing"),
        ("models: [{slug: a, routes: [{provider: p, upstream_model: null}]}]", "models[0].routes[0].upstream_model", "nothing (null)"),
        ("models: [{slug: a, routes: [{provider: p, upstream_model: on}]}]", "models[0].routes[0].upstream_model", "quoted"),
        ("models: [{slug: a, routes: [{provider: p, upstream_model: m, format: caht}]}]", "models[0].routes[0].format", "mean 'chat'?"),
        (
            "models: [{slug: a, routes: [{provider: p, upstream_model: m}, {provider: p, upstream_model: m}]}]",
            "models[0].routes[1]",
            "this route stands twice",
        ),
        ("models: {slug: a}", "models", "expected a list, found a mapping"),
        ("models: [a]", "models[0]", "expected a mapping, found text"),
        ("modles: []", "modles", "did you mean 'models'?"),
        ("models: []\nmodels: []", "models", "it is on line 1 already"),
        ("providers: [{slug: p, kind: opena1}]", "providers[0].kind", "did you mean 'openai'?"),
        ("providers: [{slug: p, base_url: ftp://x}]", "providers[0].base_url", "https://"),
        ("providers: [{slug: p, base_url: 'https://u:p@x'}]", "providers[0].base_url", "user name"),
        ("providers: [{slug: p, keys: [{name: a}]}]", "providers[0].keys[0]", "either 'secret' or 'secret_env'"),
        ("providers: [{slug: p, keys: [{secret: a, secret_env: A}]}]", "providers[0].keys[0]", "either 'secret' or 'secret_env'"),
        ("providers: [{slug: p, keys: [{secret: a}, {secret: b}]}]", "providers[0].keys[1]", "providers[0].keys[0] already"),
        ("aliases: [a]", "aliases", "expected a mapping"),
        ("aliases: {a b: c}", 'aliases["a b"]', "letters, digits"),
        ("aliases: {a: b, a: c}", "aliases.a", "stands twice"),
        ("models: [{slug: a}]\naliases: {a: b}", "aliases", "would hide it"),
        ("default_model: [a]", "default_model", "expected text"),
        ("source: {nmae: x}", "source.nmae", "did you mean 'name'?"),
        ("[]", "the document", "expected a mapping, found a list"),
        ("", "the document", "found nothing"),
        ("a: [", "the document", "is not YAML"),
        ("a: 1\n---\nb: 2", "the document", "is not YAML"),
        ("a: \x07", "the document", "is not YAML"),
        ("models: [{slug: !!python/object/apply:os.getcwd []}]", "models[0].slug", "expected text"),
        ("models: [{slug: !custom a}]", "models[0].slug", "a value with a tag"),
    ],
)
def test_a_problem_is_told_with_its_place_and_its_remedy(text: str, path: str, says: str) -> None:
    assert any(problem.startswith(path) and says in problem for problem in problems(text)), problems(text)


def test_every_problem_is_told_at_once_and_in_order_with_its_line() -> None:
    told = problems("models:\n  - slug: a\n    kind: txet\n    context: -1\nproviders:\n  - kind: openai\n")
    assert [re.sub(r": .*", "", problem) for problem in told] == [
        "models[0].kind (line 3)",
        "models[0].context (line 4)",
        "providers[0] (line 6)",
    ]


@pytest.mark.parametrize(
    "text",
    [
        f"providers: [{{slug: p, keys: [{{secret: [{SECRET}]}}]}}]",
        f"providers: [{{slug: p, keys: [{SECRET}]}}]",
        f"providers: [{{slug: p, keys: {SECRET}}}]",
        f"providers: [{{slug: p, keys: [{{secret: '{SECRET} {SECRET}'}}]}}]",
        f"providers: [{{slug: p, keys: [{{secret: {SECRET}}}, {{secret: {SECRET}}}]}}]",
        f"providers: [{{slug: p, keys: [{{secret: *{SECRET}}}]}}]",
        f"providers: [{{slug: p, keys: [{{secret: '{SECRET}",
        f"providers: [{{slug: p, keys: [{{secret: !{SECRET} a}}]}}]",
        f"providers: [{{slug: p, keys: [{{secret: {SECRET}, weight: {SECRET}}}]}}]",
    ],
)
def test_no_message_repeats_a_secret(text: str) -> None:
    assert SECRET not in "".join(problems(text))


def test_a_manifest_does_not_show_its_secrets() -> None:
    assert SECRET not in repr(manifest.read(whole("x")))


def test_the_seeds_are_sound_manifests() -> None:
    for path in manifest.SEEDS.glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        manifest.read(text)
        plan_manifest.read(text)


# -- Applying ------------------------------------------------------------------------------------------------------------------------


def test_everything_a_manifest_says_is_stored(ours: str) -> None:
    apply(whole(ours), environ={"SPARE": f" {SECRET}-spare\n"})
    provider = Provider.objects.get(slug=ours)
    assert (provider.kind, provider.base_url, provider.allow_private) == ("custom", "http://127.0.0.1:9/v1", True)
    keys = {key.name: key for key in provider.keys.all()}
    assert {name: (key.secret(), key.weight) for name, key in keys.items()} == {"main": (SECRET, 3), "spare": (f"{SECRET}-spare", 1)}
    large = Model.objects.get(slug=f"{ours}/large")
    assert (large.name, large.description, large.context, large.max_output, large.usual_output) == (
        "Large",
        "A large one.",
        1_000_000,
        64_000,
        800,
    )
    assert large.capabilities == ["tools", "vision"]
    assert large.source == "price list · https://prices.example · 2026-11-10"
    price = large.prices.get()
    assert (price.effective_from, price.markup_ppm, price.input, price.cache_write) == (NOW, 50_000, 2_500_000_000, 3_125_000_000)
    assert price.long_prompt == {"above": 200_000, "input": 5_000_000_000, "output": 15_000_000_000}
    routes = {(route.upstream_model, route.priority, route.weight, route.format) for route in large.routes.all()}
    assert routes == {("large-1", 1, 2, "chat"), ("4.1", 0, 1, "")}
    gift = Model.objects.get(slug=f"{ours}/gift")
    assert gift.free_daily_requests == 100
    assert pricing.cost(gift.prices.get().frozen(), TokenUsage(input_tokens=10**6, output_tokens=10**6)) == 0
    assert Alias.objects.get(name=f"{ours}-l").model == large


def test_an_image_and_a_request_cost_what_is_written_for_one(ours: str) -> None:
    apply(whole(ours))
    price = Model.objects.get(slug=f"{ours}/large").prices.get().frozen()
    assert pricing.upstream_cost(price, TokenUsage(images=3)) == 3 * 40_000_000 + 1_000


def test_applying_again_changes_nothing_and_bumps_no_version(ours: str) -> None:
    environ = {"SPARE": "sk-spare-key-of-the-test"}
    assert len(apply(whole(ours), environ=environ)) == 11
    before = version()
    assert apply(whole(ours), environ=environ, now=NOW + timedelta(days=1)) == []
    assert version() == before
    assert Price.objects.filter(model__slug=f"{ours}/large").count() == 1


def test_a_dry_run_tells_the_same_and_changes_nothing(ours: str) -> None:
    before = version()
    told = apply(whole(ours), dry_run=True)
    assert not Provider.objects.filter(slug=ours).exists()
    assert version() == before
    assert told == [str(change) for change in manifest.plan_changes(manifest.read(whole(ours)), NOW, environ={})]
    assert told == apply(whole(ours))


def test_the_diff_reads_well(ours: str) -> None:
    small = f"""
providers: [{{slug: {ours}, kind: openai, base_url: "https://a.example", keys: [{{secret: {SECRET}}}]}}]
models:
  - {{slug: {ours}/m, context: 1000, prices: {{input: 2.50, output: 10, image: 0.04}}, routes: [{{provider: {ours}, upstream_model: m}}]}}
aliases: {{{ours}-a: {ours}/m}}
"""
    assert apply(small) == [
        f"+ provider {ours}",
        f"+ key {ours}:default",
        f"+ model {ours}/m",
        f"+ price {ours}/m: input $2.50, output $10.00, image $0.04",
        f"+ route {ours}/m → {ours}:m",
        f"+ alias {ours}-a → {ours}/m",
    ]
    changed = small.replace("2.50", "2.00").replace("image: 0.04", "cached_input: 0.5").replace("1000", "2000, enabled: false")
    changed = changed.replace("upstream_model: m", "upstream_model: n").replace(SECRET, SECRET[::-1])
    assert apply(changed, now=NOW + timedelta(days=1)) == [
        f"~ key {ours}:default: new secret",
        f"~ model {ours}/m: context 1000 → 2000, enabled yes → no",
        f"~ price {ours}/m: input $2.50 → $2.00, image $0.04 → none, cached_input none → $0.50",
        f"+ route {ours}/m → {ours}:n",
        f"- route {ours}/m → {ours}:m",
    ]


def test_a_changed_price_is_a_new_one_and_the_old_one_stays(ours: str) -> None:
    model = f"models: [{{slug: {ours}/m, prices: {{input: 1, output: 2}}}}]"
    apply(model)
    apply(model.replace("output: 2", "output: 3"), now=NOW + timedelta(hours=1))
    prices = list(Price.objects.filter(model__slug=f"{ours}/m").order_by("effective_from").values_list("effective_from", "output"))
    assert prices == [(NOW, 2_000_000_000), (NOW + timedelta(hours=1), 3_000_000_000)]


def test_two_prices_at_one_moment_both_stand(ours: str) -> None:
    model = f"models: [{{slug: {ours}/m, prices: {{input: 1, output: 2}}}}]"
    apply(model)
    apply(model.replace("output: 2", "output: 3"))
    latest = Price.objects.filter(model__slug=f"{ours}/m").latest("effective_from")
    assert latest.output == 3_000_000_000
    assert latest.effective_from > NOW


def test_a_price_that_is_only_worded_otherwise_is_the_same_price(ours: str) -> None:
    apply(f"models: [{{slug: {ours}/m, prices: {{input: 1, output: 2}}}}]")
    assert apply(f"models: [{{slug: {ours}/m, prices: {{input: '1.00', cached_input: 1, output: 2.0, reasoning: 2}}}}]") == []


def test_a_price_that_is_announced_is_left_alone(ours: str) -> None:
    text = f"models: [{{slug: {ours}/m, prices: {{input: 1, output: 2}}}}]"
    apply(text)
    ahead = datetime(2200, 1, 1, tzinfo=UTC)
    Price.objects.create(model=Model.objects.get(slug=f"{ours}/m"), effective_from=ahead, input=5, output=5)
    assert apply(text, now=NOW + timedelta(days=1)) == []
    assert Price.objects.filter(model__slug=f"{ours}/m", effective_from=ahead).exists()


def test_the_markup_is_the_models_own_or_the_installations(ours: str) -> None:
    text = (
        f"models: [{{slug: {ours}/a, prices: {{input: 1, output: 1}}}}, {{slug: {ours}/b, markup: 2.5%, prices: {{input: 1, output: 1}}}}]"
    )
    apply(text, default_markup_ppm=70_000)
    assert Price.objects.get(model__slug=f"{ours}/a").markup_ppm == 70_000
    assert Price.objects.get(model__slug=f"{ours}/b").markup_ppm == 25_000
    assert apply(text, default_markup_ppm=80_000, now=NOW + timedelta(days=1)) == [f"~ price {ours}/a: markup 7% → 8%"]


def test_what_a_manifest_omits_is_left_alone(ours: str) -> None:
    apply(whole(ours))
    assert apply(f"models: [{{slug: {ours}/large, context: 2000000}}]") == [f"~ model {ours}/large: context 1000000 → 2000000"]
    large = Model.objects.get(slug=f"{ours}/large")
    assert (large.name, large.is_enabled, large.routes.count(), large.prices.count()) == ("Large", True, 2, 1)
    assert Model.objects.filter(slug=f"{ours}/gift", is_enabled=True).exists()
    assert ProviderKey.objects.filter(provider__slug=ours).exists()


def test_a_model_without_prices_is_told_of(ours: str) -> None:
    assert f"! model {ours}/m: it has no prices: it is not for sale until it has" in apply(f"models: [{{slug: {ours}/m}}]")


def test_output_that_is_given_away_is_told_of(ours: str) -> None:
    told = apply(f"models: [{{slug: {ours}/m, prices: {{input: 1}}}}]")
    assert f"! price {ours}/m: output tokens cost nothing" in told


def test_an_unread_capability_is_told_of(ours: str) -> None:
    told = apply(f"models: [{{slug: {ours}/m, capabilities: [toools]}}]")
    assert any(line.startswith(f"! model {ours}/m") and "'tools'" in line for line in told)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("models: [{slug: OURS/m, routes: [{provider: OURS-nobody, upstream_model: m}]}]", "models[0].routes[0].provider"),
        ("aliases: {OURS-a: OURS/nothing}", 'aliases["OURS-a"]'),
        ("default_model: OURS/nothing", "default_model"),
        ("providers: [{slug: OURS}]", "providers[0].kind"),
        ("providers: [{slug: OURS, kind: custom}]", "providers[0].base_url"),
        ("providers: [{slug: OURS, kind: custom, base_url: 'http://x.example'}]", "providers[0].base_url"),
        ("providers: [{slug: OURS, kind: openai, keys: [{secret_env: BAD}]}]", "providers[0].keys[0].secret_env"),
    ],
)
def test_what_the_catalog_does_not_know_is_refused_whole(ours: str, text: str, path: str) -> None:
    text = f"models: [{{slug: {ours}/first}}]\n" + text if not text.startswith("models") else text
    text, path = text.replace("OURS", ours), path.replace("OURS", ours)
    with pytest.raises(manifest.InvalidDocument) as caught:
        apply(text, environ={"BAD": "two words"})
    assert [problem.path for problem in caught.value.problems] == [path]
    assert not Model.objects.filter(slug__startswith=ours).exists()
    assert not Provider.objects.filter(slug=ours).exists()


def test_an_alias_and_a_model_never_share_a_name(ours: str) -> None:
    apply(f"models: [{{slug: {ours}/m}}]\naliases: {{{ours}-a: {ours}/m}}")
    for text in (f"models: [{{slug: {ours}-a}}]", f"models: [{{slug: {ours}/n}}]\naliases: {{{ours}/m: {ours}/n}}"):
        with pytest.raises(manifest.InvalidDocument):
            apply(text)


def test_an_alias_can_be_pointed_at_a_model_that_is_new(ours: str) -> None:
    apply(f"models: [{{slug: {ours}/old}}]\naliases: {{{ours}-a: {ours}/old}}")
    told = apply(f"models: [{{slug: {ours}/new}}]\naliases: {{{ours}-a: {ours}/new}}")
    assert f"~ alias {ours}-a: {ours}/old → {ours}/new" in told
    assert Alias.objects.get(name=f"{ours}-a").model.slug == f"{ours}/new"


@pytest.mark.usefixtures("default_model")
def test_the_default_model_can_be_a_new_one(ours: str) -> None:
    text = f"models: [{{slug: {ours}/m}}]\ndefault_model: {ours}/m"
    assert any(line.endswith(f"→ {ours}/m") and line.startswith("~ default model") for line in apply(text))
    head = CatalogVersion.objects.get(pk=1)
    assert head.default_model is not None
    assert head.default_model.slug == f"{ours}/m"
    assert [line for line in apply(text) if "default" in line] == []


def test_a_known_company_needs_no_base_url(ours: str) -> None:
    apply(f"providers: [{{slug: {ours}, kind: anthropic}}]")
    assert Provider.objects.get(slug=ours).base_url == manifest.usual_base_url("anthropic") != ""


# -- Provider keys -------------------------------------------------------------------------------------------------------------------


def test_a_secret_is_sealed_and_never_shown(ours: str) -> None:
    told = apply(whole(ours)) + apply(whole(ours).replace(SECRET, SECRET + "-new"))
    assert SECRET not in "".join(told)
    assert SECRET[-4:] not in "".join(told)
    assert SECRET not in ProviderKey.objects.get(provider__slug=ours, name="main").sealed_secret


def test_an_unchanged_secret_is_not_sealed_again(ours: str) -> None:
    apply(whole(ours))
    key = ProviderKey.objects.get(provider__slug=ours, name="main")
    assert apply(whole(ours).replace("weight: 3", "weight: 4"))[:1] == [f"~ key {ours}:main: weight 3 → 4"]
    again = ProviderKey.objects.get(pk=key.pk)
    assert again.sealed_secret == key.sealed_secret


def test_a_variable_that_is_not_set_gives_a_provider_without_that_key_and_a_note(ours: str) -> None:
    note = f"! key {ours}:spare: SPARE is not set in the environment: no key is stored from it"
    assert note in apply(whole(ours))
    assert list(ProviderKey.objects.filter(provider__slug=ours).values_list("name", flat=True)) == ["main"]
    before = version()
    assert apply(whole(ours)) == [note]
    assert version() == before
    assert apply(whole(ours), environ={"SPARE": SECRET}) == [f"+ key {ours}:spare"]
    assert apply(whole(ours)) == [note]
    assert ProviderKey.objects.filter(provider__slug=ours).count() == 2


def test_a_key_that_its_provider_refused_starts_afresh_with_a_new_secret(ours: str) -> None:
    apply(whole(ours))
    keys = ProviderKey.objects.filter(provider__slug=ours)
    keys.update(is_enabled=False, disabled_reason="401")
    apply(whole(ours))
    assert not keys.get().is_enabled
    apply(whole(ours).replace(SECRET, SECRET + "-new"))
    assert (keys.get().is_enabled, keys.get().disabled_reason) == (True, "")


def test_a_secret_that_no_longer_opens_is_replaced(ours: str) -> None:
    apply(whole(ours))
    ProviderKey.objects.filter(provider__slug=ours).update(sealed_secret="v1.gone.AAAA.AAAA")
    assert f"~ key {ours}:main: new secret" in apply(whole(ours))
    assert ProviderKey.objects.get(provider__slug=ours).secret() == SECRET


# -- Telling others, plans, and the command ------------------------------------------------------------------------------------------


def test_a_change_is_announced_and_no_change_is_not(ours: str) -> None:
    with redis.Redis.from_url(settings.REDIS_URL) as client, client.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(CHANNEL)
        channel.get_message(timeout=5)
        apply(whole(ours))
        message = channel.get_message(timeout=5)
        while message is not None and message["data"] != b"catalog":
            message = channel.get_message(timeout=5)
        assert message is not None


def test_plans_are_made_changed_and_left_alone(ours: str) -> None:
    text = f"plans: [{{slug: {ours}, monthly_input_tokens: 5000000000, allowed_models: ['demo/*'], rpm: 60, price_usd: '49.50'}}]"

    def applied(text: str, *, dry_run: bool = False) -> list[str]:
        return [str(change) for change in plan_manifest.apply(plan_manifest.read(text), now=NOW, dry_run=dry_run)]

    new = f"+ plan {ours}: monthly_input_tokens 5000000000, allowed_models [demo/*], rpm 60, price_usd $49.50"
    assert applied(text, dry_run=True) == [new]
    assert not Plan.objects.filter(slug=ours).exists()
    assert applied(text) == [new]
    assert applied(text) == []
    plan = Plan.objects.get(slug=ours)
    assert (plan.monthly_input_tokens, plan.monthly_output_tokens, plan.price_nano) == (5_000_000_000, None, 49_500_000_000)
    assert applied(f"plans: [{{slug: {ours}, rpm: null, price_usd: 10}}]") == [f"~ plan {ours}: rpm 60 → none, price_usd $49.50 → $10.00"]
    assert Plan.objects.get(slug=ours).allowed_models == ["demo/*"]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("plans: [{rpm: 1}]", "plans[0]"),
        ("plans: [{slug: a, rpm: 0}]", "plans[0].rpm"),
        ("plans: [{slug: a, price_usd: '1.0000000001'}]", "plans[0].price_usd"),
        ("plans: [{slug: a, price_usd: null}]", "plans[0].price_usd"),
        ("plans: [{slug: a, montly_input_tokens: 1}]", "plans[0].montly_input_tokens"),
        ("plans: [{slug: a, allowed_models: ['a b']}]", "plans[0].allowed_models[0]"),
        ("plans: [{slug: a}, {slug: a}]", "plans[1].slug"),
        ("plans: [{slug: a, default: true}, {slug: b, default: true}]", "plans[1].default"),
    ],
)
def test_a_problem_with_a_plan_is_told_with_its_place(text: str, path: str) -> None:
    assert [problem.partition(" ")[0] for problem in problems(text, plan_manifest.read)] == [path]


def run(*arguments: object) -> str:
    out = io.StringIO()
    call_command("apply", *map(str, arguments), stdout=out)
    return out.getvalue()


def test_the_command_applies_files_that_build_on_each_other(ours: str, tmp_path: Path) -> None:
    first, second = tmp_path / "providers.yaml", tmp_path / "models.yaml"
    first.write_text(f"providers: [{{slug: {ours}, kind: custom, base_url: 'https://a.example'}}]\nplans: [{{slug: {ours}}}]")
    second.write_text(f"models: [{{slug: {ours}/m, prices: {{input: 1, output: 1}}, routes: [{{provider: {ours}, upstream_model: m}}]}}]")
    told = run(first, second, "--dry-run")
    assert "dry run" in told
    assert not Provider.objects.filter(slug=ours).exists()
    assert told.splitlines()[:-1] == run(first, second).splitlines()[:-1]
    assert Route.objects.filter(model__slug=f"{ours}/m", provider__slug=ours).exists()
    assert Plan.objects.filter(slug=ours).exists()
    assert run(first, second) == "= nothing to change\n"


def test_the_command_refuses_all_files_when_one_is_wrong(ours: str, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(f"models: [{{slug: {ours}/m}}]")
    for text in ("models: [{slug: a, contxt: 1}]\nplans: [{slug: a, rpmm: 1}]", f"default_model: {ours}/nothing"):
        bad.write_text(text)
        with pytest.raises(CommandError, match=re.escape(str(bad))):
            run(good, bad)
    with pytest.raises(CommandError, match="cannot be read"):
        run(good, tmp_path / "missing.yaml")
    assert not Model.objects.filter(slug=f"{ours}/m").exists()
