"""The sample account: a company that never was, with thirty days of usage in the real tables, so that no chart is empty on the first day.

Its ledger is as sound as any other (the audit looks at it too), its plan lets its keys call nothing but the built-in demo models, so its
invented money cannot be spent at a provider, and it goes without a trace: the database lets the history of an account be removed only if
the account was born as a sample.
"""

import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import groupby

from django.apps import apps
from django.db import connection, models, transaction

from accounts import audit
from accounts.models import Account, Membership, User
from billing import ledger, opening
from billing.models import Hold, Plan, UsageRecord, Wallet
from billing.sample_requests import CALLERS, DAYS, Offer, Request, invent
from catalog.models import Model, Price
from gateway_site import changes
from keys import issuing
from keys.models import ApiKey

SLUG = "sample-company"
NAME = "Sample company"
PLAN = "sample"
PLAN_MODELS = ["demo/*"]
NOTE = "Invented: this account is a sample"
FIRST_CREDIT_NANO = 10_000_000_000  # $10
CREDIT_NANO = 10_000_000_000  # $10, each time that less than the reserve would be left
RESERVE_NANO = 3_000_000_000
GIFT_NANO = 2_000_000_000
BATCH = timedelta(minutes=30)  # requests that ended within it share a transfer
# What it uses, where the catalog has it: model, weight, milliseconds to the first token and for each one, whether it thinks.
WANTED = (
    ("openai/gpt-6-luna", 6, 380, 7, False),
    ("anthropic/claude-sonnet-5-5", 5, 720, 13, True),
    ("google/gemini-3.8-flash", 4, 310, 5, False),
    ("openai/gpt-5.3-codex", 2, 640, 10, True),
    ("deepseek/deepseek-v4-flash", 2, 560, 14, False),
)
_LIMITS: dict[str, issuing.Settings] = {
    "Help desk": {"budget_nano": 5_000_000_000, "concurrency": 20},
    "Nightly summaries": {"budget_nano": 3_000_000_000, "rpm": 120},
    "Experiments": {"budget_nano": 1_000_000_000, "rpm": 20},
}


class NothingForSale(Exception):
    """The catalog has no priced model to invent usage of."""


class SlugTaken(Exception):
    """A real account has the sample's name."""


class NotASample(Exception):
    """The account is somebody's own: its history stays."""


class StillBusy(Exception):
    """A request of the sample account is under way."""


def find() -> Account | None:
    """The sample account, if there is one."""
    return Account.objects.filter(is_sample=True).first()


@transaction.atomic
def make(*, owner_email: str, now: datetime) -> Account:
    """Make the sample account, with `owner_email` as its owner; the one that is there if there is one.

    Raises: NothingForSale, SlugTaken, django.core.exceptions.ValidationError.
    """
    found = find()
    if found is not None:
        return found
    if Account.objects.filter(slug=SLUG).exists():
        raise SlugTaken
    requests = invent(_offers(now), now=now)
    began = now - timedelta(days=DAYS, hours=1)
    Account.objects.create(slug=SLUG, name=NAME, is_sample=True, created_at=began)
    Plan.objects.get_or_create(
        slug=PLAN, defaults={"name": "Sample", "allowed_models": PLAN_MODELS, "monthly_output_tokens": 5_000_000, "created_at": began}
    )
    account = opening.open_account(slug=SLUG, name=NAME, owner_email=owner_email, plan_slug=PLAN, now=began)
    Membership.objects.filter(account=account).update(created_at=now)  # so that people land in an account of their own first
    owner = User.objects.get(memberships__account=account, memberships__role=Membership.Role.OWNER)
    audit.record(account=account, actor=owner, action="account.opened", subject=SLUG, now=began)
    keys = _issue_keys(account, owner, requests, began)
    wallet = Wallet.objects.get(account=account)
    with connection.cursor() as cursor:
        cursor.execute("SELECT billing_make_partitions(%s, 2)", [began])
    transfers = _book(wallet, requests, began)
    _write_records(account, wallet, keys, requests, transfers)
    return account


