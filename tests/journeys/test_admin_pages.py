"""Every page of the admin, looked at by a real browser as those of customers are: quiet, as narrow as a phone, accessible, light and dark.

The pages are those of the admin's URL table, with a row of everything in it (`tests.admin.test_admin.world`), and what some of them become
once they are posted. Beside what axe finds, each page is asked what axe does not: whether all that a click opens is reached by a keyboard,
whether an icon's name would be read aloud, and whether the descriptions that controls point to are there.

Forms of models are opened; of all other pages, whose scripts are the same, only what is in the frame is exchanged, which takes a third of
the time.
"""

import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from django.utils.html import strip_tags

from accounts.models import Account, User
from billing.models import ProviderInvoice, TopUp, UsageRecord
from catalog.models import Model, Provider, Route
from gateway_site.admin_base import ReadOnlyAdmin
from keys.models import ApiKey
from tests.admin.staff import browser_of, new_staff
from tests.admin.test_admin import address, world  # noqa: F401 - a fixture
from tests.conftest import Gateway
from tests.journeys.browser import Complaints, browser, settle, sign_in, watch  # noqa: F401 - a fixture
from tests.journeys.test_all_pages import AXE, PHONE, inaccessible, told

DESK = {"width": 1280, "height": 900}
HOME = f"/{settings.ADMIN_PATH}/"
# What a program asks for, what only sends elsewhere, and what is posted alone.
NO_PAGES = {"search", "autocomplete", "jsi18n", "view_on_site", "logout", "login", "password_change_done", "end_impersonation", None}
ONCE = ("_history", "_delete", "app_list")  # one template for all tables, with nothing of theirs in it: one of each will do
SIDEBAR = "#nav-sidebar"  # the same everywhere: looked at once, on the first page
MANIFEST = (
    "providers: [{{slug: acme-{name}, kind: custom, base_url: https://acme.example/v1}}]\nmodels: [{{slug: acme/{name}, kind: text}}]\n"
)
FEW_ROWS = """() => document.querySelectorAll("#result_list tbody:nth-of-type(n + 4)").forEach((row) => row.remove())"""
EXCHANGE = """async (address) => {
    const answer = await fetch(address);
    if (!answer.ok || answer.redirected || !(answer.headers.get("content-type") ?? "").startsWith("text/html")) return answer.status;
    const found = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.title = found.title;
    document.getElementById("main").replaceWith(document.adoptNode(found.getElementById("main")));
    await new Promise((done) => Alpine.nextTick(() => setTimeout(done)));
    return 0;
}"""
LOOKS = """() => {
    const told = (element) => element.outerHTML.slice(0, 160);
    return [
        ["wider than the window", document.documentElement.scrollWidth > innerWidth ? [...document.querySelectorAll("body *")].filter((each) =>
            each.getBoundingClientRect().right > innerWidth + 1 && each.checkVisibility()).map(told) : []],
        ["not one h1", document.querySelectorAll("h1").length === 1 ? [] : [`${document.querySelectorAll("h1").length}`]],
        ["no title", /^[^|]*\\w/.test(document.title) ? [] : [document.title]],
        ["an icon's name is read", [...document.querySelectorAll(".material-symbols-outlined")].filter((icon) =>
            !icon.closest("[aria-hidden='true'], [aria-label]")).map(told)],
        ["a keyboard does not reach it", [...document.querySelectorAll("[x-on\\\\:click]")].filter((each) =>
            each.checkVisibility() && each.tabIndex < 0).map(told)],
        ["described by what is not there", [...document.querySelectorAll("[aria-describedby]")].filter((each) =>
            each.getAttribute("aria-describedby").split(" ").some((id) => !document.getElementById(id))).map(told)],
    ].filter(([, found]) => found.length).map(([what, found]) => `${what}: ${found[0]} (${found.length} times)`);
}"""
REPORTED = 'document.addEventListener("securitypolicyviolation", (event) => console.error("CSP: " + event.violatedDirective));'


@pytest.fixture(scope="module")
def operator(_database: None) -> User:
    return new_staff(superuser=True)


@pytest.fixture
def page(browser: Any, gateway: Gateway, operator: User) -> Iterator[Any]:  # noqa: F811
    """A page of the operator's, on a phone."""
    context = browser.new_context(base_url=gateway.origin, viewport=PHONE, reduced_motion="reduce")
    context.set_default_timeout(20_000)
    context.add_init_script(REPORTED)
    page = context.new_page()
    page.complaints, page.origin = Complaints(), gateway.origin
    watch(page)
    sign_in(page, operator)
    yield page
    context.close()


