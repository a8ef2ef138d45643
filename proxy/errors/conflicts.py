"""Things are not in the state that the request supposes (409)."""

from accounts import invitations, members
from keys import issuing, repeats
from proxy.errors.row import INVALID, NO_RETRY, Entry, retry_after
from proxy.idempotency import RETRY_SECONDS, InProgress, KeyUsed

ROWS: dict[type[Exception], Entry] = {
    InProgress: Entry(
        409,
        INVALID,
        "idempotency_in_progress",
        "CONFLICT",
        "The first request with this `Idempotency-Key` is under way.",
        "Ask again as `Retry-After` says: once it has ended, you get its answer.",
        lambda _: "A request with this Idempotency-Key is under way. Ask again in a moment for its answer.",
        lambda _: {"headers": retry_after(RETRY_SECONDS)},
    ),
    repeats.SecretShownBefore: Entry(
        409,
        INVALID,
        "secret_shown_before",
        "CONFLICT",
        "A call of the management API with this `Idempotency-Key` was answered with a secret, which is kept nowhere.",
        "If the answer was lost, reroll the key (or rotate the endpoint's secret) that the message names.",
        lambda e: (
            f"A call with this Idempotency-Key made '{e.made}' and showed its secret then; it is kept nowhere. If you missed it, reroll it."
        ),
        lambda _: {"headers": NO_RETRY},
    ),
    issuing.KeyEnded: Entry(
        409,
        INVALID,
        "key_ended",
        "CONFLICT",
        "The key is revoked, expired, or was rerolled before.",
        "Change the key that replaced it, or make a new one.",
        lambda _: "This key is revoked, expired, or was replaced by another already.",
        lambda _: {"headers": NO_RETRY},
    ),
    members.LastOwner: Entry(
        409,
        INVALID,
        "last_owner",
        "CONFLICT",
        "The account would be left without an owner.",
        "Make somebody else an owner first.",
        lambda _: "An account keeps at least one owner: make somebody else an owner first.",
        lambda _: {"headers": NO_RETRY},
    ),
    invitations.AlreadyMember: Entry(
        409,
        INVALID,
        "already_member",
        "CONFLICT",
        "Who is invited is a member.",
        "Change their role instead.",
        lambda _: "This person is a member already.",
        lambda _: {"param": "email", "headers": NO_RETRY},
    ),
    KeyUsed: Entry(
        409,
        INVALID,
        "idempotency_key_used",
        "CONFLICT",
        "The request with this `Idempotency-Key` was served, and its answer was not kept: it was streamed, or too large, or its process died.",
        "GET /v1/generation with the request id in the message shows what was delivered and charged. To ask once more, use a new key.",
        lambda e: (
            f"The request with this Idempotency-Key was served as {e.request_id}; its answer is not kept. "
            f"GET /v1/generation?id={e.request_id} has its receipt. Use a new key to ask once more."
        ),
        lambda _: {"headers": NO_RETRY},
    ),
}
