"""What the management API reads and answers: fields of its own, and the parts that several answers share.

Amounts are dollars: JSON numbers where OpenRouter has them, and beside them, or alone, exact decimal strings. Names that are not known are
refused, because a limit that is misspelt would be no limit.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema_field
from rest_framework import serializers

from catalog import money

MOST_ROWS = 100
USUAL_ROWS = 50

IDEMPOTENCY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="Of all calls with the same key within a day, one acts. 1 to 255 visible characters.",
)


class Strict(serializers.Serializer[Any]):
    """What is read; a name that it does not know is refused."""

    def to_internal_value(self, data: Any) -> Any:
        """Raises: ValidationError."""
        if isinstance(data, Mapping):
            for name in data:
                if name not in self.fields:
                    raise serializers.ValidationError({str(name)[:100]: [f"Is not known here. Known: {', '.join(self.fields)}."]})
        return super().to_internal_value(data)


@extend_schema_field({"oneOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^\d+(\.\d{1,9})?$"}]})
class UsdField(serializers.Field[Any, Any, Any, Any]):
    """An amount in dollars, as a number or a decimal string, read into nano-USD."""

    def to_internal_value(self, data: Any) -> int:
        """Raises: ValidationError."""
        if isinstance(data, bool) or not isinstance(data, int | float | str):
            raise serializers.ValidationError("Must be an amount in dollars.")
        try:
            nano = money.nano_from_usd(str(data))
        except money.NotAnAmount as error:
            raise serializers.ValidationError("Must be an amount in dollars.") from error
        if not 0 <= nano < 2**63:
            raise serializers.ValidationError("Must be an amount in dollars that is not negative and not huge.")
        return nano

    def to_representation(self, value: Any) -> Any:
        """As it was given."""
        return value


class PageQuery(Strict):
    """Which page of a list."""

    limit = serializers.IntegerField(min_value=1, max_value=MOST_ROWS, default=USUAL_ROWS, help_text="Rows of the page.")
    before = serializers.CharField(max_length=40, required=False, allow_blank=True, default="", help_text="The `next` of the page before.")


class Nothing(Strict):
    """No parameters."""


def answers(name: str, about: str, **fields: serializers.Field[Any, Any, Any, Any]) -> type[serializers.Serializer[Any]]:
    """The shape of an answer, by the names of its fields: also those, such as `data`, that a class cannot have without hiding the framework's."""
    return type(name, (serializers.Serializer,), {"__doc__": about, **fields})


class Error(serializers.Serializer[Any]):
    """Why a call was refused."""

    message = serializers.CharField()
    type = serializers.CharField()
    param = serializers.CharField(allow_null=True)
    code = serializers.CharField(help_text="To program against; docs/errors lists them.")
    request_id = serializers.CharField()
    help_url = serializers.CharField()


class Problem(serializers.Serializer[Any]):
    """Every error's body."""

    success = serializers.BooleanField()
    code = serializers.CharField()
    error = Error()


def example(**body: Any) -> list[OpenApiExample]:
    """What a call may send."""
    return [OpenApiExample("usual", value=body, request_only=True)]


def _refused(text: str) -> OpenApiResponse:
    return OpenApiResponse(Problem, description=text)


def not_found(code: str) -> dict[int, OpenApiResponse]:
    """The refusal of an id that the account has not."""
    return {404: _refused(f"The account has none of that id: `{code}`.")}


def conflict(*codes: str) -> dict[int, OpenApiResponse]:
    """The refusal of what its state does not let be done, or whose secret was shown to an earlier call with the same Idempotency-Key."""
    return {409: _refused(f"It cannot be done as things stand: {', '.join(f'`{code}`' for code in codes)}.")}


REFUSALS = {
    400: _refused("What was sent is wrong, and `param` names where: `invalid_request_error`, `invalid_json`, `two_keys`."),
    401: _refused("No key, or none that works: `invalid_api_key`."),
    403: _refused("The key may not: `wrong_key_kind`, `not_permitted`, `key_disabled`, `account_inactive`, `address_not_allowed`."),
    429: _refused("Too many calls a minute: `rate_limit_exceeded`."),
}
REUSED = {422: _refused("The Idempotency-Key was used for another call: `idempotency_key_reused`.")}
ID = OpenApiTypes.INT64


def moment(when: datetime | None) -> str | None:
    """A moment in UTC."""
    return None if when is None else when.astimezone(UTC).isoformat().replace("+00:00", "Z")


def number(nano: int) -> float:
    """Nano-USD as a JSON number of dollars."""
    return float(money.usd(nano))
