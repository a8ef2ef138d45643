"""What takes paid money away again: refunds that succeed, wait and fail, disputes won and lost, warnings of fraud."""

from stripe import Dispute

from tests.fakes.stripe import payments, shapes
from tests.fakes.stripe.refusals import Refused, missing
from tests.fakes.stripe.shapes import Json
from tests.fakes.stripe.store import DAY, Store, merge_metadata

_CLOSED = {"won", "lost", "warning_closed"}


def refund(store: Store, params: Json) -> Json:
    """Serve POST /v1/refunds. Raises: Refused."""
    charge = _charge_of(store, params)
    left = charge["amount"] - charge["amount_refunded"]
    if charge["disputed"] and any(one["status"] not in {"won", "warning_closed"} for one in store.all("dispute", charge=charge["id"])):
        raise Refused(400, f"Charge {charge['id']} has been charged back; cannot issue a refund.", code="charge_disputed")
    if left == 0:
        raise Refused(400, f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
    amount = params.get("amount", left)
    if amount > left or amount < 1:
        text = f"Refund amount (${amount / 100:.2f}) is greater than unrefunded amount on charge (${left / 100:.2f})"
        raise Refused(400, text, param="amount")
    made = store.add(
        "refund",
        amount=amount,
        charge=charge["id"],
        currency=charge["currency"],
        customer=charge["customer"],
        destination_details={
            "type": "card",
            "card": {"type": "refund", "reference_status": "pending", "reference_type": "acquirer_reference_number"},
        },
        metadata={},
        payment_intent=charge["payment_intent"],
        reason=params.get("reason"),
        status=store.settings.get("refund_status", "succeeded"),
    )
    merge_metadata(made, params.get("metadata"))
    made["balance_transaction"] = payments.book(store, made["id"], -amount, "refund", made["currency"])["id"]
    _recount(store, charge)
    store.emit("refund.created", made)
    store.emit("charge.refunded", charge)
    return made


def update_refund(store: Store, params: Json, id_: str) -> Json:
    """Serve POST /v1/refunds/:id."""
    found = store.get("refund", id_)
    with store.change(found, "refund.updated", "charge.refund.updated"):
        merge_metadata(found, params.get("metadata"))
    return found


def cancel_refund(store: Store, _params: Json, id_: str) -> Json:
    """Serve POST /v1/refunds/:id/cancel."""
    found = store.get("refund", id_)
    if found["status"] not in {"pending", "requires_action"}:
        raise Refused(400, f"Refund {id_} has a status of {found['status']} and cannot be canceled.")
    return change_refund(store, found, "canceled")


def change_refund(store: Store, found: Json, status: str, reason: str = "") -> Json:
    """Let a refund end as `status`: succeeded, failed or canceled; the money of the last two comes back."""
    with store.change(found, "refund.updated", "charge.refund.updated", *(["refund.failed"] if status == "failed" else [])):
        found["status"] = status
        if status != "succeeded":
            booked = payments.book(store, found["id"], found["amount"], "refund_failure", found["currency"])
            found |= {"failure_balance_transaction": booked["id"]}
            found |= {"failure_reason": reason or "lost_or_stolen_card"} if status == "failed" else {}
        _recount(store, store.get("charge", found["charge"]))
    return found


def refunds(store: Store, params: Json) -> Json:
    """Serve GET /v1/refunds."""
    wanted = {name: params[name] for name in ("charge", "payment_intent") if name in params}
    return store.page(store.all("refund", **wanted), params, "/v1/refunds")


def open_against(store: Store, charge: Json, *, amount: int | None, reason: str, withdraw: bool, inquiry: bool) -> Json:
    """Open a dispute; an inquiry takes no money yet."""
    dispute = store.add(
        "dispute",
        amount=amount or charge["amount"],
        charge=charge["id"],
        currency=charge["currency"],
        evidence=shapes.blank(Dispute.Evidence),
        evidence_details=shapes.blank(Dispute.EvidenceDetails, due_by=store.now + 7 * DAY, enhanced_eligibility={}),
        is_charge_refundable=inquiry,
        metadata={},
        network_reason_code="10.4",
        payment_intent=charge["payment_intent"],
        payment_method_details=shapes.blank(
            Dispute.PaymentMethodDetails,
            type="card",
            card=shapes.blank(Dispute.PaymentMethodDetails.Card, brand="visa", case_type="inquiry" if inquiry else "chargeback"),
        ),
        reason=reason,
        status="warning_needs_response" if inquiry else "needs_response",
    )
    charge["disputed"] = True
    store.emit("charge.dispute.created", dispute)
    if withdraw and not inquiry:
        _move(store, dispute, -dispute["amount"])
        store.emit("charge.dispute.funds_withdrawn", dispute)
    return dispute


def close(store: Store, dispute: Json, *, won: bool) -> Json:
    """Close a dispute; a won one gives the money back."""
    if dispute["status"] in _CLOSED:
        raise Refused(400, "This dispute is already closed.")
    inquiry = dispute["status"].startswith("warning")
    dispute |= {"status": "warning_closed" if inquiry else "won" if won else "lost", "is_charge_refundable": won or inquiry}
    if won and dispute["balance_transactions"]:
        _move(store, dispute, dispute["amount"])
        store.emit("charge.dispute.funds_reinstated", dispute)
    store.emit("charge.dispute.closed", dispute)
    return dispute


def accept(store: Store, _params: Json, id_: str) -> Json:
    """Serve POST /v1/disputes/:id/close: the merchant gives in."""
    return close(store, store.get("dispute", id_), won=False)


def update(store: Store, params: Json, id_: str) -> Json:
    """Serve POST /v1/disputes/:id."""
    dispute = store.get("dispute", id_)
    if dispute["status"] in _CLOSED:
        raise Refused(400, "This dispute is already closed.")
    with store.change(dispute, "charge.dispute.updated"):
        if given := params.get("evidence"):
            dispute["evidence"] = {**dispute["evidence"], **given}
            dispute["evidence_details"] = {**dispute["evidence_details"], "has_evidence": True}
        if params.get("submit", bool(given)):
            dispute["evidence_details"] = {**dispute["evidence_details"], "submission_count": 1}
            dispute["status"] = "warning_under_review" if dispute["status"].startswith("warning") else "under_review"
        merge_metadata(dispute, params.get("metadata"))
    return dispute


def listing(store: Store, params: Json) -> Json:
    """Serve GET /v1/disputes."""
    wanted = {name: params[name] for name in ("charge", "payment_intent") if name in params}
    return store.page(store.all("dispute", **wanted), params, "/v1/disputes")


def warn(store: Store, charge: Json, fraud_type: str = "made_with_stolen_card") -> Json:
    """Let the card's bank warn of fraud."""
    made = store.add(
        "radar.early_fraud_warning", actionable=True, charge=charge["id"], fraud_type=fraud_type, payment_intent=charge["payment_intent"]
    )
    store.emit("radar.early_fraud_warning.created", made)
    return made


def warnings(store: Store, params: Json) -> Json:
    """Serve GET /v1/radar/early_fraud_warnings."""
    wanted = {name: params[name] for name in ("charge", "payment_intent") if name in params}
    return store.page(store.all("radar.early_fraud_warning", **wanted), params, "/v1/radar/early_fraud_warnings")


def _move(store: Store, dispute: Json, amount: int) -> None:
    booked = payments.book(store, dispute["id"], amount, "adjustment", dispute["currency"])
    dispute["balance_transactions"] = [*dispute["balance_transactions"], booked]


def _recount(store: Store, charge: Json) -> None:
    active = [one for one in store.all("refund", charge=charge["id"]) if one["status"] not in {"failed", "canceled"}]
    charge["amount_refunded"] = sum(one["amount"] for one in active)
    charge["refunded"] = charge["amount_refunded"] == charge["amount"]


def _charge_of(store: Store, params: Json) -> Json:
    if params.get("charge"):
        return store.get("charge", params["charge"], "charge")
    if not params.get("payment_intent"):
        raise missing("charge")
    intent = store.get("payment_intent", params["payment_intent"], "payment_intent")
    if intent["status"] != "succeeded":
        raise Refused(400, f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund.", param="payment_intent")
    return store.get("charge", intent["latest_charge"], "charge")
