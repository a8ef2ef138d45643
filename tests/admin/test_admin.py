"""The admin: every page opens, nobody writes the books by hand, secrets are shown once or never, and deeds go through the rules."""

import json
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Group, Permission
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts.models import Account, Announcement, AuditEvent, Membership, OutboxMessage, User
from billing import reconciliation
from billing.gifts import adjustments, codes
from billing.models import (
    Adjustment,
    Alert,
    AlertSettings,
    CreditGrant,
    Hold,
    HoldOwner,
    Plan,
    PlanAssignment,
    ProviderInvoice,
    Redemption,
    RedemptionCode,
    Reversal,
    SpendWindow,
    StripeCustomer,
    StripeEvent,
    Subscription,
    TaskRun,
    TopUp,
    Transfer,
    UsageRecord,
    Wallet,
    WebhookEndpoint,
)
from catalog.models import Alias, CatalogVersion, Model, Price, Provider, ProviderKey, Route
from gateway_site.admin_base import BigTableAdmin, ReadOnlyAdmin
from gateway_site.changes import CHANNEL
from keys import issuing, secret
from keys.models import ApiKey
from proxy.models import OpenOperation
from tests.billing.desk import Desk
from tests.conftest import Customer, make_customer

# Static files are collected for production only; the middleware warns about the folder that is not there.
pytestmark = pytest.mark.filterwarnings("ignore:No directory at")

USD = 1_000_000_000
REGISTERED = sorted(admin.site._registry, key=lambda model: model._meta.label)
BOOKS = [
    Adjustment,
    Redemption,
    RedemptionCode,
    Wallet,
    Transfer,
    CreditGrant,
    Hold,
    HoldOwner,
    UsageRecord,
    SpendWindow,
    TaskRun,
    OpenOperation,
    Alert,
    WebhookEndpoint,
    OutboxMessage,
    AuditEvent,
    TopUp,
    Reversal,
    StripeEvent,
    StripeCustomer,
    Subscription,
]
NO_ADDING = {*BOOKS, CatalogVersion, LogEntry}
PROVIDER_SECRET = "sk-provider-Xq7Zr2LmN8vT4wYb"
name_of = lambda model: model._meta.label  # noqa: E731 - ids of parametrised tests


def person(**powers: Any) -> User:
    return User.objects.create_user(f"{uuid.uuid4().hex[:16]}@example.com", "correct horse battery", **powers)


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture(scope="module")
def boss(_database: None) -> Client:
    """A superuser's browser."""
    return signed_in(person(is_staff=True, is_superuser=True))


@pytest.fixture(scope="module")
def clerk(_database: None) -> Client:
    """Staff without a single permission."""
    return signed_in(person(is_staff=True))


