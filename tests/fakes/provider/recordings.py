"""Owns the way to recorded exchanges with real providers: where they are, which there are, and their bytes.

The recordings are read where they lie (RECORDINGS_DIR, else the folder beside the project) and are never copied into it. Tests that
need them skip with SKIP_REASON where they are absent.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[3]
SKIP_REASON = "the recordings of real provider traffic are not here (set RECORDINGS_DIR)"


def folder() -> Path | None:
    """Return the folder of recordings, or None where there is none."""
    named = os.environ.get("RECORDINGS_DIR")
    place = Path(named) if named else PROJECT.parent / "shared" / "recordings"
    return place if (place / "INDEX.jsonl").is_file() else None


@dataclass(frozen=True)
class Case:
    """One recorded exchange: what was asked of a provider and the bytes it answered."""

    provider: str
    shape: str
    name: str
    status: int
    stream: bool
    kinds: tuple[str, ...]
    fidelity: str
    model: str | None
    root: Path = field(repr=False)

    @property
    def id(self) -> str:
        """The case's address, `provider/shape/name`: also the pytest id and the tail of the `replay:` model name."""
        return f"{self.provider}/{self.shape}/{self.name}"

    @property
    def response_file(self) -> Path:
        return self.root / f"{self.id}.response.{'sse' if self.stream else 'json'}"

    @property
    def response_bytes(self) -> bytes:
        """The body exactly as recorded; for a stream the whole SSE text."""
        return self.response_file.read_bytes()

    @property
    def request_bytes(self) -> bytes | None:
        """The body of the recorded request, or None where the source kept only the response."""
        place = self.root / f"{self.id}.request.json"
        return place.read_bytes() if place.is_file() else None

    @cached_property
    def request(self) -> Any:
        """The parsed body of the recorded request, or None where it was not kept. Copy it before changing it."""
        body = self.request_bytes
        return None if body is None else json.loads(body)

    @cached_property
    def meta(self) -> dict[str, Any]:
        """Everything noted about the exchange: method, path, headers of both sides, source, licence, features."""
        found: dict[str, Any] = json.loads((self.root / f"{self.id}.meta.json").read_bytes())
        return found

    @property
    def response_headers(self) -> Mapping[str, str]:
        headers: dict[str, str] = self.meta["response_headers"]
        return headers


@lru_cache(maxsize=4)
def _index(root: Path) -> dict[str, Case]:
    found: dict[str, Case] = {}
    with (root / "INDEX.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            case = Case(
                provider=row["provider"],
                shape=row["shape"],
                name=row["case"],
                status=row["status"],
                stream=row["stream"],
                kinds=tuple(row["kinds"]),
                fidelity=row["fidelity"],
                model=row["model"],
                root=root,
            )
            found[case.id] = case
    return found


def cases(
    shape: str | Iterable[str] | None = None,
    providers: str | Iterable[str] | None = None,
    *,
    stream: bool | None = None,
    statuses: Iterable[int] | None = None,
    kinds: str | Iterable[str] | None = None,
) -> list[Case]:
    """List the recorded cases that match every given filter, ordered by id; empty where there are no recordings.

    `kinds` keeps a case that has any of the kinds. An unknown shape or provider simply matches nothing.
    """
    root = folder()
    if root is None:
        return []
    shapes, makers, wanted = _several(shape), _several(providers), _several(kinds)
    codes = None if statuses is None else set(statuses)
    return [
        case
        for _, case in sorted(_index(root).items())
        if (shapes is None or case.shape in shapes)
        and (makers is None or case.provider in makers)
        and (stream is None or case.stream == stream)
        and (codes is None or case.status in codes)
        and (wanted is None or wanted.intersection(case.kinds))
    ]


def find(case_id: str) -> Case:
    """Return the case addressed `provider/shape/name`.

    Raises: LookupError when there are no recordings here or none has this address.
    """
    root = folder()
    if root is None:
        raise LookupError(SKIP_REASON)
    try:
        return _index(root)[case_id]
    except KeyError:
        raise LookupError(f"no recording is called {case_id!r}") from None


def _several(names: str | Iterable[str] | None) -> set[str] | None:
    if names is None:
        return None
    return {names} if isinstance(names, str) else set(names)
