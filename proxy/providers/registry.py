"""The list of provider kinds. A new OpenAI-like provider is one line here."""

from proxy.providers.base import Declaration, anthropic_key, api_key_header, google_key

DECLARATIONS = {
    declaration.kind: declaration
    for declaration in (
        Declaration("openai", formats=("chat", "responses"), output_limit_field="max_completion_tokens"),
        Declaration("azure", formats=("chat", "responses"), sign=api_key_header, output_limit_field="max_completion_tokens"),
        Declaration("anthropic", formats=("messages",), sign=anthropic_key),
        # Its OpenAI-compatible address hides thought tokens and signatures, so only its own format is used.
        Declaration("google", formats=("gemini",), sign=google_key),
        Declaration("deepseek"),
        Declaration("openrouter"),
        Declaration("xai", formats=("chat", "responses")),
        Declaration("zai"),
        Declaration("mistral", streams_usage=False),  # sends usage in the last chunk unasked, and refuses unknown fields
        Declaration("groq", output_limit_field="max_completion_tokens"),
        Declaration("custom"),
        Declaration("demo", needs_key=False),
    )
}
