"""Owns the grammar of model names: which behaviour a name asks for, and with which knobs."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

KINDS = ("replay", "chat", "fault", "flaky", "hold", "gate")
TRUE = ("1", "true", "yes", "on")


class UnknownBehaviour(Exception):
    """The model name asks for something this provider does not know."""


class Knobs:
    """The `key=value` pairs of one model name, and which of them were read: a knob nobody reads is a misspelt one."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)
        self._read: set[str] = set()

    def text(self, name: str, default: str = "") -> str:
        self._read.add(name)
        return self._values.get(name, default)

    def given(self, name: str) -> bool:
        self._read.add(name)
        return name in self._values

    def number(self, name: str, default: int) -> int:
        """Return a whole number. Raises: UnknownBehaviour when it is none."""
        value = self.text(name, str(default))
        try:
            return int(value)
        except ValueError:
            raise UnknownBehaviour(f"the knob {name}={value!r} is not a number") from None

    def seconds(self, name: str, default_ms: float = 0) -> float:
        """Return a knob given in milliseconds as seconds. Raises: UnknownBehaviour when it is no number."""
        value = self.text(name, str(default_ms))
        try:
            return float(value) / 1000
        except ValueError:
            raise UnknownBehaviour(f"the knob {name}={value!r} is not a number of milliseconds") from None

    def flag(self, name: str) -> bool:
        return self.text(name).lower() in TRUE

    def unread(self) -> list[str]:
        return sorted(set(self._values) - self._read)


@dataclass(frozen=True)
class Behaviour:
    """What one request is to get: the kind (`echo` where the model name has no known prefix), its name, its knobs."""

    kind: str
    name: str = ""
    knobs: Knobs = field(default_factory=lambda: Knobs({}))


def parse(model: str) -> Behaviour:
    """Read a model name. Raises: UnknownBehaviour for knobs that are no `key=value` pairs."""
    kind, colon, rest = model.partition(":")
    if not colon or kind not in KINDS:
        return Behaviour("echo")
    if kind == "replay":
        return _replay(rest)
    if kind == "chat":
        return Behaviour(kind, knobs=Knobs(_json_knobs(rest) if rest.startswith("{") else _pairs(rest)))
    name, _, knobs = rest.partition(";")
    return Behaviour(kind, name, Knobs(_pairs(knobs)))


def _replay(rest: str) -> Behaviour:
    found = re.fullmatch(r"(?P<case>[^@]+)(?:@(?P<piece>[1-9]\d*))?", rest)
    if found is None:
        raise UnknownBehaviour(f"not a recording's address: {rest!r}")
    return Behaviour("replay", found["case"], Knobs({"piece": found["piece"]} if found["piece"] else {}))


def _pairs(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in filter(None, text.split(";")):
        key, equals, value = part.partition("=")
        if not equals:
            raise UnknownBehaviour(f"not key=value: {part!r}")
        pairs[key.strip()] = value
    return pairs


def _json_knobs(text: str) -> dict[str, str]:
    try:
        given = json.loads(text)
    except ValueError:
        raise UnknownBehaviour(f"not JSON: {text!r}") from None
    return {key: _as_text(value) for key, value in given.items()}


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
