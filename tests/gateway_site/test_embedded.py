"""The embedded servers: made from nothing, private, durable, stopped whole, and taken up again after a crash."""

import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import LiteralString

import environ
import kombu.connection
import psutil
import psycopg
import pytest
import redis

from gateway_site.embedded import postgres, processes, servers, state, valkey
from gateway_site.embedded.supervisor import Address, Child

HOLD_SERVERS = """
import os, sys
from pathlib import Path
from gateway_site.embedded.servers import Servers
running = Servers(Path(sys.argv[1]))
running.start(environ := {})
print(running.postgres.pid, running.valkey.pid, flush=True)
sys.stdin.read()
running.stop()
"""
USE_SERVERS = """
import os, sys
from pathlib import Path
from gateway_site.embedded.servers import Servers
with Servers(Path(sys.argv[1])) as running:
    print(os.geteuid(), running.postgres.ready(), running.valkey.ready())
"""
BORROW = """
import os, sys
from gateway_site.embedded.servers import borrow
with borrow():
    print(os.environ["DATABASE_URL"], os.environ["REDIS_URL"], os.environ["SECRET_KEY"], sep="\\n", flush=True)
    sys.stdin.read()
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def ask(url: str, query: LiteralString) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def alive(pid: int) -> bool:
    return not processes.wait_until_gone([pid], 0)


def python(code: str, *arguments: str, environment: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
    """Start `code` in a process of its own that finds the project and, unless told otherwise, no server's URL."""
    clean = {**os.environ, "DATABASE_URL": "", "REDIS_URL": "", "SECRET_KEY": ""}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=state.PROJECT,
        env={**clean, **(environment or {})},
    )


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """A state folder that both servers have run in once; tests that need one copy it."""
    made = Path(tempfile.mkdtemp(prefix="tollgate-test-"))
    with_servers = servers.Servers(made / "state")
    with_servers.start({})
    with_servers.stop()
    yield made / "state"
    shutil.rmtree(made)


@pytest.fixture
def folder(template: Path) -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="tollgate-test-"))
    shutil.copytree(template, made / "state")
    yield made / "state"
    shutil.rmtree(made)


@pytest.fixture
def started(folder: Path) -> Iterator[servers.Servers]:
    both = servers.Servers(folder)
    both.start({})
    yield both
    both.stop()


def test_from_nothing_both_servers_run_in_a_private_folder_and_nothing_is_left_of_them(tmp_path: Path) -> None:
    here = tmp_path / "state"
    here.mkdir(mode=0o700)
    (here / "postgres.new" / "base").mkdir(parents=True)  # what a first start killed half-way leaves
    both, given = servers.Servers(here), dict[str, str]()
    both.start(given)
    try:
        assert mode(here) == 0o700
        assert {mode(path) for path in (here / "postgres", here / "valkey", here / "logs", state.sockets(here))} == {0o700}
        assert {mode(path) for path in (here / "secrets.env", here / "lock", *(here / "logs").iterdir())} == {0o600}
        assert not (here / "postgres.password").exists()
        assert not (here / "postgres.new").exists()
        assert ask(given["DATABASE_URL"], "SHOW fsync") == "on"
        assert ask(given["DATABASE_URL"], "SHOW listen_addresses") == ""
        assert ask(given["DATABASE_URL"], "SHOW server_encoding") == "UTF8"
        assert redis.Redis.from_url(given["REDIS_URL"]).config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert servers.running(here)
        members = [pid for server in (both.postgres, both.valkey) if server.pid for pid in (server.pid, *processes.family(server.pid))]
    finally:
        both.stop()
    assert len(members) > 2
    assert not any(alive(pid) for pid in members)
    assert not servers.running(here)
    assert not state.sockets(here).exists()


def test_a_second_start_keeps_the_data(folder: Path) -> None:
    for written in (True, False):
        given: dict[str, str] = {}
        both = servers.Servers(folder)
        both.start(given)
        cache = redis.Redis.from_url(given["REDIS_URL"])
        if written:
            with psycopg.connect(given["DATABASE_URL"]) as connection:
                connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
            cache.set("kept", "43")
        else:
            assert ask(given["DATABASE_URL"], "SELECT answer FROM kept") == 42
            assert cache.get("kept") == b"43"
        cache.close()
        both.stop()


