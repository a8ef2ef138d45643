"""TokenUsage: what one request consumed, in disjoint buckets, whatever the provider calls them."""

from dataclasses import dataclass, fields

LARGEST_COUNT = 1_000_000_000  # no request of today comes near; a provider that says more is not believed


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Counts of one request. The buckets are disjoint: a cached token is not also an input token.

    `input_tokens` were read fresh, `cached_input_tokens` from the provider's cache, `cache_write_tokens` (5 minutes) and
    `cache_write_1h_tokens` written to it; `output_tokens` were visible, `reasoning_tokens` hidden or shown as thinking.
    """

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    audio_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    audio_output_tokens: int = 0
    images: int = 0

    @property
    def total_input_tokens(self) -> int:
        """Every token that went in, however it was billed."""
        return self.input_tokens + self.cached_input_tokens + self.cache_write_tokens + self.cache_write_1h_tokens + self.audio_input_tokens

    @property
    def total_output_tokens(self) -> int:
        """Every token that came out, shown or not."""
        return self.output_tokens + self.reasoning_tokens + self.audio_output_tokens

    def is_sane(self) -> bool:
        """Whether every count is a believable one: never negative, never beyond what a request can hold."""
        return all(0 <= getattr(self, field.name) <= LARGEST_COUNT for field in fields(self))


BUCKETS = tuple(field.name for field in fields(TokenUsage))