def patterns(resolver: URLResolver, before: str = "") -> Iterator[tuple[str, str | None]]:
    """The URL table of the admin: address and name of each."""
    for each in resolver.url_patterns:
        if isinstance(each, URLPattern):
            yield before + str(each.pattern), each.name
        else:
            yield from patterns(each, before + str(each.pattern))


def pages(rows: dict[Any, Any]) -> dict[str, str]:
    """The address of every page of the admin, by its name; what has no row there fails."""
    (resolver,) = [each for each in get_resolver().url_patterns if isinstance(each, URLResolver) and each.namespace == "admin"]
    models = {f"{model._meta.app_label}_{model._meta.model_name}": model for model in admin.site._registry}
    found: dict[str, str] = {}
    for pattern, name in patterns(resolver):
        if name in NO_PAGES or name is None:
            continue
        model = next((models[each] for each in models if name.startswith(f"{each}_")), User)
        filled = {"object_id": quote(rows[model].pk), "id": rows[User].pk, "app_label": "billing"}
        found[name] = reverse(f"admin:{name}", args=[filled[each] for each in re.findall(r"<(?:\w+:)?(\w+)>", pattern)])
    return found


def is_form(name: str) -> bool:
    """Whether a page is the form of a model: it has scripts of its own."""
    writable = [model._meta for model, model_admin in admin.site._registry.items() if not isinstance(model_admin, ReadOnlyAdmin)]
    return any(name in (f"{meta.app_label}_{meta.model_name}_add", f"{meta.app_label}_{meta.model_name}_change") for meta in writable)


def faults_of(page: Any, *, leave_out: tuple[str, ...] = (SIDEBAR,)) -> list[str]:
    """What is wrong with the page as it is shown now."""
    settle(page)
    page.evaluate(FEW_ROWS)
    return [*page.complaints.found, *page.evaluate(LOOKS), *_inaccessible(page, leave_out=leave_out)]


def _inaccessible(page: Any, **options: Any) -> list[str]:
    return inaccessible(page, **options) if AXE.exists() else []


@pytest.mark.timeout(300)  # some two hundred addresses; on a machine that is busy otherwise they take their time
@pytest.mark.parametrize("kind", ["forms", "others"])
def test_every_page_of_the_admin_is_quiet_narrow_and_accessible(page: Any, world: dict[Any, Any], kind: str) -> None:  # noqa: F811
    faults: dict[str, list[str]] = {}
    shown: list[str] = []
    page.goto(HOME)
    if kind == "others" and (wrong := faults_of(page, leave_out=())):
        faults[HOME] = wrong
    for name, where in pages(world).items():
        once = next((each for each in ONCE if name.endswith(each)), None)
        if is_form(name) != (kind == "forms") or (once and any(other.endswith(once) for other in shown)):
            continue
        page.complaints.found.clear()
        if kind == "forms":
            status = page.goto(where).status
            opens = status == 200 and page.url.endswith(where)
        else:
            status = page.evaluate(EXCHANGE, where)
            opens = status == 0
        if status >= 400 and status != 403:
            faults[where] = [f"status {status}"]
        elif opens:
            shown.append(name)
            if wrong := faults_of(page):
                faults[where] = wrong
    assert not faults, told(faults)
    assert len(shown) > (20 if kind == "forms" else 90), sorted(shown)


def opened(page: Any, rows: dict[Any, Any]) -> Iterator[str]:
    """Open one page after the other of those that have each of the theme's parts in them, and those that come of a posted form."""
    plain = (
        HOME,
        address(UsageRecord, "changelist"),
        address(UsageRecord, "change", quote(rows[UsageRecord].pk)),
        address(Model, "change", quote(rows[Model].pk)),
        address(User, "change", quote(rows[User].pk)),
        address(ProviderInvoice, "margin"),
        address(TopUp, "changelist") + "?q=nothing-is-called-this",
    )
    for where in plain:
        page.goto(where)
        yield where
    Model.objects.get_or_create(slug=f"{rows[Model].slug}-two")  # a single find would open at once
    page.goto(reverse("admin:find"))
    page.get_by_label("Search everything").fill(rows[Model].slug)
    page.get_by_role("button", name="Search", exact=True).click()
    page.get_by_role("list", name="Found").wait_for()
    yield "what the search finds"
    page.goto(reverse("admin:manifest"))
    page.get_by_label("Text").fill(MANIFEST.format(name=uuid.uuid4().hex))
    page.get_by_role("button", name="Show what it changes").click()
    page.get_by_role("button", name="Apply 2 changes").wait_for()
    yield "what a manifest changes"
    page.goto(address(ApiKey, "add"))
    page.get_by_role("button", name="Issue").click()
    page.get_by_text("This field is required.").first.wait_for()
    yield "a form that is not taken"
    page.get_by_label("Account").select_option(str(rows[Account].pk))
    page.get_by_label("Name").fill("seen once")
    page.get_by_role("button", name="Issue").click()
    page.locator("#secret").wait_for()
    yield "a secret, shown once"


