"""Google and GitHub as people sign in with them: a real server on loopback, with a consent page, codes, tokens and profiles.

A person's `faults` order what goes wrong for them: by step (`token`, `profile`, `emails`) one of `FAULTS`.
"""

from tests.fakes.identity.people import FAULTS, Person
from tests.fakes.identity.server import FakeIdentity

__all__ = ["FAULTS", "FakeIdentity", "Person"]
