"""A real browser for the journeys: Chromium, with pages that remember whatever the console, the policy or a failed request complained of.

Import the fixtures into a conftest or a test module: `browser`, `page`; and use `sign_in(page, user)`. Addresses are
relative: `page.goto("/a/…/")`.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATIENCE_MS = 60_000

_WATCH = """document.addEventListener("securitypolicyviolation", (event) =>
    console.error("CSP: " + event.violatedDirective + " " + event.blockedURI));"""


@dataclass
class Complaints:
    """What went wrong in a page while it was looked at."""

    found: list[str] = field(default_factory=list)

    def none(self) -> None:
        """Fail if there is any."""
        assert self.found == [], self.found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, one for each module that asks for it; where there is none the test is skipped."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser on PATH: looked for {', '.join(NAMES)}")
    playwright_api = pytest.importorskip("playwright.sync_api")
    # While playwright runs, a loop runs in this thread; our own calls to the database are none of its business.
    before = os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE")
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    try:
        with playwright_api.sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
            yield chromium
            chromium.close()
    finally:
        if before is None:
            del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]
        else:
            os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = before


@pytest.fixture
def page(browser: Any, gateway: Any) -> Iterator[Any]:
    """A page of its own cookies at the gateway. Any complaint of the console fails the test at its end; `page.complaints` has them."""
    context = browser.new_context(base_url=gateway.origin, viewport={"width": 1280, "height": 800})
    context.set_default_timeout(PATIENCE_MS)
    context.add_init_script(_WATCH)
    found = context.new_page()
    found.complaints, found.origin = Complaints(), gateway.origin
    watch(found)
    yield found
    context.close()
    found.complaints.none()


def watch(page: Any) -> None:
    """Write down errors of scripts and of the console, and requests that failed on the server."""
    complaints = page.complaints.found
    page.on("pageerror", lambda error: complaints.append(f"script: {error}"))
    page.on(
        "console",
        lambda message: complaints.append(f"console: {message.text} {message.location['url']}") if message.type == "error" else None,
    )
    page.on(
        "response",
        lambda response: (
            complaints.append(f"{response.status} {response.url}")
            if response.status >= (500 if response.request.is_navigation_request() else 400)
            else None
        ),
    )


def sign_in(page: Any, user: Any) -> None:
    """Sign `user` in without the form."""
    client = Client()
    client.force_login(user)
    name = settings.SESSION_COOKIE_NAME
    page.context.add_cookies([{"name": name, "value": client.cookies[name].value, "url": page.origin}])


def settle(page: Any) -> None:
    """Wait until the page is all there, its fonts too: until then an icon's letters are taken for text, and its scripts may not have run."""
    page.wait_for_load_state("load")
    page.evaluate("() => document.fonts.ready.then(() => true)")
