"""What a person sees of Stripe: the checkout page, the bank's question, receipts, the billing portal, and the simulator's levers."""

from dataclasses import dataclass
from html import escape
from urllib.parse import parse_qsl, quote

from tests.fakes.stripe import cards, checkout, disputes, payments, subscriptions
from tests.fakes.stripe.checkout import Declined
from tests.fakes.stripe.refusals import Refused
from tests.fakes.stripe.shapes import Json
from tests.fakes.stripe.store import Store

_STYLE = """
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:2rem auto;padding:0 1rem}
.simulated{background:#ffe08a;color:#3d2c00;padding:.6rem 1rem;border-radius:.4rem;font-weight:600}
.error{background:#ffd9d6;color:#5c0a04;padding:.6rem 1rem;border-radius:.4rem}label{display:block;margin:.8rem 0 .2rem}
input[type=text],input[type=email]{width:100%;box-sizing:border-box;font:inherit;padding:.4rem}button{font:inherit;padding:.5rem 1rem;margin:.8rem .4rem 0 0}
table{width:100%;border-collapse:collapse}td,th{text-align:left;padding:.3rem;border-bottom:1px solid #8884}td:last-child{text-align:right}
"""
_CARDS = (
    ("4242 4242 4242 4242", "succeeds"),
    ("4000 0000 0000 0002", "is declined"),
    ("4000 0025 0000 3155", "asks for your consent now, not later"),
    ("4000 0027 6000 3184", "asks for your consent every time"),
    ("4000 0000 0000 0341", "is saved, but fails when it is charged later"),
)


@dataclass
class Page:
    """What goes back to a browser: HTML, or a redirect."""

    status: int
    html: str = ""
    location: str = ""


def show(store: Store, method: str, path: str, form: str) -> Page | None:
    """Serve a page; None when there is none at this path."""
    fields = dict(parse_qsl(form, keep_blank_values=True))
    match path.strip("/").split("/"):
        case [""]:
            return Page(302, location="/simulator")
        case ["c", "pay", id_] if session := store.find(id_):
            with store.acting_for(id_):
                return _checkout(store, session, fields if method == "POST" else None)
        case ["consent", id_] if intent := store.find(id_):
            with store.acting_for(id_):
                return _consent(store, intent, fields if method == "POST" else None)
        case ["receipts", id_] if charge := store.find(id_):
            return Page(200, _frame("Receipt", _receipt(charge)))
        case ["invoices", id_, *_] if invoice := store.find(id_):
            return Page(200, _frame("Invoice", _invoice(invoice)))
        case ["p", "session", id_] if session := store.find(id_):
            with store.acting_for(id_):
                return _portal(store, session, fields if method == "POST" else None)
        case ["simulator"]:
            return _simulator(store, fields if method == "POST" else None)
    return None


def _checkout(store: Store, session: Json, form: dict[str, str] | None) -> Page:
    if session["status"] == "complete":
        return Page(303, location=_success(session))
    if session["status"] == "expired":
        back = f'<p><a href="{escape(session["cancel_url"])}">Back</a></p>' if session["cancel_url"] else ""
        return Page(410, _frame("Expired", f"<p>This checkout session has expired. Nothing was paid.</p>{back}"))
    if form is None:
        return Page(200, _frame("Checkout", _checkout_form(session, {}, "")))
    number = cards.BANK if form.get("method") == "bank_debit" else form.get("number", "").replace(" ", "")
    wanted = {"email": form.get("email", ""), "promotion_code": form.get("promotion_code", "").strip()}
    try:
        if form.get("consent") == "fail":
            checkout.refuse_consent(store, session, number)
        if checkout.pay(store, session, number, **wanted, consented=form.get("consent") == "complete") == "consent":
            return Page(200, _frame("Your bank asks", _consent_form(session["url"], {**form, **wanted, "number": number})))
    except Declined as declined:
        return Page(200, _frame("Checkout", _checkout_form(session, form, str(declined))))
    return Page(303, location=_success(session))


def _success(session: Json) -> str:
    return str(session["success_url"]).replace("{CHECKOUT_SESSION_ID}", session["id"])


