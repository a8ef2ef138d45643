"""What a provider declaration says, and how the errors of OpenAI-like servers are read."""

import email.utils
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson

from proxy import failures
from proxy.formats.base import FormatName

Headers = tuple[tuple[str, str], ...]


def bearer(secret: str) -> Headers:
    """Sign in with `Authorization: Bearer`."""
    return (("Authorization", f"Bearer {secret}"),)


def api_key_header(secret: str) -> Headers:
    """Sign in with `api-key` (Azure)."""
    return (("api-key", secret),)


def anthropic_key(secret: str) -> Headers:
    """Sign in with `x-api-key` (Anthropic)."""
    return (("x-api-key", secret),)


def google_key(secret: str) -> Headers:
    """Sign in with `x-goog-api-key`: never in the address, which ends up in logs."""
    return (("x-goog-api-key", secret),)


@dataclass(frozen=True, slots=True)
class Declaration:
    """One kind of provider.

    `formats` are those it speaks, the one to prefer first; `output_limit_field` is the name it takes for a chat's output limit,
    `streams_usage` whether it knows `stream_options.include_usage`, `cancel_stops_billing` whether hanging up ends what it charges for.
    `endpoints` are the other endpoints of OpenAI's that it has, behind `endpoint_prefix`; `embeds_base64` whether it sends vectors in base64.
    """

    kind: str
    formats: tuple[FormatName, ...] = ("chat",)
    sign: Callable[[str], Headers] = bearer
    output_limit_field: str = "max_tokens"
    streams_usage: bool = True
    cancel_stops_billing: bool = True
    needs_key: bool = True
    endpoints: frozenset[FormatName] = frozenset()
    endpoint_prefix: str = ""
    endpoint_sign: Callable[[str], Headers] | None = None  # where they are signed in to in another way
    embeds_base64: bool = True
    has_deployments: bool = False  # whether it is called by deployment where an API version is set
    fetches_operations: bool = False  # whether long-running operations are asked for by a method of the model's
    takes_service_accounts: bool = False  # whether a key may be a service account, which signs in with access tokens

    def sign_for(self, format_name: FormatName, secret: str) -> Headers:
        """The headers that sign in to one of its formats or endpoints."""
        if self.endpoint_sign is not None and format_name in self.endpoints:
            return self.endpoint_sign(secret)
        return self.sign(secret)


PATHS = {
    "chat": "/chat/completions",
    "responses": "/responses",
    "messages": "/messages",
    "completions": "/completions",
    "embeddings": "/embeddings",
    "images": "/images/generations",
}


def path_of(format_name: FormatName, upstream_model: str, *, stream: bool) -> str:
    """Where a format is served, behind a provider's base address."""
    if format_name == "gemini":
        return method_path(upstream_model, "streamGenerateContent?alt=sse" if stream else "generateContent")
    return PATHS[format_name]


def method_path(upstream_model: str, method: str) -> str:
    """Where one of Google's methods is served, behind a provider's base address."""
    return f"/models/{quote(upstream_model, safe='')}:{method}"


def deployment_path(path: str, upstream_model: str, *, api_version: str) -> str:
    """Where Azure serves what has this path elsewhere, behind a resource's bare address: models are deployments there.

    Responses have no deployment in their address; they name it in their body.
    """
    place = "" if path == PATHS["responses"] else f"/deployments/{quote(upstream_model, safe='')}"
    return f"/openai{place}{path}?api-version={quote(api_version, safe='')}"


