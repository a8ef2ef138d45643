"""Reads a YAML document strictly: every problem with its path and line, numbers exactly as written, no key that nobody asked for.

The document is never turned into Python objects by YAML itself: its nodes are walked and only what is asked for is read, so no tag can
construct anything and `2.50` stays `2.50`. Messages name paths and keys but never repeat a value, since a value may be a secret; where it
helps to see the value (a wrong choice, a wrong reference) the reader of that value adds it.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from enum import Enum
from typing import Final, TypeVar

import yaml

LARGEST_INTEGER = 2_147_483_647  # a PositiveIntegerField
LARGEST_BIG_INTEGER = 2**63 - 1

_TAG = "tag:yaml.org,2002:"
_TEXT_TAGS = {_TAG + name for name in ("str", "int", "float", "timestamp", "value")}
_WHOLE = re.compile(r"0|[1-9][0-9]{0,2}(?:_[0-9]{3})+|[1-9][0-9]{0,18}")
_DECIMAL = re.compile(r"(?:0|[1-9][0-9]{0,11})(?:\.[0-9]{1,15})?")
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_YES, _NO = {"true", "yes", "on"}, {"false", "no", "off"}

Value = TypeVar("Value")


class Unsaid(Enum):
    """What a reader answers for a key that the document does not have: not the same as null."""

    UNSAID = "unsaid"


UNSAID: Final = Unsaid.UNSAID


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where (`models[3].prices.input`, and its line when known), and what to do about it."""

    path: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        where = self.path or "the document"
        return f"{where}{f' (line {self.line})' if self.line else ''}: {self.message}"


