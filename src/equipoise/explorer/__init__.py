"""A page to explore losses, penalties and maps: one file of HTML that needs neither network nor Python."""

import sys
import webbrowser
from collections.abc import Mapping
from pathlib import Path

from equipoise import __version__

_HERE = Path(__file__).parent
_SCRIPTS = (  # in the order in which the page runs them
    "numbers",
    "matrices",
    "losses",
    "maps",
    "optimum",
    "state",
    "screen",
    "python",
    "words",
    "slider",
    "chart",
    "simplex",
    "views",
    "page",
)
_MARK = '<meta name="generator" content="equipoise explorer '


def page() -> str:
    """Return the page, with its style, scripts and the catalogue of losses in it."""
    catalogue = _read("catalogue.json").replace("</", "<\\/")
    scripts = [_read(f"{name}.js") for name in _SCRIPTS]
    parts = {
        "version": __version__,
        "style": (_read("figures.css") + _read("style.css")).rstrip(),  # media queries come last
        "script": "\n".join([f"const CATALOGUE = {catalogue};", *scripts]).rstrip(),
    }
    text = _read("page.html")
    for name, part in parts.items():
        text = text.replace(f"{{{{ {name} }}}}", part)
    return text


def write(path: Path) -> Path:
    """Write the page to a file, and return its absolute path.

    Raises:
        ValueError: If the file cannot be written, or is there and is not such a page.
    """
    if path.exists() and not (path.is_file() and _MARK in path.read_text("utf-8", errors="replace")[:2000]):
        raise ValueError(
            f"out must be a new file or an explorer page, got {str(path)!r}; choose another name"
        )
    try:
        path.write_text(page(), encoding="utf-8")
    except OSError as error:
        got = f"{str(path)!r}: {error.strerror}"
        raise ValueError(
            f"out must be a file that can be written, got {got}; choose another place"
        ) from error
    return path.absolute()


def show(path: Path, environment: Mapping[str, str]) -> bool:
    """Open a page in the browser, and return whether there was one.

    Without a display, Python would start a browser of the terminal, which cannot run the page.
    """
    displays = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    if sys.platform.startswith("linux") and not any(map(environment.get, displays)):
        return False
    try:
        return webbrowser.open(path.as_uri())
    except webbrowser.Error:
        return False


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


__all__ = ["page", "show", "write"]
