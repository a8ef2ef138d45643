"""Every page there is, looked at by a real browser: no complaint of the console or the policy, nothing wider than a phone, light, and accessible.

The pages are those of the URL table, for the owner of the sample account (whose tables and charts are full) and for a stranger. What an
address needs to be filled in with is in `FILLED`: a new page with a new kind of variable has to say here what an example of it is.
"""

import gzip
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts import invitations
from accounts.models import Account, Membership, OutboxMessage
from billing import ledger, sample
from billing.models import Plan, Subscription, TopUp, UsageRecord, Wallet
from billing.notices import endpoints
from catalog.models import CatalogVersion, Model
from tests.accounts.people import House, new_person
from tests.journeys import browser as browser_fixtures
from tests.journeys.browser import Complaints, settle, sign_in, watch
from tests.routes import ROUTES, Route

browser = browser_fixtures.browser  # the fixture
AXE = Path(__file__).parent / "node" / "node_modules" / "axe-core" / "axe.min.js"
PHONE = {"width": 375, "height": 812}
MOST_BYTES = 100_000  # gzipped: the page with all it loads for the first time
FOR_SALE = "plan-to-look-at"
GRAVE = ("serious", "critical")
STANDARDS = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa")
# Pages, not what programs read; a download is no page either.
NO_PAGES = re.compile(
    r"^(healthz|readyz|metrics|openapi\.json|llms.*\.txt|webhooks/stripe/?|unsubscribe/|v1|api/v1)|\.(csv|jsonl?|json|md)$|/download/$"
)
LEAVES = re.compile(r"^user/(logout|3rdparty/login|social|inactive|3rdparty/signup)")
# For who has a second factor, has just signed in by one, or is staff: not for her.
OTHERS = re.compile(r"^admin$|^user/(.*reauthenticate/|2fa/recovery-codes/.*|2fa/totp/deactivate/|2fa/authenticate/|2fa/webauthn/keys/.*)$")
ANY = re.compile(r"<(?:\w+:)?(\w+)>")
LOOKS = """() => ({
    width: document.documentElement.scrollWidth,
    widest: [...document.querySelectorAll("body *")].filter((one) => one.getBoundingClientRect().right > innerWidth + 1
        && !one.closest("[class*=wrap], pre, .tabs, .visually-hidden, .skip")).slice(0, 3).map((one) => one.tagName + "." + one.className),
    title: document.title,
    headings: document.querySelectorAll("h1").length,
    images: [...document.images].filter((image) => !image.hasAttribute("alt")).length,
})"""


@pytest.fixture(scope="module")
def account(gateway: Any) -> Iterator[Account]:
    """The sample account, or another where it is not made yet: with a member to look, a key, requests, an invitation."""
    from django.core.management import call_command

    CatalogVersion.objects.get_or_create(pk=1)
    call_command("apply", "catalog/seeds/demo.yaml", verbosity=0)
    gateway.sees_catalog()
    owner = new_person(name="Ada Lovelace")
    made = sample.make(owner_email=owner.email, now=timezone.now())
    yield made
    sample.remove(made)
    Plan.objects.filter(slug=FOR_SALE).delete()


def owner_of(account: Account) -> Any:
    return account.memberships.get(role=Membership.Role.OWNER).user


