"""JSON Schema in Gemini's two ways: from OpenAPI's subset, and to what Google takes. Pure."""

from collections.abc import Callable
from typing import Any

from proxy.formats.gemini_parts import camel_case

_ONE_SCHEMA = ("items", "additionalProperties", "not", "contains", "propertyNames")
_MANY_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED_SCHEMAS = ("properties", "$defs", "definitions", "patternProperties")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")


def _walk_schema(schema: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """The schema with `change` made to it and to every schema inside it; names of properties are never taken for keywords."""
    changed = change(schema)
    for name, value in changed.items():
        if name in _NAMED_SCHEMAS and isinstance(value, dict):
            changed[name] = {key: _walk_schema(one, change) if isinstance(one, dict) else one for key, one in value.items()}
        elif name in _MANY_SCHEMAS and isinstance(value, list):
            changed[name] = [_walk_schema(one, change) if isinstance(one, dict) else one for one in value]
        elif name in _ONE_SCHEMA and isinstance(value, dict):
            changed[name] = _walk_schema(value, change)
    return changed


def from_openapi(schema: dict[str, Any]) -> dict[str, Any]:
    """Turn Google's OpenAPI subset (upper-case types, `nullable`, counts as strings) into JSON schema."""
    return _walk_schema(schema, _change_openapi)


def _change_openapi(given: dict[str, Any]) -> dict[str, Any]:
    schema = camel_case(given)
    kind = schema.get("type")
    if isinstance(kind, str):
        schema["type"] = kind.lower()
        if kind.lower() == "type_unspecified":
            del schema["type"]
        elif schema.get("nullable") is True:
            schema["type"] = [kind.lower(), "null"]
            if isinstance(schema.get("enum"), list):
                schema["enum"] = [*schema["enum"], None]
    schema.pop("nullable", None)
    schema.pop("propertyOrdering", None)
    for name in _COUNTS:
        value = schema.get(name)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
            schema[name] = int(value)
    return schema


def to_google(schema: dict[str, Any]) -> dict[str, Any]:
    """Say in Google's part of JSON schema what it has other words for: `const`, exclusive bounds."""
    return _walk_schema(schema, _change_to_google)


def _change_to_google(given: dict[str, Any]) -> dict[str, Any]:
    schema = {name: value for name, value in given.items() if name != "$schema"}
    if "const" in schema:
        value = schema.pop("const")
        schema["enum"] = [value]
        kinds = {str: "string", bool: "boolean", int: "integer", float: "number"}
        if "type" not in schema and type(value) in kinds:
            schema["type"] = kinds[type(value)]
    for exclusive, inclusive, step in (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1)):
        bound = schema.pop(exclusive, None)
        if isinstance(bound, int | float) and not isinstance(bound, bool) and inclusive not in schema:
            schema[inclusive] = bound + step if schema.get("type") == "integer" and isinstance(bound, int) else bound
    return schema
