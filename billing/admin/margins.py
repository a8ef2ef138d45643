"""What the operator earns and pays, in the admin: margins, upstream costs beside what providers report, and the providers' invoices."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.utils import timezone

from billing import margins, streaming
from billing.models import ProviderInvoice
from billing.reports import LONGEST_PERIOD, Period
from catalog import dollars, money
from catalog.models import Provider
from gateway_site.admin_base import ModelAdmin, ModelForm, Page, PageForm, Table, badge

NOTABLE_PPM = 10_000  # one per cent: what two countings of the same usage should not differ by
MARGIN_COLUMNS = ("name", "requests", "revenue_usd", "upstream_cost_usd", "margin_usd", "margin_percent", "written_off_usd")


class PeriodForm(PageForm):
    """From when to when (UTC, the last day included), and by what."""

    first = forms.DateField(label="From")
    last = forms.DateField(label="To", help_text="This day included; days are UTC's.")
    by = forms.ChoiceField(label="By", choices=[(name, name) for name in margins.DIMENSIONS], required=False)

    def clean(self) -> dict[str, Any]:
        """Refuse what is upside down or too long."""
        said = super().clean() or {}
        first, last = said.get("first"), said.get("last")
        if first and last and not timedelta(0) <= last - first <= LONGEST_PERIOD:
            raise forms.ValidationError(f"The period must run forward and be no longer than {LONGEST_PERIOD.days} days.")
        return said

    @property
    def period(self) -> Period:
        """The days that were asked for."""
        first, last = self.cleaned_data["first"], self.cleaned_data["last"]
        return Period(_midnight(first), _midnight(last + timedelta(days=1)))


class InvoiceForm(ModelForm):
    """The total of one provider's invoice, in dollars."""

    amount = dollars.UsdField(label="Amount", help_text="Dollars, without taxes.")

    class Meta:
        model = ProviderInvoice
        fields = ("provider", "month", "amount", "note")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            self.initial["amount"] = self.instance.amount_nano

    def clean_month(self) -> date:
        """Any day of the month stands for it."""
        month: date = self.cleaned_data["month"]
        return month.replace(day=1)

    def clean_provider(self) -> str:
        """A name that the catalog knows."""
        provider = str(self.cleaned_data["provider"]).strip()
        if not Provider.objects.filter(slug=provider).exists():
            raise forms.ValidationError("The catalog has no provider of this name.")
        return provider

    def save(self, commit: bool = True) -> Any:  # noqa: FBT001, FBT002 - the signature is Django's
        """Keep the amount as nano-USD."""
        self.instance.amount_nano = self.cleaned_data["amount"]
        return super().save(commit)


@admin.register(ProviderInvoice)
class ProviderInvoiceAdmin(ModelAdmin):
    """Providers' invoices, and the reports beside which they stand."""

    empty_text = "Enter what a provider asked for a month, and the report shows it beside what the catalog's prices say."
    form = InvoiceForm
    list_display = ("provider", "month", "amount_usd", "note")
    list_filter = ("provider",)
    ordering = ("-month", "provider")
    list_pages = (
        Page("margin", "Margin", ("billing.view_usagerecord",), icon="monitoring"),
        Page("provider_costs", "Costs beside providers' figures", ("billing.view_usagerecord",), icon="balance"),
    )

    @admin.display(description="amount")
    def amount_usd(self, invoice: ProviderInvoice) -> str:
        """The invoice's total."""
        return str(dollars.show(invoice.amount_nano))

    def margin(self, request: HttpRequest) -> HttpResponseBase:
        """What each model, provider or account brought in; `format=csv` for a file."""
        form = _period_form(request)
        if not form.is_valid():
            return self._report(request, "Margin", form, [])
        period, by = form.period, form.cleaned_data["by"] or "model"
        rows = margins.margins(period=period, dimension=by)
        if request.GET.get("format") == "csv":
            cells = (
                (
                    row.name,
                    row.requests,
                    money.usd(row.revenue),
                    money.usd(row.upstream_cost),
                    money.usd(row.margin),
                    _percent(row.margin_ppm),
                    money.usd(row.written_off),
                )
                for row in rows
            )
            name = f"margin-by-{by}-{period.starts_at:%Y-%m-%d}-{period.ends_at:%Y-%m-%d}"
            return streaming.download(request, header=(by, *MARGIN_COLUMNS[1:]), rows=cells, name=name)
        lines = [_margin_cells(row, row.name or "-") for row in (*rows, margins.total(period))]
        lines[-1][0] = "all"
        headers = (by, "requests", "revenue", "upstream cost", "margin", "margin %", "written off")
        return self._report(request, "Margin", form, [Table(f"By {by}", headers, lines)], csv=_csv_address(request))

    def provider_costs(self, request: HttpRequest) -> HttpResponse:
        """Our upstream costs beside what providers report with each answer, by day, and beside their invoices, by month."""
        form = _period_form(request)
        tables = []
        if form.is_valid():
            days = [
                (
                    one.provider,
                    one.day.isoformat(),
                    one.requests,
                    dollars.show(one.ours),
                    dollars.show(one.reported),
                    _difference(one.difference_ppm),
                )
                for one in margins.reported_days(period=form.period)
            ]
            tables.append(Table("Reported with the answers", ("provider", "day", "requests", "ours", "theirs", "difference"), days))
        months = [
            (
                one.provider,
                f"{one.month:%Y-%m}",
                one.requests,
                dollars.show(one.ours),
                dollars.show(one.reported) if one.reported else "-",
                "-" if one.invoiced is None else dollars.show(one.invoiced),
                _difference(one.difference_ppm),
                one.note,
            )
            for one in margins.invoiced_months(now=timezone.now())
        ]
        headers = ("provider", "month", "requests", "ours", "reported", "invoice", "difference", "note")
        tables.append(Table("Invoices", headers, months, more=self.list_url()))
        return self._report(request, "Costs beside providers' figures", form, tables, add=reverse("admin:billing_providerinvoice_add"))

    def _report(self, request: HttpRequest, title: str, form: PeriodForm, tables: list[Table], **links: str) -> HttpResponse:
        return self.render_page(request, "admin/report.html", None, title=title, form=form, tables=tables, **links)


def _period_form(request: HttpRequest) -> PeriodForm:
    """The form as it was sent; the last thirty days when nothing was."""
    today = timezone.now().astimezone(UTC).date()
    usual = {"first": (today - timedelta(days=29)).isoformat(), "last": today.isoformat(), "by": "model"}
    return PeriodForm({**usual, **{name: value for name, value in request.GET.items() if value}})


def _margin_cells(row: margins.Margin, name: str) -> list[Any]:
    return [
        name,
        row.requests,
        dollars.show(row.revenue),
        dollars.show(row.upstream_cost),
        dollars.show(row.margin),
        _percent(row.margin_ppm) or "-",
        dollars.show(row.written_off),
    ]


def _percent(ppm: int | None) -> str:
    return "" if ppm is None else f"{ppm / 10_000:.2f}"


def _difference(ppm: int | None) -> str:
    if ppm is None:
        return "-"
    text = f"{ppm / 10_000:+.2f} %"
    return badge(text, "warning") if abs(ppm) >= NOTABLE_PPM else text


def _csv_address(request: HttpRequest) -> str:
    asked = request.GET.copy()
    asked["format"] = "csv"
    return f"?{asked.urlencode()}"


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)
