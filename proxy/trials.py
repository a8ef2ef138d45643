"""Trial requests: a tiny real request to one route with one key, to see whether it works. Nobody is charged, and no breaker hears of it."""

import asyncio
import time
from dataclasses import dataclass

import orjson
from asgiref.sync import async_to_sync

from catalog import vault
from catalog.models import ProviderKey, Route
from catalog.snapshot import KeyEntry, ProviderEntry, RouteEntry
from proxy import failures
from proxy.formats import anthropic_messages
from proxy.formats.base import FormatName
from proxy.providers.base import path_of
from proxy.providers.registry import DECLARATIONS
from proxy.routing import Candidate, format_for
from proxy.upstream import Upstream

SECONDS = 20.0
LARGEST_ANSWER = 1024 * 1024
MOST_TOKENS = 16
PROMPT = "Say hi."


@dataclass(frozen=True, slots=True)
class Trial:
    """How a trial went. `result` is "ok" or the class of what went wrong; `status` what the provider answered with, if it did."""

    result: str
    status: int | None
    milliseconds: int
    text: str

    @property
    def went_well(self) -> bool:
        """Whether a model answered."""
        return self.result == "ok"


class CannotTry(ValueError):
    """There is no trial of this: the reason is the message."""


def try_route(*, route: Route, key: ProviderKey | None) -> Trial:
    """Send a tiny request over `route` with `key` (None where the provider needs none) and say how it went.

    Raises: CannotTry.
    """
    provider = route.provider
    declaration = DECLARATIONS[provider.kind]
    if key is None and declaration.needs_key:
        raise CannotTry("This provider needs a key, and it has none.")
    try:
        opened = None if key is None else KeyEntry(str(key.pk), key.weight, key.secret())
    except vault.CannotOpen as error:
        raise CannotTry("The key cannot be opened with any of ENCRYPTION_KEYS.") from error
    entry = ProviderEntry(
        provider.pk, provider.slug, provider.kind, provider.base_url.rstrip("/"), provider.allow_private, (), provider.api_version
    )
    way = RouteEntry(route.pk, entry, route.upstream_model, route.priority, route.weight, route.format)
    client: FormatName = "embeddings" if route.model.kind == "embedding" else "chat"
    if route.model.kind not in ("text", "embedding"):
        raise CannotTry("Only models of text and embeddings are tried: others cost more than a trial is worth.")
    spoken = format_for(way, client)
    return async_to_sync(_send)(Candidate(way, opened, spoken), body=_body(spoken, way, declaration.output_limit_field))


async def _send(candidate: Candidate, *, body: bytes) -> Trial:
    declaration = DECLARATIONS[candidate.route.provider.kind]
    path = path_of(candidate.format, candidate.route.upstream_model, stream=False)
    if candidate.format in declaration.endpoints:
        path = declaration.endpoint_prefix + path
    headers = [("anthropic-version", anthropic_messages.OLD_VERSION)] if candidate.format == "messages" else []
    upstream = Upstream()
    await upstream.start()
    began = time.monotonic()

    def trial(result: str, status: int | None, text: str) -> Trial:
        return Trial(result, status, round((time.monotonic() - began) * 1000), text)

    try:
        async with asyncio.timeout(SECONDS):
            answer = await upstream.send(candidate, path=path, body=body, headers=headers, patience=SECONDS)
            try:
                size = len(await answer.read_all(LARGEST_ANSWER))
            finally:
                answer.close()
        return trial("ok", 200, f"{size:,} bytes of an answer")
    except failures.RequestRefused as error:
        return trial("RequestRefused", error.status, error.message)
    except failures.UpstreamFailure as error:
        return trial(type(error).__name__, getattr(error, "status", None), error.code)
    except TimeoutError:
        return trial("TimedOut", None, f"no whole answer within {SECONDS:.0f} s")
    finally:
        await upstream.close()


def _body(spoken: FormatName, route: RouteEntry, output_limit_field: str) -> bytes:
    model = route.upstream_model
    if spoken == "embeddings":
        return orjson.dumps({"model": model, "input": PROMPT})
    if spoken == "gemini":
        said = {"contents": [{"role": "user", "parts": [{"text": PROMPT}]}], "generationConfig": {"maxOutputTokens": MOST_TOKENS}}
        return orjson.dumps(said)
    if spoken == "responses":
        return orjson.dumps({"model": model, "input": PROMPT, "max_output_tokens": MOST_TOKENS, "store": False})
    if spoken == "completions":
        return orjson.dumps({"model": model, "prompt": PROMPT, "max_tokens": MOST_TOKENS})
    field = "max_tokens" if spoken == "messages" else output_limit_field
    return orjson.dumps({"model": model, "messages": [{"role": "user", "content": PROMPT}], field: MOST_TOKENS})