def _checkout_form(session: Json, form: dict[str, str], error: str) -> str:
    setup = session["mode"] == "setup"
    verb = {"setup": "Save card", "subscription": "Subscribe", "payment": "Pay"}[session["mode"]]
    total = "" if setup else f" {money(session['amount_total'], session['currency'])}"
    tax = (
        ""
        if setup or not session["total_details"]["amount_tax"]
        else f" (tax {money(session['total_details']['amount_tax'], session['currency'])} included)"
    )
    told = f'<p class="error" role="alert" id="error">{escape(error)}</p>' if error else ""
    email = session["customer_email"] or (session["customer_details"] or {}).get("email") or ""
    code = (
        f'<label for="promotion_code">Promotion code (SAVE10 takes a tenth off)</label>'
        f'<input type="text" id="promotion_code" name="promotion_code" value="{escape(form.get("promotion_code", ""))}">'
        if session["allow_promotion_codes"]
        else ""
    )
    debit = (
        '<label><input type="radio" name="method" value="bank_debit"> Bank debit (pays late: see <a href="/simulator">the simulator</a>)</label>'
        if session["mode"] == "payment"
        else ""
    )
    back = f'<p><a id="cancel" href="{escape(session["cancel_url"])}">Back, without paying</a></p>' if session["cancel_url"] else ""
    hints = "".join(f"<tr><td>{number}</td><td>{what}</td></tr>" for number, what in _CARDS)
    return f"""<p id="total">{verb}{total}{tax}</p>{told}
<form method="post"><label for="email">Email</label><input type="email" id="email" name="email" value="{escape(form.get("email", email))}">
<label><input type="radio" name="method" value="card" checked> Card</label>
<label for="number">Card number</label>
<input type="text" inputmode="numeric" id="number" name="number" value="{escape(form.get("number", "4242 4242 4242 4242"))}" autocomplete="off">
{debit}{code}<button type="submit" id="pay">{verb}{total}</button></form>{back}
<h2>Cards to try</h2><table><tbody>{hints}</tbody></table>"""


def _consent_form(action: str, hidden: dict[str, str]) -> str:
    fields = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">' for name, value in hidden.items() if name != "consent"
    )
    return f"""<p>3D Secure: do you consent to this payment?</p><form method="post" action="{escape(action)}">{fields}
<button type="submit" name="consent" value="complete" id="complete">Complete</button>
<button type="submit" name="consent" value="fail" id="fail">Fail</button></form>"""


def _consent(store: Store, intent: Json, form: dict[str, str] | None) -> Page:
    if intent["status"] != "requires_action":
        return Page(200, _frame("Your bank", f"<p>There is nothing to consent to: the payment is {escape(intent['status'])}.</p>"))
    if form is None:
        return Page(200, _frame("Your bank asks", _consent_form(f"/consent/{intent['id']}", {})))
    method = store.get("payment_method", intent["payment_method"])
    if form.get("consent") == "complete":
        payments.collect(store, intent, method, on_session=True, consented=True)
    else:
        text = "We are unable to authenticate your payment method."
        payments.decline(store, intent, method, "payment_intent_authentication_failure", "", text)
    if back := store.secret(intent["id"]).get("return_url"):
        return Page(303, location=f"{back}{'&' if '?' in back else '?'}payment_intent={quote(intent['id'])}")
    return Page(200, _frame("Your bank", f"<p>The payment is {escape(intent['status'])}.</p>"))


def _receipt(charge: Json) -> str:
    return (
        f"<p>{money(charge['amount'], charge['currency'])} for {escape(charge['description'] or 'your order')}</p>"
        f"<p>Refunded: {money(charge['amount_refunded'], charge['currency'])}. Charge {charge['id']}.</p>"
    )


def _invoice(invoice: Json) -> str:
    rows = "".join(
        f"<tr><td>{escape(line['description'] or '')}</td><td>{money(line['amount'], invoice['currency'])}</td></tr>"
        for line in invoice["lines"]["data"]
    )
    return f"<p>{escape(invoice['number'] or '')}: {invoice['status']}</p><table><tbody>{rows}</tbody></table><p>Total {money(invoice['total'], invoice['currency'])}</p>"