@pytest.fixture(scope="module")
def filled(account: Account) -> dict[str, str]:
    record = UsageRecord.objects.filter(account=account, status="ok").latest("started_at")
    by = Membership.objects.get(account=account, role=Membership.Role.OWNER)
    invitations.invite(by=by, email="grace@example.com", role="viewer", link="invitations/{secret} ", now=timezone.now())
    mail = OutboxMessage.objects.filter(account=account, recipient="grace@example.com").latest("pk")
    secret = re.findall(r"invitations/(\S+)", mail.content["text"])[0]
    now, wallet = timezone.now(), Wallet.objects.get(account=account)
    plan = Plan.objects.create(slug=FOR_SALE, name="For sale", price_nano=10**10, stripe_price_id="price_for_sale")
    top_up = TopUp.objects.create(wallet=wallet, kind="checkout", state="expired", credit_nano=10**10, charge_minor=1000)
    bought = Subscription.objects.create(account=account, plan=plan, status="canceled")
    endpoint, _ = endpoints.create(account=account, url="https://hooks.example/tollgate", events=[], actor=by.user, now=now)
    return {
        "plan_slug": plan.slug,
        "top_up_id": str(top_up.pk),
        "subscription_id": str(bought.pk),
        "endpoint_id": str(endpoint.pk),
        "slug": account.slug,
        "key_id": str(account.keys.first().pk),  # type: ignore[union-attr]
        "request_id": str(record.pk),
        "month": f"{timezone.now():%Y-%m}",
        "page": "quickstart",
        "name": Model.objects.get(slug="demo/echo").slug,
        "secret": secret,
    }


def is_page(pattern: str, route: Route) -> bool:
    """Whether a person can look at it."""
    closed = route.policy in ("key", "staff") or route.only_post or pattern.startswith("user/^")
    return not closed and not any(what.search(pattern) for what in (NO_PAGES, LEAVES, OTHERS))


def pages(filled: dict[str, str], *, signed_in: bool = True) -> list[str]:
    """Every address that a person can look at; for who is not signed in, those that do not only lead to the sign-in page."""
    patterns = [pattern for pattern, route in ROUTES.items() if is_page(pattern, route) and (signed_in or route.policy == "public")]
    return sorted({"/" + ANY.sub(lambda match: filled[match[1]], pattern) for pattern in patterns})


def test_every_variable_of_a_page_has_an_example(filled: dict[str, str]) -> None:
    pages_of = {name for pattern, route in ROUTES.items() if is_page(pattern, route) for name in ANY.findall(pattern)}
    assert pages_of - set(filled) == set()


@pytest.mark.timeout(300)  # some sixty pages; on a machine that is busy otherwise they take their time
@pytest.mark.parametrize("who", ["owner", "stranger"])
def test_every_page_is_quiet_narrow_light_and_accessible(
    browser: Any, gateway: Any, account: Account, filled: dict[str, str], who: str
) -> None:
    context = browser.new_context(base_url=gateway.origin, viewport=PHONE)
    context.set_default_timeout(20_000)
    context.add_init_script(
        'document.addEventListener("securitypolicyviolation", (event) => console.error("CSP: " + event.violatedDirective + " " + event.blockedURI));'
    )
    page = context.new_page()
    page.complaints, page.origin = Complaints(), gateway.origin
    watch(page)
    if who == "owner":
        sign_in(page, owner_of(account))
    faults: dict[str, list[str]] = {}
    shown: set[str] = set()
    try:
        for address in pages(filled, signed_in=who == "owner"):
            found = visit(page, address, shown)
            if found:
                faults[address] = found
    finally:
        context.close()
    assert not faults, told(faults)
    assert len(shown) > (40 if who == "owner" else 12), sorted(shown)


def visit(page: Any, address: str, shown: set[str]) -> list[str]:
    """Look at one page as it is on a phone; what is wrong with it. Where an address leads to what was `shown`, that is not looked at again."""
    page.complaints.found.clear()
    answer = page.goto(address, wait_until="load")
    here = page.url.split("?")[0]
    faults = list(page.complaints.found)
    if here in shown or "text/html" not in answer.headers.get("content-type", ""):
        return faults
    shown.add(here)
    looks = page.evaluate(LOOKS)
    if answer.status >= 400:
        faults.append(f"status {answer.status}")
    if looks["width"] > PHONE["width"]:
        faults.append(f"{looks['width']} px wide: {looks['widest']}")
    if not looks["title"].strip() or looks["title"].startswith("·"):
        faults.append("no title")
    if looks["headings"] != 1:
        faults.append(f"{looks['headings']} h1")
    if looks["images"]:
        faults.append(f"{looks['images']} images without alt")
    return faults + (inaccessible(page) if AXE.exists() else [])


