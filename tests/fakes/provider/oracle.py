"""Owns the way to the judge of meaning: what an answer says, whatever its shape, and how two answers differ.

The judge is a file of its own outside the project (ORACLE_FILE, else the folder beside the project); it is loaded by path.
"""

import importlib.util
import json
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.fakes.provider.recordings import PROJECT

SKIP_REASON = "the oracle that judges meaning is not here (set ORACLE_FILE)"


def file() -> Path | None:
    """Return the oracle's file, or None where there is none."""
    named = os.environ.get("ORACLE_FILE")
    place = Path(named) if named else PROJECT.parent / "shared" / "oracle" / "semantics.py"
    return place if place.is_file() else None


@lru_cache(maxsize=2)
def _load(place: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("answer_semantics", place)
    if spec is None or spec.loader is None:
        raise LookupError(SKIP_REASON)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _oracle() -> ModuleType:
    place = file()
    if place is None:
        raise LookupError(SKIP_REASON)
    return _load(place)


def meaning(shape: str, body: Any, stream: bool = False) -> dict[str, Any]:  # noqa: FBT002 - reads as the shape's own property
    """Return what `body` says: text, reasoning, tools, stop, token counts, signature present, error.

    `shape` is chat, responses, messages or gemini. `body` may be bytes or text (of JSON, or of SSE when `stream`) or parsed JSON.

    Raises: LookupError when the oracle is absent, KeyError for another shape, ValueError for a body that does not parse.
    """
    judge = _oracle().FN[shape]
    text = body.decode() if isinstance(body, bytes | bytearray) else body
    said: dict[str, Any] = judge(json.loads(text) if isinstance(text, str) and not stream else text, stream)
    return said


def diff(left: dict[str, Any], right: dict[str, Any], keys: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the differences of two meanings as `{key: (left, right)}`, empty when they say the same; `keys` narrows the comparison."""
    oracle = _oracle()
    found: dict[str, Any] = oracle.diff(left, right) if keys is None else oracle.diff(left, right, keys)
    return found
