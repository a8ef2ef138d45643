"""The pages for everybody: they render, their links lead somewhere, their headings and labels are in order, and they tell nothing of anyone's."""

import json
import re
import uuid
from collections import deque
from collections.abc import Iterator
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from billing import service_health
from billing.models import UsageSlot
from catalog.models import Alias, Model, Price, Provider
from catalog.money import nano_from_usd
from gateway_site import markdown
from gateway_site.public import docs, status
from keys.models import ApiKey
from tests.accounts.people import House
from tests.conftest import make_model

pytestmark = pytest.mark.filterwarnings("ignore:No directory at")

PUBLIC = (
    "/",
    "/models",
    "/status",
    "/docs",
    "/docs/reference",
    "/docs/reference/management",
    *(f"/docs/{page.slug}" for page in docs.PAGES),
)
ELSEWHERE = ("/user/", "/admin", "/static/")  # pages of others, and files


class Reader(HTMLParser):
    """What a page links to, and what a screen reader hears of it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.headings: list[int] = []
        self.controls: list[dict[str, str | None]] = []
        self.labelled: set[str] = set()
        self.images: list[dict[str, str | None]] = []
        self.scripts_inline = self.styles_inline = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if tag in ("a", "link") and given.get("href"):
            self.links.append(str(given["href"]))
        elif tag == "img":
            self.images.append(given)
            self.links.append(str(given["src"]))
        elif re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        elif tag in ("input", "select", "textarea") and given.get("type") not in ("hidden", "checkbox-hack"):
            self.controls.append(given)
        elif tag == "label" and given.get("for"):
            self.labelled.add(str(given["for"]))
        if tag == "script" and not given.get("src") and given.get("type") != "application/json":
            self.scripts_inline += 1
        if tag == "style" or "style" in given or any(name.startswith("on") for name in given):
            self.styles_inline += 1


def read(address: str, client: Client | None = None) -> Reader:
    answer = (client or Client()).get(address)
    assert answer.status_code == 200, address
    return Reader(answer.content.decode())


@pytest.fixture
def model() -> Iterator[Model]:
    """A model for sale, with every kind of price."""
    slug = make_model(
        "http://127.0.0.1:9", "upstream", capabilities=["tools", "vision"], context=250_000, description="A model of the tests."
    )
    found = Model.objects.get(slug=slug)
    Alias.objects.create(name=f"alias-{uuid.uuid4().hex[:12]}", model=found)
    Price.objects.create(
        model=found,
        effective_from=timezone.now() - timedelta(minutes=1),
        input=nano_from_usd("3"),
        cached_input=nano_from_usd("0.3"),
        output=nano_from_usd("15"),
        long_prompt={"above": 200_000, "input": nano_from_usd("6")},
        markup_ppm=100_000,
    )
    yield found
    found.is_enabled = False  # the lists of other tests need not have it
    found.save()


# -- Every page ------------------------------------------------------------------------------------------------------------------------


def test_every_link_of_every_public_page_leads_somewhere_and_every_fragment_is_there(model: Model) -> None:
    client, todo, seen, ids = Client(), deque(["/"]), {"/"}, dict[str, set[str]]()
    wanted: list[tuple[str, str, str]] = []
    while todo:
        address = todo.popleft()
        answer = client.get(address)
        assert answer.status_code in (200, 302), address
        if "html" not in answer.headers.get("Content-Type", "") or address.startswith(ELSEWHERE):
            continue
        page = Reader(answer.content.decode())
        ids[address] = set(page.ids)
        for link in page.links:
            there = urlsplit(urljoin(f"http://testserver{address}", link))
            if there.netloc != "testserver" or there.path.startswith("/static/"):
                continue
            target = there.path + (f"?{there.query}" if there.query else "")
            if there.fragment:
                wanted.append((address, target, there.fragment))
            if target not in seen and not there.path.startswith("/models/"):
                seen.add(target)
                todo.append(target)
    assert set(PUBLIC) <= seen
    assert [(page, there, name) for page, there, name in wanted if there in ids and name not in ids[there]] == []


@pytest.mark.parametrize("address", PUBLIC)
def test_a_page_has_a_title_one_first_heading_no_level_left_out_and_a_label_for_every_control(address: str) -> None:
    page = read(address)
    assert page.headings.count(1) == 1
    assert [(a, b) for a, b in zip(page.headings, page.headings[1:], strict=False) if b > a + 1] == []
    unnamed = [each for each in page.controls if each.get("id") not in page.labelled and not each.get("aria-label")]
    assert unnamed == []
    assert all(image.get("alt") is not None for image in page.images)
    assert len(page.ids) == len(set(page.ids)), "an id twice"
    assert page.scripts_inline == page.styles_inline == 0


def test_the_public_pages_set_no_cookie_but_the_one_of_forms_and_ask_no_session(model: Model) -> None:
    for address in PUBLIC:
        assert "sessionid" not in Client().get(address).cookies, address


# -- Documentation -----------------------------------------------------------------------------------------------------------------------


def test_our_markdown_is_read_as_the_reference_implementation_reads_it() -> None:
    reference = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True}).enable("table")
    for page in (*docs.PAGES, docs.INDEX):
        text = re.sub(r"<!--.*?-->\s*", "", (docs.FOLDER / page.file).read_text(encoding="utf-8"), flags=re.DOTALL)
        assert outline(markdown.render(text)) == outline(reference.render(text)), page.file


class Outline(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.in_button = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.in_button = self.in_button or tag == "button"
        if tag in ("h1", "h2", "h3", "li", "td", "th", "code", "pre", "strong", "ul", "ol", "table"):
            self.found.append(f"<{tag}>")

    def handle_endtag(self, tag: str) -> None:
        self.in_button = False if tag == "button" else self.in_button

    def handle_data(self, data: str) -> None:
        if not self.in_button:
            self.found.append("".join(data.split()))


def outline(html: str) -> str:
    reader = Outline()
    reader.feed(html)
    return "".join(reader.found)


def test_markup_in_a_page_is_shown_and_not_obeyed() -> None:
    shown = markdown.render(
        '# <b>x</b>\n\n<script>alert(1)</script> `<i>` [<u>](/a"b)\n\n```\n<img src=x>\n```\n\n| <s> |\n|---|\n| <s> |\n'
    )
    assert re.findall(r"<(?:b|script|i|u|img|s)[ >]", shown) == []


def test_the_docs_speak_of_the_address_that_was_called_and_not_of_an_example() -> None:
    for page in docs.PAGES:
        for address in (f"/docs/{page.slug}", f"/docs/{page.slug}.md"):
            assert "gateway.example" not in Client().get(address).content.decode()
    assert "http://testserver/v1" in Client().get("/docs/quickstart").content.decode()


def test_a_page_is_there_as_markdown_with_links_to_its_like() -> None:
    answer = Client().get("/docs/quickstart.md")
    assert answer.headers["Content-Type"] == "text/markdown; charset=utf-8"
    assert answer.content.decode().startswith("# Quickstart")
    assert "](/docs/errors.md)" in answer.content.decode()
    assert Client().get("/docs/index.md").content.decode().startswith("# Documentation")
    for name in ("/docs/architecture", "/docs/operations.md", "/docs/..%2FREADME.md", "/docs/none"):
        assert Client().get(name).status_code == 404


def test_language_models_find_every_page_and_all_of_them_in_one_file() -> None:
    listed = Client().get("/llms.txt").content.decode()
    assert listed.startswith("# Tollgate\n\n> ")
    for address in re.findall(r"\]\(http://testserver(/[^)]*)\)", listed):
        assert Client().get(address).status_code == 200, address
    whole = Client().get("/llms-full.txt").content.decode()
    for page in docs.PAGES:
        assert f"/docs/{page.slug}.md" in listed
        assert markdown.headings((docs.FOLDER / page.file).read_text(encoding="utf-8"))[0].text in whole


def test_the_help_of_every_error_stands_on_the_page_of_errors() -> None:
    from proxy import errors

    ids = set(read("/docs/errors").ids)
    assert {entry.code for entry in (*errors.TABLE.values(), errors.INTERNAL)} <= ids


def test_a_member_finds_the_key_that_the_list_shows_in_the_examples_and_a_stranger_does_not() -> None:
    house, other = House(), House()
    key, secret = issue(house)
    recognised = f"{key.start}…{key.last_four}"
    page = house.browser("developer").get("/docs/quickstart").content.decode()
    assert f"Bearer {recognised}" in page
    assert secret not in page
    for browser in (Client(), other.browser("owner")):
        assert key.last_four + "&quot;" not in browser.get("/docs/quickstart").content.decode()
        assert recognised not in browser.get("/docs/quickstart").content.decode()


def issue(house: House) -> tuple[ApiKey, str]:
    from keys import issuing

    return issuing.issue(account=house.account, name="main", now=timezone.now())


# -- Models --------------------------------------------------------------------------------------------------------------------------------


def test_the_list_shows_what_is_for_sale_at_the_customers_price(model: Model) -> None:
    page = Client().get(f"/models?q={model.slug}").content.decode()
    assert "$3.30" in page  # with the markup
    assert "$16.50" in page
    assert "1 of " in page


@pytest.mark.parametrize(
    ("query", "is_shown"),
    [
        ("kind=text", True), ("kind=image", False), ("provider=fake", True), ("provider=openai", False), ("capability=vision", True),
        ("capability=audio_in", False), ("context=200000", True), ("context=1000000", False), ("free=yes", False), ("order=price", True),
        ("order=context", True), ("order=newest", True), ("order=%00&context=-1&kind=%3Cb%3E", False), ("context=99999999999999999999", True),
    ],
)  # fmt: skip
def test_every_filter_is_in_the_address_and_nonsense_in_it_harms_nothing(model: Model, query: str, is_shown: bool) -> None:
    answer = Client().get(f"/models?q={model.slug}&{query}")
    assert answer.status_code == 200
    assert (f'href="/models/{model.slug}"' in answer.content.decode()) == is_shown


def test_a_models_page_has_every_price_with_its_tier_and_its_capabilities(model: Model) -> None:
    page = Client().get(f"/models/{model.slug}").content.decode()
    for text in ("$3.30", "$6.60", "$0.33", "$16.50", "Prompts above 200,000 tokens", "vision", "250,000", "A model of the tests."):
        assert text in page, text
    assert read(f"/models/{model.slug}").headings.count(1) == 1


def test_an_alias_leads_to_its_model_and_what_is_not_for_sale_is_not_found(model: Model) -> None:
    alias = model.aliases.get().name
    assert Client().get(f"/models/{alias}").headers["Location"] == f"/models/{model.slug}"
    model.is_enabled = False
    model.save()
    for name in (model.slug, "none", "a%00b"):
        assert Client().get(f"/models/{name}").status_code == 404


def test_a_longer_list_asks_no_more_queries(model: Model) -> None:
    status._recent.cache_clear()
    with CaptureQueriesContext(connection) as queries:
        Client().get("/models")
    assert len(queries) <= 6, [query["sql"] for query in queries]


# -- Status --------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def traffic(model: Model) -> tuple[Model, str, House]:
    """A model with some traffic in the last minutes; its provider's name, and whose traffic it was."""
    status._recent.cache_clear()
    cache.clear()
    house = House()
    key, _ = issue(house)
    provider = model.routes.get().provider.slug
    now = timezone.now()
    slot = now - (now - service_health._ORIGIN) % timedelta(minutes=15)
    UsageSlot.objects.create(
        account=house.account, key=key, model=model.slug, provider=provider, starts_at=slot, requests=50, errors=2,
        latency_ms=50 * 800, timed=50, first_token_ms=50 * 200, first_timed=50, cost=123_456_789,
    )  # fmt: skip
    return model, provider, house


