"""Owns the list of faults: each is a coroutine under a name, found here by the name in `fault:<name>`."""

from collections.abc import Awaitable, Callable

from tests.fakes.provider.behaviours import UnknownBehaviour
from tests.fakes.provider.call import Call
from tests.fakes.provider.faults import connections, contents, floods, statuses, streams

Fault = Callable[[Call], Awaitable[None]]

FAULTS: dict[str, Fault] = {
    **connections.FAULTS,
    **statuses.FAULTS,
    **contents.FAULTS,
    **streams.FAULTS,
    **floods.FAULTS,
}


def find(name: str) -> Fault:
    """Return the fault of a name; `status-NNN` and `redirect-NNN` exist for every fitting number. Raises: UnknownBehaviour."""
    if name in FAULTS:
        return FAULTS[name]
    kind, _, number = name.rpartition("-")
    if kind == "status" and number.isdigit() and 400 <= int(number) <= 599:
        return statuses.status
    if kind == "redirect" and number in ("301", "302", "303", "307", "308"):
        return statuses.redirect
    raise UnknownBehaviour(f"no fault is called {name!r}")
