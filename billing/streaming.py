"""Streams rows out of the database as CSV or JSON lines, in pieces, whichever kind of server runs the view."""

import json
from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse

from billing import spreadsheet

LINES_AT_ONCE = 500
CONTENT_TYPES = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson; charset=utf-8"}


def download(
    request: HttpRequest, *, header: Sequence[str], rows: Iterable[Sequence[Any]], name: str, form: str = "csv"
) -> StreamingHttpResponse:
    """Answer with `rows` as a file called `name` + `form` ("csv", safe to open in a spreadsheet, or "jsonl": an object a line)."""
    lines = spreadsheet.lines(header, rows) if form == "csv" else json_lines(header, rows)
    chunks = _gather(lines)
    response = StreamingHttpResponse(
        _in_the_thread_of_the_view(chunks) if isinstance(request, ASGIRequest) else chunks, content_type=CONTENT_TYPES[form]
    )
    response.headers["Content-Disposition"] = f'attachment; filename="{name}.{form}"'
    return response


def json_lines(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Each row as a JSON object whose names are those of `header`."""
    for row in rows:
        yield json.dumps(dict(zip(header, row, strict=True)), ensure_ascii=False, separators=(",", ":")) + "\n"


def _gather(lines: Iterator[str]) -> Generator[str, None, None]:
    while gathered := "".join(islice(lines, LINES_AT_ONCE)):
        yield gathered


async def _in_the_thread_of_the_view(chunks: Generator[str, None, None]) -> AsyncIterator[str]:
    """Iterate where the view ran, because the rows come over that thread's connection to PostgreSQL."""
    try:
        while chunk := await sync_to_async(_next)(chunks):
            yield chunk
    finally:
        await sync_to_async(chunks.close)()


def _next(chunks: Iterator[str]) -> str:
    return next(chunks, "")
