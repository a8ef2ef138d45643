"""The catalog in the admin: providers and their keys, models with routes and aliases, and dated prices.

Whatever is saved here is announced, so that every process reads the catalog again. A provider's secret goes in and never comes out. Prices
are typed and shown in US dollars; one that is in effect is history, which the database refuses to change, so a new one is added after it.
`ProviderAdmin` is registered in `gateway_site.admin`, which may ask the proxy whether an address is allowed.
"""

from datetime import datetime
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Model as AnyModel
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString

from catalog import declarations, dollars, manifest, pricing
from catalog.models import RATE_FIELDS, Alias, CatalogVersion, Model, Price, Provider, ProviderKey, Route
from gateway_site.admin_base import DateTimeWidget, LinesField, ModelAdmin, ModelForm, Page, ReadOnlyInline, TabularInline, badge, link_to

LONG_FIELDS = tuple(field for field in RATE_FIELDS if field not in pricing.PER_ONE)
LONG_ABOVE = "long_above"


class CatalogAdmin(ModelAdmin):
    """A table of the catalog: a change of it is told to every process."""

    def topics(self, obj: AnyModel) -> tuple[str, ...]:  # noqa: ARG002 - the catalog is read whole
        """The catalog is read whole."""
        return ("catalog",)


# -- Providers -----------------------------------------------------------------------------------------------------------------------


class ProviderForm(ModelForm):
    """A provider; an address left empty is the company's own."""

    class Meta:
        model = Provider
        fields = ("slug", "kind", "base_url", "api_version", "is_enabled", "allow_private")

    def clean(self) -> dict[str, Any]:
        """Fill in the address, and have it checked."""
        said = super().clean() or self.cleaned_data
        url = str(said.get("base_url") or "").strip().rstrip("/")
        kind = said.get("kind")
        if kind and kind != Provider.Kind.DEMO:
            url = url or manifest.usual_base_url(kind)
            if not url:
                self.add_error("base_url", "A provider of this kind needs its address.")
            elif problem := self.problem_with_url(url, allow_private=bool(said.get("allow_private"))):
                self.add_error("base_url", problem)
        said["base_url"] = url
        return said

    def problem_with_url(self, url: str, *, allow_private: bool) -> str:  # noqa: ARG002 - for the subclass that may ask the proxy
        """Why the gateway must not send to `url`; empty when it may."""
        return ""


class ProviderKeyForm(ModelForm):
    """A credential. The secret is written here and sealed at once; the form never has it again."""

    secret = forms.CharField(
        required=False,
        max_length=8000,
        widget=forms.PasswordInput(attrs={"autocomplete": "off", "spellcheck": "false"}, render_value=False),
        help_text="Stored encrypted and never shown again. Left empty, the one that is there stays.",
    )

    class Meta:
        model = ProviderKey
        fields = ("provider", "name", "secret", "weight", "is_enabled")

    def clean_secret(self) -> str:
        """A new key needs its secret; one with blanks or line ends inside would break the header it is sent in."""
        secret = str(self.cleaned_data.get("secret") or "").strip()
        if not secret and not self.instance.sealed_secret:
            raise forms.ValidationError("A new key needs its secret.")
        if secret and (problem := declarations.problem_with_secret(secret)):
            raise forms.ValidationError(f"The secret {problem}.")
        return secret

    def save(self, commit: bool = True) -> Any:  # noqa: FBT001, FBT002 - the signature is Django's
        """Seal the secret, when one was given, into the row."""
        secret = self.cleaned_data.get("secret")
        if secret:
            self.instance.set_secret(secret)
            if self.cleaned_data.get("is_enabled"):
                self.instance.disabled_reason = ""
        return super().save(commit)


class ProviderKeyInline(TabularInline):
    model = ProviderKey
    form = ProviderKeyForm
    fields = ("name", "secret", "ends_in", "weight", "is_enabled", "disabled_reason")
    readonly_fields = ("ends_in", "disabled_reason")

    @admin.display(description="ends in")
    def ends_in(self, obj: ProviderKey) -> str:
        """What the key is recognised by."""
        return f"…{obj.last_four}" if obj.last_four else "-"


