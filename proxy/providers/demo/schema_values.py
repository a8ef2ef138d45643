"""A value for a JSON schema, for structured answers and the arguments of tools.

JSON Schema 2020-12 without `pattern`, `not`, `if`, `contains`, `patternProperties` and `propertyNames`: these are passed over. A pattern
is never run, since it is the client's and could run for ever; a string with one is taken from its `examples` or `default`.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

from proxy.providers.demo import refusals

_VALUES: Final = 4_000  # of one schema, all branches tried together, and one more for every 16 things that must be looked through
_DEPTH: Final = 48
_OPTIONAL_DEPTH: Final = 5  # below it, only what is required is filled in, so that a schema that contains itself comes to an end

_NOTHING: Final = "nothing is allowed where something is required."

_PLAUSIBLE: Final = {
    "city": "Paris",
    "location": "Paris",
    "place": "Paris",
    "country": "France",
    "currency": "EUR",
    "language": "en",
    "name": "Alice",
    "first_name": "Alice",
    "last_name": "Martin",
    "email": "alice@example.com",
    "url": "https://example.com/",
    "date": "2026-01-15",
    "time": "12:00:00",
    "timezone": "Europe/Paris",
    "path": "README.md",
    "unit": "celsius",
}
_FORMATS: Final = {
    "date": "2026-01-{:02d}",
    "date-time": "2026-01-{:02d}T12:00:00Z",
    "time": "12:00:{:02d}Z",
    "duration": "PT{}M",
    "email": "alice{}@example.com",
    "hostname": "host{}.example.com",
    "ipv4": "192.0.2.{}",
    "ipv6": "2001:db8::{}",
    "uri": "https://example.com/{}",
    "uuid": "00000000-0000-4000-8000-{:012d}",
}
_USER_SAYS: Final = {"query", "question", "prompt", "text", "message", "input", "q"}
_TIGHTER: Final[dict[str, Callable[[Any, Any], Any]]] = {
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
}


class _TooLarge(Exception):
    """The schema has, or asks for, more values than a demo looks at."""


class _Unsatisfiable(Exception):
    """No value satisfies this branch of the schema, as far as this module looks."""


def sample(schema: Any, user_text: str, owner: str, param: str) -> Any:
    """Make a value that satisfies `schema`.

    Raises: refusals.Refused: the schema is broken, contradicts itself or asks for more than a demo gives.
    """
    try:
        return _Sampler(schema, user_text).value(schema)
    except _TooLarge:
        raise refusals.Refused(
            f"Invalid schema for {owner}: it asks for a larger value than this model makes.", param, "invalid_schema"
        ) from None
    except _Unsatisfiable as refusal:
        raise refusals.Refused(f"Invalid schema for {owner}: {refusal}", param, "invalid_schema") from None
    except (TypeError, ValueError, AttributeError, OverflowError):  # a keyword whose value has the wrong type
        raise refusals.Refused(
            f"Invalid schema for {owner}: it is not valid under the JSON Schema meta-schema.", param, "invalid_schema"
        ) from None


@dataclass(slots=True)
class _Sampler:
    root: Any
    user_text: str
    left: int = field(default=_VALUES)

    def value(self, schema: Any, name: str = "", depth: int = 0, variant: int = 0) -> Any:
        """Make a value of `schema`. `variant` tells the items of an array apart.

        Raises: _Unsatisfiable.
        """
        self.spend(1 + _breadth(schema))
        if depth > _DEPTH:
            raise _Unsatisfiable("it has no end.")
        schema = self.flat(_merge(schema, {}))
        for combinator in ("anyOf", "oneOf"):
            if combinator in schema:
                rest = {key: value for key, value in schema.items() if key != combinator}
                return self.first_of(rest, schema[combinator], name, depth, variant)
        if "const" in schema or "enum" in schema:
            values = schema.get("enum")
            if "const" in schema:
                values = [schema["const"]] if values is None or schema["const"] in values else []
            values = [value for value in values if _has_type(value, schema.get("type"))]
            if not values:
                raise _Unsatisfiable("no value is allowed.")
            return values[variant % len(values)]
        kind = _type(schema)
        if kind == "object":
            return self.object(schema, depth, variant)
        if kind == "array":
            return self.array(schema, name, depth)
        if kind == "string":
            return self.string(schema, name, variant)
        if kind in {"number", "integer"}:
            return _a_number(schema, variant, whole=kind == "integer")
        return variant % 2 == 0 if kind == "boolean" else None

    def spend(self, values: int) -> None:
        self.left -= values
        if self.left < 0:
            raise _TooLarge

    def flat(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Resolve `$ref` and `allOf` into one object of keywords."""
        merged = dict(schema)
        while "$ref" in merged or "allOf" in merged:
            self.spend(1)
            parts = [self.pointed(merged.pop("$ref"))] if "$ref" in merged else merged.pop("allOf")
            for part in parts:
                self.spend(_breadth(part))
                merged = _merge(part, merged)
        return merged

    def pointed(self, reference: str) -> Any:
        """Follow a reference within the document (RFC 6901)."""
        if not reference.startswith("#"):
            raise _Unsatisfiable("a $ref may only point into the schema itself.")
        target = self.root
        for step in reference[1:].split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(target, list) and key.isdecimal() and len(key) < 6 and int(key) < len(target):
                target = target[int(key)]
            elif isinstance(target, Mapping) and key in target:
                target = target[key]
            else:
                raise _Unsatisfiable("a $ref points to nothing.")
        return target

    def first_of(self, rest: dict[str, Any], options: Iterable[Any], name: str, depth: int, variant: int) -> Any:
        found = _Unsatisfiable("there is nothing to choose from.")
        for option in sorted(options, key=_may_nest) if depth >= _OPTIONAL_DEPTH else options:
            try:
                return self.value(_merge(option, rest), name, depth + 1, variant)
            except _Unsatisfiable as refusal:
                found = refusal
        raise found

    def object(self, schema: dict[str, Any], depth: int, variant: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        required = dict.fromkeys(schema.get("required", ()))
        others = schema.get("additionalProperties", True)
        most = schema.get("maxProperties", math.inf)
        room = max(most, schema.get("minProperties", 0)) - len(required)
        made: dict[str, Any] = {}
        for key, wanted in properties.items():
            if key in required:
                made[key] = self.value(wanted, key, depth + 1, variant)
            elif room > 0 and depth < _OPTIONAL_DEPTH and self.left > _VALUES // 2:
                try:
                    made[key] = self.value(wanted, key, depth + 1, variant)
                    room -= 1
                except _Unsatisfiable:
                    continue
        extra = (f"field{number}" for number in itertools.count(1))
        unknown = [key for key in required if key not in properties]
        for key in itertools.chain(unknown, (key for key in extra if key not in properties and key not in required)):
            if key not in required and len(made) >= schema.get("minProperties", 0):
                break
            made[key] = self.value(others, key, depth + 1, variant)
        if len(made) > most:
            raise _Unsatisfiable("more properties are required than allowed.")
        return made

    def array(self, schema: dict[str, Any], name: str, depth: int) -> list[Any]:
        least, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        if least > most:
            raise _Unsatisfiable("more items are required than allowed.")
        if least > self.left:
            self.spend(least)
        first = schema.get("prefixItems", [])
        wanted = least if depth >= _OPTIONAL_DEPTH else min(max(least, len(first), 1), most)
        made: list[Any] = []
        seen: set[str] = set()
        variants = itertools.count()
        while len(made) < wanted:
            items = first[len(made)] if len(made) < len(first) else schema.get("items", True)
            variant = next(variants)
            try:
                item = self.value(items, name.removesuffix("s"), depth + 1, variant)
            except _Unsatisfiable:
                if len(made) >= least:
                    break
                raise
            if schema.get("uniqueItems"):
                spelled = json.dumps(item, sort_keys=True)
                if spelled in seen:
                    if variant > 2 * wanted + 16:
                        raise _Unsatisfiable("there are not enough different items.")
                    continue
                seen.add(spelled)
            made.append(item)
        return made

    def string(self, schema: dict[str, Any], name: str, variant: int) -> str:
        if "pattern" in schema:
            given = [*schema.get("examples", ()), schema.get("default")]
            for example in given[variant:] + given[:variant]:
                if isinstance(example, str):
                    return example
        least, most = schema.get("minLength", 0), schema.get("maxLength", math.inf)
        if least > most:
            raise _Unsatisfiable("a string is to be longer than it may be.")
        self.spend(least // 16)
        form = _FORMATS.get(schema.get("format", ""))
        if form:
            return form.format(variant % 28 + 1)
        key = name.lower()
        text = (self.user_text[:200] if key in _USER_SAYS else _PLAUSIBLE.get(key)) or "example"
        text = text.ljust(least, "x")
        suffix = f" {variant + 1}" if variant else ""
        if len(text) + len(suffix) > most:
            suffix = suffix.strip()
            text = text[: max(0, most - len(suffix))]
        return (text + suffix)[: min(most, len(text) + len(suffix))]


def _breadth(schema: Any) -> int:
    """Say how much there is to look through at this level, in sixteens."""
    if not isinstance(schema, Mapping):
        return 0
    return sum(len(value) for value in schema.values() if isinstance(value, list | dict)) // 16


def _may_nest(option: Any) -> bool:
    return isinstance(option, Mapping) and ("$ref" in option or _type({"type": "null", **option}) in {"object", "array"})


def _type(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, str):
        kinds = [kind]
    elif kind is not None:
        kinds = [each for each in kind if each != "null"] or list(kind)
        if not kinds:
            raise _Unsatisfiable("no type is left.")
    else:
        signs = (
            ("object", ("properties", "required", "additionalProperties", "minProperties")),
            ("array", ("items", "prefixItems", "minItems", "maxItems", "uniqueItems")),
            ("number", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
        )
        kinds = [each for each, keywords in signs if any(keyword in schema for keyword in keywords)] or ["string"]
    if kinds[0] not in {"object", "array", "string", "number", "integer", "boolean", "null"}:
        raise ValueError("unknown type")
    return kinds[0]


def _has_type(value: Any, kind: Any) -> bool:
    if kind is None:
        return True
    names = {
        bool: {"boolean"},
        int: {"integer", "number"},
        float: {"number", "integer"} if isinstance(value, float) and value.is_integer() else {"number"},
        str: {"string"},
        list: {"array"},
        type(None): {"null"},
    }.get(type(value), {"object"})
    return not names.isdisjoint([kind] if isinstance(kind, str) else kind)


def _merge(one: Any, other: dict[str, Any]) -> dict[str, Any]:
    """Join two schemas that must both hold.

    Raises: _Unsatisfiable: they plainly cannot.
    """
    if one is True:
        return other
    if one is False:
        raise _Unsatisfiable(_NOTHING)
    if not isinstance(one, Mapping):
        raise TypeError("a schema is an object or a boolean")
    merged = dict(one)
    for key, value in other.items():
        if key not in merged or merged[key] == value:
            merged[key] = value
        elif key in _TIGHTER:
            merged[key] = _TIGHTER[key](merged[key], value)
        elif key == "properties":
            both = dict(merged[key])
            both.update({name: {"allOf": [both[name], wanted]} if name in both else wanted for name, wanted in value.items()})
            merged[key] = both
        elif key in {"items", "additionalProperties"}:
            merged[key] = False if False in (merged[key], value) else {"allOf": [merged[key], value]}
        elif key in {"required", "allOf"}:
            merged[key] = [*merged[key], *value]
        elif key in {"anyOf", "oneOf"}:
            merged[key] = [{"allOf": [option, {key: value}]} for option in merged[key]]
        elif key == "$ref":
            merged["allOf"] = [*merged.get("allOf", []), {key: value}]
        elif key == "enum":
            kept = {json.dumps(each, sort_keys=True) for each in value}
            merged[key] = [each for each in merged[key] if json.dumps(each, sort_keys=True) in kept]
        elif key == "const":
            raise _Unsatisfiable("two constants contradict each other.")
        elif key == "type":
            merged[key] = _common_types(merged[key], value)
        else:
            merged[key] = value
    return merged


def _common_types(one: Any, other: Any) -> list[str]:
    ones, others = ([kind] if isinstance(kind, str) else list(kind) for kind in (one, other))
    shared = [kind for kind in ones if kind in others]
    if "integer" not in shared and (("integer" in ones and "number" in others) or ("number" in ones and "integer" in others)):
        shared.append("integer")
    return shared


def _a_number(schema: dict[str, Any], variant: int, *, whole: bool) -> float:
    """Find a number within the bounds, the first of its step above the lower one. Exact: 0.1 is a tenth here."""
    low, above = _bound(schema, "minimum", "exclusiveMinimum", max)
    high, below = _bound(schema, "maximum", "exclusiveMaximum", min)
    step = _exact(schema.get("multipleOf"))
    if whole:
        step = Fraction(step.numerator) if step else Fraction(1)
    if not step:
        found = _between(low, high, variant)
    elif low is not None:
        found = step * (math.ceil(low / step) + variant)
        found += step if above and found <= low else 0
    elif high is not None and step * (variant + 1) >= high:
        found = step * (math.floor(high / step) - variant)
        found -= step if below and found >= high else 0
    else:
        found = step * (variant + 1)
    too_low = low is not None and (found <= low if above else found < low)
    too_high = high is not None and (found >= high if below else found > high)
    if too_low or too_high:
        if variant:  # there are no more of them: begin again
            return _a_number(schema, 0, whole=whole)
        raise _Unsatisfiable("no number is within the bounds.")
    return int(found) if found.denominator == 1 else float(found)


def _between(low: Fraction | None, high: Fraction | None, variant: int) -> Fraction:
    if low is not None and high is not None:
        return low + (high - low) * Fraction(variant + 1, variant + 2)
    if low is not None:
        return low + variant + 1
    return Fraction(3, 2) + variant if high is None else high - variant - 1


def _bound(schema: dict[str, Any], inclusive: str, exclusive: str, tighter: Callable[..., Fraction]) -> tuple[Fraction | None, bool]:
    """Read a lower or upper bound and whether it is itself excluded; draft 4 wrote that as a boolean."""
    at, strict = _exact(schema.get(inclusive)), schema.get(exclusive)
    if strict is True:
        return at, True
    beyond = _exact(strict)
    if at is None or beyond is None:
        return (beyond, True) if at is None else (at, False)
    tightest = tighter(at, beyond)
    return tightest, tightest == beyond


def _exact(number: Any) -> Fraction | None:
    if number is None or isinstance(number, bool):
        return None
    if isinstance(number, float):
        return Fraction(str(number)) if math.isfinite(number) else None
    return Fraction(number)
