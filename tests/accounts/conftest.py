"""Passwords that are hashed quickly: a slow hash proves nothing here and takes half a second each time."""

from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _quick_hashes(settings: Any) -> None:
    settings.PASSWORD_HASHERS = ["tests.accounts.people.QuickHasher", *settings.PASSWORD_HASHERS]