class RouteInline(TabularInline):
    model = Route
    fields = ("provider", "upstream_model", "format", "priority", "weight", "is_enabled")
    autocomplete_fields = ("provider",)


class ProviderRouteInline(ReadOnlyInline):
    """What is sent to a provider; routes are edited at their model."""

    model = Route
    fields = ("model", "upstream_model", "format", "priority", "weight", "is_enabled")
    per_page = 50


class ProviderAdmin(CatalogAdmin):
    """A provider, its keys, and what is routed to it."""

    form = ProviderForm
    list_display = ("slug", "kind", "base_url", "is_enabled", "allow_private", "created_at")
    list_filter = ("kind", "is_enabled")
    search_fields = ("slug", "base_url")
    ordering = ("slug",)
    inlines = (ProviderKeyInline, ProviderRouteInline)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Only a provider that nothing is routed to and that has no key: any other is switched off instead."""
        return super().has_delete_permission(request, obj) and (obj is None or not (obj.routes.exists() or obj.keys.exists()))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Where a provider's keys are sent is moved only by who may change the keys."""
        fields = super().get_readonly_fields(request, obj)
        if obj is None or request.user.has_perm("catalog.change_providerkey") or not obj.keys.exists():
            return fields
        return (*fields, "kind", "base_url", "allow_private")


@admin.register(ProviderKey)
class ProviderKeyAdmin(CatalogAdmin):
    """All credentials, without the credentials."""

    empty_text = "A provider without a key answers nobody: add one."
    form = ProviderKeyForm
    list_display = ("name", "provider", "ends_in", "weight", "is_enabled", "disabled_reason", "created_at")
    list_filter = ("provider", "is_enabled")
    list_select_related = ("provider",)
    search_fields = ("name", "provider__slug", "last_four")
    ordering = ("provider", "name")
    autocomplete_fields = ("provider",)
    readonly_fields = ("ends_in", "disabled_reason", "created_at")
    fields = ("provider", "name", "secret", "ends_in", "weight", "is_enabled", "disabled_reason", "created_at")

    @admin.display(description="ends in")
    def ends_in(self, obj: ProviderKey) -> str:
        """What the key is recognised by."""
        return f"…{obj.last_four}" if obj.last_four else "-"

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """A secret stays with the provider it was given for: it is never sent to another address."""
        fields = super().get_readonly_fields(request, obj)
        return fields if obj is None else (*fields, "provider")


# -- Models and what they cost -------------------------------------------------------------------------------------------------------


class CatalogModelForm(ModelForm):
    capabilities = LinesField(help_text='One a line, such as "tools" or "vision".')

    class Meta:
        model = Model
        fields = "__all__"


class AliasInline(TabularInline):
    model = Alias
    fields = ("name",)


class PriceInline(ReadOnlyInline):
    """The prices of a model, the newest first."""

    model = Price
    fields = ("effective_from", "input_usd", "cached_input_usd", "output_usd", "markup", "note")
    readonly_fields = ("input_usd", "cached_input_usd", "output_usd", "markup")
    per_page = 10
    input_usd = dollars.column("input", "input per 1M")
    cached_input_usd = dollars.column("cached_input", "cached per 1M")
    output_usd = dollars.column("output", "output per 1M")

    @admin.display(description="markup")
    def markup(self, obj: Price) -> str:
        """In percent."""
        return f"{obj.markup_ppm / 10_000:g} %"