def told(faults: dict[str, list[str]]) -> str:
    return "".join(f"\n{address}: {fault}" for address, found in faults.items() for fault in found)


def inaccessible(page: Any, *, rules: tuple[str, ...] = STANDARDS, leave_out: tuple[str, ...] = ()) -> list[str]:
    """What axe finds that is serious, outside of the selectors in `leave_out`. The debugger puts it in: the page's policy stays as it is."""
    settle(page)
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(AXE.read_text())
    results = page.evaluate(
        "([rules, left]) => axe.run({exclude: left}, {resultTypes: ['violations'], runOnly: rules})",
        [rules, [[each] for each in leave_out]],
    )
    return [
        f"{each['id']}: {each['nodes'][0]['target']} {each['nodes'][0].get('failureSummary', '')[:200]!r} ({len(each['nodes'])} times)"
        for each in results["violations"]
        if each["impact"] in GRAVE
    ]


def test_the_accessibility_of_pages_is_looked_at() -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not installed (make node-sdks)")


@pytest.mark.parametrize("theme", ["dark"])
def test_the_fullest_pages_are_accessible_in_the_dark(browser: Any, gateway: Any, account: Account, theme: str) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not installed (make node-sdks)")
    context = browser.new_context(base_url=gateway.origin, viewport={"width": 1280, "height": 900}, color_scheme=theme)
    page = context.new_page()
    page.origin = gateway.origin
    sign_in(page, owner_of(account))
    faults = {}
    for address in ("", "usage", "billing"):
        page.goto(f"/a/{account.slug}/{address}")
        if found := inaccessible(page):
            faults[address] = found
    context.close()
    assert not faults, told(faults)


def test_the_statements_of_a_year_can_be_tapped_one_by_one(browser: Any, gateway: Any) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not installed (make node-sdks)")
    house, now = House(), timezone.now()
    ledger.credit(
        wallet_id=Wallet.objects.get(account=house.account).pk,
        amount=1,
        kind="promo",
        debit_account="promo",
        source_type="test",
        source_id=house.account.slug,
        actor="test",
        note="",
        now=now - timedelta(days=365),
    )
    context = browser.new_context(base_url=gateway.origin, viewport=PHONE)
    page = context.new_page()
    page.origin = gateway.origin
    sign_in(page, house.user("owner"))
    page.goto(f"{house.base}/billing/statements")
    assert page.get_by_role("main").get_by_role("listitem").count() in (12, 13)
    faults = inaccessible(page)
    context.close()
    assert not faults, faults


def test_a_first_page_weighs_little(account: Account) -> None:
    """The landing page and the first page of the account, with every style sheet and script they load, as they go over the line."""
    for address, client in (("/", Client()), (f"/a/{account.slug}/", Client())):
        if address != "/":
            client.force_login(owner_of(account))
        html = client.get(address).content
        weight = len(gzip.compress(html))
        for loaded in set(re.findall(rb'(?:src|href)="(/static/[^"#]+)', html)):
            answer = client.get(loaded.decode())
            assert answer.status_code == 200, loaded
            weight += len(gzip.compress(answer.getvalue()))
        assert weight < MOST_BYTES, (address, weight)


def test_a_stranger_sees_nothing_of_the_account_on_any_page(account: Account, filled: dict[str, str]) -> None:
    stranger, signed_in = Client(), Client()
    signed_in.force_login(new_person())
    names = [account.name, str(account.keys.first()), filled["request_id"]]
    for address in pages(filled):
        if address.startswith("/invitations/"):
            continue  # the link's secret is what is asked for
        for client in (stranger, signed_in):
            answer = client.get(address)
            text = answer.getvalue()
            if answer.status_code == 200:
                assert not [name for name in names if name.encode() in text], address
            if address.startswith(f"/a/{account.slug}"):
                assert answer.status_code in (301, 302, 404), address
