"""The short form of the soak (`make soak` is the long one), and the proof that it would notice."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import Gateway
from tests.fakes.provider import FakeProvider
from tests.faults.soak import mix
from tests.faults.soak.bugs import BUGS
from tests.faults.soak.load import Load
from tests.faults.soak.market import open_market
from tests.faults.soak.watch import Watch

# Nobody here waits for silence to end, so a busy machine may take its time.
PATIENCE = dict.fromkeys(
    ("FIRST_BYTE_TIMEOUT_SECONDS", "WHOLE_ANSWER_TIMEOUT_SECONDS", "IDLE_TIMEOUT_SECONDS", "SLOW_READER_SECONDS", "TOTAL_TIMEOUT_SECONDS"),
    "60",
)
ORDINARY = {kind: weight for kind, weight in mix.MIX.items() if kind is not mix.meets_silence}


@contextmanager
def watched(folder: Path, *, bugs: str = "") -> Iterator[Watch]:
    environ = {"DJANGO_SETTINGS_MODULE": "tests.faults.soak.settings", "CHECK_STREAMS": "off", "SOAK_BUG": bugs, **PATIENCE}
    with FakeProvider(keep=100) as provider:
        gateway = Gateway(folder / "gateway.log", environ).start()
        try:
            market = open_market(provider.base_url)
            gateway.sees_catalog()
            yield Watch(gateway, provider, market, Load(gateway.origin, market, seed=11))
        finally:
            gateway.stop()


def test_a_mix_of_everything_leaves_nothing_behind(tmp_path: Path) -> None:
    with watched(tmp_path) as watch:
        watch.load.run(deeds=450, mix=mix.EVERYTHING)
        before = watch.settle_down()
        watch.load.run(deeds=700, mix=ORDINARY)
        watch.judge_memory(before, watch.settle_down(before), deeds=700)
        watch.judge_answers()
        watch.judge_books()
        assert watch.problems == []
        assert len(watch.load.books.complete) > 450
        assert set(watch.load.books.done) == {kind.__name__ for kind in ORDINARY}


def test_every_seeded_leak_is_noticed(tmp_path: Path) -> None:
    """All at once, because each has a sign of its own."""
    with watched(tmp_path, bugs=",".join(BUGS)) as watch:
        watch.load.run(deeds=100, mix=mix.EVERYTHING)
        before = watch.settle_down(seconds=0)
        watch.problems.clear()
        watch.load.run(deeds=100, mix=mix.EVERYTHING)
        watch.judge_memory(before, watch.settle_down(before, seconds=2), deeds=100)
    for sign in ("streams are open", "were not given back", "tasks are left", "bytes in memory", "objects in memory"):
        assert any(sign in problem for problem in watch.problems), watch.problems
