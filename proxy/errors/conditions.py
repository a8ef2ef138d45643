"""The conditions of the data plane that no other module owns."""


class BodyTooLarge(Exception):
    """The request body is larger than the gateway takes (bytes)."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit


class BodyTooSlow(Exception):
    """The client stopped in the middle of its request body."""


class NotJson(Exception):
    """The Content-Type is not JSON."""


class ModelNotAllowed(Exception):
    """The key or the plan does not include this model."""

    def __init__(self, model: str, *, scope: str) -> None:
        super().__init__(model, scope)
        self.model = model
        self.scope = scope


class EndpointNotAllowed(Exception):
    """The key may not use this endpoint."""


class WrongEndpoint(Exception):
    """The model is of another kind than the endpoint serves."""

    def __init__(self, model: str, *, kind: str) -> None:
        super().__init__(model, kind)
        self.model = model
        self.kind = kind


class NoSuchRoute(Exception):
    """Nothing is served at this address. `meant` is the one that a client with another base address would have called."""

    def __init__(self, meant: str | None = None) -> None:
        super().__init__(meant)
        self.meant = meant


class OperationNotFound(Exception):
    """No operation or file of this name is the account's, or its provider has it no more."""


class CostAboveMaximum(Exception):
    """The request may cost more than its own `x-max-cost` (nano-USD)."""

    def __init__(self, *, needed: int, maximum: int) -> None:
        super().__init__(needed, maximum)
        self.needed = needed
        self.maximum = maximum


class ModelTooDear(Exception):
    """The model's price is above the request's own `provider.max_price`."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.model = model


class ServerRestarting(Exception):
    """This process is shutting down and takes nothing new."""


class WalletRanOut(Exception):
    """A stream was ended because nothing more could be held for it."""
