"""Refusals in Stripe's words: the status, type, code and parameter of an error answer."""

from typing import Any


class Refused(Exception):
    """A request that Stripe answers with an error; `extra` is laid into the error's body (payment_intent, decline_code, ...)."""

    def __init__(
        self, status: int, message: str, *, kind: str = "invalid_request_error", code: str = "", param: str = "", **extra: Any
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.code = code
        self.param = param
        self.extra = extra

    def body(self, request_id: str) -> dict[str, Any]:
        """Return the answer's JSON."""
        told: dict[str, Any] = {"message": str(self), "type": self.kind}
        if self.code:
            told |= {"code": self.code, "doc_url": f"https://stripe.com/docs/error-codes/{self.code.replace('_', '-')}"}
        if self.param:
            told["param"] = self.param
        return {"error": {**told, "request_log_url": f"https://dashboard.stripe.com/test/logs/{request_id}", **self.extra}}


def unknown(param: str) -> Refused:
    """Return the refusal of a parameter that the call does not have."""
    return Refused(400, f"Received unknown parameter: {param}", code="parameter_unknown", param=param)


def missing(param: str) -> Refused:
    """Return the refusal of a call that lacks a parameter."""
    return Refused(400, f"Missing required param: {param}.", code="parameter_missing", param=param)


def no_such(kind: str, id_: str, param: str = "id") -> Refused:
    """Return the refusal of an id that does not exist; a path's own id is a 404, a parameter's a 400."""
    return Refused(404 if param == "id" else 400, f"No such {kind.replace('_', ' ')}: '{id_}'", code="resource_missing", param=param)