@pytest.fixture(scope="module")
def world(_database: None) -> Iterator[dict[Any, Any]]:
    """At least one row of everything the admin shows."""
    desk = Desk(usd=10, budget=5 * USD)
    now = timezone.now()
    provider = Provider.objects.create(slug=f"p-{uuid.uuid4().hex[:12]}", kind="custom", base_url="https://models.example.com/v1")
    key = ProviderKey(provider=provider, name="first")
    key.set_secret(PROVIDER_SECRET)
    key.save()
    model = Model.objects.create(slug=f"house/{uuid.uuid4().hex[:12]}")
    price = Price.objects.create(model=model, input=2 * USD, output=8 * USD, markup_ppm=50_000, effective_from=now - timedelta(days=1))
    coming = Price.objects.create(model=model, input=3 * USD, output=9 * USD, effective_from=now + timedelta(days=30))
    route = Route.objects.create(model=model, provider=provider, upstream_model="m")
    alias = Alias.objects.create(name=f"alias-{uuid.uuid4().hex[:12]}", model=model)
    plan = desk.make_plan(input_tokens=10**9, output_tokens=None)
    request = desk.hold(3 * USD, started=now - timedelta(minutes=1))
    desk.settle(
        desk.record(
            request,
            21_000,
            model=model.slug,
            provider=provider.slug,
            price=price.pk,
            input_tokens=2000,
            output_tokens=2000,
            attempts=[
                {"provider": provider.slug, "result": "refused_500", "ms": 12},
                {"provider": provider.slug, "result": "ok", "ms": 80},
            ],
        )
    )
    open_request = desk.hold(USD, started=now)
    record = desk.usage(request)
    member = person()
    (code,) = codes.create_codes(count=1, amount_nano=USD, user=member, now=now)
    codes.redeem(account=make_customer(usd="0").account, code=code.code, user=member, now=now)
    paid = TopUp.objects.create(
        wallet=desk.wallet,
        kind="checkout",
        state="quarantined",
        credit_nano=USD,
        charge_minor=100,
        paid_minor=99,
        payment_intent_id=f"pi_{uuid.uuid4().hex}",
        failure="its subtotal is wrong",
    )
    Membership.objects.create(account=desk.account, user=member, role="viewer")
    LogEntry.objects.create(user=person(is_staff=True), content_type_id=1, object_id="1", object_repr="x", action_flag=2, change_message="")
    yield {
        Account: desk.account,
        ApiKey: desk.key,
        Wallet: desk.wallet,
        Transfer: record.transfer,
        CreditGrant: CreditGrant.objects.filter(wallet_id=desk.wallet_id).latest("id"),
        Hold: Hold.objects.get(pk=open_request["id"]),
        HoldOwner: HoldOwner.objects.get(pk=desk.owner),
        UsageRecord: record,
        OpenOperation: OpenOperation.objects.create(
            request_id=record.pk, account=desk.account, name="v1-sealed", created_at=now, next_look_at=now
        ),
        SpendWindow: desk.window_of(desk.key),
        TaskRun: TaskRun.objects.create(name=uuid.uuid4().hex, last_started_at=now, last_error="ValueError: no luck"),
        Alert: Alert.objects.create(
            account=desk.account, kind="budget", subject=f"key:{desk.key.pk}", window="w", limit=2, threshold=50, value=1, told_at=now
        ),
        AlertSettings: AlertSettings.objects.create(account=desk.account),
        WebhookEndpoint: WebhookEndpoint.objects.create(
            account=desk.account, url="https://hooks.example.com/x", sealed_secret=PROVIDER_SECRET
        ),
        OutboxMessage: OutboxMessage.objects.create(
            kind="mail",
            dedupe_key=uuid.uuid4().hex,
            account=desk.account,
            recipient="someone@example.com",
            subject="Hello",
            content={"text": "Hello!", "html": "<p>Hello!</p>", "unsubscribe_url": ""},
            state="failed",
        ),
        Announcement: Announcement.objects.create(title="News", text="Hello", audience="account", account=desk.account),
        AuditEvent: AuditEvent.objects.create(account=desk.account, actor_text="staff", action="key.created", subject="CI"),
        TopUp: paid,
        Reversal: Reversal.objects.create(
            id=f"dp_{uuid.uuid4().hex}", top_up=paid, kind="dispute", amount_minor=99, status="needs_response", is_active=True
        ),
        StripeEvent: StripeEvent.objects.create(
            id=f"evt_{uuid.uuid4().hex}",
            type="checkout.session.completed",
            object_id="cs_test_1",
            is_live=False,
            payload={"data": {"object": {"id": "cs_test_1", "name": "<script>"}}},
            state="quarantined",
            created_at=now,
        ),
        StripeCustomer: StripeCustomer.objects.create(
            account=desk.account, customer_id=f"cus_{uuid.uuid4().hex}", is_live=False, payment_method_id="pm_1", card_last_four="4242"
        ),
        Plan: plan,
        Subscription: Subscription.objects.create(account=desk.account, plan=plan, status="canceled", session_id=f"cs_{uuid.uuid4().hex}"),
        RedemptionCode: code,
        Redemption: code.redemptions.get(),
        Adjustment: adjustments.request_adjustment(
            wallet=desk.wallet, kind="promo", amount_nano=500 * USD, reason="large", user=member, now=now
        ),
        ProviderInvoice: ProviderInvoice.objects.create(provider=provider.slug, month=now.date().replace(day=1), amount_nano=USD),
        Provider: provider,
        ProviderKey: key,
        Model: model,
        Route: route,
        Price: price,
        "coming": coming,
        Alias: alias,
        CatalogVersion: CatalogVersion.objects.get(pk=1),
        User: member,
        Group: Group.objects.create(name=uuid.uuid4().hex),
        LogEntry: LogEntry.objects.latest("id"),
    }
    desk.close()


@pytest.fixture
def heard() -> Iterator[Callable[[], set[str]]]:
    """The topics announced since the test began."""
    with redis.Redis.from_url(settings.REDIS_URL) as client, client.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(CHANNEL)
        channel.get_message(timeout=5)  # the confirmation

        def topics() -> set[str]:
            end = uuid.uuid4().hex  # of this test alone: a channel is shared by all databases of a Valkey, and so by all workers
            client.publish(CHANNEL, end)
            found: set[str] = set()
            while (message := channel.get_message(timeout=30)) is not None and message["data"].decode() != end:
                found.add(message["data"].decode())
            return found

        yield topics


