"""Reading Chat Completions' JSON from strangers: strictly what clients ask, as far as it makes sense what providers answer. Pure."""

import math
from collections.abc import Mapping
from typing import Any, Final, NoReturn, TypeGuard

import orjson

from proxy.formats.conversation import CannotParse, Item

NAME: Final = "chat"


def refuse_field(param: str, what: str) -> NoReturn:
    """Say what a field must be. Raises: CannotParse."""
    raise CannotParse(f"The field {param!r} must be {what}.", param=param)


def is_count(value: Any) -> TypeGuard[int]:
    """Whether the value is a whole number (a bool is none)."""
    return isinstance(value, int) and not isinstance(value, bool)


def read_text(fields: Mapping[str, Any], name: str) -> str:
    """A string; empty where it is not given. Raises: CannotParse."""
    value = fields.get(name)
    if value is None:
        return ""
    return value if isinstance(value, str) else refuse_field(name, "a string")


def read_flag(fields: Mapping[str, Any], name: str) -> bool | None:
    """True or false; None where it is not given. Raises: CannotParse."""
    value = fields.get(name)
    return value if value is None or isinstance(value, bool) else refuse_field(name, "true or false")


def read_whole(fields: Mapping[str, Any], name: str, *, least: int, most: int) -> int | None:
    """A whole number within its bounds; None where it is not given. Raises: CannotParse."""
    value = fields.get(name)
    if value is None:
        return None
    if not is_count(value) or not least <= value <= most:
        refuse_field(name, f"a whole number from {least} to {most}")
    return value


def read_number(fields: Mapping[str, Any], name: str) -> float | None:
    """A number; None where it is not given. Raises: CannotParse."""
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e6 or not math.isfinite(value):
        refuse_field(name, "a number")
    return value


def read_object(fields: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """An object; None where it is not given. Raises: CannotParse."""
    value = fields.get(name)
    return value if value is None or isinstance(value, dict) else refuse_field(name, "an object")


def read_objects(fields: Mapping[str, Any], name: str, *, most: int) -> list[dict[str, Any]]:
    """A list of objects; empty where it is not given. Raises: CannotParse."""
    value = fields.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > most or not all(isinstance(one, dict) for one in value):
        refuse_field(name, f"a list of at most {most} objects")
    return value


def text_of(value: Any) -> str:
    """The value where it is a string: for answers, which are read as far as they make sense."""
    return value if isinstance(value, str) else ""


def mapping_of(value: Any) -> dict[str, Any]:
    """The value where it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def dicts_of(value: Any) -> list[dict[str, Any]]:
    """The objects in the value, if it is a list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def arguments_of(value: Any) -> str:
    """A call's arguments as JSON text; some servers send the object itself."""
    if isinstance(value, str):
        return value
    try:
        return "" if value is None else orjson.dumps(value).decode()
    except TypeError:  # a number beyond 64 bits
        return ""


def raw_of(item: Item) -> dict[str, Any]:
    """What the item was parsed from, where that was this format."""
    return item.raw if item.origin == NAME and isinstance(item.raw, dict) else {}
