"""Which models a list of names and patterns lets through. Pure."""

from collections.abc import Iterable
from fnmatch import fnmatchcase


class ModelPatterns:
    """Names such as "openai/gpt-5.4" and patterns such as "openai/*"; an empty list and "*" let everything through."""

    __slots__ = ("_known", "patterns")

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = tuple(patterns)
        self._known: dict[str, bool] = {}

    def allows(self, slug: str) -> bool:
        """Whether the model of this slug is let through."""
        if not self.patterns:
            return True
        known = self._known.get(slug)
        if known is None:
            known = any(pattern in ("*", slug) or fnmatchcase(slug, pattern) for pattern in self.patterns)
            if len(self._known) < 4096:
                self._known[slug] = known
        return known