def address(model: Any, page: str, *args: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


def fields_of(html: str) -> dict[str, str]:
    """What a browser would send of the page's main form, unchanged."""
    said: dict[str, str] = {}
    body = html[html.index('id="content"') :]
    for tag in re.findall(r"<input\b[^>]*>", body):
        attributes = dict(re.findall(r'([\w-]+)="([^"]*)"', tag))
        if "name" not in attributes or attributes.get("type") in ("submit", "search"):
            continue
        if attributes.get("type") == "checkbox" and not re.search(r"\bchecked\b(?!:)(?=[\s>=])", re.sub(r'class="[^"]*"', "", tag)):
            continue
        said[attributes["name"]] = attributes.get("value", "on" if attributes.get("type") == "checkbox" else "")
    for name, options in re.findall(r'<select name="([^"]*)"[^>]*>(.*?)</select>', body, re.DOTALL):
        chosen = re.search(r'<option value="([^"]*)"[^>]*\bselected', options)
        said[name] = chosen[1] if chosen else (re.findall(r'<option value="([^"]*)"', options) or [""])[0]
    return said | dict(re.findall(r'<textarea name="([^"]*)"[^>]*>\s?(.*?)</textarea>', body, re.DOTALL))


def problems_of(response: Any) -> Any:
    """Why a form was not taken."""
    context = response.context or {}
    shown: Any = context.get("adminform")
    form = shown.form if shown is not None else context.get("form")
    return form.errors if form is not None else response.content.decode()[-2000:]


# -- Every page ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", REGISTERED, ids=name_of)
def test_every_page_of_every_model_opens_for_a_superuser(boss: Client, world: dict[Any, Any], model: Any) -> None:
    assert boss.get(address(model, "changelist")).status_code == 200
    assert boss.get(address(model, "change", quote(world[model].pk))).status_code == 200
    assert boss.get(address(model, "history", quote(world[model].pk))).status_code == 200
    assert boss.get(address(model, "add")).status_code == (403 if model in NO_ADDING else 200)


@pytest.mark.parametrize("model", REGISTERED, ids=name_of)
def test_every_search_box_and_filter_answers(boss: Client, world: dict[Any, Any], model: Any) -> None:
    model_admin = admin.site._registry[model]
    if model_admin.search_fields:
        for term in ("nothing-has-this", str(uuid.uuid4()), "sk-gw-abcd…1234", world[Account].slug, "'; --"):
            assert boss.get(address(model, "changelist"), {"q": term}).status_code == 200
    page = boss.get(address(model, "changelist"))
    seen: Counter[str] = Counter()  # a filter may have a choice for each of the suite's many providers: three of each say as much
    for query in sorted({link for link in re.findall(r'href="(\?[^"]+)"', page.content.decode()) if "_facets" not in link}):
        seen[name := query.partition("=")[0]] += 1
        if seen[name] <= 3:
            assert boss.get(address(model, "changelist") + query.replace("&amp;", "&")).status_code == 200


@pytest.mark.parametrize("model", REGISTERED, ids=name_of)
def test_staff_without_permission_see_nothing(clerk: Client, world: dict[Any, Any], model: Any) -> None:
    model_admin = admin.site._registry[model]
    pages = [address(model, "changelist"), address(model, "add"), address(model, "change", quote(world[model].pk))]
    pages += [address(model, page.view, quote(world[model].pk)) for page in getattr(model_admin, "pages", ())]
    pages += [address(model, page.view) for page in getattr(model_admin, "list_pages", ())]
    for page in pages:
        assert clerk.get(page).status_code == 403, page
        assert clerk.post(page, {}).status_code == 403, page


@pytest.mark.parametrize("model", REGISTERED, ids=name_of)
def test_strangers_are_sent_to_sign_in(world: dict[Any, Any], model: Any) -> None:
    customer = signed_in(world[User])
    for client in (Client(), customer):
        for page in (address(model, "changelist"), address(model, "add"), address(model, "change", quote(world[model].pk))):
            response = client.get(page)
            assert response.status_code == 302
            assert response["Location"].startswith(reverse("admin:login"))


def test_the_first_page_shows_live_figures_and_the_sidebar_leads_to_lists_that_open(
    boss: Client, clerk: Client, world: dict[Any, Any]
) -> None:
    page = boss.get(reverse("admin:index"))
    html = page.content.decode()
    assert page.status_code == 200
    for figure in ("Requests today", "Revenue today", "Held now", "Books", "agree"):
        assert figure in html
    for item in [item for group in page.context["sidebar_navigation"] for item in group["items"]]:
        assert boss.get(item["link"]).status_code == 200
        assert str(item["link"]) in html
    few = clerk.get(reverse("admin:index"))
    assert few.status_code == 200
    assert b"Revenue today" not in few.content
    assert world[Provider].slug not in few.content.decode()


def test_every_page_of_an_object_opens_from_its_button(boss: Client, world: dict[Any, Any]) -> None:
    for model in REGISTERED:
        html = boss.get(address(model, "change", quote(world[model].pk))).content.decode()
        for page in getattr(admin.site._registry[model], "pages", ()):
            if page.offered(world[model]):
                there = address(model, page.view, quote(world[model].pk))
                assert there in html
                assert boss.get(there, follow=True).status_code == 200


# -- The books are read-only ---------------------------------------------------------------------------------------------------------


def test_every_table_of_money_is_read_only() -> None:
    for model in BOOKS:
        assert isinstance(admin.site._registry[model], ReadOnlyAdmin)


@pytest.mark.parametrize("model", [*BOOKS, LogEntry], ids=name_of)
def test_whatever_is_posted_to_the_books_is_refused(boss: Client, world: dict[Any, Any], model: Any) -> None:
    row = world[model]
    before = list(model.objects.filter(pk=row.pk).values())
    forged = {"amount": "1", "balance": "999", "credits": str(10**12), "status": "active", "_save": "Save"}
    assert boss.post(address(model, "add"), forged).status_code == 403
    assert boss.post(address(model, "change", quote(row.pk)), forged).status_code == 403
    assert boss.post(address(model, "delete", quote(row.pk)), {"post": "yes"}).status_code == 403
    assert boss.get(address(model, "delete", quote(row.pk))).status_code == 403
    chosen = {"action": "delete_selected", "_selected_action": str(row.pk), "post": "yes"}
    assert boss.post(address(model, "changelist"), chosen).status_code == 403
    assert list(model.objects.filter(pk=row.pk).values()) == before


@pytest.mark.parametrize("model", [Account, ApiKey, User, Model, Provider, Price, Plan, CatalogVersion], ids=name_of)
def test_what_history_points_at_is_not_deleted(boss: Client, world: dict[Any, Any], model: Any) -> None:
    assert boss.post(address(model, "delete", quote(world[model].pk)), {"post": "yes"}).status_code == 403
    boss.post(address(model, "changelist"), {"action": "delete_selected", "_selected_action": str(world[model].pk), "post": "yes"})
    assert model.objects.filter(pk=world[model].pk).exists()


def test_a_list_of_a_growing_table_never_counts_it_and_never_asks_row_by_row(boss: Client, world: dict[Any, Any]) -> None:
    for model in BOOKS:
        if not isinstance(admin.site._registry[model], BigTableAdmin):
            continue
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert boss.get(address(model, "changelist")).status_code == 200
        asked = [query["sql"] for query in queries if f'"{model._meta.db_table}"' in query["sql"]]
        assert len(asked) == 1, asked
        assert "COUNT(" not in asked[0]
        assert "LIMIT" in asked[0]


# -- Gifts ----------------------------------------------------------------------------------------------------------------------------


def test_codes_are_made_once_and_downloaded(boss: Client) -> None:
    note = uuid.uuid4().hex
    form = {**fields_of(boss.get(address(RedemptionCode, "generate")).content.decode()), "count": "3", "amount": "2.50", "most_uses": "1"}
    first = boss.post(address(RedemptionCode, "generate"), {**form, "note": note})
    again = boss.post(address(RedemptionCode, "generate"), {**form, "note": note}, follow=True)
    made = list(RedemptionCode.objects.filter(note=note).order_by("pk").values_list("code", flat=True))
    assert [line.split(",")[:2] for line in first.content.decode().splitlines()[1:]] == [[code, "2.50"] for code in made]
    assert (len(made), first.headers["Content-Type"]) == (3, "text/csv; charset=utf-8")
    assert "sent before" in again.content.decode()


def test_a_code_is_switched_off_and_on(boss: Client, world: dict[Any, Any]) -> None:
    code = world[RedemptionCode]
    for deed, is_enabled in (("disable", False), ("enable", True)):
        boss.post(address(RedemptionCode, deed, code.pk))
        code.refresh_from_db()
        assert code.is_enabled is is_enabled


def test_a_large_credit_waits_for_somebody_else(boss: Client, customer: Customer) -> None:
    form = credit_form(boss, customer.wallet, amount="250")
    asked = boss.post(address(Wallet, "grant_credit", customer.wallet.pk), form, follow=True)
    waiting = Adjustment.objects.get(wallet=customer.wallet)
    assert "a second person has to approve" in asked.content.decode()
    mine = boss.post(address(Adjustment, "approve", waiting.pk), follow=True)
    assert "somebody else" in mine.content.decode()
    assert customer.fresh_wallet().balance == 5 * USD
    signed_in(person(is_staff=True, is_superuser=True)).post(address(Adjustment, "approve", waiting.pk))
    assert customer.fresh_wallet().balance == 255 * USD


# -- Wallets -------------------------------------------------------------------------------------------------------------------------


def credit_form(boss: Client, wallet: Wallet, **said: str) -> dict[str, str]:
    page = boss.get(address(Wallet, "grant_credit", wallet.pk)).content.decode()
    return {**fields_of(page), "amount": "12.50", "kind": "promo", "reason": "a welcome", **said}


def test_granting_twice_with_the_same_form_credits_once(boss: Client, customer: Customer) -> None:
    form = credit_form(boss, customer.wallet)
    first = boss.post(address(Wallet, "grant_credit", customer.wallet.pk), form, follow=True)
    again = boss.post(address(Wallet, "grant_credit", customer.wallet.pk), form, follow=True)
    assert "Granted $12.50; the balance then was $17.50." in first.content.decode()
    assert "booked once" in again.content.decode()
    assert customer.fresh_wallet().balance == int(17.5 * USD)
    granted = Transfer.objects.get(wallet=customer.wallet, source_type="adjustment")
    assert (granted.kind, granted.debit_account, granted.note) == ("promo", "promo", "a welcome")
    assert granted.actor.endswith("@example.com")
    assert LogEntry.objects.filter(object_id=str(customer.wallet.pk), change_message__contains="a welcome").count() == 1


def test_a_form_sent_again_with_something_else_in_it_books_nothing(boss: Client, customer: Customer) -> None:
    form = credit_form(boss, customer.wallet)
    boss.post(address(Wallet, "grant_credit", customer.wallet.pk), form)
    for change in ({"amount": "13"}, {"kind": "paid"}):
        response = boss.post(address(Wallet, "grant_credit", customer.wallet.pk), {**form, **change})
        assert "was sent before" in response.content.decode()
    assert customer.fresh_wallet().balance == int(17.5 * USD)


@pytest.mark.parametrize(
    "said",
    [{"amount": "0"}, {"amount": "-1"}, {"amount": "1e3"}, {"amount": "0.0000000001"}, {"amount": "NaN"}, {"amount": ""}, {"reason": ""}],
)
def test_a_grant_needs_an_amount_and_a_reason(boss: Client, customer: Customer, said: dict[str, str]) -> None:
    response = boss.post(address(Wallet, "grant_credit", customer.wallet.pk), credit_form(boss, customer.wallet, **said))
    assert response.status_code == 200
    assert problems_of(response)
    assert customer.fresh_wallet().balance == 5 * USD


def test_a_debit_takes_what_is_free_and_no_more(boss: Client, customer: Customer) -> None:
    form = {**fields_of(boss.get(address(Wallet, "debit", customer.wallet.pk)).content.decode()), "reason": "a correction"}
    refused = boss.post(address(Wallet, "debit", customer.wallet.pk), {**form, "amount": "5.01"})
    assert "Only $5.00 is free" in refused.content.decode()
    for _ in range(2):
        boss.post(address(Wallet, "debit", customer.wallet.pk), {**form, "amount": "2"})
    assert customer.fresh_wallet().balance == 3 * USD
    assert reconciliation.audit(now=timezone.now(), accounts=[customer.account.pk]) == []


def test_a_wallet_is_frozen_and_unfrozen_with_a_reason(boss: Client, customer: Customer) -> None:
    assert problems_of(boss.post(address(Wallet, "freeze", customer.wallet.pk), {"reason": ""}))
    boss.post(address(Wallet, "freeze", customer.wallet.pk), {"reason": "a stolen card"})
    assert customer.fresh_wallet().status == "frozen"
    boss.post(address(Wallet, "unfreeze", customer.wallet.pk), {"reason": "it was found"})
    assert customer.fresh_wallet().status == "active"


def test_a_deed_on_a_wallet_is_not_done_by_reading_its_page(boss: Client, customer: Customer) -> None:
    for page in ("grant_credit", "debit", "freeze"):
        boss.get(address(Wallet, page, customer.wallet.pk), {"amount": "5", "reason": "x", "kind": "promo", "form_id": str(uuid.uuid4())})
    wallet = customer.fresh_wallet()
    assert (wallet.balance, wallet.status) == (5 * USD, "active")


def test_who_may_only_look_at_wallets_cannot_move_money(customer: Customer) -> None:
    user = person(is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=["view_wallet", "view_transfer", "view_account"]))
    viewer = signed_in(user)
    page = viewer.get(address(Wallet, "change", customer.wallet.pk))
    assert page.status_code == 200
    for name in ("grant_credit", "debit", "freeze", "unfreeze"):
        assert address(Wallet, name, customer.wallet.pk) not in page.content.decode()
        assert viewer.post(address(Wallet, name, customer.wallet.pk), {"amount": "5", "reason": "x"}).status_code == 403
    assert customer.fresh_wallet().balance == 5 * USD