_OUT_OF_MONEY = re.compile(
    r"insufficient[_ ](?:quota|balance|credit|funds)|credit balance is too low|used all available credits|out of credits?|"
    r"exceeded your current quota|payment required|余额不足|arrears",
    re.IGNORECASE,
)
# Under a 400 the words may be the client's own, quoted: there only the sentence itself counts, from its beginning.
_NO_MONEY_400 = re.compile(r"your credit balance is too low", re.IGNORECASE)
_BAD_KEY_400 = re.compile(r"incorrect api key provided|api key (?:not valid|expired)", re.IGNORECASE)
_RETRY_DELAY = re.compile(rb'"retryDelay"\s*:\s*"(\d{1,6}(?:\.\d{1,9})?)s"')  # google.rpc.RetryInfo
# A 403 about what the client said, not about our key: OpenRouter's moderation (https://openrouter.ai/docs/errors) and xAI's.
_FLAGGED = re.compile(
    r"input was flagged|content_policy_violation|content violates (?:our )?(?:usage guidelines|usage policies|content policy)",
    re.IGNORECASE,
)
_ABOUT_SIZE = re.compile(
    r"maximum context length|context[_ ]length|too[_ ]many[_ ](?:prompt[_ ])?tokens|prompt is too long|request too large|"
    r"exceeds the context",
    re.IGNORECASE,
)
# "This is a chat model and not supported in the v1/completions endpoint": the client's mistake, and no sign of a broken route.
_WRONG_ENDPOINT = re.compile(
    r"not (?:supported )?(?:in|by|with|on|at) (?:the )?\S*(?:completions|embeddings|images|responses)", re.IGNORECASE
)
_PRIVATE = (
    (re.compile(r"\b(?:org|proj|user|acct|req)[-_][A-Za-z0-9_-]{3,}"), "…"),
    (re.compile(r"\b(?:sk|xai|gsk|pk|rk|AIza)[-_][A-Za-z0-9_*-]{4,}|\bAIza[A-Za-z0-9_-]{6,}|\*{3,}[A-Za-z0-9-]*"), "…"),
    (re.compile(r"https?://\S+"), "…"),
    (
        re.compile(
            r"\b(?:OpenAI|Anthropic|Google|Gemini API|Vertex AI|Azure|DeepSeek|xAI|OpenRouter|Mistral|Groq|Z\.ai|Zhipu)\b", re.IGNORECASE
        ),
        "the provider",
    ),
)
LONGEST_RETRY_AFTER = 3600.0


def clean(message: str) -> str:
    """A provider's words about the client's own request, without its name, ids, keys and links; at most 500 characters."""
    for pattern, replacement in _PRIVATE:
        message = pattern.sub(replacement, message)
    return message[:500]


def read_failure(status: int, headers: Mapping[str, str], body: bytes) -> failures.UpstreamFailure | failures.RequestRefused:
    """Tell a provider's error apart: its own trouble, our account there, a wait, or the client's request."""
    error_type, code, message, param = _read_error(body)
    text = f"{error_type} {code} {message}"
    if status == 429 and (delay := _RETRY_DELAY.search(body)) is not None:  # Google says "quota" of a minute's limit too
        return failures.ProviderBusy(status, min(float(delay[1]), LONGEST_RETRY_AFTER))
    if status == 403 and _FLAGGED.search(text):
        return failures.RequestRefused(
            400, message="The request was refused by the provider's content filter.", code="content_policy_violation", param=None
        )
    if status == 402 or (status in (401, 403, 429) and _OUT_OF_MONEY.search(text)) or (status == 429 and code == "1113"):
        return failures.ProviderKeyRefused(status, out_of_money=True)
    if status == 400 and (_NO_MONEY_400.match(message) or _BAD_KEY_400.match(message)):
        return failures.ProviderKeyRefused(status, out_of_money=_NO_MONEY_400.match(message) is not None)
    if status in (401, 403) or code in ("invalid_api_key", "DeploymentNotFound"):
        return failures.ProviderKeyRefused(status, out_of_money=False)
    too_large = _ABOUT_SIZE.search(text) is not None
    if status in (503, 529):
        return failures.ProviderOverloaded(status, read_retry_after(headers))
    if status == 429 and not too_large:
        return failures.ProviderBusy(status, read_retry_after(headers))
    if status >= 500 or status in (408, 409, 425) or status < 400:
        return failures.ProviderFault(status)
    is_about_model = code == "model_not_found" or (status == 404 and "model" in message.lower())
    if status in (400, 404) and is_about_model and not _WRONG_ENDPOINT.search(message):
        return failures.ProviderFault(status)  # our route names a model the provider does not have: not the client's fault
    return failures.RequestRefused(
        status if status in (400, 404, 413, 422) else 400,
        message=clean(message) or "The provider refused the request as invalid.",
        code="context_length_exceeded" if too_large else (code if re.fullmatch(r"[a-z_]{3,40}", code) else None),
        param=param,
    )


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """The wait a provider asks for, in seconds, from `retry-after-ms` or `retry-after` (seconds or a date), bounded."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if not value:
            continue
        try:
            seconds = float(value) * scale
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError):
                continue
        if seconds == seconds:  # not NaN
            return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)
    return None


def _read_error(body: bytes) -> tuple[str, str, str, str | None]:
    try:
        data: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "", "", "", None
    if isinstance(data, list) and data:
        data = data[0]
    if not isinstance(data, dict):
        return "", "", "", None
    error = data.get("error", data)
    if isinstance(error, str):
        return "", str(data.get("code") or ""), error, None
    if not isinstance(error, dict):
        return "", "", "", None
    message = error.get("message") or error.get("detail") or data.get("detail") or ""
    param = error.get("param")
    return (
        str(error.get("type") or ""),
        str(error.get("code") or ""),
        message if isinstance(message, str) else "",
        param if isinstance(param, str) else None,
    )