def test_data_survives_the_kill_of_both_servers(started: servers.Servers) -> None:
    with psycopg.connect(started.postgres.url()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    members = processes.family(started.postgres.pid or 0)
    started.postgres.kill()
    started.valkey.kill()
    assert not any(alive(pid) for pid in members)
    assert sorted(started.restart_ended()) == ["Postgres", "Valkey"]
    assert ask(started.postgres.url(), "SELECT answer FROM kept") == 42
    assert redis.Redis.from_url(started.valkey.url()).ping()


def test_what_a_killed_starter_left_is_stopped_or_gone_before_the_next_start(folder: Path) -> None:
    starter = python(HOLD_SERVERS, str(folder))
    assert starter.stdout is not None
    left = [int(pid) for pid in starter.stdout.readline().split()]
    starter.kill()
    starter.communicate()
    both = servers.Servers(folder)
    both.start({})
    try:
        assert not any(alive(pid) for pid in left)
        assert ask(both.postgres.url(), "SELECT 1") == 1
    finally:
        both.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its starter's death")
def test_a_killed_starter_takes_its_servers_along_in_order(folder: Path) -> None:
    starter = python(HOLD_SERVERS, str(folder))
    assert starter.stdout is not None
    left = [int(pid) for pid in starter.stdout.readline().split()]
    starter.kill()
    starter.communicate()
    assert processes.wait_until_gone(left, 10)
    assert "database system is shut down" in (folder / "logs" / "postgres.log").read_text()
    assert not (folder / "postgres" / "postmaster.pid").exists()


def test_a_running_server_that_nobody_owns_any_more_is_stopped_by_the_next_start(folder: Path) -> None:
    forgotten, next_one = postgres.Postgres(folder), postgres.Postgres(folder)
    forgotten.start()
    old = forgotten.pid
    assert old
    next_one.start()
    try:
        assert next_one.pid != old
        assert not alive(old)
    finally:
        next_one.stop()


def test_a_stale_pid_file_that_names_a_stranger_is_ignored_and_the_stranger_left_alone(folder: Path) -> None:
    server = postgres.Postgres(folder)
    server.start()
    content = (folder / "postgres" / "postmaster.pid").read_text().splitlines()
    server.kill()
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as stranger:
        (folder / "postgres" / "postmaster.pid").write_text("\n".join([str(stranger.pid), *content[1:]]) + "\n")
        server.start()
        try:
            assert ask(server.url(), "SELECT 1") == 1
            assert stranger.poll() is None
        finally:
            server.stop()
            stranger.communicate()


def test_the_terminals_interrupt_does_not_reach_the_servers(started: servers.Servers) -> None:
    for server in (started.postgres, started.valkey):
        assert server.pid
        assert os.getsid(server.pid) == server.pid != os.getsid(0)


def test_a_data_folder_of_another_major_is_refused_with_the_way_out_and_left_untouched(folder: Path) -> None:
    (folder / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(postgres.WrongMajor, match=r"(?s)written by PostgreSQL 16.*pg_dump.*pg_restore"):
        postgres.Postgres(folder).start()
    assert (folder / "postgres" / "PG_VERSION").read_text() == "16\n"


def test_an_operators_url_keeps_that_server_from_starting(folder: Path) -> None:
    given = {"DATABASE_URL": "postgres://elsewhere/theirs"}
    both = servers.Servers(folder)
    both.start(given)
    try:
        assert both.postgres.pid is None
        assert both.valkey.pid
        assert given["DATABASE_URL"] == "postgres://elsewhere/theirs"
        assert redis.Redis.from_url(given["REDIS_URL"]).ping()
    finally:
        both.stop()


def test_a_failed_start_stops_the_other_server_and_gives_the_lock_back(folder: Path) -> None:
    (folder / "postgres" / "PG_VERSION").write_text("16\n")
    both = servers.Servers(folder)
    with pytest.raises(postgres.WrongMajor):
        both.start({})
    assert both.valkey.pid is None
    state.Lock(folder).acquire()


def test_the_lock_refuses_a_second_holder_and_names_the_first(tmp_path: Path) -> None:
    with state.Lock(tmp_path), pytest.raises(state.AlreadyRunning, match=str(os.getpid())) as refused:
        state.Lock(tmp_path).acquire()
    assert refused.value.pid == os.getpid()
    with state.Lock(tmp_path):
        pass


def test_secrets_are_made_once_and_missing_ones_are_added(tmp_path: Path) -> None:
    first = state.secrets(tmp_path)
    assert state.secrets(tmp_path) == first
    for name in ("KEY_PEPPERS", "ENCRYPTION_KEYS"):
        version, _, key = first[name].partition(":")
        assert version == "1"
        assert len(bytes.fromhex(key)) == 32
    path = tmp_path / "secrets.env"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if not line.startswith("KEY_PEPPERS")))
    again = state.secrets(tmp_path)
    assert {**again, "KEY_PEPPERS": first["KEY_PEPPERS"]} == first
    assert again["KEY_PEPPERS"] != first["KEY_PEPPERS"]
    assert mode(path) == 0o600


