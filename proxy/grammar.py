"""Checks what bridges tell clients against the grammar of each format: an assertion for development and tests (CHECK_STREAMS), free when off."""

from collections.abc import Callable

import structlog
from django.conf import settings

from gateway_site import metrics
from proxy.formats import grammar_chat, grammar_gemini, grammar_messages, grammar_responses
from proxy.formats.base import FormatName

log = structlog.get_logger(__name__)

GRAMMARS: dict[FormatName, Callable[[bytes], list[str]]] = {
    "chat": grammar_chat.check,
    "responses": grammar_responses.check,
    "messages": grammar_messages.check,
    "gemini": grammar_gemini.check,
}


class BrokenGrammar(AssertionError):
    """A stream that we told a client is not one of its format."""


def checker(client: FormatName, request_id: str) -> Callable[[bytes], None] | None:
    """What to give a whole stream to; None when streams are not checked."""
    mode = settings.CHECK_STREAMS
    if mode == "off":
        return None

    def check(stream: bytes) -> None:
        problems = GRAMMARS[client](stream)
        if not problems:
            return
        metrics.BROKEN_GRAMMAR.add(1, client)
        log.error("broken_grammar", format=client, problems=problems[:20], request_id=request_id)
        if mode == "raise":
            raise BrokenGrammar(f"{client}, request {request_id}: {'; '.join(problems[:20])}")

    return check
