"""A page in Chromium, driven by playwright: keys, pointer, history, clipboard."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from support.report_pages import chromium_is_missing


def browser_is_missing() -> str:
    """Why a page cannot be driven here; empty if it can."""
    if chromium_is_missing():
        return chromium_is_missing()
    return "" if find_spec("playwright") else "playwright is not installed"


@contextmanager
def started() -> Iterator[Any]:
    """Return a browser, closed at the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page of a file, with the requests it makes and the errors of its scripts.

    Args:
        browser: The browser.
        path: The file.
        hash: What follows the # of the address.
        options: Those of a context of playwright, such as viewport and color_scheme.
    """

    def __init__(self, browser: Any, path: Path, hash: str = "", **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page = self.context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url.partition("#")[0]))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.address = path.as_uri()
        self.page.goto(f"{self.address}#{hash}" if hash else self.address)

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *error: object) -> None:
        self.context.close()

    @property
    def hash(self) -> str:
        """What follows the # of the address now."""
        return self.page.url.partition("#")[2]

    def text(self, name: str) -> str:
        """Return the text of the element with an id, with a hyphen for a minus sign."""
        return self.page.inner_text(f"#{name}").replace("\u2212", "-")

    def go(self, hash: str) -> None:
        """Open another state of the page."""
        self.page.evaluate("hash => { location.hash = hash; }", hash)
        self.page.wait_for_function("location.hash.length < 2 || built !== ''")
        self.page.wait_for_timeout(30)
