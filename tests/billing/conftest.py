"""Fixtures of the money tests: desks, which are whole tenants of their own."""

from collections.abc import Callable, Iterator

import pytest

from tests.billing.desk import Desk


@pytest.fixture
def open_desk() -> Iterator[Callable[..., Desk]]:
    """Open desks with `usd=`, `nano=`, `budget=`; each must pass the audit when its test is over."""
    desks: list[Desk] = []

    def make(**details: object) -> Desk:
        desks.append(Desk(**details))  # type: ignore[arg-type]
        return desks[-1]

    yield make
    drifts = [drift for desk in desks for drift in desk.audit()]
    for desk in desks:
        desk.close()
    assert drifts == []


@pytest.fixture
def desk(open_desk: Callable[..., Desk]) -> Desk:
    """A desk with ten dollars."""
    return open_desk(usd=10)
