"""What only the web process itself can tell: the tasks of its loop, open streams and calls, and the memory that is in use in it.

RSS alone shows a leak late: the C library keeps what was freed, and how much of it depends on chance. What is in use does not.
"""

import asyncio
import ctypes
import gc
import sys
from collections import Counter
from collections.abc import Callable

import aiohttp
from django.http import HttpRequest, JsonResponse

from proxy import engine


async def tell(request: HttpRequest) -> JsonResponse:
    """Tasks by what they run (without those that serve this), open streams and upstream calls; with `?memory=1` also what is in use."""
    own = asyncio.current_task()
    tasks = Counter(_work_of(task) for task in asyncio.all_tasks() if task is not own)
    running = engine.current()
    told: dict[str, object] = {"tasks": tasks, "streams": len(running.streams), "calls": _calls(running)}
    if request.GET.get("memory"):
        gc.collect()
        told |= {"objects": sys.getallocatedblocks(), "bytes": _malloc() if _malloc is not None else None}
    return JsonResponse(told)


def _work_of(task: "asyncio.Task[object]") -> str:
    return str(getattr(task.get_coro(), "__qualname__", "?"))


def _calls(running: engine.Engine) -> int:
    """Connections to providers that are in somebody's hands, and so are missing in the pool."""
    sessions = (getattr(running.upstream, name) for name in ("_open", "_guarded"))
    return sum(len(one.connector._acquired) for one in sessions if isinstance(one, aiohttp.ClientSession) and one.connector)


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t) for name in ("arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost").split()
    ]


def _find_malloc() -> Callable[[], int] | None:
    """How many bytes were allocated and not freed (everything above 512 bytes, and what C libraries use); None where nobody can tell."""
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None) if sys.platform == "linux" else None
    if mallinfo2 is None:  # glibc before 2.33, or another C library
        return None
    mallinfo2.restype = _Mallinfo

    def bytes_in_use() -> int:
        told = mallinfo2()
        return int(told.uordblks + told.hblkhd)

    return bytes_in_use


_malloc = _find_malloc()
