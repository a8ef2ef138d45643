"""What to paste to make a first request with a key: curl, Python and Node, in the formats of OpenAI, Anthropic and Gemini."""

import json
from dataclasses import dataclass
from datetime import datetime

from django.http import HttpRequest

from accounts import pages
from catalog.matching import ModelPatterns
from catalog.models import CatalogVersion, Model
from keys.models import ApiKey

NO_MODEL = "demo/echo"


@dataclass(frozen=True, slots=True)
class Snippet:
    """One way to call: `name` is also what its tab says."""

    name: str
    text: str


def origin_of(request: HttpRequest) -> str:
    """Where the API is: PUBLIC_URL; when that names this machine only, which nobody has set, the address the visitor came by."""
    return pages.origin_of(request)


def example_model(key: ApiKey | None, *, now: datetime) -> str:
    """A text model that `key` (any live key, without one) may call now, the default one if it is among them."""
    models = Model.objects.filter(
        is_enabled=True, kind=Model.Kind.TEXT, prices__effective_from__lte=now, routes__is_enabled=True, routes__provider__is_enabled=True
    )
    if key is not None and key.kind == ApiKey.Kind.TEST:
        models = models.filter(routes__provider__kind="demo")
    patterns = key.allowed_models if key is not None else []
    allowed = ModelPatterns(patterns)
    default = CatalogVersion.objects.filter(default_model__in=models).values_list("default_model__slug", flat=True).first()
    known = [*([default] if default else []), *models.order_by("slug").values_list("slug", flat=True).distinct()[:500]]
    named = [pattern for pattern in patterns if not set(pattern) & set("*?[")]
    return next((slug for slug in known if allowed.allows(slug)), named[0] if named else NO_MODEL)


def curl(*, origin: str, secret: str, model: str) -> str:
    """The shortest first request: one line of a shell."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}]})
    return f"""curl {origin}/v1/chat/completions \\
  -H "Authorization: Bearer {secret}" \\
  -H "Content-Type: application/json" \\
  -d '{body}'"""


def inference(*, origin: str, secret: str, model: str) -> list[Snippet]:
    """A first request in every client's way."""
    return [
        Snippet("curl", curl(origin=origin, secret=secret, model=model)),
        Snippet(
            "OpenAI, Python",
            f"""from openai import OpenAI

client = OpenAI(base_url="{origin}/v1", api_key="{secret}")
answer = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": "Hello"}}],
)
print(answer.choices[0].message.content)""",
        ),
        Snippet(
            "OpenAI, Node",
            f"""import OpenAI from "openai";

const client = new OpenAI({{ baseURL: "{origin}/v1", apiKey: "{secret}" }});
const answer = await client.chat.completions.create({{
  model: "{model}",
  messages: [{{ role: "user", content: "Hello" }}],
}});
console.log(answer.choices[0].message.content);""",
        ),
        Snippet(
            "Anthropic, Python",
            f"""import anthropic

client = anthropic.Anthropic(base_url="{origin}", api_key="{secret}")
message = client.messages.create(
    model="{model}",
    max_tokens=200,
    messages=[{{"role": "user", "content": "Hello"}}],
)
print(message.content[0].text)""",
        ),
        Snippet(
            "Gemini, Python",
            f"""# For models of providers that speak Gemini's own format.
from google import genai

client = genai.Client(api_key="{secret}", http_options={{"base_url": "{origin}"}})
print(client.models.generate_content(model="{model}", contents="Hello").text)""",
        ),
    ]


def management(*, origin: str, secret: str) -> list[Snippet]:
    """What a key is for that does no inference."""
    return [Snippet("curl", f'curl {origin}/v1/keys \\\n  -H "Authorization: Bearer {secret}"')]


def for_key(key: ApiKey, *, origin: str, secret: str, now: datetime) -> list[Snippet]:
    """What can be done first with this key."""
    if key.kind == ApiKey.Kind.MANAGEMENT:
        return management(origin=origin, secret=secret)
    return inference(origin=origin, secret=secret, model=example_model(key, now=now))
