"""The list of provider kinds. A new OpenAI-like provider is one line here."""

from proxy.providers.base import Declaration, api_key_header

DECLARATIONS = {
    declaration.kind: declaration
    for declaration in (
        Declaration("openai", output_limit_field="max_completion_tokens"),
        Declaration("azure", sign=api_key_header, output_limit_field="max_completion_tokens"),
        Declaration("anthropic", chat_path="/chat/completions"),
        Declaration("google", chat_path="/openai/chat/completions"),
        Declaration("deepseek"),
        Declaration("openrouter"),
        Declaration("xai"),
        Declaration("zai"),
        Declaration("mistral", streams_usage=False),  # sends usage in the last chunk unasked, and refuses unknown fields
        Declaration("groq", output_limit_field="max_completion_tokens"),
        Declaration("custom"),
        Declaration("demo", needs_key=False),
    )
}
