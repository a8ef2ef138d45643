"""The list of provider kinds. A new OpenAI-like provider is one line here."""

from proxy.formats.base import FormatName
from proxy.providers.base import Declaration, anthropic_key, api_key_header, bearer, google_key

ALL: frozenset[FormatName] = frozenset({"completions", "embeddings", "images"})

DECLARATIONS = {
    declaration.kind: declaration
    for declaration in (
        Declaration("openai", formats=("chat", "responses"), output_limit_field="max_completion_tokens", endpoints=ALL),
        Declaration(
            "azure",
            formats=("chat", "responses"),
            sign=api_key_header,
            output_limit_field="max_completion_tokens",
            endpoints=ALL,
            has_deployments=True,
        ),
        Declaration("anthropic", formats=("messages",), sign=anthropic_key),
        # Its OpenAI-compatible address hides thought tokens and signatures, so only its own format is used for text.
        Declaration(
            "google",
            formats=("gemini",),
            sign=google_key,
            endpoints=frozenset({"embeddings", "images"}),
            endpoint_prefix="/openai",
            endpoint_sign=bearer,
            embeds_base64=False,
        ),
        # https://cloud.google.com/vertex-ai/docs/reference/rest: Gemini's methods under its own address and sign-in.
        Declaration("vertex", formats=("gemini",), sign=google_key, fetches_operations=True, takes_service_accounts=True),
        Declaration("deepseek"),
        Declaration("openrouter", endpoints=frozenset({"completions", "embeddings"})),
        Declaration("xai", formats=("chat", "responses"), endpoints=frozenset({"images"})),
        Declaration("zai", endpoints=frozenset({"images"})),
        # Sends usage in the last chunk unasked, and refuses unknown fields.
        Declaration("mistral", streams_usage=False, endpoints=frozenset({"embeddings"}), embeds_base64=False),
        Declaration("groq", output_limit_field="max_completion_tokens"),
        Declaration("custom", endpoints=ALL),
        Declaration("demo", needs_key=False, endpoints=ALL),
    )
}
