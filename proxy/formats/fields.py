"""The fields that the formats' requests have in common, read strictly: what a stranger sent, as the value it stands for. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.formats.base import BYTES_PER_TOKEN, InvalidRequest

LONGEST_MODEL = 200
LONGEST_TAG = 100
TOKENS_PER_TEXT = 4  # the marks that some models put around each text


@dataclass(slots=True)
class Texts:
    """How much there is to read, in tokens: `bound` can not be exceeded, `estimate` is likely. Tokens given as numbers are counted exactly."""

    count: int
    bound: int
    estimate: int
    size: int  # bytes of what was given as text


def read_model(fields: Mapping[str, Any]) -> str:
    """The model's name. Raises: InvalidRequest."""
    model = fields.get("model")
    if model is None or model == "":
        raise InvalidRequest(
            "The field 'model' is required. GET /v1/models lists the models you can use.", param="model", code="missing_model"
        )
    if not isinstance(model, str) or len(model) > LONGEST_MODEL:
        raise InvalidRequest("The field 'model' must be a model's name.", param="model")
    return model


def read_count(fields: Mapping[str, Any], name: str, *, least: int = 1, most: int) -> int | None:
    """A whole number within its bounds; None when it is not given. Raises: InvalidRequest."""
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidRequest(f"The field {name!r} must be a whole number from {least} to {most}.", param=name)
    return value


def read_flag(fields: Mapping[str, Any], name: str) -> bool:
    """True or false; false when it is not given. Raises: InvalidRequest."""
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"The field {name!r} must be true or false.", param=name)
    return bool(value)


def read_choice(fields: Mapping[str, Any], name: str, supported: Sequence[str]) -> str | None:
    """One of the supported words; None when it is not given. Raises: InvalidRequest."""
    value = fields.get(name)
    if value is not None and value not in supported:
        raise InvalidRequest(f"The field {name!r} must be one of {', '.join(map(repr, supported))}.", param=name)
    return value


def refuse_stream(fields: Mapping[str, Any]) -> None:
    """What is never streamed must not be asked for as a stream. Raises: InvalidRequest."""
    if read_flag(fields, "stream"):
        raise InvalidRequest("This endpoint does not stream: leave 'stream' out.", param="stream")


def read_messages(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The conversation so far, at least one message. Raises: InvalidRequest."""
    messages = fields.get("messages")
    if messages is None and "input" in fields:
        raise InvalidRequest("The field 'messages' is missing. A request with 'input' is one for /v1/responses.", param="messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise InvalidRequest("The field 'messages' must be a list of at least one message object.", param="messages")
    return messages


def read_object(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An object; an empty one when it is not given. Raises: InvalidRequest."""
    value = fields.get(name)
    if value is not None and not isinstance(value, dict):
        raise InvalidRequest(f"The field {name!r} must be an object.", param=name)
    return value or {}


def read_user_tag(fields: Mapping[str, Any], name: str = "user") -> str:
    """Whom the client asks for, short and without what PostgreSQL (U+0000) and logs (line ends) cannot take."""
    user = fields.get(name)
    return "".join(filter(str.isprintable, user[:LONGEST_TAG])) if isinstance(user, str) else ""


def read_texts(fields: Mapping[str, Any], name: str, *, most: int) -> Texts:
    """Measure a text, a list of texts, a list of token numbers, or a list of such lists.

    Raises: InvalidRequest.
    """
    given = fields.get(name)
    if given is None:
        raise InvalidRequest(f"The field {name!r} is required.", param=name)
    if isinstance(given, str) or (isinstance(given, list) and _is_tokens(given)):
        given = [given]
    if not isinstance(given, list) or not given:
        raise InvalidRequest(f"The field {name!r} must be a text, or a list of texts or of tokens, and not be empty.", param=name)
    if len(given) > most:
        raise InvalidRequest(f"At most {most} texts fit in the field {name!r}.", param=name)
    size = tokens = 0
    for each in given:
        if isinstance(each, str):
            size += len(each.encode())
        elif isinstance(each, list) and _is_tokens(each):
            tokens += len(each)
        else:
            raise InvalidRequest(f"Each part of {name!r} must be a text or a list of tokens.", param=name)
    return Texts(
        count=len(given),
        bound=size + tokens + TOKENS_PER_TEXT * len(given),
        estimate=max(1, tokens - (-size // BYTES_PER_TOKEN)),
        size=size,
    )


def _is_tokens(value: list[Any]) -> bool:
    # By type, at the speed of C: a body can hold a million of them. A bool is no int here.
    return set(map(type, value)) == {int} and min(value) >= 0