@transaction.atomic
def remove(account: Account) -> None:
    """Remove the sample account with all that belongs to it, its ledger included. Its owner stays.

    Raises: NotASample, StillBusy.
    """
    found = Account.objects.select_for_update().filter(pk=account.pk, is_sample=True).first()
    if found is None:
        raise NotASample
    # Who holds the wallet's row keeps new requests out.
    list(Wallet.objects.select_for_update().filter(account=found))
    if Hold.objects.filter(account=found).exists():
        raise StillBusy
    tables = _belongings()
    for table, reference, way in _loose_ends(tables):
        table._base_manager.filter(**{way: found.pk}).update(**{reference: None})  # noqa: SLF001 - of every table, whichever it is
    # What is farthest away first: the ways of the others lead over what is still there, and the account itself is the last.
    for table, way in sorted(tables.items(), key=lambda each: each[0] is not Account and -1 - each[1].count("__")):
        rows = table._base_manager.filter(**{way: found.pk})  # noqa: SLF001
        rows._raw_delete(rows.db)  # noqa: SLF001 - one statement for each table: the rows are not read first
    Plan.objects.filter(slug=PLAN, assignments=None).delete()
    transaction.on_commit(lambda: changes.publish(f"account:{found.pk}"))


# -- Making ------------------------------------------------------------------------------------------------------------------------------


def _offers(now: datetime) -> list[Offer]:
    priced = Price.objects.filter(effective_from__lte=now).order_by("model_id", "-effective_from").distinct("model_id")
    prices = {price.model_id: price.frozen() for price in priced}
    sold = {model.slug: model for model in Model.objects.filter(pk__in=prices, kind=Model.Kind.TEXT, routes__isnull=False).distinct()}
    wanted = [each for each in WANTED if each[0] in sold] or [(slug, 1, 400, 9, False) for slug in sorted(sold)[: len(WANTED)]]
    if not wanted:
        raise NothingForSale
    offers = []
    for slug, weight, first_ms, token_ms, thinks in wanted:
        model = sold[slug]
        route = model.routes.select_related("provider").order_by("priority", "pk").first()
        assert route is not None  # noqa: S101 - it was asked for
        provider = route.provider
        offers.append(
            Offer(
                model=slug,
                provider=provider.slug,
                upstream_model=route.upstream_model,
                format=route.format or "chat",
                price=prices[model.pk],
                weight=weight,
                first_ms=first_ms,
                token_ms=token_ms,
                thinks=thinks,
            )
        )
    return offers


def _issue_keys(account: Account, owner: User, requests: Sequence[Request], began: datetime) -> dict[str, ApiKey]:
    """One key for each caller. Nobody has ever seen its secret."""
    keys = {}
    for caller in CALLERS:
        key, _ = issuing.issue(account=account, name=caller.key, now=began, created_by=owner)
        key = issuing.change(key=key, now=began, **_LIMITS.get(caller.key, {}))
        key.last_used_at = max((each.ended_at for each in requests if each.caller is caller), default=None)
        key.save(update_fields=["last_used_at"])
        audit.record(account=account, actor=owner, action="key.created", subject=caller.key, now=began)
        keys[caller.key] = key
    return keys


def _book(wallet: Wallet, requests: Sequence[Request], began: datetime) -> dict[uuid.UUID, uuid.UUID]:
    """Credit the wallet and charge it, as it would have happened; the transfer of each request that cost something."""
    batches = [
        (
            uuid.uuid5(ledger.NAMESPACE, f"sample|{wallet.pk}|{number}"),
            sum(each.cost for each in found),
            max(each.ended_at for each in found),
            found,
        )
        for number, found in enumerate(_batches(requests))
    ]
    _credit(wallet, FIRST_CREDIT_NANO, "paid", 0, began)
    _credit(wallet, GIFT_NANO, "promo", 1, began)
    left, credited = FIRST_CREDIT_NANO + GIFT_NANO, 2
    due: list[tuple[uuid.UUID, int, datetime]] = []
    for batch, cost, ended_at, _ in batches:
        if left - cost < RESERVE_NANO:
            _charge(wallet, due)
            due = []
            amount = CREDIT_NANO * (1 + max(0, cost + RESERVE_NANO - left - CREDIT_NANO) // CREDIT_NANO)
            _credit(wallet, amount, "paid", credited, ended_at - timedelta(minutes=1))
            left, credited = left + amount, credited + 1
        left -= cost
        due.append((batch, cost, ended_at))
    _charge(wallet, due)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT b.batch, billing_transfer_id('usage', b.batch, %s) FROM unnest(%s::uuid[]) b (batch)",
            [wallet.pk, [each[0] for each in batches]],
        )
        named = dict(cursor.fetchall())
    return {each.id: named[batch] for batch, _, _, found in batches for each in found}


