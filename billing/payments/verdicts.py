"""What Stripe's word on a payment means for its top-up. Pure: figures in, a verdict out; anything that is not exactly right is no credit."""

from dataclasses import dataclass

from billing.models import TopUp
from billing.payments.stripe_client import TAG, Payment, Session

PAID = ("paid", "no_payment_required")
CURRENCY = "usd"
WANTS_CONSENT = "authentication_required"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where a top-up is to be. `paid_minor` (what was paid, tax included) is set when money has moved; `problem` is why it is quarantined."""

    state: TopUp.State
    problem: str = ""
    failure: str = ""
    paid_minor: int | None = None
    session_id: str = ""
    payment_intent_id: str = ""
    charge_id: str = ""
    receipt_url: str = ""
    action_url: str = ""


def judge(top_up: TopUp, session: Session | None, payment: Payment | None, *, discounts_allowed: bool) -> Verdict:
    """Decide what a session, a payment without one, or both, mean for `top_up`."""
    if session is not None and session.payment_status in PAID:
        return _verdict(_problem_of_session(top_up, session, payment, discounts_allowed=discounts_allowed), session.total, session, payment)
    if session is not None and session.status == "expired":
        return _unpaid(TopUp.State.EXPIRED, session, payment)
    if session is not None and session.status != "complete":
        return _unpaid(TopUp.State.OPEN, session, payment)
    if payment is None:
        return _unpaid(TopUp.State.PROCESSING, session, payment)
    if payment.status == "succeeded" and session is None:
        return _verdict(_problem_of_payment(top_up, payment), payment.received, session, payment)
    if payment.status == "requires_payment_method" and top_up.kind == TopUp.Kind.AUTO and payment.decline_code == WANTS_CONSENT:
        return _unpaid(TopUp.State.ACTION_NEEDED, session, payment)  # nobody was there to be asked: they will be
    state = {
        "requires_action": TopUp.State.ACTION_NEEDED,
        "requires_payment_method": TopUp.State.FAILED,
        "canceled": TopUp.State.FAILED,
    }.get(payment.status, TopUp.State.PROCESSING)
    return _unpaid(state, session, payment)


def _problem_of_session(top_up: TopUp, session: Session, payment: Payment | None, *, discounts_allowed: bool) -> str:
    if session.reference != str(top_up.pk):
        return f"its session names {session.reference or 'no top-up'}"
    if session.is_live != top_up.is_live:
        return "it was paid in the other mode (test, live)"
    if session.currency != CURRENCY:
        return f"it was paid in {session.currency or 'no currency'}"
    if session.subtotal != top_up.charge_minor:
        return f"its subtotal is {session.subtotal} US cents, {top_up.charge_minor} were asked for"
    if session.discount and not discounts_allowed:
        return f"it has a discount of {session.discount} US cents, and there are no promotion codes here"
    if session.total < session.subtotal - session.discount:
        return f"its total is {session.total} US cents, less than its subtotal"
    if session.total and (payment is None or payment.status != "succeeded" or payment.received != session.total):
        return f"its session says {session.total} US cents are paid, its payment {payment.received if payment else 'nothing'}"
    return ""


def _problem_of_payment(top_up: TopUp, payment: Payment) -> str:
    if payment.metadata.get(TAG) != str(top_up.pk):
        return "its payment names another top-up"
    if top_up.kind == TopUp.Kind.CHECKOUT:
        return "its payment came without its session"
    if payment.is_live != top_up.is_live:
        return "it was paid in the other mode (test, live)"
    if payment.currency != CURRENCY:
        return f"it was paid in {payment.currency or 'no currency'}"
    if payment.received != top_up.charge_minor:
        return f"{payment.received} US cents were paid, {top_up.charge_minor} were asked for"
    return ""


def _verdict(problem: str, paid_minor: int, session: Session | None, payment: Payment | None) -> Verdict:
    return Verdict(
        TopUp.State.QUARANTINED if problem else TopUp.State.PAID,
        problem=problem,
        paid_minor=paid_minor,
        session_id=session.id if session else "",
        payment_intent_id=payment.id if payment else "",
        charge_id=payment.charge_id if payment else "",
        receipt_url=payment.receipt_url[:1000] if payment else "",
    )


def _unpaid(state: TopUp.State, session: Session | None, payment: Payment | None) -> Verdict:
    failure = ""
    if state == TopUp.State.FAILED and payment is not None:
        failure = payment.failure or ("The payment was cancelled." if payment.status == "canceled" else "The payment failed.")
    return Verdict(
        state,
        failure=failure,
        session_id=session.id if session else "",
        payment_intent_id=payment.id if payment else "",
        action_url=payment.action_url[:1000] if payment else "",
    )
