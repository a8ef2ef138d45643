"""What can go wrong between the gateway and a provider, as conditions with data. The exception tree:

UpstreamFailure            this attempt failed; another route may do better
├── CannotConnect          no connection, or TLS refused
├── TimedOut               no first byte, a stall, or the total deadline
├── BrokenAnswer           not the answer of a model server: bad status, bad JSON, too large, cut
├── ProviderBusy           429, with the wait it asks for
│   └── ProviderOverloaded 503 or 529, likewise
├── ProviderKeyRefused     our credential there is bad or out of money
└── ProviderFault          5xx
RequestRefused             the provider says the client's request is wrong: no other route will be tried
NoRoute                    nothing to try: no route, or no key that works
"""


class Unanswered(Exception):
    """No provider gave an answer; `attempts` says how many were tried."""

    attempts = 0


class UpstreamFailure(Unanswered):
    """This attempt failed before anything reached the client."""

    code = "provider_error"


class CannotConnect(UpstreamFailure):
    """No connection to the provider."""

    code = "cannot_connect"


class TimedOut(UpstreamFailure):
    """The provider was silent for too long."""

    code = "upstream_timeout"


class BrokenAnswer(UpstreamFailure):
    """What came back is not an answer of the format."""

    code = "broken_answer"


class ProviderFault(UpstreamFailure):
    """The provider failed by its own account (5xx, or an error in a 200)."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status
        self.code = f"status_{status}"


class ProviderBusy(UpstreamFailure):
    """The provider asks to come back after `retry_after_seconds`."""

    def __init__(self, status: int, retry_after_seconds: float | None) -> None:
        super().__init__(status, retry_after_seconds)
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        self.code = f"status_{status}"


class ProviderOverloaded(ProviderBusy):
    """The provider has too much to do (503, 529): its trouble, not a limit of ours."""


class ProviderKeyRefused(UpstreamFailure):
    """Our key there does not work (`out_of_money`: it has nothing left to spend). The client must never see this."""

    def __init__(self, status: int, *, out_of_money: bool) -> None:
        super().__init__(status, out_of_money)
        self.status = status
        self.out_of_money = out_of_money
        self.code = "out_of_money" if out_of_money else f"status_{status}"


class RequestRefused(Unanswered):
    """The provider refuses the client's request: `message` is cleaned of everything that is not the client's business."""

    def __init__(self, status: int, *, message: str, code: str | None, param: str | None) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param


class NoRoute(Unanswered):
    """No provider can be tried for this model."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.model = model