def test_the_audit_can_be_asked_for(boss: Client) -> None:
    page = boss.post(address(Wallet, "audit"), follow=True)
    assert page.status_code == 200
    assert page.context["drifts"] is not None


# -- Keys ----------------------------------------------------------------------------------------------------------------------------


def issue(boss: Client, account: Account, **said: str) -> Any:
    form = fields_of(boss.get(address(ApiKey, "add"), {"account": account.pk}).content.decode())
    assert form["account"] == str(account.pk)
    return boss.post(address(ApiKey, "add"), {**form, "name": "the shop", **said})


def secret_in(response: Any) -> str:
    shown = re.search(r'id="secret"[^>]*>(sk-gw-[0-9A-Za-z-]+)</pre>', response.content.decode())
    assert shown, problems_of(response)
    return shown[1]


def traces_of(text: str) -> list[str]:
    """The tables in which a secret stands in plain text."""
    found = []
    with connection.cursor() as cursor:
        cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'")
        for (table,) in cursor.fetchall():
            cursor.execute(f'SELECT EXISTS (SELECT 1 FROM "{table}" t WHERE position(%s IN t::text) > 0)', [text])  # noqa: S608 - names of tables
            if cursor.fetchone() == (True,):
                found.append(table)
    return found


def test_an_issued_key_is_shown_once_and_kept_nowhere(boss: Client, customer: Customer, heard: Callable[[], set[str]]) -> None:
    response = issue(
        boss,
        customer.account,
        allowed_models="openai/*\ndemo/echo",
        allowed_ips="203.0.113.7/24",
        rpm="30",
        budget_nano="2.50",
        budget_window="day",
    )
    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]
    text = secret_in(response)
    assert "curl http://testserver/v1/chat/completions" in response.content.decode()
    assert secret.is_well_formed(text)

    key = ApiKey.objects.get(account=customer.account, name="the shop")
    pepper = secret.read_peppers(settings.KEY_PEPPERS)[0]
    assert bytes(key.digest) == secret.digest(text, pepper)
    assert (key.allowed_models, key.allowed_ips, key.rpm) == (["openai/*", "demo/echo"], ["203.0.113.0/24"], 30)
    assert (key.budget_nano, key.budget_window) == (2_500_000_000, "day")
    assert key.created_by is not None
    assert f"key:{key.pk}" in heard()

    assert traces_of(text) == []
    for session in Session.objects.all():
        assert text not in json.dumps(session.get_decoded())
    assert text not in "".join(cookie.value for cookie in boss.cookies.values())
    for page in (
        address(ApiKey, "change", key.pk),
        address(ApiKey, "changelist"),
        reverse("admin:index"),
        address(ApiKey, "history", key.pk),
    ):
        assert text not in boss.get(page).content.decode()


