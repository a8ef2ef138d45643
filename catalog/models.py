"""The tables of the catalog: providers and their keys, models, routes, dated prices, aliases, and the version that counts changes.

A trigger on every one of these tables bumps `CatalogVersion`, so a process learns of any change however it was made.
"""

import uuid
from typing import Any

from django.core.validators import MinValueValidator, RegexValidator
from django.db import models
from django.utils import timezone

from catalog import pricing, service_accounts, vault

MODEL_SLUG = RegexValidator(r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,149}$", "Use letters, digits and . _ : / @ + - only.")
API_VERSION = RegexValidator(r"^[A-Za-z0-9][A-Za-z0-9.-]*\Z", "Use a version such as 2024-10-21 or 2025-04-01-preview.")
FORMATS = [("chat", "OpenAI Chat Completions"), ("responses", "OpenAI Responses"), ("messages", "Anthropic Messages"), ("gemini", "Gemini")]


class Provider(models.Model):
    """A company (or a server of the operator's own) that runs models, and where to reach it."""

    class Kind(models.TextChoices):
        OPENAI = "openai", "OpenAI"
        ANTHROPIC = "anthropic", "Anthropic"
        GOOGLE = "google", "Google Gemini"
        VERTEX = "vertex", "Google Vertex AI"
        AZURE = "azure", "Azure OpenAI"
        DEEPSEEK = "deepseek", "DeepSeek"
        OPENROUTER = "openrouter", "OpenRouter"
        XAI = "xai", "xAI"
        ZAI = "zai", "Z.ai"
        MISTRAL = "mistral", "Mistral"
        GROQ = "groq", "Groq"
        CUSTOM = "custom", "Custom (OpenAI-compatible)"
        DEMO = "demo", "Demo (built in)"

    slug = models.SlugField(max_length=50, unique=True)
    kind = models.CharField(max_length=20, choices=Kind.choices)
    base_url = models.CharField(max_length=300, blank=True, help_text="For example https://api.openai.com/v1. The demo provider has none.")
    api_version = models.CharField(
        max_length=40,
        blank=True,
        default="",
        validators=[API_VERSION],
        help_text="Azure only, for addresses like https://name.openai.azure.com: such as 2024-10-21. Empty: the address ends in /openai/v1.",
    )
    is_enabled = models.BooleanField(default=True, help_text="Off: no request is sent there.")
    allow_private = models.BooleanField(default=False, help_text="Allow plain HTTP and private addresses: for model servers of your own.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return self.slug


class ProviderKey(models.Model):
    """A credential at a provider. Only its sealed form is stored; nothing ever shows it again."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    provider = models.ForeignKey(Provider, on_delete=models.CASCADE, related_name="keys")
    name = models.CharField(max_length=100, default="default")
    sealed_secret = models.TextField(editable=False)
    last_four = models.CharField(max_length=4, editable=False, blank=True)
    weight = models.PositiveIntegerField(default=1, validators=[MinValueValidator(1)])
    is_enabled = models.BooleanField(default=True)
    disabled_reason = models.CharField(max_length=200, blank=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["provider", "name"], name="provider_key_name_once")]

    def __str__(self) -> str:
        return f"{self.provider} · {self.name} (…{self.last_four})"

    @property
    def place(self) -> str:
        """What the sealed secret is bound to."""
        return f"provider_key:{self.id}:secret"

    def set_secret(self, secret: str) -> None:
        """Seal `secret` into this row (not saved yet)."""
        self.sealed_secret = vault.seal(secret, place=self.place)
        account = service_accounts.find(secret)
        ending = secret if account is None else account.key_id
        self.last_four = ending[-4:] if len(ending) >= 12 else ""

    def secret(self) -> str:
        """Open the secret. Raises: vault.CannotOpen."""
        return vault.open_sealed(self.sealed_secret, place=self.place)


class Model(models.Model):
    """Something a customer can call by name. Without a price in effect it is neither listed nor callable."""

    class Kind(models.TextChoices):
        TEXT = "text"
        EMBEDDING = "embedding"
        IMAGE = "image"
        VIDEO = "video"

    slug = models.CharField(max_length=150, unique=True, validators=[MODEL_SLUG])
    kind = models.CharField(max_length=10, choices=Kind.choices, default=Kind.TEXT)
    name = models.CharField(max_length=150, blank=True)
    description = models.TextField(blank=True)
    context = models.PositiveIntegerField(default=128_000, help_text="Tokens that fit in one request, input and output together.")
    max_output = models.PositiveIntegerField(default=4096, help_text="The most tokens one answer can have.")
    usual_output = models.PositiveIntegerField(
        default=512, help_text="What an answer usually has: a stream's first hold covers so many tokens."
    )
    capabilities = models.JSONField(default=list, blank=True)
    free_daily_requests = models.PositiveIntegerField(
        null=True, blank=True, help_text="Set: free, this many requests a day for all together."
    )
    is_enabled = models.BooleanField(default=True)
    source = models.CharField(max_length=300, blank=True, help_text="Where limits and prices were read, and when.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return self.slug


class Route(models.Model):
    """One way to reach a model: at a provider, under the provider's name for it. Lower priority numbers are tried first."""

    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="routes")
    provider = models.ForeignKey(Provider, on_delete=models.CASCADE, related_name="routes")
    upstream_model = models.CharField(max_length=200)
    priority = models.PositiveIntegerField(default=0)
    weight = models.PositiveIntegerField(default=1, validators=[MinValueValidator(1)])
    format = models.CharField(max_length=10, choices=FORMATS, blank=True, help_text="Empty: the client's own where the provider speaks it.")
    is_enabled = models.BooleanField(default=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["model", "provider", "upstream_model", "format"], name="route_once")]
        ordering = ["priority", "id"]

    def __str__(self) -> str:
        return f"{self.model} → {self.provider}:{self.upstream_model}"


