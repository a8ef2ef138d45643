"""Stored responses for tests: made through the store itself, on a lane of their own."""

import asyncio
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone

from gateway_site.clients import Lane
from proxy.response_store import ResponseStore

RETENTION = timedelta(days=30)


def new_id() -> str:
    return f"resp_{uuid.uuid4().hex}"


def lane() -> Lane:
    return Lane(settings.DATABASE_URL, deadline_seconds=20)


def message(text: str, **fields: Any) -> dict[str, Any]:
    """What a user says, as an input item."""
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}], **fields}


def answer(text: str, **fields: Any) -> dict[str, Any]:
    """What a model answers, as an output item."""
    part: dict[str, Any] = {"type": "output_text", "text": text, "annotations": [], "logprobs": None}
    return {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant", "status": "completed", "content": [part], **fields}


def response(response_id: str, text: str = "Hello!", *, output: list[dict[str, Any]] | None = None, **fields: Any) -> dict[str, Any]:
    """A response as a client sees it."""
    return {
        "id": response_id,
        "object": "response",
        "created_at": 1_790_000_000,
        "status": "completed",
        "model": "demo/echo",
        "output": [answer(text)] if output is None else output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "metadata": {},
        "usage": {
            "input_tokens": 1,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 1,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 2,
        },
        **fields,
    }


def keep(
    kept: dict[str, Any],
    input_items: Sequence[dict[str, Any]],
    *,
    account: Any,
    key: Any,
    previous_id: str | None = None,
    now: datetime | None = None,
) -> dict[str, Any]:
    """Store a response from a test that is not async; returns it."""

    async def save() -> None:
        own = lane()
        try:
            await ResponseStore(own, retention=RETENTION).save(
                account_id=account.pk,
                key_id=key.pk,
                model=kept["model"],
                response=kept,
                input_items=input_items,
                previous_id=previous_id,
                now=now or timezone.now(),
            )
        finally:
            await own.close()

    asyncio.run(save())
    return kept
