"""The gateway's own ASGI application with a profiler around it, for `bench --profile`: never part of the product.

`GET /-/profile/start` begins, `GET /-/profile/stop` ends and writes into `PROFILE_DIR`: `calls.prof` (cProfile: exact counts, but every
call of a function pays for being counted) or, with `PROFILE_KIND=sample`, `samples.*.txt` (a sample every tick of CPU time: fair shares).
"""

import cProfile
import os
import signal
from collections import Counter
from pathlib import Path
from types import FrameType

from gateway_site.asgi import application as gateway
from proxy.asgi import Receive, Scope, Send

FOLDER = Path(os.environ["PROFILE_DIR"])
EVERY_SECONDS = 0.001


class Sampler:
    """Counts, per function, the samples in it (self) and the samples in it or below it (whole), and the lines sampled."""

    def __init__(self) -> None:
        self.own: Counter[str] = Counter()
        self.whole: Counter[str] = Counter()
        self.lines: Counter[str] = Counter()
        self.total = 0

    def start(self) -> None:
        """Sample from now on, by CPU time."""
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, EVERY_SECONDS, EVERY_SECONDS)

    def stop(self) -> None:
        """Stop and write what was found."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        for title, counter in (("own", self.own), ("whole", self.whole), ("lines", self.lines)):
            (FOLDER / f"samples.{title}.txt").write_text(
                f"total {self.total}\n" + "".join(f"{count / max(1, self.total):7.2%} {name}\n" for name, count in counter.most_common(120))
            )

    def _sample(self, _number: int, frame: FrameType | None) -> None:
        self.total += 1
        seen: set[str] = set()
        first = True
        while frame is not None:
            code = frame.f_code
            place = "/".join(code.co_filename.split("/")[-3:])
            name = f"{place}:{code.co_firstlineno} {code.co_qualname}"
            if first:
                self.own[name] += 1
                self.lines[f"{place}:{frame.f_lineno} {code.co_qualname}"] += 1
                first = False
            if name not in seen:
                seen.add(name)
                self.whole[name] += 1
            frame = frame.f_back


_profile = cProfile.Profile()
_sampler = Sampler()


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve as the gateway does, and the profiler's two switches."""
    if not scope.get("path", "").startswith("/-/profile/"):
        await gateway(scope, receive, send)
        return
    samples = os.environ.get("PROFILE_KIND") == "sample"
    await _answer(send)
    if scope["path"].endswith("/start"):
        if samples:
            _sampler.start()
        else:
            _profile.enable()
    elif samples:
        _sampler.stop()
    else:
        _profile.disable()
        _profile.dump_stats(FOLDER / "calls.prof")
    (FOLDER / scope["path"].rpartition("/")[2]).touch()


async def _answer(send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