class InvalidDocument(Exception):
    """The document cannot be used; `problems` lists everything that is wrong with it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest the nearest of `known`, as the end of a message; empty when nothing is near."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def said(fields: Mapping[str, Value | Unsaid]) -> dict[str, Value]:
    """Keep of `fields` what the document says."""
    return {name: value for name, value in fields.items() if not isinstance(value, Unsaid)}


class Section:
    """One mapping of a document. Each key is asked for by its kind; `close` then reports the keys that nobody asked for.

    A reader answers UNSAID for a key that is not there, and for one that is wrong: the problem is then in the list.
    """

    def __init__(self, node: yaml.MappingNode, path: str, problems: list[Problem]) -> None:
        self.path = path
        self.line: int = node.start_mark.line + 1
        self._problems = problems
        self._entries: dict[str, yaml.Node] = {}
        self._asked: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._report(path, "a key must be plain text", key)
            elif key.value in self._entries:
                first = self._entries[key.value].start_mark.line + 1
                self._report(self.at(key.value), f"this key stands twice; it is on line {first} already", key)
            else:
                self._entries[key.value] = value

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def at(self, key: str) -> str:
        """The path of `key` of this section."""
        if not self.path:
            return key
        return f"{self.path}.{key}" if _PLAIN_KEY.fullmatch(key) else f'{self.path}["{key}"]'

    def report(self, key: str, message: str) -> None:
        """Note a problem with the value of `key`, or with the whole section where it has no such key."""
        node = self._entries.get(key)
        line = node.start_mark.line + 1 if node is not None else self.line
        self._problems.append(Problem(self.at(key) if key else self.path, message, line))

    def close(self) -> None:
        """Report every key that nobody asked for."""
        for key, node in self._entries.items():
            if key not in self._asked:
                self._report(self.at(key), f"unknown key {key!r}{did_you_mean(key, self._asked)}", node)

    def need(self, *keys: str) -> None:
        """Report each of `keys` that is missing."""
        for key in keys:
            if key not in self._entries:
                self.report("", f"{key!r} is missing")

    def skip(self, *keys: str) -> None:
        """Accept keys that somebody else reads."""
        self._asked.update(keys)

    def is_null(self, key: str) -> bool:
        """Whether the document says null for `key`."""
        node = self._entries.get(key)
        return node is not None and node.tag == _TAG + "null"

    def is_mapping(self, key: str) -> bool:
        """Whether `key` holds a mapping."""
        return isinstance(self._entries.get(key), yaml.MappingNode)

    def text(self, key: str, *, longest: int, shape: re.Pattern[str] | None = None, hint: str = "", empty: bool = False) -> str | Unsaid:
        """Read text of at most `longest` characters that matches `shape` (`hint` says it in words)."""
        node = self._ask(key)
        return UNSAID if node is None else self._text(node, self.at(key), longest=longest, shape=shape, hint=hint, empty=empty)

    def choice(self, key: str, known: Iterable[str]) -> str | Unsaid:
        """Read one of `known`."""
        node, known = self._ask(key), list(known)
        if node is None:
            return UNSAID
        text = self._text(node, self.at(key), longest=100)
        if isinstance(text, str) and text not in known:
            self._report(self.at(key), f"{text!r} is none of {', '.join(known)}{did_you_mean(text, known)}", node)
            return UNSAID
        return text

    def flag(self, key: str) -> bool | Unsaid:
        """Read true or false."""
        node = self._ask(key)
        if node is None:
            return UNSAID
        if isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "bool":
            return node.value.lower() in _YES
        return self._wrong(node, self.at(key), "true or false")

    def whole(self, key: str, *, lowest: int = 0, highest: int = LARGEST_INTEGER) -> int | Unsaid:
        """Read a whole number between `lowest` and `highest`."""
        node = self._ask(key)
        if node is None:
            return UNSAID
        if not isinstance(node, yaml.ScalarNode) or not _WHOLE.fullmatch(node.value):
            return self._wrong(node, self.at(key), "a whole number, not negative, in plain digits")
        number = int(node.value)
        if not lowest <= number <= highest:
            self._report(self.at(key), f"must be between {lowest} and {highest}", node)
            return UNSAID
        return number

    def whole_or_null(self, key: str, *, lowest: int = 0, highest: int = LARGEST_INTEGER) -> int | Unsaid | None:
        """Read a whole number, or null."""
        if self.is_null(key):
            self._asked.add(key)
            return None
        return self.whole(key, lowest=lowest, highest=highest)

    def decimal(self, key: str) -> Decimal | Unsaid | None:
        """Read a decimal number that is not negative, exactly as written, or null."""
        node = self._ask(key)
        if node is None:
            return UNSAID
        if self.is_null(key):
            return None
        if not isinstance(node, yaml.ScalarNode) or not _DECIMAL.fullmatch(node.value):
            return self._wrong(node, self.at(key), 'a decimal number that is not negative, such as "2.50", with at most 15 decimals')
        return Decimal(node.value)

    def texts(self, key: str, *, longest: int, shape: re.Pattern[str] | None = None, hint: str = "") -> list[str] | Unsaid:
        """Read a list of texts, none of them twice."""
        nodes = self._list(key)
        if isinstance(nodes, Unsaid):
            return UNSAID
        found: list[str] = []
        for path, node in nodes:
            text = self._text(node, path, longest=longest, shape=shape, hint=hint)
            if isinstance(text, str) and text in found:
                self._report(path, "stands twice in this list", node)
            elif isinstance(text, str):
                found.append(text)
        return found

    def section(self, key: str) -> "Section | Unsaid | None":
        """Read a mapping, or null."""
        node = self._ask(key)
        if node is None:
            return UNSAID
        if self.is_null(key):
            return None
        if not isinstance(node, yaml.MappingNode):
            return self._wrong(node, self.at(key), "a mapping")
        return Section(node, self.at(key), self._problems)

    def sections(self, key: str) -> "list[Section] | Unsaid":
        """Read a list of mappings."""
        nodes = self._list(key)
        if isinstance(nodes, Unsaid):
            return UNSAID
        found = []
        for path, node in nodes:
            if isinstance(node, yaml.MappingNode):
                found.append(Section(node, path, self._problems))
            else:
                self._wrong(node, path, "a mapping")
        return found

    def keys(self) -> Iterator[str]:
        """The section's own keys, for one whose keys are names rather than fields."""
        yield from self._entries

    def _ask(self, key: str) -> yaml.Node | None:
        self._asked.add(key)
        return self._entries.get(key)

    def _list(self, key: str) -> list[tuple[str, yaml.Node]] | Unsaid:
        node = self._ask(key)
        if node is None:
            return UNSAID
        if not isinstance(node, yaml.SequenceNode):
            return self._wrong(node, self.at(key), "a list")
        return [(f"{self.at(key)}[{index}]", entry) for index, entry in enumerate(node.value)]

    def _text(
        self,
        node: yaml.Node,
        path: str,
        *,
        longest: int,
        shape: re.Pattern[str] | None = None,
        hint: str = "",
        empty: bool = False,
    ) -> str | Unsaid:
        if not isinstance(node, yaml.ScalarNode) or node.tag not in _TEXT_TAGS:
            return self._wrong(node, path, "text (quoted, if it reads like something else)")
        text = str(node.value)
        if not text and not empty:
            self._report(path, "is empty", node)
        elif len(text) > longest:
            self._report(path, f"is longer than {longest} characters", node)
        elif text and shape is not None and not shape.fullmatch(text):
            self._report(path, hint or "does not have the right shape", node)
        else:
            return text
        return UNSAID

    def _wrong(self, node: yaml.Node, path: str, expected: str) -> Unsaid:
        self._report(path, f"expected {expected}, found {_describe(node)}", node)
        return UNSAID

    def _report(self, path: str, message: str, node: yaml.Node) -> None:
        self._problems.append(Problem(path, message, node.start_mark.line + 1))


def read(text: str, reader: Callable[[Section], Value]) -> Value:
    """Parse `text` and give its top mapping to `reader`; return what that makes of it.

    Raises: InvalidDocument with every problem at once.
    """
    problems: list[Problem] = []
    try:
        node = yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else None
        raise InvalidDocument([Problem("", f"is not YAML: {_without_quotes(error.problem or 'it cannot be read')}", line)]) from None
    except (yaml.YAMLError, RecursionError, ValueError):
        raise InvalidDocument([Problem("", "is not YAML: it holds a character that YAML does not allow, or is nested too deep")]) from None
    if not isinstance(node, yaml.MappingNode):
        found = "nothing" if node is None else _describe(node)
        raise InvalidDocument([Problem("", f"expected a mapping, found {found}", 1)])
    section = Section(node, "", problems)
    value = reader(section)
    section.close()
    if problems:
        raise InvalidDocument(sorted(problems, key=lambda problem: problem.line or 0))
    return value


def _describe(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    kinds = {"null": "nothing (null)", "bool": "true or false", "int": "a number", "float": "a number", "timestamp": "a date"}
    return kinds.get(node.tag.removeprefix(_TAG), "text" if node.tag == _TAG + "str" else "a value with a tag")


def _without_quotes(message: str) -> str:
    """Take out what the parser quotes from the document: it may be a secret."""
    return re.sub(r"(['\"]).*\1", "…", message)