def _batches(requests: Sequence[Request]) -> Iterator[list[Request]]:
    charged = sorted((each for each in requests if each.cost), key=lambda each: each.ended_at)
    for _, found in groupby(charged, key=lambda each: each.ended_at.timestamp() // BATCH.total_seconds()):
        yield list(found)


def _credit(wallet: Wallet, amount: int, kind: str, number: int, at: datetime) -> None:
    ledger.credit(
        wallet_id=wallet.pk,
        amount=amount,
        kind=kind,
        debit_account="sample",
        source_type="sample",
        source_id=f"{wallet.pk}:{number}",
        actor="sample",
        note=NOTE,
        now=at,
    )


def _charge(wallet: Wallet, batches: Sequence[tuple[uuid.UUID, int, datetime]]) -> None:
    """Book the batches in their order, by the function that books what is settled."""
    if not batches:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT billing_book_wallet(%s, b.batch, b.cost, 0, 0, b.ended)
            FROM unnest(%s::uuid[], %s::bigint[], %s::timestamptz[]) WITH ORDINALITY AS b (batch, cost, ended, n) ORDER BY b.n""",
            [wallet.pk, *(list(column) for column in zip(*batches, strict=True))],
        )


def _write_records(
    account: Account, wallet: Wallet, keys: dict[str, ApiKey], requests: Sequence[Request], transfers: dict[uuid.UUID, uuid.UUID]
) -> None:
    UsageRecord.objects.bulk_create([_record(account, wallet, keys[each.caller.key], each, transfers.get(each.id)) for each in requests])
    with connection.cursor() as cursor:
        cursor.execute("SELECT billing_count_in_slots(%s::uuid[], 1)", [[each.id for each in requests]])


_TOLD = {  # by status: rule, source of the usage, finish reason, error, status code
    "ok": ("metered", "provider", "stop", "", 200),
    "error": ("no_output", "none", "", "provider_error", 502),
    "cut": ("delivered", "partial", "", "provider_error", 200),
    "aborted": ("delivered", "partial", "", "client_gone", 499),
}


def _record(account: Account, wallet: Wallet, key: ApiKey, request: Request, transfer_id: uuid.UUID | None) -> UsageRecord:
    rule, source, finish_reason, error_code, status_code = _TOLD[request.status]
    result = "ok" if request.status in ("ok", "aborted") else "status_500"
    offer, usage = request.offer, request.usage
    return UsageRecord(
        request_id=request.id,
        account=account,
        wallet=wallet,
        key=key,
        model=offer.model,
        provider=offer.provider,
        upstream_model=offer.upstream_model,
        endpoint="chat",
        format=offer.format,
        streamed=request.caller.streamed,
        price_id=offer.price.id,
        input_tokens=usage.input_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cost=request.cost,
        list_cost=request.list_cost,
        upstream_cost=request.upstream_cost,
        hold_amount=request.cost * 2,
        usage_source=source,
        status=request.status,
        rule=rule,
        finish_reason=finish_reason,
        error_code=error_code,
        status_code=status_code,
        attempts=[{"provider": offer.provider, "result": result, "ms": request.latency_ms}],
        user_tag=request.user_tag,
        latency_ms=request.latency_ms,
        first_token_ms=request.first_token_ms,
        transfer_id=transfer_id,
        started_at=request.started_at,
        ended_at=request.ended_at,
    )


# -- Removing ----------------------------------------------------------------------------------------------------------------------------


def _belongings() -> dict[type[models.Model], str]:
    """Every table whose rows belong to an account, with the shortest way there: "wallet__account" and the like."""
    ways: dict[type[models.Model], str] = {Account: "pk"}
    waiting: deque[type[models.Model]] = deque([Account])
    while waiting:
        owner = waiting.popleft()
        for table, reference in _references(owner):
            if table not in ways and reference.remote_field.on_delete is not models.SET_NULL:
                ways[table] = reference.name if owner is Account else f"{reference.name}__{ways[owner]}"
                waiting.append(table)
    return ways


def _loose_ends(ways: dict[type[models.Model], str]) -> Iterator[tuple[type[models.Model], str, str]]:
    """The references that are only forgotten: table, field, and the way from there to the account."""
    for owner, way in ways.items():
        for table, reference in _references(owner):
            if reference.remote_field.on_delete is models.SET_NULL:
                yield table, reference.name, reference.name if owner is Account else f"{reference.name}__{way}"


def _references(owner: type[models.Model]) -> "Iterator[tuple[type[models.Model], models.ForeignKey[models.Model]]]":
    for table in apps.get_models(include_auto_created=True):
        for field in table._meta.local_fields:  # noqa: SLF001 - Django documents it
            if isinstance(field, models.ForeignKey) and field.related_model is owner and table is not owner:
                yield table, field
