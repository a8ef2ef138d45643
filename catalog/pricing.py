"""What usage costs: pure integer arithmetic, one rounding per request, always up.

cost = ceil(sum(quantity x price) x (1,000,000 + markup) / 10^12), in nano-USD.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from catalog.usage import TokenUsage

PER_UNITS = 1_000_000  # a price is for this many tokens, images, searches or requests
PER_ONE = ("image", "web_search", "request")  # the rates that people state for one unit rather than for a million


@dataclass(frozen=True, slots=True)
class Rates:
    """Nano-USD per 1,000,000 units of each bucket. The manifest's omissions are already filled in (`fill_rates`)."""

    input: int
    cached_input: int
    cache_write: int
    cache_write_1h: int
    audio_input: int
    output: int
    reasoning: int
    audio_output: int
    image: int
    web_search: int
    request: int


@dataclass(frozen=True, slots=True)
class Price:
    """One dated price version of a model. A request freezes the version that was in effect when it began."""

    id: int
    effective_from: datetime
    rates: Rates
    long_prompt_above: int | None  # a prompt with more tokens than this is charged, whole, at `long_rates`
    long_rates: Rates | None
    markup_ppm: int  # what the operator adds, in millionths


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a receipt: so many units of a bucket at a rate, before markup. `amount` is in 10^-15 USD: exact, not rounded."""

    bucket: str
    quantity: int
    rate: int
    amount: int


def fill_rates(given: dict[str, int | None], *, base: Rates | None = None) -> Rates:
    """Complete a partly given price: what is not priced apart costs what it is a kind of.

    Cached and written-to-cache input fall back to input, reasoning to output, audio to its direction's text price; images, searches and
    requests are free unless priced. With `base` (the ordinary price of a long-prompt one) the fallback is that bucket's ordinary price, but never
    less than what the new input or output price is where the bucket has none of its own.
    """

    def pick(name: str, fallback: int) -> int:
        value = given.get(name)
        if value is not None:
            return value
        return max(fallback, getattr(base, name)) if base is not None else fallback

    input_ = pick("input", 0)
    output = pick("output", 0)
    cache_write = pick("cache_write", input_)
    return Rates(
        input=input_,
        cached_input=pick("cached_input", input_),
        cache_write=cache_write,
        cache_write_1h=pick("cache_write_1h", cache_write),
        audio_input=pick("audio_input", input_),
        output=output,
        reasoning=pick("reasoning", output),
        audio_output=pick("audio_output", output),
        image=pick("image", 0),
        web_search=pick("web_search", 0),
        request=pick("request", 0),
    )


def price_at(prices: Sequence[Price], now: datetime) -> Price | None:
    """Choose the version in effect at `now` from `prices` (sorted by date): each ends where the next begins."""
    chosen = None
    for price in prices:
        if price.effective_from > now:
            break
        chosen = price
    return chosen


def rates_for(price: Price, prompt_tokens: int) -> Rates:
    """The rates for a prompt of this many tokens."""
    if price.long_prompt_above is not None and price.long_rates is not None and prompt_tokens > price.long_prompt_above:
        return price.long_rates
    return price.rates


def itemise(price: Price, usage: TokenUsage) -> list[Line]:
    """List what makes up the cost, empty buckets left out."""
    rates = rates_for(price, usage.total_input_tokens)
    quantities = (
        ("input", usage.input_tokens),
        ("cached_input", usage.cached_input_tokens),
        ("cache_write", usage.cache_write_tokens),
        ("cache_write_1h", usage.cache_write_1h_tokens),
        ("audio_input", usage.audio_input_tokens),
        ("output", usage.output_tokens),
        ("reasoning", usage.reasoning_tokens),
        ("audio_output", usage.audio_output_tokens),
        ("image", usage.images),
        ("web_search", usage.web_searches),
        ("request", 1),
    )
    return [
        Line(bucket, quantity, rate, quantity * rate)
        for bucket, quantity in quantities
        if quantity and (rate := getattr(rates, bucket)) is not None and (rate or bucket != "request")
    ]


def _sum(rates: Rates, usage: TokenUsage) -> int:
    return (
        usage.input_tokens * rates.input
        + usage.cached_input_tokens * rates.cached_input
        + usage.cache_write_tokens * rates.cache_write
        + usage.cache_write_1h_tokens * rates.cache_write_1h
        + usage.audio_input_tokens * rates.audio_input
        + usage.output_tokens * rates.output
        + usage.reasoning_tokens * rates.reasoning
        + usage.audio_output_tokens * rates.audio_output
        + usage.images * rates.image
        + usage.web_searches * rates.web_search
        + rates.request
    )


def cost(price: Price, usage: TokenUsage) -> int:
    """What the customer pays for `usage`, in nano-USD, markup included."""
    total = _sum(rates_for(price, usage.total_input_tokens), usage) * (PER_UNITS + price.markup_ppm)
    return -(-total // (PER_UNITS * PER_UNITS))


def upstream_cost(price: Price, usage: TokenUsage) -> int:
    """What the provider charges for `usage` by its list price, in nano-USD: the cost without the markup."""
    return -(-_sum(rates_for(price, usage.total_input_tokens), usage) // PER_UNITS)


def worst_case(price: Price, *, input_tokens: int, output_tokens: int, images: int = 0, web_searches: int = 0) -> int:
    """The most that a request of at most so many tokens, images and searches can cost, in nano-USD: each side at its dearest bucket."""
    tiers = [price.rates] if price.long_rates is None else [price.rates, price.long_rates]
    dearest = 0
    for rates in tiers:
        if rates is price.long_rates and price.long_prompt_above is not None and input_tokens <= price.long_prompt_above:
            continue
        total = (
            input_tokens * max(rates.input, rates.cached_input, rates.cache_write, rates.cache_write_1h, rates.audio_input)
            + output_tokens * max(rates.output, rates.reasoning, rates.audio_output)
            + images * rates.image
            + web_searches * rates.web_search
            + rates.request
        )
        dearest = max(dearest, total)
    return -(-dearest * (PER_UNITS + price.markup_ppm) // (PER_UNITS * PER_UNITS))


def affordable_output(price: Price, *, input_tokens: int, budget: int, web_searches: int = 0) -> int:
    """How many output tokens `budget` nano-USD can pay for after an input of `input_tokens` and so many searches; 0 when not even these fit."""
    rates = rates_for(price, input_tokens)
    each = max(rates.output, rates.reasoning, rates.audio_output)
    left = budget * PER_UNITS * PER_UNITS // (PER_UNITS + price.markup_ppm)
    left -= input_tokens * max(rates.input, rates.cached_input, rates.cache_write, rates.cache_write_1h, rates.audio_input)
    left -= web_searches * rates.web_search + rates.request
    if left < 0:
        return 0
    return left // each if each else 10**9
