"""How gunicorn is set up, in a process of its own: reading the file changes the process."""

import os
import platform
import subprocess
import sys

import pytest

from tests.conftest import ROOT

COUNT_ARENAS = """
import ctypes, threading
from gateway_site import gunicorn_conf

meet = threading.Barrier(12)

def take():
    kept = bytes(50_000)  # from an arena: what is smaller is pooled by Python, what is larger by the system
    meet.wait()

threads = [threading.Thread(target=take) for _ in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info(0, ctypes.c_void_p(out := libc.fdopen(1, b"w")))
libc.fflush(ctypes.c_void_p(out))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has arenas")
@pytest.mark.parametrize(("chosen", "arenas"), [(None, 2), ("5", 5)])
def test_threads_share_two_arenas_unless_the_operator_chose_otherwise(chosen: str | None, arenas: int) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"} | (
        {"MALLOC_ARENA_MAX": chosen} if chosen else {}
    )
    told = subprocess.run([sys.executable, "-c", COUNT_ARENAS], cwd=ROOT, env=environ, capture_output=True, text=True, check=True).stdout
    assert told.count("<heap nr=") == arenas