def test_the_environment_gets_secrets_and_urls_only_where_unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SECRET_KEY", "KEY_PEPPERS", "ENCRYPTION_KEYS", "POSTGRES_PASSWORD", "DATABASE_URL"):
        monkeypatch.setenv(name, "")  # so that what is set below is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("REDIS_URL", "redis://theirs")
    monkeypatch.setenv("GATEWAY_STATE", str(tmp_path / "none"))
    state.load_environment()
    assert "SECRET_KEY" not in os.environ
    assert not (tmp_path / "none").exists()

    monkeypatch.setenv("GATEWAY_STATE", str(tmp_path))
    kept = state.secrets(tmp_path)
    state.load_environment()
    assert os.environ["SECRET_KEY"] == kept["SECRET_KEY"]
    assert os.environ["DATABASE_URL"] == state.database_url(tmp_path, kept["POSTGRES_PASSWORD"])
    assert os.environ["REDIS_URL"] == "redis://theirs"


def test_libpq_and_django_environ_read_the_database_url_alike(tmp_path: Path) -> None:
    odd = tmp_path / "State Folder+%41"
    url = state.database_url(odd, "p@ss/word")
    for_libpq = psycopg.conninfo.conninfo_to_dict(url)
    for_django = environ.Env.db_url_config(url)
    assert for_libpq == {"user": "tollgate", "password": "p@ss/word", "dbname": "tollgate", "host": str(state.sockets(odd))}
    assert (for_django["USER"], for_django["PASSWORD"], for_django["NAME"]) == ("tollgate", "p@ss/word", "tollgate")
    assert for_django["OPTIONS"] == {"host": str(state.sockets(odd))}
    assert not for_django["HOST"]


def test_celery_reaches_the_same_valkey_database_as_redis_py(started: servers.Servers) -> None:
    url = started.valkey.url(3)
    with kombu.connection.Connection(state.broker_url(url)) as connection:
        queue = connection.SimpleQueue("greetings")
        queue.put("hello")
        assert redis.Redis.from_url(url).llen("greetings") == 1
        assert queue.get(timeout=5).payload == "hello"
        queue.close()
    assert state.broker_url("rediss://host:6380/1?x=y") == "rediss://host:6380/1?x=y"