@pytest.mark.parametrize("window", ["hour", "day", "week"])
def test_the_status_page_shows_models_and_providers_by_real_traffic(traffic: tuple[Model, str, House], window: str) -> None:
    model, provider, _ = traffic
    page = Client().get(f"/status?window={window}").content.decode()
    for text in (model.slug, provider, "96.0 % ended well", "first token 200 ms", "whole answer 800 ms", "Some trouble"):
        assert text in page, text


def test_the_status_page_tells_nothing_of_accounts_and_no_counts(traffic: tuple[Model, str, House]) -> None:
    page = Client().get("/status").content.decode()
    _, _, house = traffic
    for secret in (house.account.slug, house.account.name, "123456789", "0.123456", house.user("owner").email, ">50<"):
        assert secret not in page


def test_an_operator_can_hide_the_providers(traffic: tuple[Model, str, House], settings: Any) -> None:
    settings.STATUS_SHOWS_PROVIDERS = False
    model, provider, _ = traffic
    page = Client().get("/status").content.decode()
    assert model.slug in page
    assert provider not in page


def test_the_demo_provider_and_what_is_no_longer_for_sale_are_left_out(traffic: tuple[Model, str, House]) -> None:
    model, provider, _ = traffic
    Provider.objects.filter(slug=provider).update(kind=Provider.Kind.DEMO)
    status._recent.cache_clear()
    assert model.slug not in Client().get("/status").content.decode()


