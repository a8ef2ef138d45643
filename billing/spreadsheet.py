"""Writes rows as CSV (RFC 4180) that a spreadsheet can open without running what a stranger wrote into a cell. Pure."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

# A cell that begins so is a formula to Excel, LibreOffice or Google Sheets (OWASP, "CSV Injection").
_DANGEROUS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


class _Line:
    """A file that hands back what was last written into it."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text = text


def lines(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """The lines of a CSV file, its header first, one at a time."""
    line = _Line()
    writer = csv.writer(line)
    writer.writerow(header)
    yield line.text
    for row in rows:
        writer.writerow([safe(cell) if isinstance(cell, str) else cell for cell in row])
        yield line.text


def safe(text: str) -> str:
    """`text` so that no spreadsheet takes it for a formula: with an apostrophe in front where it could."""
    return f"'{text}" if text.startswith(_DANGEROUS) else text
