"""The figures this installation shows at /metrics (Prometheus)."""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("tollgate_requests_total", "Requests answered by the data plane.", ["path", "status"])
SECONDS = Histogram("tollgate_request_seconds", "From the request's arrival to the last byte of its answer.", ["path"])
DRIFT = Gauge(
    "tollgate_billing_drift",
    "Broken money invariants found by the last audit; anything but 0 needs a person.",
    multiprocess_mode="mostrecent",
)