def _portal(store: Store, session: Json, form: dict[str, str] | None) -> Page:
    customer = session["customer"]
    if form:
        about = store.find(form.get("id", "")) or {}
        if about.get("customer") == customer and form.get("deed") == "remove" and about["object"] == "payment_method":
            cards.forget(store, about)
        if about.get("customer") == customer and form.get("deed") == "cancel" and about["object"] == "subscription":
            subscriptions.update(store, {"cancel_at_period_end": True}, about["id"])
        return Page(303, location=f"/p/session/{session['id']}")
    rows = [
        (one, f"Card ending in {one['card']['last4']}", "remove") for one in store.all("payment_method", customer=customer, type="card")
    ]
    rows += [
        (one, f"Subscription, {one['status']}", "cancel")
        for one in store.all("subscription", customer=customer)
        if one["status"] != "canceled" and not one["cancel_at_period_end"]
    ]
    listed = (
        "".join(_row(words, one["id"], [(deed, deed.capitalize())]) for one, words, deed in rows) or "<tr><td>Nothing is saved.</td></tr>"
    )
    back = f'<p><a href="{escape(session["return_url"])}">Return</a></p>' if session["return_url"] else ""
    return Page(200, _frame("Billing portal", f"<table><tbody>{listed}</tbody></table>{back}"))


def _simulator(store: Store, form: dict[str, str] | None) -> Page:
    error = ""
    if form and (about := store.find(form.get("id", ""))):
        with store.acting_for(about["id"]):
            try:
                pull(store, about, form.get("deed", ""))
                return Page(303, location="/simulator")
            except (Refused, KeyError) as refused:
                error = f'<p class="error" role="alert">{escape(str(refused))}</p>'
    rows = []
    for intent in reversed([*store.objects.get("payment_intent", {}).values()]):
        words = f"{money(intent['amount'], intent['currency'])} {intent['status']}"
        deeds = [("settle", "Money arrives"), ("bounce", "Debit fails")] if intent["status"] == "processing" else []
        if intent["status"] == "succeeded":
            deeds = [("refund", "Refund"), ("dispute", "Open dispute"), ("warn", "Warn of fraud")]
        rows.append(_row(words, intent["id"], deeds))
    for dispute in store.objects.get("dispute", {}).values():
        open_ = dispute["status"] not in {"won", "lost", "warning_closed"}
        rows.append(_row(f"dispute: {dispute['status']}", dispute["id"], [("win", "Won"), ("lose", "Lost")] if open_ else []))
    rows += [
        _row(f"refund: {refund['status']}", refund["id"], [("fail", "Fail it")] if refund["status"] == "succeeded" else [])
        for refund in store.objects.get("refund", {}).values()
    ]
    listed = "".join(rows[:200]) or "<tr><td>Nothing has happened yet.</td></tr>"
    return Page(200, _frame("Simulator", f"{error}<p>What a bank or a customer might do next.</p><table><tbody>{listed}</tbody></table>"))


def pull(store: Store, about: Json, deed: str) -> Json | None:
    """Do what a bank or a customer might do with an object. Raises: Refused; KeyError for a deed that it does not know."""
    if deed in {"settle", "bounce"}:
        session = next((one for one in store.all("checkout.session", payment_intent=about["id"])), None)
        if session is None:
            raise Refused(400, "Only a checkout's bank debit pays late.")
        checkout.settle_late(store, session, succeed=deed == "settle")
        return session
    if deed in {"dispute", "warn", "refund"}:
        charge = store.find(about.get("latest_charge") or about["id"]) or about
        if deed == "refund":
            return disputes.refund(store, {"charge": charge["id"]})
        if deed == "warn":
            return disputes.warn(store, charge)
        return disputes.open_against(store, charge, amount=None, reason="fraudulent", withdraw=True, inquiry=False)
    if deed in {"win", "lose"}:
        return disputes.close(store, about, won=deed == "win")
    if deed == "fail":
        return disputes.change_refund(store, about, "failed")
    raise KeyError(deed)


def money(amount: int, currency: str) -> str:
    """Return cents as people read them."""
    return f"${amount / 100:,.2f}" if currency == "usd" else f"{amount / 100:,.2f} {currency.upper()}"


def _row(words: str, id_: str, deeds: list[tuple[str, str]]) -> str:
    buttons = "".join(f'<button type="submit" name="deed" value="{deed}">{label}</button>' for deed, label in deeds)
    form = f'<form method="post"><input type="hidden" name="id" value="{escape(id_)}">{buttons}</form>' if deeds else ""
    return f"<tr><td>{escape(words)}<br><small>{escape(id_)}</small></td><td>{form}</td></tr>"


def _frame(title: str, body: str) -> str:
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<link rel="icon" href="data:,"><title>{title} (simulated)</title><style>{_STYLE}</style></head><body><main><p class="simulated">SIMULATED: no money moves.</p>
<h1>{title}</h1>{body}</main></body></html>"""