@admin.register(Model)
class ModelCatalogAdmin(CatalogAdmin):
    """A model: what it can, where it is routed to, its other names, and its prices."""

    form = CatalogModelForm
    list_display = ("slug", "kind", "in_effect", "routes_count", "context", "max_output", "is_enabled")
    list_filter = ("kind", "is_enabled", "routes__provider")
    search_fields = ("slug", "name", "aliases__name")
    ordering = ("slug",)
    readonly_fields = ("created_at",)
    inlines = (RouteInline, PriceInline, AliasInline)
    fieldsets = (
        (None, {"fields": ("slug", "kind", "name", "description", "is_enabled")}),
        ("Limits", {"fields": (("context", "max_output", "usual_output"), "free_daily_requests")}),
        ("About", {"fields": ("capabilities", "source", "created_at")}),
    )
    pages = (Page("add_price", "Add a price", ("catalog.add_price",), icon="sell"),)
    list_pages = (
        Page("apply_manifest", "Apply a manifest", ("catalog.add_model", "catalog.change_model", "catalog.add_price"), icon="upload_file"),
        Page("set_markups", "Set markups", ("catalog.add_price", "catalog.view_model"), icon="percent"),
    )

    def get_queryset(self, request: HttpRequest) -> Any:
        """With what the list shows of each model, in two more queries altogether."""
        return super().get_queryset(request).prefetch_related("prices", "routes")

    @admin.display(description="input / output per 1M")
    def in_effect(self, obj: Model) -> SafeString | str:
        """The price of this moment."""
        price = price_in_effect(obj, timezone.now())
        if price is None:
            return badge("no price", "warning")
        return SafeString(f"{dollars.show(price.input)} / {dollars.show(price.output)}")  # both halves are safe already

    @admin.display(description="routes")
    def routes_count(self, obj: Model) -> int:
        """How many ways there are to reach it."""
        return len(obj.routes.all())

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Only a model that never had a price: receipts point at the others. Switch them off."""
        return super().has_delete_permission(request, obj) and (obj is None or not obj.prices.exists())

    def apply_manifest(self, _request: HttpRequest) -> HttpResponse:
        """Lead to where manifests are applied."""
        return HttpResponseRedirect(reverse("admin:manifest"))

    def set_markups(self, _request: HttpRequest) -> HttpResponse:
        """Lead to where markups are set."""
        return HttpResponseRedirect(reverse("admin:markups"))

    def add_price(self, _request: HttpRequest, obj: Model) -> HttpResponse:
        """Lead to the form for a new price, filled in with the one in effect."""
        return HttpResponseRedirect(f"{reverse('admin:catalog_price_add')}?model={obj.pk}")


def _rate(name: str, *, long: bool = False) -> dollars.UsdField:
    one = name in pricing.PER_ONE
    label = name.replace("_", " ").replace(" 1h", " (1 h)")
    return dollars.UsdField(
        units=pricing.PER_UNITS if one else 1,
        required=False,
        label=f"{label}, USD per {'one' if one else '1M tokens'}" + (" of a longer prompt" if long else ""),
    )


class PriceForm(ModelForm):
    """A price in dollars."""

    input = _rate("input")
    cached_input = _rate("cached_input")
    cache_write = _rate("cache_write")
    cache_write_1h = _rate("cache_write_1h")
    audio_input = _rate("audio_input")
    output = _rate("output")
    reasoning = _rate("reasoning")
    audio_output = _rate("audio_output")
    image = _rate("image")
    web_search = _rate("web_search")
    request = _rate("request")
    long_input = _rate("input", long=True)
    long_cached_input = _rate("cached_input", long=True)
    long_cache_write = _rate("cache_write", long=True)
    long_cache_write_1h = _rate("cache_write_1h", long=True)
    long_audio_input = _rate("audio_input", long=True)
    long_output = _rate("output", long=True)
    long_reasoning = _rate("reasoning", long=True)
    long_audio_output = _rate("audio_output", long=True)
    markup_ppm = dollars.PercentField(label="markup, %", required=False, initial=0, help_text="Added on top for the customer.")
    effective_from = forms.SplitDateTimeField(
        required=False, widget=DateTimeWidget, help_text="Empty: at once. Never in the past: what was charged was charged."
    )
    long_above = forms.IntegerField(
        required=False,
        min_value=1,
        label="a longer prompt has more than",
        help_text="Tokens; a prompt above is charged, whole, at the prices here.",
    )

    class Meta:
        model = Price
        exclude = ("long_prompt", "created_at")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        said: dict[str, Any] = self.instance.long_prompt or {}
        self.initial.setdefault(LONG_ABOVE, said.get("above"))
        for field in LONG_FIELDS:
            self.initial.setdefault(f"long_{field}", said.get(field))

    def clean_effective_from(self) -> datetime:
        """From this moment on, unless a later one was given."""
        now, moment = timezone.now(), self.cleaned_data.get("effective_from")
        if moment is not None and moment < now:
            raise forms.ValidationError("This moment is past. Leave it empty for a price that begins at once.")
        return moment or now

    def clean(self) -> dict[str, Any]:
        """A price names at least one rate; prices of longer prompts stand together with where they begin."""
        said = super().clean() or self.cleaned_data
        if not self.errors and all(said.get(field) is None for field in RATE_FIELDS):
            raise forms.ValidationError("Name at least one price; zero makes the model free.")
        above = said.get(LONG_ABOVE)
        rates = {field: said[f"long_{field}"] for field in LONG_FIELDS if said.get(f"long_{field}") is not None}
        if (above is None) != (not rates):
            self.add_error(LONG_ABOVE, "Prices of longer prompts need this number, and the number needs a price.")
        self.instance.long_prompt = {"above": above, **rates} if rates else None
        return said


@admin.register(Price)
class PriceAdmin(CatalogAdmin):
    """Dated prices. One that is in effect is shown and can be followed by another."""

    form = PriceForm
    list_display = ("model", "effective_from", "state", "input_usd", "cached_input_usd", "output_usd", "image_usd", "markup", "note")
    list_filter = ("effective_from",)
    list_select_related = ("model",)
    search_fields = ("model__slug", "note")
    ordering = ("-effective_from", "-id")
    autocomplete_fields = ("model",)
    fieldsets = (
        (None, {"fields": ("model", "effective_from", "markup_ppm", "note")}),
        ("Input", {"fields": (("input", "cached_input"), ("cache_write", "cache_write_1h"), "audio_input")}),
        ("Output", {"fields": (("output", "reasoning"), "audio_output")}),
        ("For one", {"fields": (("image", "web_search", "request"),)}),
        (
            "Longer prompts",
            {
                "classes": ("collapse",),
                "fields": (
                    LONG_ABOVE,
                    ("long_input", "long_cached_input"),
                    ("long_cache_write", "long_cache_write_1h"),
                    ("long_output", "long_reasoning"),
                    ("long_audio_input", "long_audio_output"),
                ),
            },
        ),
    )
    pages = (Page("add_price", "Add a new price", ("catalog.add_price",), icon="sell"),)
    input_usd = dollars.column("input", "input per 1M")
    cached_input_usd = dollars.column("cached_input", "cached per 1M")
    output_usd = dollars.column("output", "output per 1M")

    @admin.display(description="per image")
    def image_usd(self, obj: Price) -> SafeString | str:
        """The price of one image."""
        return "-" if obj.image is None else dollars.show_parts(obj.image, per_nano=pricing.PER_UNITS)

    @admin.display(description="markup")
    def markup(self, obj: Price) -> str:
        """In percent."""
        return f"{obj.markup_ppm / 10_000:g} %"

    @admin.display(description="state")
    def state(self, obj: Price) -> SafeString:
        """Whether it has begun."""
        return badge("begun", "info") if obj.effective_from <= timezone.now() else badge("to come", "warning")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """A price that has begun is shown as the list of what it charges."""
        if obj is not None and not self.has_change_permission(request, obj):
            return ((None, {"fields": ("model", "effective_from", "markup", "note", "rates")}),)
        return super().get_fieldsets(request, obj)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """The columns of a price that has begun."""
        return ("markup", "rates") if obj is not None and not self.has_change_permission(request, obj) else ()

    @admin.display(description="prices")
    def rates(self, obj: Price) -> SafeString:
        """What it charges, bucket by bucket, the fallbacks filled in."""
        price = obj.frozen()
        lines = [_describe(field, getattr(price.rates, field), given=getattr(obj, field) is not None) for field in RATE_FIELDS]
        if price.long_rates is not None and price.long_prompt_above is not None:
            lines.append(f"for prompts above {price.long_prompt_above:,} tokens:")
            lines += [_describe(field, getattr(price.long_rates, field), given=field in (obj.long_prompt or {})) for field in LONG_FIELDS]
        return SafeString("<br>".join(lines))  # names of our own and safe amounts

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Only a price that has not begun."""
        return super().has_change_permission(request, obj) and (obj is None or obj.effective_from > timezone.now())

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Only a price that has not begun."""
        return super().has_delete_permission(request, obj) and (obj is None or obj.effective_from > timezone.now())

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """Begin a new price of `?model=` with the one in effect."""
        given = request.GET.get("model", "")
        model = Model.objects.filter(pk=int(given)).first() if given.isdecimal() and len(given) < 19 else None
        current = None if model is None else price_in_effect(model, timezone.now())
        if current is None:
            return {"model": model}
        long_prompt: dict[str, Any] = current.long_prompt or {}
        return {
            "model": model,
            "markup_ppm": current.markup_ppm,
            **{field: getattr(current, field) for field in RATE_FIELDS},
            LONG_ABOVE: long_prompt.get("above"),
            **{f"long_{field}": long_prompt.get(field) for field in LONG_FIELDS},
        }

    def add_price(self, _request: HttpRequest, obj: Price) -> HttpResponse:
        """Lead to the form for the next price of the same model."""
        return HttpResponseRedirect(f"{reverse('admin:catalog_price_add')}?model={obj.model_id}")


@admin.register(Route)
class RouteAdmin(CatalogAdmin):
    """Every way to reach a model, in one list."""

    list_display = ("model", "provider", "upstream_model", "format", "priority", "weight", "is_enabled")
    list_filter = ("provider", "is_enabled", "format")
    list_select_related = ("model", "provider")
    search_fields = ("model__slug", "upstream_model")
    autocomplete_fields = ("model", "provider")
    ordering = ("model", "priority", "id")


@admin.register(Alias)
class AliasAdmin(CatalogAdmin):
    """Other names of models."""

    empty_text = "An alias is another name that clients may call a model by."
    list_display = ("name", "model_link")
    list_select_related = ("model",)
    search_fields = ("name", "model__slug")
    autocomplete_fields = ("model",)
    ordering = ("name",)

    @admin.display(description="model", ordering="model__slug")
    def model_link(self, obj: Alias) -> SafeString | str:
        """The model it stands for."""
        return link_to(obj.model)


@admin.register(CatalogVersion)
class CatalogVersionAdmin(CatalogAdmin):
    """The one row of the catalog as a whole: which model answers a request that names none."""

    fields = ("default_model", "version")
    readonly_fields = ("version",)
    autocomplete_fields = ("default_model",)

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002 - the signature is Django's
        """There is one row."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002 - the signature is Django's
        """There is one row."""
        return False

    def save_model(self, request: HttpRequest, obj: CatalogVersion, form: Any, change: bool) -> None:  # noqa: ARG002, FBT001 - Django's
        """Write the setting alone: the version is counted by the database."""
        obj.save(update_fields=["default_model"])


def price_in_effect(model: Model, now: datetime) -> Price | None:
    """The price of `model` at `now`, from the prices that were fetched with it."""
    return max((price for price in model.prices.all() if price.effective_from <= now), key=lambda price: price.effective_from, default=None)


def _describe(bucket: str, rate: int, *, given: bool) -> str:
    amount = dollars.show_parts(rate, per_nano=pricing.PER_UNITS) if bucket in pricing.PER_ONE else dollars.show(rate)
    return f"{bucket.replace('_', ' ')}: {amount}{'' if given else ' (as what it is a kind of)'}"
