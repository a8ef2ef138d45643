"""What stripe-python says that Stripe's objects and parameters look like: blank objects, checked objects, and decoded parameters.

Everything is read from the installed library's own annotations, so the fake cannot drift from the version that the project uses.
"""

import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import cache
from types import NoneType
from typing import Any, ClassVar, Literal

import typing_extensions
from stripe import StripeObject
from stripe._request_options import RequestOptions

from tests.fakes.stripe.refusals import Refused, missing, unknown

Json = dict[str, Any]

_CHECKING_IMPORT = re.compile(r"^    from (stripe[\w.]*) import (\([^)]*\)|[^\n]+)", re.MULTILINE)
_OPTIONS = frozenset(RequestOptions.__annotations__)
_MAX_DEPTH = 12


class _Names(Mapping[str, Any]):
    """The names that an annotation of `module` may use: its own, and those it imports for type checkers alone."""

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module
        self._imports = {
            name.strip().split(" as ")[-1].strip(): (source, name.strip().split(" as ")[0].strip())
            for source, names in _CHECKING_IMPORT.findall(inspect.getsource(module))
            for name in names.strip("()").replace("\n", " ").split(",")
            if name.strip()
        }

    def __getitem__(self, name: str) -> Any:
        if name in self._imports:
            source, original = self._imports[name]
            return getattr(importlib.import_module(source), original)
        return getattr(self._module, name)

    def __contains__(self, name: object) -> bool:
        return name in self._imports or hasattr(self._module, str(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._imports)

    def __len__(self) -> int:
        return len(self._imports)


@cache
def _names(module: str) -> _Names:
    return _Names(importlib.import_module(module))


def _evaluate(hint: Any, module: str) -> Any:
    while isinstance(hint, str | typing.ForwardRef):
        hint = _named(hint if isinstance(hint, str) else hint.__forward_arg__, module)
    return hint


@cache
def _named(text: str, module: str) -> Any:
    return eval(text, {**vars(typing), **vars(importlib.import_module(module))}, _LocalNames(module))  # noqa: S307  the library's own text


class _LocalNames(dict[str, Any]):
    def __init__(self, module: str) -> None:
        super().__init__()
        self._known = _names(module)

    def __missing__(self, name: str) -> Any:
        if name in self._known:
            return self._known[name]
        raise KeyError(name)


@cache
def fields(cls: type) -> dict[str, Any]:
    """Return the annotated fields of a resource class, class variables excepted."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith("stripe"):
            continue
        for name, hint in vars(base).get("__annotations__", {}).items():
            hint = _evaluate(hint, base.__module__)  # noqa: PLW2901
            if not name.startswith("_") and typing.get_origin(hint) is not ClassVar:
                found[name] = (hint, base.__module__)
    return found


def _is_object(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, StripeObject)


@cache
def _arguments(hint: Any, module: str) -> list[Any]:
    return [_evaluate(argument, module) for argument in typing.get_args(hint)]


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in {typing.Union, types.UnionType}


def blank(cls: type, **values: Any) -> Json:
    """Return an object of `cls` whose optional fields are null and whose required ones are empty, `values` laid over it."""
    made = {name: _blank_value(hint, module) for name, (hint, module) in fields(cls).items() if name != "deleted"}
    return {name: value for name, value in {**made, **values}.items() if value is not OMIT}


OMIT: Any = object()  # a value that leaves the field out, as Stripe does with what must be expanded


def _blank_value(hint: Any, module: str) -> Any:
    hint = _evaluate(hint, module)
    if _is_union(hint):
        inside = _arguments(hint, module)
        return None if NoneType in inside else _blank_value(inside[0], module)
    origin = typing.get_origin(hint)
    if origin is Literal:
        return typing.get_args(hint)[0]
    if origin is list:
        return []
    if origin is not None and origin.__name__ == "ListObject":
        return {"object": "list", "data": [], "has_more": False, "url": ""}
    if origin is not None or hint is Any:
        return {}
    if hint in {int, float, bool, str}:
        return hint()
    return blank(hint) if _is_object(hint) else {}


def faults(value: Any, cls: Any, *, module: str = "", path: str = "", depth: int = 0) -> list[str]:
    """Return what is wrong with `value` as JSON of the annotation (or class) `cls`: missing, unknown and mistyped fields."""
    hint = _evaluate(cls, module)
    where = path or getattr(hint, "__name__", str(hint))
    if hint is Any or depth > _MAX_DEPTH:
        return []
    if _is_union(hint):
        return _union_faults(value, _arguments(hint, module), module, where, depth)
    origin = typing.get_origin(hint)
    if origin is Literal:
        return [] if value in typing.get_args(hint) else [f"{where}: {value!r} is none of {typing.get_args(hint)}"]
    if origin is list:
        if not isinstance(value, list):
            return [f"{where}: {value!r} is no list"]
        inside = _arguments(hint, module)[0]
        return [
            fault for at, item in enumerate(value) for fault in faults(item, inside, module=module, path=f"{where}[{at}]", depth=depth + 1)
        ]
    if origin is not None:
        return _generic_faults(value, hint, module, where, depth)
    if _is_object(hint):
        return _object_faults(value, hint, where, depth)
    wanted: tuple[type, ...] = {float: (int, float), Decimal: (str,)}.get(hint, (hint,)) if isinstance(hint, type) else (object,)
    right = isinstance(value, wanted) and (hint is bool or not isinstance(value, bool))
    return [] if right else [f"{where}: {value!r} is no {getattr(hint, '__name__', hint)}"]


def _union_faults(value: Any, inside: list[Any], module: str, where: str, depth: int) -> list[str]:
    if value is None and NoneType in inside:
        return []
    literals = [one for one in inside if typing.get_origin(one) is Literal]
    if literals and isinstance(value, str):  # `Literal[...] | str` is an open list to the library; the fake says nothing that is not on it
        inside = literals
    worst: list[str] = []
    for one in inside:
        if one is NoneType:
            continue
        found = faults(value, one, module=module, path=where, depth=depth + 1)
        if not found:
            return []
        worst = found if isinstance(value, dict) and _is_object(one) else worst or found
    return worst or [f"{where}: {value!r} may not be null"]


def _generic_faults(value: Any, hint: Any, module: str, where: str, depth: int) -> list[str]:
    name = typing.get_origin(hint).__name__
    inside = _arguments(hint, module)
    if not isinstance(value, dict):
        return [f"{where}: {value!r} is no object"]
    if name in {"ListObject", "SearchResultObject"}:
        wanted = {"object", "data", "has_more", "url"}
        wrong = [] if wanted <= set(value) and isinstance(value["has_more"], bool) else [f"{where}: not a list object"]
        return wrong + [
            fault
            for at, item in enumerate(value.get("data", []))
            for fault in faults(item, inside[0], module=module, path=f"{where}.data[{at}]", depth=depth + 1)
        ]
    return [
        fault for key, item in value.items() for fault in faults(item, inside[-1], module=module, path=f"{where}.{key}", depth=depth + 1)
    ]


def _object_faults(value: Any, cls: type, where: str, depth: int) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where}: {value!r} is no {cls.__name__}"]
    known = fields(cls)
    if value.get("deleted") is True:
        return [] if {"id", "object"} <= set(value) else [f"{where}: a deleted object says its id and object"]
    wrong = [f"{where}.{name}: unknown field" for name in value if known and name not in known]
    for name, (hint, module) in known.items():
        if name in value:
            wrong += faults(value[name], hint, module=module, path=f"{where}.{name}", depth=depth + 1)
        elif not (_is_union(hint) and NoneType in typing.get_args(hint)):
            wrong.append(f"{where}.{name}: missing")
    return wrong


# Parameters


@cache
def params_class(name: str) -> Any:
    """Return a params type by its place, `customer_create` or `checkout.session_create`."""
    package, _, short = name.rpartition(".")
    module = importlib.import_module(f"stripe.params.{package + '.' if package else ''}_{short}_params")
    wanted = "".join(part.capitalize() for part in short.split("_")) + "Params"
    return getattr(module, wanted)


def decode(raw: Json, cls: Any) -> Json:
    """Turn a form's nested strings into the types of the params class `cls`. Raises: Refused, in Stripe's words."""
    return _decode_dict(raw, cls, "")


@cache
def _param_hints(cls: Any) -> dict[str, tuple[Any, bool]]:
    found: dict[str, tuple[Any, bool]] = {}
    for name, hint in cls.__annotations__.items():
        if name in _OPTIONS and _is_request(cls):
            continue
        hint = _evaluate(hint, cls.__module__)  # noqa: PLW2901
        required = True
        while typing.get_origin(hint) in {typing_extensions.NotRequired, typing_extensions.Required}:
            required = typing.get_origin(hint) is typing_extensions.Required
            hint = _evaluate(typing.get_args(hint)[0], cls.__module__)  # noqa: PLW2901
        found[name] = (hint, required)
    return found


def _is_request(cls: Any) -> bool:
    """Say whether `cls` is a request's own params type, into which the library mixes its options."""
    return RequestOptions in getattr(cls, "__orig_bases__", ())


def _decode_dict(raw: Any, cls: Any, path: str) -> Json:
    if not isinstance(raw, dict):
        raise Refused(400, f"Invalid object: {path}", param=path)
    hints = _param_hints(cls)
    made: Json = {}
    for name, value in raw.items():
        where = f"{path}[{name}]" if path else name
        if name not in hints:
            raise unknown(where)
        made[name] = _decode_value(value, hints[name][0], cls.__module__, where)
    for name, (_, required) in hints.items():
        if required and name not in raw:
            raise missing(f"{path}[{name}]" if path else name)
    return made


def _decode_value(value: Any, hint: Any, module: str, where: str) -> Any:
    hint = _evaluate(hint, module)
    origin = typing.get_origin(hint)
    if _is_union(hint):
        return _decode_union(value, _arguments(hint, module), module, where)
    if origin is Literal:
        if value in typing.get_args(hint):
            return value
        raise Refused(400, f"Invalid {where}: must be one of {', '.join(map(str, typing.get_args(hint)))}", param=where)
    if origin is list:
        if not isinstance(value, dict):
            raise Refused(400, "Invalid array", param=where)
        inside = _arguments(hint, module)[0]
        ordered = sorted(value.items(), key=lambda pair: int(pair[0]) if pair[0].isdigit() else 0)
        return [_decode_value(item, inside, module, f"{where}[{at}]") for at, item in ordered]
    if origin is not None:  # a dictionary of free keys: metadata and the like
        if not isinstance(value, dict):
            raise Refused(400, "Invalid object", param=where)
        return {key: _decode_value(item, _arguments(hint, module)[-1], module, f"{where}[{key}]") for key, item in value.items()}
    if typing_extensions.is_typeddict(hint):
        return _decode_dict(value, hint, where)
    return _decode_scalar(value, hint, where)


def _decode_union(value: Any, inside: list[Any], module: str, where: str) -> Any:
    closed = any(typing.get_origin(one) is Literal and set(typing.get_args(one)) != {""} for one in inside)
    refusal: Refused | None = None
    for one in sorted(inside, key=lambda one: one is str):
        if one is NoneType or (one is str and closed):
            continue
        try:
            return _decode_value(value, one, module, where)
        except Refused as error:
            refusal = error if refusal is None or isinstance(value, dict) == (typing.get_origin(one) is not Literal) else refusal
    raise refusal or Refused(400, f"Invalid {where}", param=where)


def _decode_scalar(value: Any, hint: Any, where: str) -> Any:
    if not isinstance(value, str):
        raise Refused(400, f"Invalid string: {value}", param=where)
    if hint is bool:
        if value in {"true", "false"}:
            return value == "true"
        raise Refused(400, f"Invalid boolean: {value}", param=where, code="parameter_invalid_boolean")
    if hint is int:
        if re.fullmatch(r"-?\d{1,18}", value):
            return int(value)
        raise Refused(400, f"Invalid integer: {value}", param=where, code="parameter_invalid_integer")
    if hint is float:
        try:
            return float(value)
        except ValueError:
            raise Refused(400, f"Invalid decimal: {value}", param=where) from None
    return value
