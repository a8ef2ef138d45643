"""Requests and their receipts in the admin, read by their id, which is their time."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString

from accounts.models import Account
from billing import receipts
from billing.admin.tables import TONES, WalletTableAdmin, read_uuid, related
from billing.models import UsageRecord
from catalog import dollars, pricing
from catalog.models import Provider
from gateway_site.admin_base import Table, badge, link_to
from gateway_site.identifiers import lowest_uuid7
from keys import issuing

CLOCKS_DIFFER = timedelta(minutes=5)  # an id is made moments before its request is said to have started, by another clock perhaps


class PeriodFilter(admin.SimpleListFilter):
    """When: a range of ids, which the primary key and the monthly partitions answer. Unsaid, the last seven days."""

    title = "period"
    parameter_name = "period"
    usual = "7d"
    spans = {"1h": timedelta(hours=1), "24h": timedelta(days=1), "7d": timedelta(days=7), "30d": timedelta(days=30)}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:  # noqa: ARG002 - the signature is Django's
        """The last hours and days, then months."""
        months, first = [], timezone.now().astimezone(UTC).date().replace(day=1)
        for _ in range(6):
            months.append((f"{first:%Y-%m}", f"{first:%B %Y}"))
            first = (first - timedelta(days=1)).replace(day=1)
        return [("1h", "Last hour"), ("24h", "Last 24 hours"), ("7d", "Last 7 days"), ("30d", "Last 30 days"), *months, ("all", "All")]

    def choices(self, changelist: Any) -> Any:
        """The periods, the usual one chosen when none is said."""
        for value, title in self.lookup_choices:
            yield {
                "selected": (self.value() or self.usual) == value,
                "query_string": changelist.get_query_string({self.parameter_name: value}),
                "display": title,
            }

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The records of the period; one that is named by its id or its transfer is found whenever it was."""
        said = self.value()
        if said is None and (read_uuid(request.GET.get("q", "")) is not None or "transfer__id__exact" in request.GET):
            return queryset
        begin, end = self._bounds(said or self.usual)
        if begin is not None:
            queryset = queryset.filter(request_id__gte=lowest_uuid7(begin - CLOCKS_DIFFER), started_at__gte=begin)
        if end is not None:
            queryset = queryset.filter(request_id__lt=lowest_uuid7(end + CLOCKS_DIFFER), started_at__lt=end)
        return queryset

    def _bounds(self, said: str) -> tuple[datetime | None, datetime | None]:
        if said in self.spans:
            return timezone.now() - self.spans[said], None
        try:
            first = date.fromisoformat(f"{said}-01")
        except ValueError:
            return None, None
        following = (first + timedelta(days=32)).replace(day=1)
        return datetime.combine(first, time(), tzinfo=UTC), datetime.combine(following, time(), tzinfo=UTC)


class ProviderFilter(admin.SimpleListFilter):
    """Providers of the catalog: the names are not read from the records."""

    title = "provider"
    parameter_name = "provider"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:  # noqa: ARG002 - the signature is Django's
        """Their slugs."""
        return [(slug, slug) for slug in Provider.objects.order_by("slug").values_list("slug", flat=True)[:50]]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:  # noqa: ARG002 - the signature is Django's
        """What was served by it."""
        return queryset.filter(provider=self.value()) if self.value() else queryset


