"""Failpoints: named places in which a process kills itself with SIGKILL, once, when the harness has armed them.

`CHAOS_FAILPOINTS` names a folder; a file in it that is called like a failpoint arms it, and whoever reaches it takes the file away and dies.
They are wrapped around the real functions here, so that the product's own code has none.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

# name: (module, owner in it or "", function, when)
POINTS: dict[str, tuple[str, str, str, str]] = {
    "hold: placed, nothing sent": ("billing.holds", "HoldDesk", "_place", "after"),
    "stream: grown, not yet delivered": ("billing.holds", "HoldDesk", "_grow", "after"),
    "settle: before it is sent": ("billing.settlement", "Settlement", "_book", "before"),
    "settle: sent, no answer yet": ("billing.settlement", "Settlement", "_book", "during"),
    "settle: committed, answer lost": ("billing.settlement", "Settlement", "_book", "after"),
    "spool: written": ("billing.settlement", "Spool", "append", "after"),
    "spool: replayed, not yet removed": ("billing.settlement", "ClaimedFile", "remove", "before"),
    "ledger: booked, not committed": ("billing.ledger", "", "_book", "after"),
    "inbox: stored, not acknowledged": ("billing.payments.inbox", "", "store", "after"),
    "inbox: credited, not marked done": ("billing.payments.events", "", "handle", "after"),
    "top-up: committed, Stripe not asked": ("billing.payments.top_ups", "", "_open_session", "before"),
    "top-up: Stripe asked, answer not kept": ("billing.payments.top_ups", "", "_open_session", "after"),
    "auto top-up: committed, Stripe not asked": ("billing.payments.auto_top_up", "", "_send", "before"),
    "auto top-up: charged, not credited": ("billing.payments.auto_top_up", "", "_settle", "before"),
    "refund: made at Stripe, not taken back": ("billing.payments.stripe_client", "", "create_refund", "after"),
    "clawback: about to be booked": ("billing.payments.bookings", "", "take_back", "before"),
    "video: written down, not charged": ("proxy.open_operations", "OpenOperations", "note", "after"),
    "video: charged, order not answered": ("proxy.videos", "", "start", "after"),
    "video: paid back, still open": ("billing.undelivered", "", "refund", "after"),
    "plan: paid, credit not granted": ("billing.payments.plan_changes", "", "_grant", "before"),
    "plan: credit granted, not committed": ("billing.payments.plan_changes", "", "_grant", "after"),
}


def install() -> None:
    """Wrap every failpoint's function; nothing without the folder. Raises: AttributeError when one was renamed."""
    folder = os.environ.get("CHAOS_FAILPOINTS")
    if folder:
        for name, (module, owner, function, when) in POINTS.items():
            _wrap(Path(folder) / name, module, owner, function, when)


def arm(folder: Path, name: str) -> None:
    """Have the next process that comes to `name` die there."""
    (folder / name).touch()


def disarm(folder: Path, name: str) -> bool:
    """Take the failpoint back; returns False when somebody has died of it."""
    try:
        (folder / name).unlink()
    except FileNotFoundError:
        return False
    return True


def _reach(armed: Path) -> None:
    try:
        armed.unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _wrap(armed: Path, module: str, owner: str, function: str, when: str) -> None:
    __import__(module)
    import sys

    place: Any = getattr(sys.modules[module], owner) if owner else sys.modules[module]
    original: Callable[..., Any] = getattr(place, function)

    def plain(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            _reach(armed)
        answer = original(*args, **kwargs)
        if when == "after":
            _reach(armed)
        return answer

    async def waiting(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            _reach(armed)
        task = asyncio.ensure_future(original(*args, **kwargs))
        if when == "during" and armed.exists():
            await asyncio.sleep(0.001)
            _reach(armed)
        answer = await task
        if when == "after":
            _reach(armed)
        return answer

    setattr(place, function, waiting if asyncio.iscoroutinefunction(original) else plain)