RATE_FIELDS = (
    "input",
    "cached_input",
    "cache_write",
    "cache_write_1h",
    "audio_input",
    "output",
    "reasoning",
    "audio_output",
    "image",
    "web_search",
    "request",
)


def _rate(label: str) -> "models.BigIntegerField[int | None, int | None]":
    return models.BigIntegerField(label, null=True, blank=True, validators=[MinValueValidator(0)])


class Price(models.Model):
    """What a model costs from a moment on, in nano-USD per 1,000,000 units; it ends where the model's next price begins.

    A price whose moment has come is history: receipts point at it, so a trigger refuses to change or delete it.
    """

    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="prices")
    effective_from = models.DateTimeField(default=timezone.now)
    input = _rate("input")
    cached_input = _rate("cached input")
    cache_write = _rate("cache write (5 min)")
    cache_write_1h = _rate("cache write (1 h)")
    audio_input = _rate("audio input")
    output = _rate("output")
    reasoning = _rate("reasoning")
    audio_output = _rate("audio output")
    image = _rate("image")
    web_search = _rate("web search")
    request = _rate("request")
    long_prompt = models.JSONField(null=True, blank=True, help_text='{"above": tokens, "input": nano, …}: the prices of longer prompts.')
    markup_ppm = models.PositiveIntegerField(default=0, help_text="Added on top for the customer, in millionths (50000 = 5 %).")
    note = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["model", "effective_from"], name="price_begins_once"),
            *[
                models.CheckConstraint(
                    condition=models.Q(**{f"{field}__isnull": True}) | models.Q(**{f"{field}__gte": 0}), name=f"price_{field}_positive"
                )
                for field in RATE_FIELDS
            ],
        ]
        ordering = ["model", "-effective_from"]

    def __str__(self) -> str:
        return f"{self.model} from {self.effective_from:%Y-%m-%d %H:%M}"

    def frozen(self) -> pricing.Price:
        """This row as the value that arithmetic uses."""
        given: dict[str, int | None] = {field: getattr(self, field) for field in RATE_FIELDS}
        rates = pricing.fill_rates(given)
        long_prompt: dict[str, Any] = self.long_prompt or {}
        return pricing.Price(
            id=self.pk,
            effective_from=self.effective_from,
            rates=rates,
            long_prompt_above=long_prompt.get("above"),
            long_rates=pricing.fill_rates({k: v for k, v in long_prompt.items() if k != "above"}, base=rates) if long_prompt else None,
            markup_ppm=self.markup_ppm,
        )


class Alias(models.Model):
    """Another name of a model."""

    name = models.CharField(max_length=150, unique=True, validators=[MODEL_SLUG])
    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="aliases")

    class Meta:
        verbose_name_plural = "aliases"

    def __str__(self) -> str:
        return f"{self.name} → {self.model}"


class CatalogVersion(models.Model):
    """The single row that counts every change of the catalog, and the settings that belong to the catalog as a whole."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    version = models.BigIntegerField(default=1, editable=False)
    default_model = models.ForeignKey(Model, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="catalog_version_is_one_row")]

    def __str__(self) -> str:
        return f"catalog version {self.version}"
