"""The one table of errors: which condition becomes which status, type, code and message, and how a client's format shows it.

`docs/errors.md` is generated from it (`python -m tools.build_error_docs`), and a test compares the two.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from accounts import invitations, members
from billing import holds
from billing.management_api.webhook_endpoints import EndpointNotFound
from billing.notices.endpoints import EndpointRefused
from billing.receipts import RequestNotFound
from billing.reports import InvalidParameter
from catalog import money
from catalog.snapshot import ModelNotFound
from gateway_site.clients import DatabaseUnavailable
from keys import authentication, authority, issuing, repeats
from proxy import failures
from proxy.body import InvalidJson
from proxy.formats.base import InvalidRequest
from proxy.formats.conversation import CannotParse, CannotRender
from proxy.idempotency import RETRY_SECONDS, IdempotencyUnavailable, InProgress, KeyReused, KeyUsed
from proxy.rate_limits import FreeLimitReached, RateLimited
from proxy.response_store import HistoryTooLarge, PreviousResponseNotFound, ResponseNotFound, ResponseNotStored, ResponseTooLarge

HELP_URL = "/docs/errors#"


class BodyTooLarge(Exception):
    """The request body is larger than the gateway takes (bytes)."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit


class BodyTooSlow(Exception):
    """The client stopped in the middle of its request body."""


class NotJson(Exception):
    """The Content-Type is not JSON."""


class ModelNotAllowed(Exception):
    """The key or the plan does not include this model."""

    def __init__(self, model: str, *, scope: str) -> None:
        super().__init__(model, scope)
        self.model = model
        self.scope = scope


class EndpointNotAllowed(Exception):
    """The key may not use this endpoint."""


class WrongEndpoint(Exception):
    """The model is of another kind than the endpoint serves."""

    def __init__(self, model: str, *, kind: str) -> None:
        super().__init__(model, kind)
        self.model = model
        self.kind = kind


class NoSuchRoute(Exception):
    """Nothing is served at this address. `meant` is the one that a client with another base address would have called."""

    def __init__(self, meant: str | None = None) -> None:
        super().__init__(meant)
        self.meant = meant


class OperationNotFound(Exception):
    """No operation or file of this name is the account's, or its provider has it no more."""


class CostAboveMaximum(Exception):
    """The request may cost more than its own `x-max-cost` (nano-USD)."""

    def __init__(self, *, needed: int, maximum: int) -> None:
        super().__init__(needed, maximum)
        self.needed = needed
        self.maximum = maximum


class ModelTooDear(Exception):
    """The model's price is above the request's own `provider.max_price`."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.model = model


class ServerRestarting(Exception):
    """This process is shutting down and takes nothing new."""


class WalletRanOut(Exception):
    """A stream was ended because nothing more could be held for it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One error as a client sees it."""

    status: int
    type: str
    code: str
    label: str  # the upper-case code of the envelope
    message: str
    param: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the table; `say` makes the message (and `more` what else) from the condition's data."""

    status: int
    type: str
    code: str
    label: str
    when: str
    remedy: str
    say: Callable[[Any], str]
    more: Callable[[Any], Mapping[str, Any]] = field(default=lambda _: {})


