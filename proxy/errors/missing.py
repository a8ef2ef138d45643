"""What the request names is not there, or is another account's (404)."""

from accounts import invitations, members
from billing.management_api.webhook_endpoints import EndpointNotFound
from billing.receipts import RequestNotFound
from catalog.snapshot import ModelNotFound
from keys import issuing
from proxy.errors.conditions import NoSuchRoute, OperationNotFound
from proxy.errors.row import INVALID, Entry
from proxy.response_store import PreviousResponseNotFound, ResponseNotFound

ROWS: dict[type[Exception], Entry] = {
    ModelNotFound: Entry(
        404,
        INVALID,
        "model_not_found",
        "NOT_FOUND",
        "No model of this name is for sale.",
        "GET /v1/models lists the models.",
        lambda e: f"The model '{e.name[:100]}' does not exist. GET /v1/models lists the models you can use.",
        lambda _: {"param": "model"},
    ),
    RequestNotFound: Entry(
        404,
        INVALID,
        "request_not_found",
        "NOT_FOUND",
        "No request of this id belongs to the account.",
        "Use the x-request-id of one of your own answers; a receipt appears when the request has ended.",
        lambda _: "No finished request with this id belongs to your account.",
    ),
    ResponseNotFound: Entry(
        404,
        INVALID,
        "response_not_found",
        "NOT_FOUND",
        "No stored response of this id belongs to the account: it never did, or it was deleted or has expired.",
        "Use the id of a response of your own that was made with `store` (the default) and is still kept.",
        lambda e: f"Response with id '{e.response_id[:100]}' not found.",
    ),
    PreviousResponseNotFound: Entry(
        404,
        INVALID,
        "previous_response_not_found",
        "NOT_FOUND",
        "The response that is built upon, or one before it, is not stored for the account.",
        "Send the whole conversation as `input`, without `previous_response_id`.",
        lambda e: f"Previous response with id '{e.response_id[:100]}' not found.",
        lambda _: {"param": "previous_response_id"},
    ),
    OperationNotFound: Entry(
        404,
        INVALID,
        "operation_not_found",
        "NOT_FOUND",
        "No operation or file of this name belongs to the account, or its provider keeps it no more.",
        "Use the name that `:predictLongRunning` answered to a key of the same account, and fetch files soon.",
        lambda _: "No such operation or file.",
    ),
    issuing.KeyNotFound: Entry(
        404,
        INVALID,
        "key_not_found",
        "NOT_FOUND",
        "No key of this id belongs to the account.",
        "GET /v1/keys lists the keys.",
        lambda _: "No key with this id belongs to your account.",
    ),
    members.MemberNotFound: Entry(
        404,
        INVALID,
        "member_not_found",
        "NOT_FOUND",
        "No member of this id belongs to the account.",
        "GET /v1/members lists the members.",
        lambda _: "No member with this id belongs to your account.",
    ),
    invitations.InvitationNotFound: Entry(
        404,
        INVALID,
        "invitation_not_found",
        "NOT_FOUND",
        "No open invitation of this id belongs to the account.",
        "GET /v1/members lists the open ones.",
        lambda _: "No open invitation with this id belongs to your account.",
    ),
    EndpointNotFound: Entry(
        404,
        INVALID,
        "webhook_endpoint_not_found",
        "NOT_FOUND",
        "No webhook endpoint of this id belongs to the account.",
        "GET /v1/webhook-endpoints lists them.",
        lambda _: "No webhook endpoint with this id belongs to your account.",
    ),
    NoSuchRoute: Entry(
        404,
        INVALID,
        "not_found",
        "NOT_FOUND",
        "Nothing is served at this address.",
        "Check the path and the method. Where the message names another address, the client's base address has `/v1` too many or too few.",
        lambda e: "Nothing is served at this address with this method" + (f"; perhaps POST {e.meant} is meant." if e.meant else "."),
    ),
}
