"""The built-in demo provider: what an OpenAI-compatible server would answer, computed from the request alone.

There is no network, no key, no clock and no chance in here. `answer` is a function from a parsed body to a script of bytes and
pauses, and the relay plays that script through the same path as a provider's response. The same body always gives the same
answer, so that examples, retries and bills can be checked by hand.

Tokens are counted by rule. A text has one token for every four bytes of its UTF-8 form, rounded up. A message of the prompt has the
tokens of its text and tool calls, four more, and `MEDIA_TOKENS` for every image, sound or file; a legacy prompt and an embedding
input have no such four, and a token already given as a number counts as one. An answer has the tokens of its reasoning, its text and
the names and arguments of its tool calls, each counted alone. Cached tokens are zero unless the body has a `prompt_cache_key`: then
the first `CACHED_TOKENS` of every message longer than that were read from the cache.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from proxy.providers.demo import generation, models, pictures, refusals, script, vectors
from proxy.providers.demo.script import DemoAnswer, Endpoint, Piece, count_tokens

__all__ = ["DemoAnswer", "Endpoint", "Piece", "answer", "count_tokens"]


def answer(upstream_model: str, body: Mapping[str, Any], *, endpoint: Endpoint, created: int) -> DemoAnswer:
    """Answer `body` as an OpenAI-compatible server would.

    `upstream_model` is the name without `demo/`; `created` is in Unix seconds. A request that a provider would refuse gives the
    refusal as the answer: nothing is raised for what a client may send.
    """
    ident = "unread"
    try:
        ident = _ident(body)
        if failure := refusals.FAILURES.get(upstream_model):
            return script.whole(failure.status, failure.body(upstream_model), ident, failure.headers)
        _check_model(upstream_model, endpoint)
        if endpoint == "embeddings":
            return script.whole(200, vectors.embed(upstream_model, body), ident)
        if endpoint == "images":
            return script.whole(200, pictures.draw(body, created), ident)
        return generation.generate(upstream_model, body, endpoint, ident, created)
    except refusals.Refused as refusal:
        return script.whole(refusal.status, refusal.body(), ident)
    except RecursionError:
        return script.whole(400, refusals.Refused("The request body is nested too deeply.").body(), ident)


def _check_model(model: str, endpoint: Endpoint) -> None:
    served = {"embeddings": {"embedding"}, "images": {"image"}}.get(endpoint, models.MODELS.keys())
    if model in served:
        return
    if model in models.MODELS or model in {"embedding", "image"}:
        raise refusals.Refused(f"The model `{model}` is not supported by the {endpoint} endpoint.", "model", None, 404)
    raise refusals.Refused(f"The model `{model}` does not exist or you do not have access to it.", None, "model_not_found", 404)


def _ident(body: Mapping[str, Any]) -> str:
    """Name the request; with and without streaming it has the same name, since it has the same answer."""
    asked = {key: value for key, value in body.items() if key not in {"stream", "stream_options"}}
    return hashlib.sha256(script.utf8(json.dumps(asked, sort_keys=True))).hexdigest()[:24]
