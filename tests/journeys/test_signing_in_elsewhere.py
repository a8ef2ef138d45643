"""A person signs up with GitHub in a real browser, over its consent page: no complaint of the console or of the policy."""

import re
import uuid
from collections.abc import Iterator

import pytest

from accounts.models import Membership
from tests.conftest import Gateway
from tests.fakes.identity import FakeIdentity, Person
from tests.fakes.identity.server import CLIENT_ID, CLIENT_SECRET
from tests.journeys.browser import browser, page  # noqa: F401 - fixtures


@pytest.fixture(scope="module")
def identity() -> Iterator[FakeIdentity]:
    with FakeIdentity() as fake:
        yield fake
    assert fake.mistakes == []


@pytest.fixture(scope="module")
def gateway(identity: FakeIdentity, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose GitHub is the fake, as an operator points it at an Enterprise server."""
    environ = {"GITHUB_URL": identity.url, "GITHUB_CLIENT_ID": CLIENT_ID, "GITHUB_CLIENT_SECRET": CLIENT_SECRET}
    running = Gateway(tmp_path_factory.mktemp("gateway") / "gateway.log", environ).start()
    yield running
    running.stop()


def test_a_person_signs_up_with_github_and_lands_in_an_account_of_their_own(page, identity: FakeIdentity) -> None:  # noqa: F811
    person = identity.add(Person(emails=((f"{uuid.uuid4().hex[:16]}@example.com", True),)))
    page.goto("/user/signup/")
    page.get_by_role("button", name="Continue with GitHub").click()
    page.get_by_role("heading", name="Authorize Tollgate").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("heading", name="Not signed in").wait_for()
    page.get_by_role("button", name="Continue with GitHub").click()
    page.get_by_role("button", name=f"Continue as {person.login}").click()
    page.wait_for_url(re.compile(r"/a/grace-hopper-[0-9a-f]{8}/$"))
    assert page.get_by_role("heading", level=1).inner_text() == "Grace Hopper"
    assert Membership.objects.get(user__email=person.emails[0][0]).role == "owner"