def test_a_form_that_issued_a_key_issues_no_second_one(boss: Client, customer: Customer) -> None:
    form = {**fields_of(boss.get(address(ApiKey, "add"), {"account": customer.account.pk}).content.decode()), "name": "one"}
    boss.post(address(ApiKey, "add"), form)
    again = boss.post(address(ApiKey, "add"), form, follow=True)
    assert "sent before" in again.content.decode()
    assert ApiKey.objects.filter(account=customer.account, name="one").count() == 1


@pytest.mark.parametrize(
    "said",
    [
        {"name": ""},
        {"allowed_models": "two words"},
        {"allowed_ips": "not-an-address"},
        {"rpm": "0"},
        {"budget_nano": "-1"},
        {"kind": "root"},
        {"expires_at_0": "2020-01-01", "expires_at_1": "00:00"},
    ],
)
def test_a_key_that_cannot_be_is_not_issued(boss: Client, customer: Customer, said: dict[str, str]) -> None:
    response = issue(boss, customer.account, **said)
    assert response.status_code == 200
    assert problems_of(response)
    assert ApiKey.objects.filter(account=customer.account).count() == 1


def test_a_rerolled_key_is_shown_once_and_the_old_one_ends(boss: Client, customer: Customer) -> None:
    response = boss.post(address(ApiKey, "reroll", customer.key.pk), {"overlap": "3600"})
    text = secret_in(response)
    assert "no-store" in response["Cache-Control"]
    new = ApiKey.objects.get(replaces=customer.key)
    assert issuing.find(text) == new
    customer.key.refresh_from_db()
    assert timedelta(minutes=59) < customer.key.expires_at - timezone.now() <= timedelta(hours=1)
    assert traces_of(text) == []
    again = boss.post(address(ApiKey, "reroll", customer.key.pk), {"overlap": "0"}, follow=True)
    assert "Not rerolled" in again.content.decode()
    assert ApiKey.objects.filter(account=customer.account).count() == 2


