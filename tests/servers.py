"""The throwaway PostgreSQL and Valkey of a test run: a pytest plugin loaded before Django, so that settings find their URLs.

The controller starts both servers and makes one migrated database; every xdist worker gets a copy of it. Nothing is ever flushed (the ledger
refuses it): tests make accounts of their own and leave them.
"""

import atexit
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parent.parent
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
TEMPLATE = "tollgate"
DATABASES = 1024  # of Valkey: one for each worker, on a machine of any size


def _start() -> None:
    from gateway_site.embedded import valkey
    from gateway_site.embedded.postgres import Postgres
    from gateway_site.embedded.servers import Servers

    folder = Path(tempfile.mkdtemp(prefix="tollgate-tests-"))
    folder.chmod(0o700)
    for name in ("DATABASE_URL", "REDIS_URL"):
        os.environ.pop(name, None)
    servers = Servers(folder)
    # Nothing here survives the run, and the tests that kill PostgreSQL start one of their own.
    servers.postgres = Postgres(folder, settings={"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"})

    def stop() -> None:
        servers.stop()
        shutil.rmtree(folder, ignore_errors=True)

    valkey.SETTINGS["databases"] = str(DATABASES)
    atexit.register(stop)
    servers.start(os.environ)
    os.environ.update(
        TOLLGATE_TEST_SERVERS=str(folder),
        GATEWAY_STATE=str(folder / "state"),
        SECRET_KEY=secrets.token_hex(32),
        KEY_PEPPERS=f"1:{secrets.token_hex(32)}",
        ENCRYPTION_KEYS=f"1:{secrets.token_hex(32)}",
        DEBUG="1",
        CHECK_STREAMS="raise",
        LOG_LEVEL="WARNING",
        DEFAULT_RPM="0",
    )
    subprocess.run(
        [sys.executable, "-m", "django", "migrate", "--verbosity", "0"],
        check=True,
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "gateway_site.settings"},
    )


def _copy_for(worker: str) -> None:
    name = f"{TEMPLATE}_{worker or 'alone'}"
    url = os.environ["TOLLGATE_TEMPLATE_URL"]
    maintenance = url.replace(f"/{TEMPLATE}?", "/postgres?")
    with psycopg.connect(maintenance, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY file_copy".encode())
    os.environ["DATABASE_URL"] = url.replace(f"/{TEMPLATE}?", f"/{name}?")
    number = int("".join(filter(str.isdigit, worker)) or 0) + 1
    os.environ["REDIS_URL"] = os.environ["TOLLGATE_VALKEY_URL"].split("?")[0] + f"?db={number}"
    os.environ["SPOOL_DIR"] = str(Path(os.environ["TOLLGATE_TEST_SERVERS"]) / f"spool-{name}")


if "TOLLGATE_TEST_SERVERS" not in os.environ:
    _start()
    os.environ["TOLLGATE_TEMPLATE_URL"] = os.environ["DATABASE_URL"]
    os.environ["TOLLGATE_VALKEY_URL"] = os.environ["REDIS_URL"]
    _copy_for("")
if WORKER:
    _copy_for(WORKER)