def _retry_after(seconds: float) -> tuple[tuple[str, str], ...]:
    return (("retry-after", str(max(1, -int(-seconds // 1)))), ("retry-after-ms", str(max(1, int(seconds * 1000)))))


def _reached(limited: RateLimited) -> str:
    return f": {limited.limit} {_LIMIT_NAMES[limited.kind]}" if limited.limit else ""


_NO_RETRY = (("x-should-retry", "false"),)


def _retry_unless_all_were_tried(failure: failures.Unanswered) -> Mapping[str, Any]:
    """SDKs send a failed request up to three times; where several routes were tried already, that would only multiply the load."""
    return {"headers": _NO_RETRY} if failure.attempts > 1 else {}


_INVALID, _AUTH, _QUOTA, _SERVER = "invalid_request_error", "authentication_error", "insufficient_quota", "server_error"

# What the management API calls the settings of a key that have another name inside.
_SETTINGS = {"budget_nano": "limit", "budget_window": "limit_reset", "is_disabled": "disabled"}
_LIMIT_NAMES = {"requests": "requests per minute", "tokens": "tokens per minute", "concurrency": "requests at once"}

TABLE: dict[type[Exception], Entry] = {
    InvalidJson: Entry(
        400,
        _INVALID,
        "invalid_json",
        "BAD_REQUEST",
        "The body is not a JSON object the gateway takes.",
        "Send one JSON object, at most 64 levels deep, with finite numbers and no name twice.",
        str,
    ),
    InvalidRequest: Entry(
        400,
        _INVALID,
        "invalid_request_error",
        "BAD_REQUEST",
        "A field is missing or out of bounds (`missing_model` when it is the model).",
        "See `param` and the message.",
        lambda e: e.message,
        lambda e: {"param": e.param, "code": e.code},
    ),
    CannotParse: Entry(
        400,
        _INVALID,
        "invalid_request_error",
        "BAD_REQUEST",
        "The request cannot be translated: a field is not of its format.",
        "See `param` and the message.",
        lambda e: e.message,
        lambda e: {"param": e.param},
    ),
    CannotRender: Entry(
        400,
        _INVALID,
        "unsupported_parameter",
        "BAD_REQUEST",
        "The model's provider has nothing that means the same as a field of the request.",
        "Leave the field out, or choose a model whose provider has it.",
        lambda e: e.message,
        lambda e: {"param": e.param},
    ),
    InvalidParameter: Entry(
        400,
        _INVALID,
        "invalid_request_error",
        "BAD_REQUEST",
        "A query parameter cannot be understood or asks for too much.",
        "See `param` and the message.",
        lambda e: f"The parameter '{e.param}' is not valid. {e.message}",
        lambda e: {"param": e.param},
    ),
    issuing.InvalidSetting: Entry(
        400,
        _INVALID,
        "invalid_request_error",
        "BAD_REQUEST",
        "A setting of a key is not one that a key can have.",
        "See `param` and the message.",
        lambda e: f"The parameter '{_SETTINGS.get(e.field, e.field)}' is not valid: it {e.message}.",
        lambda e: {"param": _SETTINGS.get(e.field, e.field)},
    ),
    EndpointRefused: Entry(
        400,
        _INVALID,
        "endpoint_refused",
        "BAD_REQUEST",
        "A webhook endpoint cannot have this address or these events, or the account has as many as it may have.",
        "See the message.",
        lambda e: e.reason,
        lambda _: {"param": "url"},
    ),
    repeats.BadIdempotencyKey: Entry(
        400,
        _INVALID,
        "invalid_request_error",
        "BAD_REQUEST",
        "The `Idempotency-Key` is empty, too long, or has other than visible ASCII characters.",
        "Send 1 to 255 of them, such as a UUID.",
        lambda _: "The header 'Idempotency-Key' must have 1 to 255 visible ASCII characters.",
        lambda _: {"param": "Idempotency-Key"},
    ),
    failures.RequestRefused: Entry(
        400,
        _INVALID,
        "invalid_request_error",
        "BAD_REQUEST",
        "The provider refuses the request itself (`context_length_exceeded` when it is too long).",
        "Change the request as the message says.",
        lambda e: e.message,
        lambda e: {"status": e.status, "param": e.param, **({"code": e.code} if e.code else {})},
    ),
    WrongEndpoint: Entry(
        400,
        _INVALID,
        "wrong_endpoint",
        "BAD_REQUEST",
        "The model is of another kind than this endpoint serves.",
        "Use the endpoint for the model's kind.",
        lambda e: f"The model '{e.model}' is of kind '{e.kind}' and is not served at this endpoint.",
        lambda _: {"param": "model"},
    ),
    CostAboveMaximum: Entry(
        400,
        _INVALID,
        "cost_above_maximum",
        "BAD_REQUEST",
        "The request may cost more than its `x-max-cost` header allows.",
        "Raise x-max-cost, or ask for fewer output tokens.",
        lambda e: f"This request may cost up to ${money.usd(e.needed)}, more than its x-max-cost of ${money.usd(e.maximum)}.",
    ),
    ModelTooDear: Entry(
        400,
        _INVALID,
        "price_above_maximum",
        "BAD_REQUEST",
        "The model's price is above the request's `provider.max_price`.",
        "Raise provider.max_price, or name cheaper models.",
        lambda e: f"The price of the model '{e.model}' is above this request's provider.max_price. GET /v1/models lists the prices.",
        lambda _: {"param": "provider.max_price"},
    ),
    authentication.TwoKeys: Entry(
        400,
        _INVALID,
        "two_keys",
        "BAD_REQUEST",
        "The request carries two different keys.",
        "Send one key.",
        lambda _: "The request carries two different API keys. Send one, as 'Authorization: Bearer' or 'X-API-Key'.",
    ),
    authentication.NoKey: Entry(
        401,
        _AUTH,
        "invalid_api_key",
        "UNAUTHORIZED",
        "No key was sent.",
        "Send 'Authorization: Bearer sk-gw-…'.",
        lambda _: "No API key was sent. Send it as 'Authorization: Bearer sk-gw-…' or 'X-API-Key: sk-gw-…'.",
    ),
    authentication.InvalidKey: Entry(
        401,
        _AUTH,
        "invalid_api_key",
        "UNAUTHORIZED",
        "The key is malformed, unknown, revoked or expired.",
        "Check the key for typing errors, or make a new one.",
        lambda _: "This API key is not valid: it is mistyped, unknown, revoked or expired.",
    ),
    holds.KeyInactive: Entry(
        401,
        _AUTH,
        "invalid_api_key",
        "UNAUTHORIZED",
        "The key was revoked a moment ago.",
        "Make a new key.",
        lambda _: "This API key is not valid: it is mistyped, unknown, revoked or expired.",
    ),
    holds.InsufficientBalance: Entry(
        402,
        _QUOTA,
        "insufficient_quota",
        "INSUFFICIENT_CREDITS",
        "The wallet's free amount does not cover even a small answer.",
        "Top up, or wait for requests under way to give back what they hold.",
        lambda e: (
            f"Insufficient balance: ${money.usd(max(0, e.available))} is free and this request needs at least ${money.usd(e.needed)}. Top up to continue."
        ),
        lambda _: {"headers": _NO_RETRY},
    ),
    holds.BudgetSpent: Entry(
        402,
        _QUOTA,
        "key_budget_exceeded",
        "INSUFFICIENT_CREDITS",
        "The key's own budget for this window is spent.",
        "Raise the key's budget, use another key, or wait for the next window.",
        lambda e: (
            f"This key's budget is spent (${money.usd(max(0, e.available))} left). It begins anew at {e.resets_at:%Y-%m-%dT%H:%M:%SZ}."
        ),
        lambda _: {"headers": _NO_RETRY},
    ),
    authentication.KeyDisabled: Entry(
        403,
        "permission_error",
        "key_disabled",
        "FORBIDDEN",
        "The key or its account is switched off.",
        "Switch it on again, or ask the operator.",
        lambda _: "This API key is disabled.",
    ),
    holds.WalletInactive: Entry(
        403,
        "permission_error",
        "account_inactive",
        "FORBIDDEN",
        "The account's wallet is frozen or closed.",
        "Ask the operator.",
        lambda _: "This account's wallet is frozen or closed.",
    ),
    authentication.WrongKeyKind: Entry(
        403,
        "permission_error",
        "wrong_key_kind",
        "FORBIDDEN",
        "A management key was used for inference, or an inference key for management.",
        "Use a key of the right kind.",
        lambda e: f"A key of kind '{e.kind}' cannot be used here.",
    ),
    authentication.AddressNotAllowed: Entry(
        403,
        "permission_error",
        "address_not_allowed",
        "FORBIDDEN",
        "The key may not be used from this address.",
        "Call from an allowed network, or change the key's networks.",
        lambda _: "This API key may not be used from your network address.",
    ),
    authority.NotPermitted: Entry(
        403,
        "permission_error",
        "not_permitted",
        "FORBIDDEN",
        "Who made the management key may not do this, or is no member any more; or it is the operator's and the call is about members.",
        "Use a key that a member with the needed role made.",
        lambda e: f"This key may not do that: whoever made it would have to be a member whose role grants '{e.permission}'.",
    ),
    members.RoleTooHigh: Entry(
        403,
        "permission_error",
        "role_too_high",
        "FORBIDDEN",
        "The role, or the member's, is above that of the member who made the key.",
        "Let somebody with a higher role do it.",
        lambda _: "That role is above the one of the member who made this key.",
    ),
    ModelNotAllowed: Entry(
        403,
        "permission_error",
        "model_not_allowed",
        "FORBIDDEN",
        "The key or the plan does not include the model.",
        "GET /v1/models lists what this key may use.",
        lambda e: f"The model '{e.model}' is not allowed by this {e.scope}. GET /v1/models lists what you can use.",
        lambda _: {"param": "model"},
    ),
    EndpointNotAllowed: Entry(
        403,
        "permission_error",
        "endpoint_not_allowed",
        "FORBIDDEN",
        "The key may not use this endpoint.",
        "Use a key whose scope includes it.",
        lambda _: "This API key may not use this endpoint.",
    ),
    ModelNotFound: Entry(
        404,
        _INVALID,
        "model_not_found",
        "NOT_FOUND",
        "No model of this name is for sale.",
        "GET /v1/models lists the models.",
        lambda e: f"The model '{e.name[:100]}' does not exist. GET /v1/models lists the models you can use.",
        lambda _: {"param": "model"},
    ),
    RequestNotFound: Entry(
        404,
        _INVALID,
        "request_not_found",
        "NOT_FOUND",
        "No request of this id belongs to the account.",
        "Use the x-request-id of one of your own answers; a receipt appears when the request has ended.",
        lambda _: "No finished request with this id belongs to your account.",
    ),
    ResponseNotFound: Entry(
        404,
        _INVALID,
        "response_not_found",
        "NOT_FOUND",
        "No stored response of this id belongs to the account: it never did, or it was deleted or has expired.",
        "Use the id of a response of your own that was made with `store` (the default) and is still kept.",
        lambda e: f"Response with id '{e.response_id[:100]}' not found.",
    ),
    PreviousResponseNotFound: Entry(
        404,
        _INVALID,
        "previous_response_not_found",
        "NOT_FOUND",
        "The response that is built upon, or one before it, is not stored for the account.",
        "Send the whole conversation as `input`, without `previous_response_id`.",
        lambda e: f"Previous response with id '{e.response_id[:100]}' not found.",
        lambda _: {"param": "previous_response_id"},
    ),
    OperationNotFound: Entry(
        404,
        _INVALID,
        "operation_not_found",
        "NOT_FOUND",
        "No operation or file of this name belongs to the account, or its provider keeps it no more.",
        "Use the name that `:predictLongRunning` answered to a key of the same account, and fetch files soon.",
        lambda _: "No such operation or file.",
    ),
    issuing.KeyNotFound: Entry(
        404,
        _INVALID,
        "key_not_found",
        "NOT_FOUND",
        "No key of this id belongs to the account.",
        "GET /v1/keys lists the keys.",
        lambda _: "No key with this id belongs to your account.",
    ),
    members.MemberNotFound: Entry(
        404,
        _INVALID,
        "member_not_found",
        "NOT_FOUND",
        "No member of this id belongs to the account.",
        "GET /v1/members lists the members.",
        lambda _: "No member with this id belongs to your account.",
    ),
    invitations.InvitationNotFound: Entry(
        404,
        _INVALID,
        "invitation_not_found",
        "NOT_FOUND",
        "No open invitation of this id belongs to the account.",
        "GET /v1/members lists the open ones.",
        lambda _: "No open invitation with this id belongs to your account.",
    ),
    EndpointNotFound: Entry(
        404,
        _INVALID,
        "webhook_endpoint_not_found",
        "NOT_FOUND",
        "No webhook endpoint of this id belongs to the account.",
        "GET /v1/webhook-endpoints lists them.",
        lambda _: "No webhook endpoint with this id belongs to your account.",
    ),
    NoSuchRoute: Entry(
        404,
        _INVALID,
        "not_found",
        "NOT_FOUND",
        "Nothing is served at this address.",
        "Check the path and the method. Where the message names another address, the client's base address has `/v1` too many or too few.",
        lambda e: "Nothing is served at this address with this method" + (f"; perhaps POST {e.meant} is meant." if e.meant else "."),
    ),
    BodyTooSlow: Entry(
        408,
        _INVALID,
        "body_too_slow",
        "BAD_REQUEST",
        "The request body did not arrive in time.",
        "Send it again.",
        lambda _: "The request body did not arrive in time.",
    ),
    InProgress: Entry(
        409,
        _INVALID,
        "idempotency_in_progress",
        "CONFLICT",
        "The first request with this `Idempotency-Key` is under way.",
        "Ask again as `Retry-After` says: once it has ended, you get its answer.",
        lambda _: "A request with this Idempotency-Key is under way. Ask again in a moment for its answer.",
        lambda _: {"headers": _retry_after(RETRY_SECONDS)},
    ),
    repeats.SecretShownBefore: Entry(
        409,
        _INVALID,
        "secret_shown_before",
        "CONFLICT",
        "A call of the management API with this `Idempotency-Key` was answered with a secret, which is kept nowhere.",
        "If the answer was lost, reroll the key (or rotate the endpoint's secret) that the message names.",
        lambda e: (
            f"A call with this Idempotency-Key made '{e.made}' and showed its secret then; it is kept nowhere. If you missed it, reroll it."
        ),
        lambda _: {"headers": _NO_RETRY},
    ),
    issuing.KeyEnded: Entry(
        409,
        _INVALID,
        "key_ended",
        "CONFLICT",
        "The key is revoked, expired, or was rerolled before.",
        "Change the key that replaced it, or make a new one.",
        lambda _: "This key is revoked, expired, or was replaced by another already.",
        lambda _: {"headers": _NO_RETRY},
    ),
    members.LastOwner: Entry(
        409,
        _INVALID,
        "last_owner",
        "CONFLICT",
        "The account would be left without an owner.",
        "Make somebody else an owner first.",
        lambda _: "An account keeps at least one owner: make somebody else an owner first.",
        lambda _: {"headers": _NO_RETRY},
    ),
    invitations.AlreadyMember: Entry(
        409,
        _INVALID,
        "already_member",
        "CONFLICT",
        "Who is invited is a member.",
        "Change their role instead.",
        lambda _: "This person is a member already.",
        lambda _: {"param": "email", "headers": _NO_RETRY},
    ),
    KeyUsed: Entry(
        409,
        _INVALID,
        "idempotency_key_used",
        "CONFLICT",
        "The request with this `Idempotency-Key` was served, and its answer was not kept: it was streamed, or too large, or its process died.",
        "GET /v1/generation with the request id in the message shows what was delivered and charged. To ask once more, use a new key.",
        lambda e: (
            f"The request with this Idempotency-Key was served as {e.request_id}; its answer is not kept. "
            f"GET /v1/generation?id={e.request_id} has its receipt. Use a new key to ask once more."
        ),
        lambda _: {"headers": _NO_RETRY},
    ),
    BodyTooLarge: Entry(
        413,
        _INVALID,
        "body_too_large",
        "BAD_REQUEST",
        "The body is larger than the gateway takes.",
        "Send less.",
        lambda e: f"The request body is larger than {e.limit} bytes.",
    ),
    ResponseTooLarge: Entry(
        413,
        _INVALID,
        "response_too_large",
        "BAD_REQUEST",
        "The items of one turn are larger than what is stored of a response.",
        'Send `"store": false` and the whole conversation with each request, or refer to files by URL.',
        lambda e: f"A turn of more than {e.limit} bytes cannot be stored. Send it with 'store': false.",
        lambda _: {"param": "input"},
    ),
    HistoryTooLarge: Entry(
        413,
        _INVALID,
        "history_too_large",
        "BAD_REQUEST",
        "The conversation that a request builds on has too many turns, or is too large.",
        "Begin anew: send what matters of it as `input`, without `previous_response_id`.",
        lambda _: "The conversation behind 'previous_response_id' is too long. Send what matters of it as 'input'.",
        lambda _: {"param": "previous_response_id"},
    ),
    NotJson: Entry(
        415,
        _INVALID,
        "not_json",
        "BAD_REQUEST",
        "The Content-Type is not JSON.",
        "Send 'Content-Type: application/json'.",
        lambda _: "Send the request as 'Content-Type: application/json'.",
    ),
    KeyReused: Entry(
        422,
        _INVALID,
        "idempotency_key_reused",
        "BAD_REQUEST",
        "The `Idempotency-Key` was used for another request, or with another API key, within a day.",
        "Use a new key for each request; repeat one only with the same body.",
        lambda _: "This Idempotency-Key was used with another request. Use a new one.",
        lambda _: {"param": "Idempotency-Key", "headers": _NO_RETRY},
    ),
    repeats.UsedForAnother: Entry(
        422,
        _INVALID,
        "idempotency_key_reused",
        "BAD_REQUEST",
        "The `Idempotency-Key` was used for another call of the management API within a day.",
        "Use a new key for each call; repeat one only with the same body.",
        lambda _: "This Idempotency-Key was used for another call. Use a new one.",
        lambda _: {"param": "Idempotency-Key", "headers": _NO_RETRY},
    ),
    RateLimited: Entry(
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
        "RATE_LIMITED",
        "Too many requests or tokens a minute, or requests at once.",
        "Wait as `Retry-After` says.",
        lambda e: f"Rate limit reached{_reached(e)}. Retry in {max(1, round(e.retry_after_seconds))} s.",
        lambda e: {"headers": _retry_after(e.retry_after_seconds)},
    ),
    invitations.TooManyInvitations: Entry(
        429,
        "rate_limit_error",
        "too_many_invitations",
        "RATE_LIMITED",
        f"A member invites {invitations.MOST_A_DAY} times a day at most, and {invitations.MOST_TO_ONE_A_DAY} times the same address.",
        "Wait until a day has passed. Retrying earlier does not help, so the answer says `x-should-retry: false`.",
        lambda _: "Whoever made this key has sent too many invitations within a day, or too many to this address.",
        lambda _: {"param": "email", "headers": _NO_RETRY},
    ),
    FreeLimitReached: Entry(
        429,
        "rate_limit_error",
        "free_limit_reached",
        "RATE_LIMITED",
        "The model's free requests of today are used up: those of all accounts together, or this account's share of them.",
        "Wait until midnight UTC, as `Retry-After` says; retrying earlier does not help, so the answer says `x-should-retry: false`. "
        "A model that also has a price is paid from the balance, as soon as that covers a request.",
        lambda e: (
            f"The free requests of '{e.subject}' are used up for today. They begin anew at {e.resets_at:%Y-%m-%dT%H:%M:%SZ}."
            + (" Top up to go on at its price." if e.may_pay else "")
        ),
        lambda e: {"headers": (*_retry_after(e.retry_after_seconds), *_NO_RETRY)},
    ),
    holds.QuotaSpent: Entry(
        429,
        "rate_limit_error",
        "token_limit_exceeded",
        "RATE_LIMITED",
        "The plan's tokens for this month are used up.",
        "Change the plan, or wait for the next month. Retrying does not help, so the answer says `x-should-retry: false`.",
        lambda e: (
            f"The plan's monthly token quota is used up ({max(0, e.available)} tokens left). It begins anew at {e.resets_at:%Y-%m-%dT%H:%M:%SZ}."
        ),
        lambda _: {"headers": _NO_RETRY},
    ),
    failures.ProviderBusy: Entry(
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
        "RATE_LIMITED",
        "The model's providers are busy.",
        "Wait as `Retry-After` says.",
        lambda _: "The model is busy. Retry shortly.",
        lambda e: {"headers": _retry_after(e.retry_after_seconds or 1.0)},
    ),
    failures.ProviderOverloaded: Entry(
        502,
        _SERVER,
        "provider_error",
        "PROVIDER_ERROR",
        "The model's provider is overloaded; nothing was charged.",
        "Wait as `Retry-After` says.",
        lambda _: "The model's provider is overloaded. Nothing was charged; retry shortly.",
        lambda e: {"headers": _retry_after(e.retry_after_seconds or 1.0)},
    ),
    failures.ProviderFault: Entry(
        502,
        _SERVER,
        "provider_error",
        "PROVIDER_ERROR",
        "The model's provider failed; nothing was charged.",
        "Retry with a back-off.",
        lambda _: "The model's provider returned an error. Nothing was charged.",
        _retry_unless_all_were_tried,
    ),
    failures.BrokenAnswer: Entry(
        502,
        _SERVER,
        "provider_error",
        "PROVIDER_ERROR",
        "The provider's answer was cut or unreadable.",
        "Retry with a back-off.",
        lambda _: "The model's provider returned an unusable answer. You are charged only for what was delivered.",
        _retry_unless_all_were_tried,
    ),
    failures.CannotConnect: Entry(
        502,
        _SERVER,
        "provider_error",
        "PROVIDER_ERROR",
        "The model's provider cannot be reached.",
        "Retry with a back-off.",
        lambda _: "The model's provider cannot be reached. Nothing was charged.",
        _retry_unless_all_were_tried,
    ),
    failures.ProviderKeyRefused: Entry(
        503,
        _SERVER,
        "no_available_provider",
        "SERVICE_UNAVAILABLE",
        "No provider of the model can be used now.",
        "Retry later; the operator is told.",
        lambda _: "No provider of this model is available right now.",
    ),
    failures.NoRoute: Entry(
        503,
        _SERVER,
        "no_available_provider",
        "SERVICE_UNAVAILABLE",
        "No provider of the model can be used now.",
        "Retry later; the operator is told.",
        lambda e: f"No provider of the model '{e.model}' is available right now.",
    ),
    ResponseNotStored: Entry(
        503,
        _SERVER,
        "response_not_stored",
        "SERVICE_UNAVAILABLE",
        "The answer was produced and charged, and could not be stored.",
        "Send the request again, or with `store: false`.",
        lambda _: "The answer was produced and is charged, but it could not be stored. Send the request with 'store': false to go without.",
        lambda _: {"headers": _NO_RETRY},
    ),
    holds.BillingUnavailable: Entry(
        503,
        _SERVER,
        "billing_unavailable",
        "SERVICE_UNAVAILABLE",
        "The wallet cannot be asked, so nothing may be admitted; nothing was charged.",
        "Retry in a second.",
        lambda _: "Billing is unavailable for a moment. Nothing was charged; retry shortly.",
        lambda _: {"headers": _retry_after(1)},
    ),
    holds.RequestIdTaken: Entry(
        503,
        _SERVER,
        "request_id_taken",
        "SERVICE_UNAVAILABLE",
        "The id that the gateway gave the request is that of another one under way; nothing was charged.",
        "Retry at once: the request gets a new id.",
        lambda _: "The gateway gave this request an id that is in use. Nothing was charged; send it again.",
        lambda _: {"headers": _retry_after(1)},
    ),
    DatabaseUnavailable: Entry(
        503,
        _SERVER,
        "billing_unavailable",
        "SERVICE_UNAVAILABLE",
        "The database cannot be asked.",
        "Retry in a second.",
        lambda _: "Billing is unavailable for a moment. Nothing was charged; retry shortly.",
        lambda _: {"headers": _retry_after(1)},
    ),
    IdempotencyUnavailable: Entry(
        503,
        _SERVER,
        "idempotency_unavailable",
        "SERVICE_UNAVAILABLE",
        "Whether the request's `Idempotency-Key` was used cannot be found out now; nothing was sent or charged.",
        "Retry in a second, or send the request without the header.",
        lambda _: "Idempotency keys cannot be checked for a moment. Nothing was sent or charged; retry shortly.",
        lambda _: {"headers": _retry_after(1)},
    ),
    ServerRestarting: Entry(
        503,
        _SERVER,
        "server_restarting",
        "SERVICE_UNAVAILABLE",
        "The process is shutting down.",
        "Retry at once: another process answers. A stream that was cut is charged for what was delivered.",
        lambda _: "The server is restarting. Retry; a cut stream is charged only for what was delivered.",
        lambda _: {"headers": _retry_after(1)},
    ),
    failures.TimedOut: Entry(
        504,
        _SERVER,
        "upstream_timeout",
        "PROVIDER_ERROR",
        "The provider was silent for too long.",
        "Retry; stream long answers.",
        lambda _: "The model's provider did not answer in time. You are charged only for what was delivered.",
        _retry_unless_all_were_tried,
    ),
    WalletRanOut: Entry(
        402,
        _QUOTA,
        "insufficient_quota",
        "INSUFFICIENT_CREDITS",
        "A stream was ended because the balance or the key's budget is spent; what was delivered is charged.",
        "Top up and continue.",
        lambda _: "The balance or budget ran out during the answer. What was delivered is charged; top up to continue.",
    ),
}
INTERNAL = Entry(500, _SERVER, "internal_error", "INTERNAL_ERROR", "The gateway itself failed; nothing was charged beyond what was delivered.",
    "Retry; if it stays, tell the operator the request id.", lambda _: "An internal error occurred. The operator can find it by the request id.")  # fmt: skip


def describe(condition: BaseException) -> Problem:
    """The row of the table for a condition; what is not in it is an internal error."""
    entry = next((TABLE[kind] for kind in type(condition).__mro__ if kind in TABLE), INTERNAL)
    more = entry.more(condition)
    headers = tuple(more.get("headers", ()))
    if isinstance(condition, failures.Unanswered) and condition.attempts:
        headers += (("x-gateway-attempts", str(condition.attempts)),)
        if condition.attempts > 1 and entry.status in (502, 503):
            headers += _NO_RETRY  # every route was tried: the SDKs' own retries would only multiply the load
    return Problem(
        status=more.get("status", entry.status),
        type=entry.type,
        code=more.get("code", entry.code),
        label=entry.label,
        message=entry.say(condition),
        param=more.get("param"),
        headers=headers,
    )


def render(problem: Problem, request_id: str) -> dict[str, Any]:
    """The error body in OpenAI's shape, a superset that serves every client of the formats we started from."""
    return {
        "success": False,
        "code": problem.label,
        "error": {
            "message": problem.message,
            "type": problem.type,
            "param": problem.param,
            "code": problem.code,
            "request_id": request_id,
            "help_url": HELP_URL + problem.code,
        },
    }


def render_bytes(problem: Problem, request_id: str) -> bytes:
    """`render` as JSON."""
    return orjson.dumps(render(problem, request_id))