def test_a_key_is_disabled_enabled_and_revoked_on_confirmation(boss: Client, customer: Customer, heard: Callable[[], set[str]]) -> None:
    key = customer.key
    for page in ("disable", "revoke"):
        boss.get(address(ApiKey, page, key.pk))
    key.refresh_from_db()
    assert (key.is_disabled, key.revoked_at) == (False, None)
    boss.post(address(ApiKey, "disable", key.pk))
    key.refresh_from_db()
    assert key.is_disabled
    boss.post(address(ApiKey, "enable", key.pk))
    key.refresh_from_db()
    assert not key.is_disabled
    boss.post(address(ApiKey, "revoke", key.pk))
    key.refresh_from_db()
    assert key.revoked_at is not None
    assert f"key:{key.pk}" in heard()
    assert boss.post(address(ApiKey, "change", key.pk), {"name": "alive again"}).status_code == 403


def test_changing_a_key_changes_its_limits_and_nothing_else(boss: Client, customer: Customer, heard: Callable[[], set[str]]) -> None:
    key = customer.key
    before: dict[str, Any] = dict(ApiKey.objects.filter(pk=key.pk).values().get())
    form = fields_of(boss.get(address(ApiKey, "change", key.pk)).content.decode())
    forged = {"digest": "x", "start": "sk-gw-evil", "account": "1", "kind": "management", "is_disabled": "on", "revoked_at_0": "2020-01-01"}
    response = boss.post(address(ApiKey, "change", key.pk), {**form, **forged, "rpm": "7", "budget_nano": "1.5", "allowed_models": "a/b"})
    assert response.status_code == 302, problems_of(response)
    after: dict[str, Any] = dict(ApiKey.objects.filter(pk=key.pk).values().get())
    assert {name for name in after if after[name] != before[name]} == {"rpm", "budget_nano", "allowed_models"}
    assert (after["rpm"], after["budget_nano"], after["allowed_models"]) == (7, 1_500_000_000, ["a/b"])
    assert f"key:{key.pk}" in heard()


def test_a_key_is_found_by_whatever_a_person_has_of_it(boss: Client, customer: Customer) -> None:
    key = customer.key
    for term in (f"{key.start}…{key.last_four}", key.start, customer.account.slug, customer.secret):
        assert address(ApiKey, "change", key.pk) in boss.get(address(ApiKey, "changelist"), {"q": term}).content.decode()


# -- Usage and the ledger ------------------------------------------------------------------------------------------------------------


def test_a_receipt_is_shown_line_by_line_with_its_rule(boss: Client, world: dict[Any, Any]) -> None:
    html = boss.get(address(UsageRecord, "change", world[UsageRecord].pk)).content.decode()
    # 2,000 input at $2 and 2,000 output at $8 per million, 5 % on top; the record says what it was charged in the end.
    for said in ("$0.004", "$0.016", "$0.001", "markup 5 %", "The provider said", "refused_500"):
        assert said in html, said
    for linked in (Account, ApiKey, Transfer, Price):
        assert address(linked, "change", quote(world[linked].pk)) in html


def test_requests_are_found_by_id_account_key_model_and_period(boss: Client, world: dict[Any, Any]) -> None:
    record, there = world[UsageRecord], address(UsageRecord, "changelist")
    row = address(UsageRecord, "change", record.pk)
    for query in (
        {"q": str(record.pk)},
        {"q": world[Account].slug},
        {"q": record.model},
        {"account__id__exact": record.account_id},
        {"key__id__exact": record.key_id},
        {"transfer__id__exact": str(record.transfer_id)},
        {"status__exact": "ok", "q": record.model},
        {"provider": record.provider, "period": "1h"},
        {"period": f"{record.started_at:%Y-%m}", "q": record.model},
        {"period": "all", "q": record.model},
    ):
        assert row in boss.get(there, query).content.decode(), query
    for query in ({"q": str(uuid.uuid4())}, {"q": "no/such-model"}, {"status__exact": "error", "q": record.model}):
        assert row not in boss.get(there, query).content.decode(), query


def test_a_transfer_leads_to_its_requests_and_a_wallet_to_everything(boss: Client, world: dict[Any, Any]) -> None:
    assert (
        address(UsageRecord, "change", world[UsageRecord].pk) in boss.get(address(Transfer, "change", world[Transfer].pk)).content.decode()
    )
    wallet = boss.get(address(Wallet, "change", world[Wallet].pk)).content.decode()
    for linked in (Hold, CreditGrant, Transfer, Account):
        assert address(linked, "change", quote(world[linked].pk)) in wallet