@admin.register(UsageRecord)
class UsageRecordAdmin(WalletTableAdmin):
    """Requests and their receipts."""

    empty_text = "A record appears when a request has been settled."
    own_id = "request_id"
    owner = "account"
    list_display = (
        "short_id",
        "started_at",
        "account",
        "key_text",
        "model",
        "provider",
        "state",
        "tokens_in",
        "tokens_out",
        "cost_usd",
        "latency_ms",
    )
    list_filter = (PeriodFilter, "status", ProviderFilter, "usage_source")
    list_select_related = ("account", "key")
    search_help_text = "A request's id, an account's slug, a model's name, or a key (sk-gw-1a2B…9xYz)."
    ordering = ("-request_id",)
    readonly_fields = (
        "state",
        "price_link",
        "transfer_link",
        "rule_text",
        "cost_usd",
        "list_cost_usd",
        "overrun_usd",
        "upstream_usd",
        "reported_usd",
        "hold_usd",
        "written_off_usd",
    )
    fieldsets = (
        (
            "Request",
            {
                "fields": (
                    "request_id",
                    ("account", "key"),
                    ("model", "provider", "upstream_model"),
                    ("endpoint", "format", "streamed"),
                    ("state", "status_code", "error_code", "finish_reason"),
                    ("started_at", "ended_at"),
                    ("latency_ms", "first_token_ms"),
                    ("user_tag", "flags"),
                )
            },
        ),
        (
            "Charge",
            {
                "fields": (
                    ("cost_usd", "list_cost_usd", "written_off_usd"),
                    ("hold_usd", "overrun_usd"),
                    ("upstream_usd", "reported_usd"),
                    ("usage_source", "rule"),
                    "rule_text",
                    ("price_link", "transfer_link"),
                )
            },
        ),
    )
    cost_usd = dollars.column("cost", "charged")
    list_cost_usd = dollars.column("list_cost", "at its price")
    overrun_usd = dollars.column("overrun_cost", "booked after a sweep")
    upstream_usd = dollars.column("upstream_cost", "what the provider charges")
    reported_usd = dollars.column("reported_cost", "what the provider said it charges")
    hold_usd = dollars.column("hold_amount", "held for it")
    written_off_usd = dollars.column("written_off")

    @admin.display(description="request")
    def short_id(self, obj: UsageRecord) -> str:
        """Enough of the id to see which it is."""
        return f"…{str(obj.pk)[-12:]}"

    @admin.display(description="key")
    def key_text(self, obj: UsageRecord) -> str:
        """What people recognise the key by."""
        key = related(obj, "key")
        return f"{key.start}…{key.last_four}" if key else str(obj.key_id)

    @admin.display(description="status")
    def state(self, obj: UsageRecord) -> SafeString:
        """How it ended."""
        return badge(obj.status, TONES.get(obj.status, ""))

    @admin.display(description="in")
    def tokens_in(self, obj: UsageRecord) -> str:
        """All tokens that went in."""
        return f"{receipts.usage_of(obj).total_input_tokens:,}"

    @admin.display(description="out")
    def tokens_out(self, obj: UsageRecord) -> str:
        """All tokens that came out."""
        return f"{receipts.usage_of(obj).total_output_tokens:,}"

    @admin.display(description="why")
    def rule_text(self, obj: UsageRecord) -> str:
        """The rule in words."""
        return receipts.RULES.get(obj.rule, "-")

    @admin.display(description="price")
    def price_link(self, obj: UsageRecord) -> SafeString | str:
        """The price version it was charged at."""
        return link_to(related(obj, "price"))

    @admin.display(description="transfer")
    def transfer_link(self, obj: UsageRecord) -> SafeString | str:
        """The entry of the ledger that charged it."""
        return link_to(related(obj, "transfer"))

    def tables(self, request: HttpRequest, obj: UsageRecord) -> Iterable[Table]:  # noqa: ARG002 - the signature is the base's
        """The receipt, line by line, and what was tried."""
        yield _receipt(obj)
        if obj.attempts:
            yield Table(
                "Attempts",
                ("provider", "result", "milliseconds", "more"),
                [
                    (
                        one.get("provider", "-"),
                        badge(str(one.get("result", "-")), "success" if one.get("result") == "ok" else "warning"),
                        one.get("ms", "-"),
                        ", ".join(f"{name}: {value}" for name, value in one.items() if name not in ("provider", "result", "ms")) or "-",
                    )
                    for one in obj.attempts
                ],
            )

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """A request, an account, a key, else a model."""
        term = search_term.strip()
        if not term or read_uuid(term) is not None or Account.objects.filter(slug=term.lower()).exists():
            return super().get_search_results(request, queryset, term)
        try:
            return queryset.filter(key=issuing.find(term)), False
        except issuing.KeyNotFound:
            return queryset.filter(model=term), False


def _receipt(record: UsageRecord) -> Table:
    receipt = receipts.explain(record)
    rows: list[tuple[Any, ...]] = []
    for line in receipt.lines:
        one = line.bucket in pricing.PER_ONE
        rate = dollars.show_parts(line.rate, per_nano=pricing.PER_UNITS) if one else dollars.show(line.rate)
        rows.append(
            (line.bucket.replace("_", " "), f"{line.quantity:,}", rate, dollars.show_parts(line.amount, per_nano=pricing.PER_UNITS))
        )
    if receipt.price is not None and receipt.price.markup_ppm:
        markup = receipt.total - receipt.subtotal * pricing.PER_UNITS
        rows.append((f"markup {receipt.price.markup_ppm / 10_000:g} %", "", "", dollars.show_parts(markup, per_nano=pricing.PER_UNITS**2)))
    if receipt.adjustment:
        rows.append(("adjustment", "", "", dollars.show(receipt.adjustment)))
    rows.append(("at its price, rounded up once", "", "", dollars.show(receipt.list_cost)))
    if receipt.written_off:
        rows.append(("written off", "", "", dollars.show(-receipt.written_off)))
    if receipt.not_charged:
        rows.append(("not charged by rule", "", "", dollars.show(-receipt.not_charged)))
    rows.append(("charged", "", "", dollars.show(receipt.charged)))
    return Table("Receipt", ("what", "quantity", "USD per 1M, or for one", "amount"), rows)