def test_the_parts_of_the_admin_are_accessible_at_a_desk_in_the_dark(page: Any, world: dict[Any, Any]) -> None:  # noqa: F811
    faults: dict[str, list[str]] = {}
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size(DESK)
    for where in opened(page, world):
        if wrong := faults_of(page):
            faults[where] = wrong
        page.set_viewport_size(PHONE)
        if wrong := page.evaluate(LOOKS):
            faults.setdefault(where, []).extend(f"phone: {each}" for each in wrong)
        page.set_viewport_size(DESK)
        page.complaints.found.clear()
    assert not faults, told(faults)


# -- Without a mouse -------------------------------------------------------------------------------------------------------------------


def test_the_admin_is_worked_by_keyboard(page: Any) -> None:
    page.goto(HOME)
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Skip to the content"
    opener = page.get_by_role("button", name="Navigation", expanded=False).and_(page.locator(":visible"))
    opener.press("Enter")
    closer = page.get_by_role("button", name="Close the navigation")
    closer.and_(page.locator(":focus")).wait_for()
    page.get_by_role("link", name="Wallets", exact=True).wait_for()
    page.keyboard.press("Escape")
    opener.and_(page.locator(":focus")).wait_for()
    assert not page.get_by_role("link", name="Wallets", exact=True).is_visible()
    page.complaints.none()


def test_the_theme_is_chosen_by_keyboard(page: Any, operator: User) -> None:
    page.set_viewport_size(DESK)
    page.goto(HOME)
    page.get_by_role("button", name=operator.email, expanded=False).press("Enter")
    page.get_by_role("button", name="Dark", exact=True).press(" ")
    page.locator("html.dark").wait_for()
    page.complaints.none()


def test_filters_are_opened_and_left_by_keyboard(page: Any) -> None:
    page.goto(address(UsageRecord, "changelist"))
    opener = page.get_by_role("button", name="Filters", exact=True)
    opener.press("Enter")
    page.get_by_role("button", name="Close the filters").and_(page.locator(":focus")).wait_for()
    page.keyboard.press("Escape")
    opener.and_(page.locator(":focus")).wait_for()
    assert opener.get_attribute("aria-expanded") == "false"
    page.complaints.none()


def test_a_row_of_another_table_is_taken_out_by_keyboard(page: Any, world: dict[Any, Any]) -> None:  # noqa: F811
    page.goto(address(Model, "change", quote(world[Model].pk)))
    page.locator("#aliases-group").get_by_role("button", name="Remove").first.press("Enter")
    assert page.locator("#id_aliases-0-DELETE").is_checked()
    page.complaints.none()


def test_what_stands_for_a_long_select_is_called_as_its_label_says(page: Any) -> None:
    page.goto(address(Route, "add"))
    page.get_by_role("combobox", name="Provider").wait_for()
    page.complaints.none()


# -- What the pages say ----------------------------------------------------------------------------------------------------------------


def test_the_heading_of_a_page_ends_in_what_is_done_there(operator: User, world: dict[Any, Any]) -> None:  # noqa: F811
    client, provider = browser_of(operator), world[Provider]
    for where, title in (
        (address(ApiKey, "add"), "Issue a key"),
        (address(Provider, "close_breakers", provider.pk), f"Close breakers of {provider}"),
    ):
        (heading,) = re.findall(r"<h1.*?</h1>", client.get(where).content.decode(), re.DOTALL)
        assert strip_tags(heading).strip().endswith(title), heading


def test_moments_have_their_zone(operator: User, world: dict[Any, Any]) -> None:  # noqa: F811
    html = browser_of(operator).get(address(UsageRecord, "change", quote(world[UsageRecord].pk))).content.decode()
    assert f">{world[UsageRecord].started_at:%Y-%m-%d %H:%M} UTC<" in html


def test_a_search_that_finds_nothing_offers_the_whole_list(operator: User) -> None:
    html = browser_of(operator).get(address(TopUp, "changelist"), {"q": "nothing-is-called-this"}).content.decode()
    assert "Nothing matches" in html
    assert '<a href="?"' in html
