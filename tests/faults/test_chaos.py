"""The short form of the chaos run (`make chaos` is the long one), and the proof that it would notice."""

import pytest

from tests.faults.chaos import BUGS, VICTIMS, Chaos

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("chaos")]


def test_killing_everything_in_turn_moves_no_cent(tmp_path_factory):
    verdict = Chaos(tmp_path_factory.mktemp("chaos"), seed=11).run(sorted(set(VICTIMS)))
    assert verdict.problems == []
    assert verdict.figures["answers complete"] > 20
    assert set(verdict.figures["kills"]) == set(VICTIMS)


@pytest.mark.parametrize("bug", sorted(BUGS))
def test_a_seeded_bug_is_noticed(bug, tmp_path_factory):
    verdict = Chaos(tmp_path_factory.mktemp("chaos"), seed=5, bug=bug).run(["web", "web"])
    assert verdict.problems != []
