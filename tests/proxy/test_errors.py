"""Facts about the table of errors: it is one, and each of its rows is found where its status says."""

from types import ModuleType

import pytest

from proxy import errors
from proxy.errors import access, conflicts, faults, limits, missing, request

STATUSES: dict[ModuleType, set[int]] = {
    request: {400, 408, 413, 415, 422},
    access: {401, 403},
    limits: {402, 429},
    missing: {404},
    conflicts: {409},
    faults: {502, 503, 504},
}


@pytest.mark.parametrize("module", STATUSES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_row_stands_in_the_module_of_its_status(module: ModuleType) -> None:
    assert {entry.status for entry in module.ROWS.values()} == STATUSES[module]


def test_no_condition_has_two_rows_and_none_is_left_out() -> None:
    assert sorted(kind.__name__ for kind in errors.TABLE) == sorted(kind.__name__ for module in STATUSES for kind in module.ROWS)
