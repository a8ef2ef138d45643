"""TokenUsage: what one request consumed, in disjoint buckets, whatever the provider calls them; and what is doubtful about it."""

from dataclasses import dataclass, field, fields

LARGEST_COUNT = 1_000_000_000  # no request of today comes near; a provider that says more is not believed
MOST_SEARCHES = 10_000

# What a provider's count may break, by the name that the request's record is flagged with. These make a usage worthless ...
UNREADABLE = ("usage_not_a_count", "usage_negative", "usage_too_large")
# ... these do not: the count is read by the rule of the format, and the record says so.
DOUBTFUL = (
    "usage_cached_beyond_input",
    "usage_cache_write_beyond_input",
    "usage_cache_write_split_mismatch",
    "usage_audio_beyond_input",
    "usage_reasoning_beyond_output",
    "usage_audio_beyond_output",
    "usage_total_mismatch",
    "usage_iterations_mismatch",
    "usage_tokens_unreadable",  # beside pictures, which are billed by their number
    "builtin_tools_unmetered",  # the provider ran tools of its own, whose fees are in no price here
)


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Counts of one request. The buckets are disjoint: a cached token is not also an input token.

    `input_tokens` were read fresh, `cached_input_tokens` from the provider's cache, `cache_write_tokens` (5 minutes) and
    `cache_write_1h_tokens` written to it; `output_tokens` were visible, `reasoning_tokens` hidden or shown as thinking.
    `images` are pictures made (or seconds of video), `web_searches` searches that the provider ran itself, which it bills apart from tokens.
    `doubts` (of `UNREADABLE` and `DOUBTFUL`) are what the provider's own count breaks; two usages are equal whatever their doubts.
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
    web_searches: int = 0
    doubts: tuple[str, ...] = field(default=(), compare=False)

    @property
    def total_input_tokens(self) -> int:
        """Every token that went in, however it was billed."""
        return self.input_tokens + self.cached_input_tokens + self.cache_write_tokens + self.cache_write_1h_tokens + self.audio_input_tokens

    @property
    def total_output_tokens(self) -> int:
        """Every token that came out, shown or not."""
        return self.output_tokens + self.reasoning_tokens + self.audio_output_tokens

    def is_sane(self) -> bool:
        """Whether every count is a believable one: a whole number, never negative, never beyond what a request can hold."""
        return not any(doubt in UNREADABLE for doubt in self.doubts) and (
            all(0 <= getattr(self, name) <= LARGEST_COUNT for name in BUCKETS) and self.web_searches <= MOST_SEARCHES
        )


BUCKETS = tuple(bucket.name for bucket in fields(TokenUsage) if bucket.name != "doubts")