def test_a_path_too_long_for_a_socket_gets_a_short_private_folder(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.parent.mkdir(parents=True)
    shutil.copytree(template, deep)
    with servers.Servers(deep) as both:
        short = state.sockets(deep)
        assert not short.is_relative_to(deep)
        assert mode(short) == 0o700
        assert ask(both.postgres.url(), "SELECT 1") == 1
    assert not short.exists()


def test_a_socket_folder_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    state.sockets(tmp_path).mkdir(mode=0o755)
    with pytest.raises(state.EmbeddedError, match="0700"):
        state.create_sockets(tmp_path, uid=os.geteuid(), gid=os.getegid())


def test_two_commands_share_borrowed_servers_until_the_last_has_ended(folder: Path) -> None:
    environment = {"GATEWAY_STATE": str(folder)}
    first, second = (python(BORROW, environment=environment) for _ in range(2))
    assert first.stdout is not None
    assert second.stdout is not None
    told = [[pipe.readline().strip() for _ in range(3)] for pipe in (first.stdout, second.stdout)]
    assert told[0] == told[1]
    database_url = told[0][0]
    assert first.stdin is not None
    first.stdin.close()  # it may have started the servers: then it waits for the other
    assert ask(database_url, "SELECT 1") == 1
    second.communicate()
    first.wait()
    assert (first.returncode, second.returncode) == (0, 0)
    assert not servers.running(folder)


def test_a_platform_without_wheels_is_told_which_variables_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setattr(postgres, "_ELSEWHERE", ())
    monkeypatch.setenv("PATH", "")
    for find in (postgres.find_binaries, valkey.find_binary):
        with pytest.raises(state.EmbeddedError, match=r"(?s)DATABASE_URL.*Compose|REDIS_URL.*Compose"):
            find()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_where_namespaces_are_forbidden_root_runs_the_server_as_an_unprivileged_user(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    here = tmp_path / "state"
    state.create(here)
    server = postgres.Postgres(here)
    assert server._try_creating(postgres.find_binaries(), processes.Identity("user", nobody.pw_uid, nobody.pw_gid)) == ""
    server.start()
    try:
        assert server.pid
        assert psutil.Process(server.pid).uids().real == nobody.pw_uid
        assert ask(server.url(), "SELECT 1") == 1
    finally:
        server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="every other test has already run as an ordinary user")
def test_an_ordinary_user_runs_both_servers_too() -> None:
    nobody = pwd.getpwnam("nobody")
    packages = sysconfig.get_path("purelib")
    environment = {"PATH": os.defpath, "PYTHONPATH": f"{state.PROJECT}:{packages}", "PYTHONDONTWRITEBYTECODE": "1"}
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    candidates = [sys.executable, *(f"{place}/{version}" for place in ("/usr/bin", "/usr/local/bin"))]
    can_run = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": [], "env": environment, "cwd": "/"}
    with tempfile.TemporaryDirectory(prefix="tollgate-test-") as made:
        os.chown(made, nobody.pw_uid, nobody.pw_gid)
        for interpreter in candidates:
            try:
                probe = subprocess.run([interpreter, "-c", "import gateway_site.embedded.servers, psutil"], capture_output=True, **can_run)  # type: ignore[call-overload]
            except OSError:
                continue
            if probe.returncode == 0:
                break
        else:
            pytest.skip("no interpreter that an ordinary user may run can read the project and its packages")
        for _ in range(2):
            done = subprocess.run([interpreter, "-c", USE_SERVERS, f"{made}/state"], capture_output=True, text=True, **can_run)  # type: ignore[call-overload]
            assert done.stdout == f"{nobody.pw_uid} True True\n", done.stderr
        assert (Path(made) / "state" / "postgres").stat().st_uid == nobody.pw_uid


def test_a_child_that_ends_by_itself_is_started_again_and_what_it_forked_is_gone(tmp_path: Path) -> None:
    # Its first life forks a grandchild and ends; its second stays.
    script = "[ -e lived ] && exec cat /dev/zero > /dev/null; touch lived; sleep 1000 & echo $! > grandchild; exit 7"
    child = Child("short", ["/bin/sh", "-c", f"cd {tmp_path}; {script}"], tmp_path)
    child.start()
    news: list[str] = []
    try:
        while len(news) < 1 or child.ended:  # the suite's timeout is the limit
            news += filter(None, [child.tend()])
            time.sleep(0.01)  # a poll, not a guess
        assert len(news) == 1
        assert "status 7" in news[0]
        assert str(tmp_path / "logs" / "short.log") in news[0]
        assert processes.wait_until_gone([int((tmp_path / "grandchild").read_text())], 5)
    finally:
        child.kill()


def test_errors_in_a_childs_log_are_shown_whole_and_nothing_else(tmp_path: Path) -> None:
    child = Child("web", ["/bin/true"], tmp_path)
    assert child.trouble() == []
    with child.log.open("a") as log:
        log.write("2026-11-20T10:00:00Z [info     ] fine\n2026-11-20T10:00:00Z [error    ] broken\nTraceback (most recent call last):\n")
        log.write("  File ...\nValueError: no\n2026-11-20T10:00:01Z [info     ] fine again\nhalf a li")
    shown = ["2026-11-20T10:00:00Z [error    ] broken", "Traceback (most recent call last):", "  File ...", "ValueError: no"]
    assert child.trouble() == [f"web | {line}" for line in shown]
    assert child.trouble() == []


def test_the_port_in_use_is_named_with_its_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(state.EmbeddedError, match=f"127.0.0.1:{port}.*PORT={port + 1} make run"):
            Address("127.0.0.1", str(port)).check()
    free = Address("127.0.0.1", "0")
    free.check()
    assert free.url == f"http://127.0.0.1:{free.port}" != "http://127.0.0.1:0"
