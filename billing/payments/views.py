"""The address that Stripe calls: bytes in, a stored event out, then 200. Only what could not be stored is a 5xx; nothing is a redirect."""

import structlog
from django.core.exceptions import RequestDataTooBig
from django.db import Error
from django.http import HttpRequest, JsonResponse
from django.http.request import UnreadablePostError
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from billing.payments import inbox, signatures

log = structlog.get_logger(__name__)


@csrf_exempt
def stripe_webhook(request: HttpRequest) -> JsonResponse:
    """Take one event in."""
    if request.method != "POST":
        answer = _refuse(405, "method_not_allowed", "Events are posted here.")
        answer.headers["Allow"] = "POST"
        return answer
    try:
        body = request.body
    except RequestDataTooBig:
        return _refuse(413, "event_too_large", "This is larger than any event.")
    except UnreadablePostError:
        return _refuse(400, "event_cut_off", "The body ended too early.")
    if len(body) > inbox.LARGEST_BODY:
        return _refuse(413, "event_too_large", "This is larger than any event.")
    try:
        event_id = inbox.receive(body=body, signature=request.headers.get("Stripe-Signature", ""), now=timezone.now())
    except inbox.NoSecrets:
        return _refuse(503, "stripe_webhooks_not_configured", "STRIPE_WEBHOOK_SECRETS is not set: nobody can be believed here.")
    except signatures.InvalidSignature as problem:
        log.warning("stripe_webhook_refused", problem=str(problem))
        return _refuse(400, "invalid_signature", f"{problem}.")
    except inbox.InvalidEvent as problem:
        log.warning("stripe_webhook_refused", problem=str(problem))
        return _refuse(400, "invalid_event", f"{problem}.")
    except Error as problem:
        log.error("stripe_event_not_stored", error=str(problem))
        return _refuse(503, "event_not_stored", "The event could not be stored. Send it again.")
    inbox.wake(event_id)
    return JsonResponse({"received": event_id})


def _refuse(status: int, code: str, message: str) -> JsonResponse:
    return JsonResponse({"error": {"code": code, "message": message}}, status=status)
