"""Owns answers that are refused by status: error bodies in each provider's words, redirects, and secrets in error texts."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from tests.fakes.provider.call import JSON, SSE, Call
from tests.fakes.provider.shapes.event import dump

HTML = b"<html>\r\n<head><title>%b</title></head>\r\n<body><center><h1>%b</h1></center><hr><center>nginx</center></body>\r\n</html>\r\n"
HUGE_RETRY = "99999999999"
ORGANISATION = "org-abc123"
MESSAGES = {
    400: ("Invalid value for 'messages': the request is not acceptable.", "invalid_value"),
    401: ("Incorrect API key provided.", "invalid_api_key"),
    402: ("Insufficient Balance", "invalid_request_error"),
    403: ("Your key is not allowed to use this model.", "unsupported_country_region_territory"),
    404: ("The model does not exist or you do not have access to it.", "model_not_found"),
    408: ("The request timed out.", None),
    409: ("Another request is changing the same thing.", None),
    413: ("The request is too large.", "request_too_large"),
    422: ("The request could not be processed.", None),
    429: ("Rate limit reached on tokens per min (TPM): Limit 10000, Used 9348, Requested 5086.", "rate_limit_exceeded"),
    500: ("The server had an error while processing your request.", None),
    503: ("The engine is currently overloaded, please try again later.", None),
    529: ("Overloaded", None),
}


async def status(call: Call) -> None:
    """Refuse with the status in the fault's name. `retry=seconds|date|huge|<text>` adds Retry-After, `retry_ms=` retry-after-ms,
    `should_retry=true|false` x-should-retry, `html=1` answers with a page (502 always does), `message=` and `code=` replace the text.
    """
    await refuse(call, int(call.behaviour.name.rpartition("-")[2]))


async def refuse(call: Call, code: int) -> None:
    """Refuse with a status and the knobs of `status`."""
    more = _retry_headers(call)
    message, machine = MESSAGES.get(code, ("Something went wrong.", None))
    message, machine = call.knobs.text("message") or message, call.knobs.text("code") or machine
    if call.knobs.flag("html") or code == 502:
        page = HTML % ((b"%d Bad Gateway" % code,) * 2)
        await call.exchange.answer(code, [("Content-Type", "text/html"), *more], page)
    else:
        await call.fail(code, message, code=machine, more=more)


def _retry_headers(call: Call) -> list[tuple[str, str]]:
    given = call.knobs.text("retry")
    spelled = {
        "seconds": "2",
        "date": format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True),
        "huge": HUGE_RETRY,
    }
    headers = [("Retry-After", spelled.get(given, given))] if given else []
    headers += [("retry-after-ms", call.knobs.text("retry_ms"))] if call.knobs.given("retry_ms") else []
    return headers + ([("x-should-retry", call.knobs.text("should_retry"))] if call.knobs.given("should_retry") else [])


async def insufficient_quota_429(call: Call) -> None:
    """Say as OpenAI does that the operator's account is empty."""
    await call.fail(
        429,
        "You exceeded your current quota, please check your plan and billing details.",
        kind="insufficient_quota",
        code="insufficient_quota",
    )


async def anthropic_credit_400(call: Call) -> None:
    """Say as Anthropic does, with a 400, that the operator's account is empty."""
    text = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits."
    body = {"type": "error", "error": {"type": "invalid_request_error", "message": text}, "request_id": "req_fake"}
    await call.exchange.answer(400, call.headers(JSON), dump(body))


async def xai_403_credits(call: Call) -> None:
    """Say as xAI does, with an `error` that is a text, that the operator's credits are used up."""
    text = "Your team has either used all available credits or reached its monthly spending limit."
    await call.exchange.answer(403, call.headers(JSON), dump({"code": "The caller does not have permission", "error": text}))


async def zai_429_1113(call: Call) -> None:
    """Say as Z.ai does, with code 1113 in a 429, that the operator's account is empty."""
    body = {"error": {"code": "1113", "message": "Insufficient balance or no resource package. Please recharge."}}
    await call.exchange.answer(429, call.headers(JSON), dump(body))


async def redirect(call: Call) -> None:
    """Redirect to `to=` (default: the provider's own canary path, whose visits are counted)."""
    code = int(call.behaviour.name.rpartition("-")[2])
    place = call.knobs.text("to") or f"{call.origin}/canary/redirect"
    await call.exchange.answer(code, [("Location", place)], b"")


async def leaks_secrets(call: Call) -> None:
    """Refuse (`status=`, default 401) with a text that repeats the credential received, an organisation and the provider's name;
    with `midstream=1` say it in an event behind the first chunks of a stream.
    """
    request = call.exchange.request
    secret = next(
        (value for name in ("authorization", "x-api-key", "x-goog-api-key", "api-key") if (value := request.header(name))), "none"
    )
    text = f"openai: the credential '{secret}' of organization {ORGANISATION} was refused, see https://platform.openai.com/account"
    if call.knobs.flag("midstream") and call.streams:
        sent, _ = call.content(call.knobs.number("chunks", 3))
        call.exchange.head(200, call.headers(SSE))
        await call.send(sent)
        await call.exchange.finish(call.error_event(text))
        return
    more = [("openai-organization", ORGANISATION), ("set-cookie", f"session={ORGANISATION}; path=/"), ("x-account", ORGANISATION)]
    await call.fail(call.knobs.number("status", 401), text, code="invalid_api_key", more=more)


FAULTS = {
    **{f"status-{code}": status for code in (401, 402, 403, 404, 408, 409, 413, 422, 429, 400, 500, 502, 503, 529)},
    "insufficient-quota-429": insufficient_quota_429,
    "anthropic-credit-400": anthropic_credit_400,
    "xai-403-credits": xai_403_credits,
    "zai-429-1113": zai_429_1113,
    "redirect-307": redirect,
    "leaks-secrets": leaks_secrets,
}