def test_no_page_shows_raw_billionths(boss: Client, world: dict[Any, Any]) -> None:
    wallet = boss.get(address(Wallet, "change", world[Wallet].pk)).content.decode()
    assert "$9.99998" in wallet
    assert "9999979000" not in wallet
    assert "9.999979 exactly" in wallet


# -- Accounts ------------------------------------------------------------------------------------------------------------------------


def test_a_new_account_always_has_a_wallet(boss: Client) -> None:
    slug = f"new-{uuid.uuid4().hex[:12]}"
    form = {"slug": slug, "name": "New", "timezone": "Europe/Berlin", "billing_email": "", "owner_email": f"{slug}@example.com", "plan": ""}
    response = boss.post(address(Account, "add"), {**form, "_save": "Save"})
    assert response.status_code == 302, problems_of(response)
    account = Account.objects.get(slug=slug)
    assert (account.name, account.timezone) == ("New", "Europe/Berlin")
    assert account.wallet.balance == 0
    assert Membership.objects.get(account=account).role == "owner"
    assert boss.post(address(Account, "add"), {**form, "name": "Another"}).status_code == 200
    assert boss.post(address(Account, "add"), {**form, "slug": f"{slug}-2", "timezone": "Mars/Olympus"}).status_code == 200
    assert Account.objects.filter(slug__startswith=slug).count() == 1


def test_closing_an_account_and_giving_it_a_plan_is_announced(boss: Client, customer: Customer, heard: Callable[[], set[str]]) -> None:
    plan = Plan.objects.create(slug=f"p-{uuid.uuid4().hex[:12]}")
    there = address(Account, "change", customer.account.pk)
    form = fields_of(boss.get(there).content.decode())
    form.pop("is_active")
    held = int(form["plan_assignments-TOTAL_FORMS"])
    form |= {
        "plan_assignments-TOTAL_FORMS": str(held + 1),
        f"plan_assignments-{held}-plan": str(plan.pk),
        f"plan_assignments-{held}-starts_at_0": "2026-01-01",
        f"plan_assignments-{held}-starts_at_1": "00:00:00",
        f"plan_assignments-{held}-anchor_day": "1",
        f"plan_assignments-{held}-account": str(customer.account.pk),
    }
    response = boss.post(there, form)
    assert response.status_code == 302, problems_of(response)
    customer.account.refresh_from_db()
    assert not customer.account.is_active
    assert PlanAssignment.objects.filter(account=customer.account, plan=plan).exists()
    assert f"account:{customer.account.pk}" in heard()


def test_only_a_superuser_gives_powers_or_touches_staff(boss: Client) -> None:
    user = person(is_staff=True)
    user.user_permissions.set(Permission.objects.filter(content_type__app_label="accounts", content_type__model="user"))
    hand = signed_in(user)
    chief, customer = person(is_staff=True, is_superuser=True), person()
    assert hand.post(address(User, "change", chief.pk), {"email": "me@example.com"}).status_code == 403
    assert hand.post(reverse("admin:auth_user_password_change", args=[chief.pk]), {"password1": "x", "password2": "x"}).status_code == 403
    for target in (user, customer):
        form = fields_of(hand.get(address(User, "change", target.pk)).content.decode())
        response = hand.post(
            address(User, "change", target.pk), {**form, "name": "Renamed", "is_staff": "on", "is_superuser": "on", "user_permissions": "1"}
        )
        assert response.status_code == 302, problems_of(response)
        target.refresh_from_db()
        assert (target.name, target.is_superuser) == ("Renamed", False)
    assert not customer.is_staff
    made = boss.post(
        address(User, "add"),
        {
            "email": f"{uuid.uuid4().hex}@Example.com",
            "name": "N",
            "usable_password": "true",
            "password1": "tender violet 42",
            "password2": "tender violet 42",
        },
    )
    assert made.status_code == 302, problems_of(made)


# -- The catalog ---------------------------------------------------------------------------------------------------------------------


def provider_form(boss: Client, **said: str) -> dict[str, str]:
    form = fields_of(boss.get(address(Provider, "add")).content.decode())
    return {**form, "slug": f"p-{uuid.uuid4().hex[:12]}", "kind": "custom", "base_url": "https://models.example.com/v1/", **said}


def test_a_provider_key_goes_in_and_never_comes_out(boss: Client, world: dict[Any, Any], heard: Callable[[], set[str]]) -> None:
    text = f"sk-live-{uuid.uuid4().hex}"
    form = provider_form(boss) | {
        "keys-TOTAL_FORMS": "1",
        "keys-0-name": "main",
        "keys-0-secret": text,
        "keys-0-weight": "1",
        "keys-0-is_enabled": "on",
    }
    response = boss.post(address(Provider, "add"), form)
    assert response.status_code == 302, problems_of(response)
    provider = Provider.objects.get(slug=form["slug"])
    key = provider.keys.get()
    assert (key.secret(), key.last_four, provider.base_url) == (text, text[-4:], "https://models.example.com/v1")
    assert "catalog" in heard()
    assert traces_of(text) == []

    # Saved again without a secret, the one that is there stays; with one, it is replaced.
    there = address(ProviderKey, "change", key.pk)
    form = fields_of(boss.get(there).content.decode())
    assert form["secret"] == ""
    boss.post(there, {**form, "weight": "3"})
    key.refresh_from_db()
    assert (key.secret(), key.weight) == (text, 3)
    boss.post(there, {**form, "secret": f"{text}-new1"})
    key.refresh_from_db()
    assert (key.secret(), key.last_four) == (f"{text}-new1", "new1")
    refused = boss.post(there, {**form, "secret": f"{text} with blanks"})
    assert refused.status_code == 200
    assert text not in refused.content.decode()

    pages = [
        address(Provider, "change", provider.pk),
        there,
        address(ProviderKey, "changelist"),
        address(Provider, "changelist"),
        reverse("admin:index"),
    ]
    pages += [address(ProviderKey, "history", key.pk), address(LogEntry, "changelist"), address(Provider, "change", world[Provider].pk)]
    for page in pages:
        html = boss.get(page).content.decode()
        assert text not in html
        assert PROVIDER_SECRET not in html
        assert key.sealed_secret not in html