def test_the_steps_without_requests_are_one_and_the_same_for_all(traffic: tuple[Model, str, House]) -> None:
    model, _, _ = traffic
    slot = UsageSlot.objects.get(model=model.slug)
    slot.pk, slot.model = None, f"{model.slug}-b"
    slot.save()
    found = service_health.by("model", service_health.WINDOWS["week"], now=slot.starts_at)
    one, other = found[model.slug].steps, found[slot.model].steps
    assert [step.requests for step in one] == [0] * 27 + [50]
    assert all(mine is theirs for mine, theirs in zip(one[:-1], other[:-1], strict=True))


def test_few_requests_are_not_judged() -> None:
    assert service_health.judge(4, 4, least=5) == "none"
    assert [service_health.judge(1000, errors, least=5) for errors in (0, 10, 11, 100, 101)] == ["good", "good", "warn", "warn", "bad"]


def test_the_status_page_says_that_the_data_plane_of_this_process_does_not_run() -> None:
    assert "Requests are refused for now." in Client().get("/status").content.decode()


def test_a_gateway_that_works_says_so(gateway: Any) -> None:
    import httpx

    page = httpx.get(f"{gateway.origin}/status").text
    assert "Requests are answered." in page
    assert json.loads(httpx.get(f"{gateway.origin}/readyz").text)["problems"] == {}
