"""The files on this machine: whether others can read the secrets, and what lies in the spool."""

import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from django.conf import settings

from billing.settlement import Spool
from gateway_site.diagnosis.findings import Finding, counted, error, warning
from gateway_site.embedded import state


def check_files() -> Iterator[Finding]:
    """Whether others on this machine can read the secrets, and what lies in the spool."""
    here = state.folder()
    private = [here, here / "secrets.env", here / "quickstart.json", state.PROJECT / ".env", Path(settings.SPOOL_DIR)]
    for path in private:
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError:
            yield warning("files", f"{path} cannot be looked at: it is another user's.", "Run this as the user that the gateway runs as.")
            continue
        if stat.S_IMODE(found.st_mode) & 0o077:
            wanted = "700" if path.is_dir() else "600"
            tell = warning if path.name == ".env" else error  # it need not hold secrets
            yield tell(
                "files",
                f"{path} has mode {stat.S_IMODE(found.st_mode):o}: others on this machine can get at it.",
                f"Run `chmod {wanted} {path}`.",
            )
    yield from check_spool(Spool(Path(settings.SPOOL_DIR)))


def check_spool(spool: Spool) -> Iterator[Finding]:
    """Records of finished requests that are not in PostgreSQL."""
    if refused := _lines(spool.files("refused")):
        yield error(
            "spool",
            f"PostgreSQL has refused {counted(refused, 'record')} of finished requests; they were not charged.",
            f"Read the reasons in {spool.folder}/refused-*.jsonl, then remove the files.",
        )
    if waiting := _lines(spool.files("settle")):
        yield error(
            "spool",
            f"{counted(waiting, 'record')} of finished requests {'waits' if waiting == 1 else 'wait'} in {spool.folder} to be charged.",
            "Start the gateway on this host: within seconds of reaching PostgreSQL it books them, each once.",
        )


def _lines(files: Iterable[Path]) -> int:
    total = 0
    for path in files:
        try:
            with path.open("rb") as file:
                total += sum(1 for _ in file)
        except FileNotFoundError:  # a web process has just booked it
            continue
    return total
