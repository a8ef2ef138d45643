"""The short form of the chaos run (`make chaos` is the long one), and the proof that it would notice."""

from collections.abc import Iterator

import pytest

from tests.faults.chaos.bugs import BUGS
from tests.faults.chaos.campaign import Campaign
from tests.faults.chaos.servers import VICTIMS, Servers, a_folder

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("chaos")]


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with a_folder() as folder:
        running = Servers(folder, seed=11)
        try:
            running.start()
            yield running
        finally:
            running.stop()


def test_killing_everything_in_turn_moves_no_cent(servers: Servers) -> None:
    servers.begin_anew()
    verdict = Campaign(servers, seed=11, audit_every=10).run([*VICTIMS, *("failpoint",) * 10])
    assert verdict.problems == []
    assert verdict.figures["answers complete"] > 20
    assert verdict.figures["events stored"] > 20
    assert set(VICTIMS) <= set(verdict.figures["kills"])


@pytest.mark.parametrize("bug", BUGS)
def test_a_seeded_bug_is_noticed(bug: str, servers: Servers) -> None:
    servers.begin_anew(bug=bug)
    verdict = Campaign(servers, seed=5, audit_every=1).run(["web", "web worker", "web worker"] * 20)  # the first drift ends it
    assert verdict.problems != []
