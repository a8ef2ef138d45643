"""An OpenAPI document as people read it: operations by tag with parameters, bodies, answers and an example, and the objects that these name.

Pure. `read` makes of a document what the page of a reference shows (`templates/docs/reference.html`), and `write` the same as Markdown. In
examples `https://gateway.example` stands for the installation, as in all pages of the documentation.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

METHODS = ("get", "post", "patch", "delete")
ORIGIN = "https://gateway.example"
_JSON = "application/json"
_SAMPLES = {"uuid": "0198c0de-0000-7000-8000-000000000000", "date-time": "2040-01-31T12:00:00Z", "email": "ada@example.com"}
_DEEPEST = 3  # objects within objects that have no name of their own


@dataclass(frozen=True, slots=True)
class Field:
    """A field, parameter or header. `thing` is the named object that its kind leads to, `place` where a parameter stands."""

    name: str
    kind: str
    is_required: bool
    text: str
    place: str = ""
    thing: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an operation answers with: a status (or `otherwise`), in words, its content types and, of JSON, its fields."""

    status: str
    text: str
    kinds: tuple[str, ...] = ()
    fields: tuple[Field, ...] = ()
    thing: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one address. `needs` is what the key or its maker must be allowed; `headers` are those its answers may have."""

    method: str
    path: str
    id: str
    summary: str
    text: str
    needs: tuple[str, ...]
    parameters: tuple[Field, ...]
    fields: tuple[Field, ...]
    answers: tuple[Answer, ...]
    headers: tuple[str, ...]
    example: str


@dataclass(frozen=True, slots=True)
class Group:
    """The operations of one tag."""

    name: str
    text: str
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class Thing:
    """An object with a name, which fields lead to."""

    name: str
    text: str
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """All of a document."""

    title: str
    text: str
    groups: tuple[Group, ...]
    things: tuple[Thing, ...]
    headers: tuple[Field, ...]


def read(document: Mapping[str, Any]) -> Reference:
    """Read a document (OpenAPI 3.1, whose references stay within it); tags in its own order."""
    reader = _Reader(document)
    every = list(reader.operations())
    groups = tuple(
        Group(tag["name"], tag["description"], tuple(operation for name, operation in every if name == tag["name"]))
        for tag in document["tags"]
    )
    return Reference(
        document["info"]["title"], document["info"]["description"], groups, tuple(reader.things()), tuple(reader.headers.values())
    )


def resolve(document: Mapping[str, Any], value: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a reference within the document points at; anything else as it is."""
    if "$ref" not in value:
        return value
    found: Any = document
    for step in value["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return {**found, **{name: each for name, each in value.items() if name != "$ref"}}


class _Reader:
    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self.headers: dict[str, Field] = {}  # of answers, in the order in which they were met
        self._named: dict[str, None] = {}  # objects that something leads to, in the order in which they were met
        self._key = next(
            (each["x-example"] for each in document["components"]["securitySchemes"].values() if "x-example" in each), "sk-gw-…"
        )

    def operations(self) -> Iterator[tuple[str, Operation]]:
        """Every operation with its tag."""
        for path, item in self._document["paths"].items():
            for method in METHODS:
                if (spec := item.get(method)) is not None:
                    yield spec["tags"][0], self._operation(path, method, item, spec)

    def things(self) -> Iterator[Thing]:
        """The objects that were named, and those that these name."""
        seen: set[str] = set()
        while left := [name for name in self._named if name not in seen]:
            for name in left:
                seen.add(name)
                schema = self._document["components"]["schemas"][name]
                yield Thing(name, schema.get("description", ""), tuple(self._fields(schema)))

    def _operation(self, path: str, method: str, item: Mapping[str, Any], spec: Mapping[str, Any]) -> Operation:
        parameters = [self._resolve(each) for each in (*item.get("parameters", ()), *spec.get("parameters", ()))]
        media = spec.get("requestBody", {}).get("content", {}).get(_JSON, {})
        return Operation(
            method=method.upper(),
            path=path,
            id=spec["operationId"],
            summary=spec["summary"],
            text=spec.get("description", ""),
            needs=tuple(need for each in spec.get("security", ()) for needs in each.values() for need in needs),
            parameters=tuple(
                self._field(each["name"], {**each["schema"], **_words(each)}, is_required=each.get("required", False), place=each["in"])
                for each in sorted(parameters, key=lambda each: not each.get("required", False))
            ),
            fields=tuple(self._fields(media.get("schema", {}))),
            answers=tuple(self._answer(status, self._resolve(answer)) for status, answer in spec["responses"].items()),
            headers=tuple(dict.fromkeys(name for answer in spec["responses"].values() for name in self._headers(self._resolve(answer)))),
            example=self._curl(path, method, parameters, self.sample_of(media) if media else None),
        )

    def _answer(self, status: str, answer: Mapping[str, Any]) -> Answer:
        content = answer.get("content", {})
        schema = content.get(_JSON, {}).get("schema", {})
        is_good = status.startswith("2")
        return Answer(
            "otherwise" if status == "default" else status,
            answer["description"] or self._resolve(schema).get("description", ""),
            tuple(content),
            tuple(self._fields(schema)) if is_good else (),
            "" if is_good else self._name(schema),
        )

    def _headers(self, answer: Mapping[str, Any]) -> Iterator[str]:
        """The names of an answer's headers, which are described once for all."""
        for name, each in answer.get("headers", {}).items():
            header = self._resolve(each)
            self.headers.setdefault(name, self._field(name, {**header["schema"], **_words(header)}))
            yield name

    def _field(self, name: str, schema: Mapping[str, Any], *, is_required: bool = False, place: str = "") -> Field:
        kind, thing = self._kind(schema)
        return Field(name, kind, is_required, _about(self._resolve(schema)), place, thing)

    def _fields(self, schema: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[Field]:
        """The fields of an object, required ones first; below them those of objects in it that have no name, as `of.in`."""
        whole = self._resolve(schema)
        properties: dict[str, Any] = {}
        for part in (*(self._resolve(each) for each in whole.get("allOf", ())), whole):
            properties |= part.get("properties", {})
        required = whole.get("required", ())
        for name, each in sorted(properties.items(), key=lambda pair: pair[0] not in required):
            yield self._field(f"{prefix}{name}", each, is_required=name in required)
            inner, many = (each.get("items", {}), "[]") if each.get("type") == "array" else (each, "")
            if "$ref" not in inner and depth < _DEEPEST:
                yield from self._fields(inner, f"{prefix}{name}{many}.", depth + 1)

    def _kind(self, schema: Mapping[str, Any]) -> tuple[str, str]:
        """What a value is, in words, and the named object in it."""
        if name := self._name(schema):
            return name, name
        found = self._resolve(schema)
        for several in ("oneOf", "anyOf", "allOf"):
            if several in found:
                kinds = [self._kind(each) for each in found[several]]
                return " or ".join(dict.fromkeys(kind for kind, _ in kinds)), next((thing for _, thing in kinds if thing), "")
        if "enum" in found:
            return " or ".join(json.dumps(each) for each in found["enum"]), ""
        if "const" in found:
            return json.dumps(found["const"]), ""
        named = found.get("type", "any")
        if named == "array" and "items" in found:
            kind, thing = self._kind(found["items"])
            return (f"array of {kind}" if kind != "any" else "array"), thing
        words = " or ".join(named) if isinstance(named, list) else str(named)
        return (f"{words} ({found['format']})" if found.get("format") in ("date-time", "uuid", "email", "uri") else words), ""

    def _name(self, schema: Mapping[str, Any]) -> str:
        """The name of the object that a schema is a reference to, which is then listed; empty for what is no object or has no name."""
        target = str(schema.get("$ref", ""))
        if not target.startswith("#/components/schemas/") or not ("properties" in (found := self._resolve(schema)) or "allOf" in found):
            return ""
        name = target.rpartition("/")[2]
        self._named.setdefault(name)
        return name

    def _resolve(self, value: Mapping[str, Any]) -> Mapping[str, Any]:
        return resolve(self._document, value)

    # -- Examples

    def _curl(self, path: str, method: str, parameters: Sequence[Mapping[str, Any]], body: Any) -> str:
        needed = [each for each in parameters if each.get("required")]
        for each in needed:
            if each["in"] == "path":
                path = path.replace(f"{{{each['name']}}}", quote(str(self.sample_of(each)), safe="/"))
        query = urlencode({each["name"]: self.sample_of(each) for each in needed if each["in"] == "query"})
        lines = [f'curl "{ORIGIN}{path}?{query}"' if query else f"curl {ORIGIN}{path}"]
        if method.upper() != ("GET" if body is None else "POST"):
            lines[0] += f" -X {method.upper()}"
        lines.append(f'-H "Authorization: Bearer {self._key}"')
        if body is not None:
            text = json.dumps(body, ensure_ascii=False).replace("'", "'\\''")
            lines += ['-H "Content-Type: application/json"', f"-d '{text}'"]
        return " \\\n  ".join(lines)

    def sample_of(self, media: Mapping[str, Any]) -> Any:
        """An example of a body or parameter: the one it has, or the least that its schema asks for."""
        if "example" in media:
            return media["example"]
        if "examples" in media:
            return next(iter(media["examples"].values()))["value"]
        return self._sample(media.get("schema", {}))

    def _sample(self, schema: Mapping[str, Any]) -> Any:
        found = self._resolve(schema)
        for name in ("examples", "enum"):
            if found.get(name):
                return found[name][0]
        for name in ("const", "default"):
            if name in found:
                return found[name]
        for several in ("oneOf", "anyOf"):
            if several in found:
                return self._sample(found[several][0])
        kinds = found.get("type", "object" if "allOf" in found else "string")
        kind = kinds[0] if isinstance(kinds, list) else kinds
        if kind == "object":
            properties: dict[str, Any] = {}
            for part in (*(self._resolve(each) for each in found.get("allOf", ())), found):
                properties |= part.get("properties", {})
            return {name: self._sample(properties.get(name, {})) for name in found.get("required", ())}
        if kind == "array":
            return [self._sample(found.get("items", {}))]
        if found.get("format") in _SAMPLES:
            return _SAMPLES[found["format"]]
        return {"integer": found.get("minimum", 1), "number": 1, "boolean": True, "null": None}.get(kind, "…")


def _words(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": given["description"]} if given.get("description") else {}


def _about(schema: Mapping[str, Any]) -> str:
    """What a field means, with its default and its bounds."""
    low, high = schema.get("minimum"), schema.get("maximum")
    bounds = (
        f"{low} to {high}" if low is not None and high is not None and high < 2**31 - 1 else f"from {low} on" if low is not None else ""
    )
    default = f"{json.dumps(schema['default'])} unless given" if schema.get("default") not in (None, "") else ""
    notes = ", ".join(each for each in (bounds, default) if each)
    text = str(schema.get("description", "")).strip()
    if not notes:
        return text
    return f"{text.removesuffix('.')} ({notes})." if text else f"{notes[0].upper()}{notes[1:]}."


# -- Markdown -------------------------------------------------------------------------------------------------------------------------


def write(reference: Reference, *, lead: str) -> str:
    """The reference as Markdown, beginning with `lead`."""
    return "\n".join(_lines(reference, lead)) + "\n"


def _lines(reference: Reference, lead: str) -> Iterator[str]:
    yield from (f"# {reference.title}", "", lead)
    for group in reference.groups:
        yield from ("", f"## {group.name}", "", group.text)
        for operation in group.operations:
            yield from ("", f"### {operation.summary}", "", f"`{operation.method} {operation.path}`")
            if operation.needs:
                yield from ("", f"Needs {', '.join(f'`{need}`' for need in operation.needs)}.")
            if operation.text:
                yield from ("", operation.text)
            yield from ("", "```sh", operation.example, "```")
            yield from _table("parameter", operation.parameters)
            yield from _table("field of the body", operation.fields)
            for answer in operation.answers:
                yield from ("", f"**{answer.status}**{f' {answer.text}' if answer.text else ''}{_kinds(answer)}")
                yield from _table("field", answer.fields)
            if operation.headers:
                yield from ("", f"Headers: {', '.join(f'`{name}`' for name in operation.headers)}.")
    yield from ("", "## Headers of answers")
    yield from _table("header", reference.headers)
    yield from ("", "## Objects")
    for thing in reference.things:
        yield from ("", f"### {thing.name}")
        if thing.text:
            yield from ("", thing.text)
        yield from _table("field", thing.fields)


def _kinds(answer: Answer) -> str:
    return f" ({', '.join(f'`{each}`' for each in answer.kinds)})" if answer.kinds and answer.kinds != (_JSON,) else ""


def _table(what: str, fields: Iterable[Field]) -> Iterator[str]:
    rows = list(fields)
    if not rows:
        return
    placed = any(each.place for each in rows)
    yield from ("", f"| {what} | {'in | ' if placed else ''}kind | |", f"|---|{'---|' if placed else ''}---|---|")
    for each in rows:
        cells = [f"`{each.name}`{', required' if each.is_required else ''}", *([each.place] if placed else []), each.kind, each.text]
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in cells)} |"