@pytest.mark.parametrize(
    "said",
    [
        {"base_url": "http://models.example.com/v1"},
        {"base_url": "https://10.0.0.7/v1"},
        {"base_url": "https://user:pass@models.example.com/v1"},
        {"base_url": "javascript:alert(1)"},
        {"base_url": "https://[::1"},
        {"base_url": ""},
    ],
)
def test_a_provider_whose_address_is_forbidden_is_not_saved(boss: Client, said: dict[str, str]) -> None:
    form = provider_form(boss, **said)
    response = boss.post(address(Provider, "add"), form)
    assert response.status_code == 200
    assert "base_url" in problems_of(response)
    assert not Provider.objects.filter(slug=form["slug"]).exists()


def test_a_base_url_is_never_a_link(boss: Client) -> None:
    provider = Provider.objects.create(slug=f"p-{uuid.uuid4().hex[:12]}", kind="custom", base_url="https://evil.example.com/v1")
    for page in (address(Provider, "changelist") + f"?q={provider.slug}", address(Provider, "change", provider.pk)):
        html = boss.get(page).content.decode()
        assert "evil.example.com" in html
        assert not re.search(r'href="[^"]*evil\.example\.com', html)


def test_a_new_price_begins_with_the_one_in_effect_and_is_typed_in_dollars(
    boss: Client, world: dict[Any, Any], heard: Callable[[], set[str]]
) -> None:
    model = Model.objects.create(slug=f"house/{uuid.uuid4().hex[:12]}")
    old = Price.objects.create(
        model=model,
        input=2_500_000,
        cached_input=2_800_000,
        output=10 * USD,
        image=40_000 * USD,
        markup_ppm=50_000,
        effective_from=timezone.now(),
    )
    page = boss.get(address(Model, "add_price", model.pk), follow=True).content.decode()
    form = fields_of(page)
    assert (form["input"], form["cached_input"], form["output"], form["image"], form["markup_ppm"]) == (
        "0.0025",
        "0.0028",
        "10",
        "0.04",
        "5",
    )
    form |= {"model": str(model.pk), "output": "12.5", "long_above": "200000", "long_output": "25", "markup_ppm": "2.5"}
    response = boss.post(address(Price, "add"), form)
    assert response.status_code == 302, problems_of(response)
    new = Price.objects.exclude(pk=old.pk).get(model=model)
    assert (new.input, new.output, new.image, new.markup_ppm) == (2_500_000, 12_500_000_000, 40_000 * USD, 25_000)
    assert new.long_prompt == {"above": 200000, "output": 25 * USD}
    assert new.effective_from > old.effective_from
    assert "catalog" in heard()


@pytest.mark.parametrize(
    "said",
    [{"input": "-1"}, {"input": "dear"}, {"effective_from_0": "2020-01-01", "effective_from_1": "00:00:00"}, {"long_above": "5"}, {}],
)
def test_a_price_that_cannot_be_is_not_added(boss: Client, said: dict[str, str]) -> None:
    model = Model.objects.create(slug=f"house/{uuid.uuid4().hex[:12]}")
    form = {**fields_of(boss.get(address(Price, "add")).content.decode()), "model": str(model.pk), **said}
    assert boss.post(address(Price, "add"), form).status_code == 200
    assert not model.prices.exists()


def test_a_price_that_has_begun_cannot_be_changed_and_a_coming_one_can(boss: Client, world: dict[Any, Any]) -> None:
    begun, coming = world[Price], world["coming"]
    assert boss.post(address(Price, "change", begun.pk), {"input": "1"}).status_code == 403
    form = fields_of(boss.get(address(Price, "change", coming.pk)).content.decode())
    response = boss.post(address(Price, "change", coming.pk), {**form, "input": "3.25"})
    assert response.status_code == 302, problems_of(response)
    coming.refresh_from_db()
    assert coming.input == 3_250_000_000


def test_a_model_without_a_price_can_be_deleted_and_that_is_announced(boss: Client, heard: Callable[[], set[str]]) -> None:
    model = Model.objects.create(slug=f"house/{uuid.uuid4().hex[:12]}")
    assert boss.post(address(Model, "delete", model.pk), {"post": "yes"}).status_code == 302
    assert not Model.objects.filter(pk=model.pk).exists()
    assert "catalog" in heard()


def test_the_policy_of_the_admin_lets_its_own_pages_work_and_nothing_from_elsewhere(boss: Client, world: dict[Any, Any]) -> None:
    for page in (reverse("admin:index"), address(Wallet, "grant_credit", world[Wallet].pk), address(Price, "add"), reverse("admin:login")):
        response = boss.get(page, follow=True)
        html = response.content.decode()
        assert "default-src 'none'" in response["Content-Security-Policy"]
        loaded = re.findall(r'<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)="([^"]+)"', html)
        assert all(address.startswith("/") for address in loaded), loaded
