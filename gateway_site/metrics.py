"""The figures this installation shows at /metrics (Prometheus).

The processes of one gunicorn share them through mapped files, where each step costs a microsecond or two. So the data plane counts into
tallies, which are plain integers of its own process (a tenth of that), and passes them on four times a second.
"""

import time
from bisect import bisect_left
from collections import defaultdict

from prometheus_client import Counter, Gauge, Histogram

BEGAN = time.monotonic()  # when the application was imported: the age of this installation's start, for what is not up yet
PASS_ON_SECONDS = 0.25
# From a refusal in a millisecond to an answer that takes ten minutes.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Tally:
    """A counter that is counted in the memory of one process. Not for several threads: the data plane's loop only."""

    def __init__(self, name: str, documentation: str, labels: tuple[str, ...]) -> None:
        self._metric = Counter(name, documentation, labels)
        self._counted: defaultdict[tuple[str | int, ...], int] = defaultdict(int)

    def add(self, amount: int, *labels: str | int) -> None:
        """Count `amount` more."""
        self._counted[labels] += amount

    def pass_on(self) -> None:
        """Show what was counted since the last time."""
        counted, self._counted = self._counted, defaultdict(int)
        for labels, amount in counted.items():
            self._metric.labels(*labels).inc(amount)


class Spread(Histogram):
    """A histogram that takes many values at once."""

    def take(self, counts: list[int], total: float) -> None:
        """Add the values whose sum is `total`: so many in each bucket."""
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


class SpreadTally:
    """A histogram of seconds that is counted in the memory of one process, as a `Tally` is."""

    def __init__(self, name: str, documentation: str, labels: tuple[str, ...]) -> None:
        self._metric = Spread(name, documentation, labels, buckets=BOUNDS)
        self._counted: dict[tuple[str | int, ...], tuple[list[int], list[float]]] = {}

    def add(self, seconds: float, *labels: str | int) -> None:
        """Count one value."""
        counted = self._counted.get(labels)
        if counted is None:
            counted = self._counted[labels] = ([0] * (len(BOUNDS) + 1), [0.0])
        counts, total = counted
        counts[bisect_left(BOUNDS, seconds)] += 1
        total[0] += seconds

    def pass_on(self) -> None:
        """Show what was counted since the last time."""
        counted, self._counted = self._counted, {}
        for labels, (counts, (total,)) in counted.items():
            self._metric.labels(*labels).take(counts, total)


# -- Counted as it happens, by the data plane ----------------------------------------------------------------------------------------

REQUESTS = Tally("tollgate_requests_total", "Requests answered by the data plane.", ("endpoint", "status"))
SECONDS = SpreadTally("tollgate_request_seconds", "From the request's arrival to the last byte of its answer.", ("endpoint",))
FIRST_TOKEN_SECONDS = SpreadTally("tollgate_first_token_seconds", "From a stream's request to its first event.", ("provider",))
TOKENS = Tally("tollgate_tokens_total", "Tokens of settled requests.", ("model", "direction"))
CHARGED = Tally(
    "tollgate_charged_nano_usd_total", "What wallets were charged, in nano-USD. The ledger is exact; this is for graphs.", ("model",)
)
ATTEMPTS = Tally("tollgate_upstream_attempts_total", "Calls to providers and how they ended.", ("provider", "result"))
USAGE_FLAGS = Tally("tollgate_usage_flags_total", "What was doubtful about the usage that providers reported.", ("provider", "flag"))
BROKEN_GRAMMAR = Tally("tollgate_broken_grammar_total", "Bridged streams that broke their format (see CHECK_STREAMS).", ("format",))
SETTLEMENTS = Tally("tollgate_settlements_total", "What became of the records of finished requests.", ("outcome",))
CONTENT_DROPPED = Tally("tollgate_content_dropped_total", "Requests whose content was to be stored, and was not.", ("reason",))
TALLIES: tuple[Tally | SpreadTally, ...] = (
    REQUESTS,
    SECONDS,
    FIRST_TOKEN_SECONDS,
    TOKENS,
    CHARGED,
    ATTEMPTS,
    USAGE_FLAGS,
    BROKEN_GRAMMAR,
    SETTLEMENTS,
    CONTENT_DROPPED,
)


def pass_on() -> None:
    """Show what this process has counted since the last time."""
    for tally in TALLIES:
        tally.pass_on()


# -- Counted as it happens, by whoever does it -----------------------------------------------------------------------------------------

STAFF_ALERTS = Counter("tollgate_staff_alerts_total", "What the staff was told of, mailed or only logged.", ["event"])

# -- The state of each process, together; those that have ended do not count ---------------------------------------------------------

STREAMS = Gauge("tollgate_streams_open", "Streams under way.", multiprocess_mode="livesum")
RATE_LIMITS_DEGRADED = Gauge(
    "tollgate_rate_limits_degraded",
    "1 while a process keeps rate limits by itself, because Valkey does not answer.",
    multiprocess_mode="livemax",
)

# -- Read when somebody looks; NaN while it cannot be read ---------------------------------------------------------------------------

DRIFT = Gauge(
    "tollgate_billing_drift",
    "Broken money invariants found by the last audit; anything but 0 needs a person.",
    multiprocess_mode="livemostrecent",
)
HOLDS = Gauge("tollgate_holds_open", "Requests for which money is set aside, of all hosts.", multiprocess_mode="livemostrecent")
TASK_FINISHED = Gauge(
    "tollgate_task_finished_timestamp_seconds", "When a task of Celery last ended well.", ["task"], multiprocess_mode="livemostrecent"
)
SPOOL_FILES = Gauge(
    "tollgate_spool_files",
    "Files of records on this host's disk: waiting for PostgreSQL (settle), or for a person (refused).",
    ["kind"],
    multiprocess_mode="livemostrecent",
)
