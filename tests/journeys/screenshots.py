"""Makes the pictures of README and docs from a throwaway installation with its sample account (`make screenshots`).

It starts what `make run` starts, in a folder of its own and on a free port, signs in as the first run's people, and stops it again.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import free_port
from tests.journeys.browser import ARGUMENTS, NAMES

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "screenshots"
SLUG = "sample-company"  # billing.sample.SLUG; nothing of Django's is set up here
SIZE = {"width": 1280, "height": 780}
MOST_BYTES = 150_000
READY_SECONDS = 90
PATIENCE_MS = 20_000
# The sample's page of each picture.
PAGES = {"overview": "", "keys": "keys", "usage": "usage?days=30", "requests": "requests", "billing": "billing"}


@contextmanager
def installation() -> Iterator[tuple[str, dict[str, str]]]:
    """What `make run` starts, for the first time: its address and its credentials."""
    folder = Path(tempfile.mkdtemp(prefix="tollgate-pictures-"))
    folder.chmod(0o700)
    kept = {
        name: value for name, value in os.environ.items() if not name.endswith("_API_KEY") and name not in ("DATABASE_URL", "REDIS_URL")
    }
    port = free_port()
    environ = {
        **kept,
        "GATEWAY_STATE": str(folder),
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "DEBUG": "1",
        "ADMIN_MFA": "0",
        "DEFAULT_MARKUP_PPM": "80000",
    }
    with (folder / "run.log").open("wb") as log:
        running = subprocess.Popen([sys.executable, "-m", "gateway_site.embedded", "run"], cwd=ROOT, env=environ, stdout=log, stderr=log)
        try:
            yield _wait(f"http://127.0.0.1:{port}", folder, running)
        finally:
            running.send_signal(signal.SIGTERM)
            running.wait(timeout=60)
            shutil.rmtree(folder, ignore_errors=True)


def _wait(origin: str, folder: Path, running: subprocess.Popen[bytes]) -> tuple[str, dict[str, str]]:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            if httpx.get(f"{origin}/healthz", timeout=5).status_code == 200:
                return origin, json.loads((folder / "quickstart.json").read_text())
        except (httpx.TransportError, OSError):
            pass
        if running.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"The installation did not start:\n{(folder / 'run.log').read_text()[-3000:]}")
        time.sleep(0.1)


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser of the tests."""
    from playwright.sync_api import sync_playwright

    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        raise SystemExit("There is no Chromium on PATH: make browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


def visitor(browser: Any, origin: str, email: str = "", password: str = "", **options: Any) -> Any:
    """A page of somebody's, signed in by the form."""
    page = browser.new_context(base_url=origin, viewport=SIZE, reduced_motion="reduce", **options).new_page()
    page.set_default_timeout(PATIENCE_MS)
    if email:
        page.goto("/user/login/")
        page.get_by_label("E-mail").fill(email)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in", exact=True).click()
        page.wait_for_url(lambda url: "/user/login" not in url)
    return page


def show(page: Any, address: str) -> None:
    """Go to a page; one that does not work is no picture."""
    answer = page.goto(address)
    if answer is None or answer.status >= 400:
        raise SystemExit(f"{address} answers {answer and answer.status}: {page.title()}")


def take(page: Any, name: str) -> None:
    """Write one picture."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    page.evaluate("scrollTo(0, 0)")
    path = FOLDER / f"{name}.png"
    page.screenshot(path=path, animations="disabled", caret="hide")
    size = path.stat().st_size
    print(f"{path.relative_to(ROOT)}  {size // 1000} kB", flush=True)
    if size > MOST_BYTES:
        raise SystemExit(f"{path} has {size:,} bytes; at most {MOST_BYTES:,} are wanted")


def playground(page: Any) -> None:
    """Ask two models the same."""
    show(page, f"/a/{SLUG}/playground?model=demo/echo")
    page.get_by_label("Compare two models").check()
    page.locator("#model-b").select_option("demo/reasoning")
    page.get_by_label("Message").fill("Why do lighthouses turn?")
    page.get_by_role("button", name="Send").click()
    for pane in "ab":
        page.locator(f"[data-pane={pane}] [data-meter]").get_by_text("tokens in").wait_for()
    page.locator("#stop").wait_for(state="hidden")


def pictures(browser: Any, origin: str, credentials: dict[str, str], wanted: Callable[[str], bool]) -> None:
    """Take every picture that is wanted."""
    stranger = visitor(browser, origin)
    for name, address in (("landing", "/"), ("models", "/models")):
        if wanted(name):
            show(stranger, address)
            take(stranger, name)
    customer = visitor(browser, origin, credentials["customer_email"], credentials["customer_password"])
    for name, address in PAGES.items():
        if wanted(name):
            show(customer, f"/a/{SLUG}/{address}")
            take(customer, name)
    if wanted("receipt"):
        show(customer, f"/a/{SLUG}/requests?status=ok")
        customer.locator(f"main a[href*='/a/{SLUG}/requests/']").first.click()
        customer.wait_for_load_state()
        take(customer, "receipt")
    if wanted("overview-dark"):
        customer.emulate_media(color_scheme="dark")
        show(customer, f"/a/{SLUG}/")
        take(customer, "overview-dark")
        customer.emulate_media(color_scheme="light")
    if wanted("admin"):
        staff = visitor(browser, origin, credentials["admin_email"], credentials["admin_password"])
        for _ in range(2):  # the first time it says that they have signed in
            show(staff, "/admin/")
        take(staff, "admin")
    if wanted("playground"):
        playground(customer)
        take(customer, "playground")


def main() -> int:
    """Start, take, stop."""
    parser = argparse.ArgumentParser(prog="python -m tests.journeys.screenshots", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="such as overview; all of them otherwise")
    only = set(parser.parse_args().only)
    with installation() as (origin, credentials), chromium() as browser:
        pictures(browser, origin, credentials, lambda name: not only or name in only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
