"""It is not the client's fault: a provider or the gateway itself cannot answer (5xx)."""

from collections.abc import Mapping
from typing import Any

from billing import holds
from gateway_site.clients import DatabaseUnavailable
from proxy import failures
from proxy.errors.conditions import ServerRestarting
from proxy.errors.row import NO_RETRY, SERVER, Entry, retry_after
from proxy.idempotency import IdempotencyUnavailable
from proxy.response_store import ResponseNotStored


def _needs_the_operator(_: Exception) -> Mapping[str, Any]:
    """What a person has to mend is not mended between two tries: some clients would go on for minutes before they show it."""
    return {"headers": NO_RETRY}


ROWS: dict[type[Exception], Entry] = {
    failures.ProviderOverloaded: Entry(
        502,
        SERVER,
        "provider_error",
        "PROVIDER_ERROR",
        "The model's provider is overloaded; nothing was charged.",
        "Wait as `Retry-After` says.",
        lambda _: "The model's provider is overloaded. Nothing was charged; retry shortly.",
        lambda e: {"headers": retry_after(e.retry_after_seconds or 1.0)},
    ),
    failures.ProviderFault: Entry(
        502,
        SERVER,
        "provider_error",
        "PROVIDER_ERROR",
        "The model's provider failed; nothing was charged.",
        "Retry with a back-off.",
        lambda _: "The model's provider returned an error. Nothing was charged.",
    ),
    failures.BrokenAnswer: Entry(
        502,
        SERVER,
        "provider_error",
        "PROVIDER_ERROR",
        "The provider's answer was cut or unreadable.",
        "Retry with a back-off.",
        lambda _: "The model's provider returned an unusable answer. You are charged only for what was delivered.",
    ),
    failures.CannotConnect: Entry(
        502,
        SERVER,
        "provider_error",
        "PROVIDER_ERROR",
        "The model's provider cannot be reached.",
        "Retry with a back-off.",
        lambda _: "The model's provider cannot be reached. Nothing was charged.",
    ),
    failures.ProviderKeyRefused: Entry(
        503,
        SERVER,
        "no_available_provider",
        "SERVICE_UNAVAILABLE",
        "No provider of the model can be used now.",
        "Use another model, or come back later; the operator is told.",
        lambda _: "No provider of this model is available right now.",
        _needs_the_operator,
    ),
    failures.NoRoute: Entry(
        503,
        SERVER,
        "no_available_provider",
        "SERVICE_UNAVAILABLE",
        "No provider of the model can be used now.",
        "Use another model, or come back later; the operator is told.",
        lambda e: f"No provider of the model '{e.model}' is available right now.",
        _needs_the_operator,
    ),
    ResponseNotStored: Entry(
        503,
        SERVER,
        "response_not_stored",
        "SERVICE_UNAVAILABLE",
        "The answer was produced and charged, and could not be stored.",
        "Send the request again, or with `store: false`.",
        lambda _: "The answer was produced and is charged, but it could not be stored. Send the request with 'store': false to go without.",
        lambda _: {"headers": NO_RETRY},
    ),
    holds.BillingUnavailable: Entry(
        503,
        SERVER,
        "billing_unavailable",
        "SERVICE_UNAVAILABLE",
        "The wallet cannot be asked, so nothing may be admitted; nothing was charged.",
        "Retry in a second.",
        lambda _: "Billing is unavailable for a moment. Nothing was charged; retry shortly.",
        lambda _: {"headers": retry_after(1)},
    ),
    holds.RequestIdTaken: Entry(
        503,
        SERVER,
        "request_id_taken",
        "SERVICE_UNAVAILABLE",
        "The id that the gateway gave the request is that of another one under way; nothing was charged.",
        "Retry at once: the request gets a new id.",
        lambda _: "The gateway gave this request an id that is in use. Nothing was charged; send it again.",
        lambda _: {"headers": retry_after(1)},
    ),
    DatabaseUnavailable: Entry(
        503,
        SERVER,
        "billing_unavailable",
        "SERVICE_UNAVAILABLE",
        "The database cannot be asked.",
        "Retry in a second.",
        lambda _: "Billing is unavailable for a moment. Nothing was charged; retry shortly.",
        lambda _: {"headers": retry_after(1)},
    ),
    IdempotencyUnavailable: Entry(
        503,
        SERVER,
        "idempotency_unavailable",
        "SERVICE_UNAVAILABLE",
        "Whether the request's `Idempotency-Key` was used cannot be found out now; nothing was sent or charged.",
        "Retry in a second, or send the request without the header.",
        lambda _: "Idempotency keys cannot be checked for a moment. Nothing was sent or charged; retry shortly.",
        lambda _: {"headers": retry_after(1)},
    ),
    ServerRestarting: Entry(
        503,
        SERVER,
        "server_restarting",
        "SERVICE_UNAVAILABLE",
        "The process is shutting down.",
        "Retry at once: another process answers. A stream that was cut is charged for what was delivered.",
        lambda _: "The server is restarting. Retry; a cut stream is charged only for what was delivered.",
        lambda _: {"headers": retry_after(1)},
    ),
    failures.TimedOut: Entry(
        504,
        SERVER,
        "upstream_timeout",
        "PROVIDER_ERROR",
        "The provider was silent for too long.",
        "Retry; stream long answers.",
        lambda _: "The model's provider did not answer in time. You are charged only for what was delivered.",
    ),
}
INTERNAL = Entry(500, SERVER, "internal_error", "INTERNAL_ERROR", "The gateway itself failed; nothing was charged beyond what was delivered.",
    "Retry; if it stays, tell the operator the request id.", lambda _: "An internal error occurred. The operator can find it by the request id.")  # fmt: skip
