"""The long form: a gateway, Celery and beat; a warm-up, a storm of clients who leave, then the mix for as long as wanted; and the verdict."""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import ROOT, Gateway
from tests.fakes.provider import FakeProvider
from tests.faults.soak import mix
from tests.faults.soak.gauges import Process, slope_of
from tests.faults.soak.load import Load
from tests.faults.soak.market import open_market
from tests.faults.soak.watch import Inside, Watch

MOST_GROWTH = 5.0  # MiB an hour, after the warm-up
NOISE = 1.0  # MiB that a process may be larger by chance: a short run shows more of it by the hour
STORM = 11_000  # clients, of whom ten thousand leave
MOST_GROWTH_IN_A_STORM = 20.0  # MiB
WARM_UP_DEEDS = 2000
SAMPLE_SECONDS = 5.0
SHOWN_PROBLEMS = 30
# Longer than a busy machine halts clients and the provider, which live in this process: they are to be judged by what they do.
PATIENCE = dict.fromkeys(
    ("FIRST_BYTE_TIMEOUT_SECONDS", "WHOLE_ANSWER_TIMEOUT_SECONDS", "IDLE_TIMEOUT_SECONDS", "SLOW_READER_SECONDS"), "15"
) | {"TOTAL_TIMEOUT_SECONDS": "50"}
CELERY = ("-m", "celery", "-A", "gateway_site.celery")
ALONE = ("--without-gossip", "--without-mingle", "--without-heartbeat")


def run(*, minutes: float, seed: int) -> int:
    """Run, print the table, and return the exit code."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tollgate-soak-")))
        provider = stack.enter_context(FakeProvider(keep=100))
        gateway = Gateway(folder / "gateway.log", PATIENCE).start()
        stack.callback(gateway.stop)
        market = open_market(provider.base_url)
        gateway.sees_catalog()
        worker = stack.enter_context(_running(folder / "worker.log", *CELERY, "worker", "--pool=solo", "--loglevel=ERROR", *ALONE))
        beat = stack.enter_context(_running(folder / "beat.log", *CELERY, "beat", f"--schedule={folder / 'beat'}", "--pidfile="))
        watch = Watch(gateway, provider, market, Load(gateway.origin, market, seed))
        processes = [watch.worker, Process("celery", worker), Process("beat", beat)]

        _say(f"seed {seed}; warming up")
        watch.load.run(deeds=WARM_UP_DEEDS, mix=mix.EVERYTHING)
        watch.load.run(seconds=max(60.0, minutes * 6))
        before = watch.settle_down()

        _say(f"a storm: {STORM} clients, of whom ten thousand leave")
        watch.load.run(deeds=STORM, mix=mix.STORM)
        start = watch.settle_down(before)
        grown = start.resident - before.resident
        if grown > MOST_GROWTH_IN_A_STORM:
            watch.problems.append(f"the web worker grew by {grown:.1f} MiB in the storm")

        _say(f"{minutes:g} minutes of everything")
        done = sum(watch.load.books.done.values())
        with _sampling(watch, processes):
            watch.load.run(seconds=minutes * 60)
        deeds = sum(watch.load.books.done.values()) - done
        end = watch.settle_down(before)

        figures: dict[str, Any] = {"MiB grown in the storm": round(grown, 1), "deeds": deeds}
        figures |= watch.judge_memory(start, end, deeds=deeds)
        figures["honest answers, all charged"] = watch.judge_answers()
        figures["statuses"] = dict(sorted(watch.load.books.statuses.items()))
        watch.judge_books()
        watch.judge_stores(figures)
        watch.judge_logs(folder)
        for process in processes:
            watch.judge_growth(process, most=MOST_GROWTH, noise=NOISE)
    _print(processes, before, end, figures, watch.problems)
    return 1 if watch.problems else 0


@contextmanager
def _running(log: Path, *arguments: str) -> Iterator[int]:
    """A Python process of the product; gives its id."""
    with log.open("ab") as out:
        process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=out, stderr=out, start_new_session=True)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def _sampling(watch: Watch, processes: Sequence[Process]) -> Iterator[None]:
    """Read every process now and then, and say each minute how it goes, until the block ends."""
    for process in processes:
        process.sample(since=watch.began)
    over = threading.Event()

    def read() -> None:
        said = time.monotonic()
        while not over.wait(SAMPLE_SECONDS):
            seen = [process.sample(since=watch.began) for process in processes]
            if time.monotonic() - said >= 60:
                said = time.monotonic()
                told, books = watch.ask(), watch.load.books
                _say(
                    f"  {sum(books.done.values())} deeds; {seen[0].resident:.1f} MiB, {seen[0].descriptors} descriptors,"
                    f" {sum(told['tasks'].values())} tasks, {told['streams']} streams; {len(books.surprises)} surprises"
                )

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        for process in processes:
            process.sample(since=watch.began)


def _print(processes: Sequence[Process], before: Inside, end: Inside, figures: dict[str, Any], problems: Sequence[str]) -> None:
    print(f"{'process':12} {'MiB first':>10} {'last':>8} {'most':>8} {'MiB/h':>8} {'descriptors':>12} {'threads':>8}")
    for process in processes:
        first, last, most = process.readings[0], process.readings[-1], max(reading.resident for reading in process.readings)
        print(
            f"{process.name:12} {first.resident:10.1f} {last.resident:8.1f} {most:8.1f} {slope_of(process.readings):8.2f}"
            f" {f'{first.descriptors} > {last.descriptors}':>12} {f'{first.threads} > {last.threads}':>8}"
        )
    quiet = {
        "tasks": (before.tasks.total(), end.tasks.total()),
        "streams": (before.streams, end.streams),
        "upstream calls": (before.calls, end.calls),
        "descriptors": (before.descriptors, end.descriptors),
        "threads": (before.threads, end.threads),
    }
    print("  before and after, when nothing is under way:", *(f"{name} {old} > {new}" for name, (old, new) in quiet.items()), sep="\n    ")
    for name, value in figures.items():
        print(f"  {name}: {f'{value:.1f}' if isinstance(value, float) else value}")
    for problem in problems[:SHOWN_PROBLEMS]:
        print(f"PROBLEM: {problem}")
    print("something was left behind" if problems else "nothing was left behind; every honest request was answered and charged")


def _say(line: str) -> None:
    print(line, flush=True)
