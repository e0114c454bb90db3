"""What a page of HTML holds, and how Chromium with axe-core judges it."""

import html
import html.parser
import json
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any


class Page(html.parser.HTMLParser):
    """Tags with their attributes, ids, references to elsewhere, tables as rows of cells, and all text.

    A minus sign is read as a hyphen.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.elsewhere: list[str] = []
        self.inside: list[str] = []
        self.words: list[str] = []
        self.tables: list[tuple[str, list[list[str]]]] = []
        self.items: list[str] = []
        self._skipped = 0
        self._open: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in ("href", "src", "srcset", "action", "data", "poster", "xlink:href") and value:
                (self.inside if value.startswith(("#", "data:")) else self.elsewhere).append(value)
        if tag in ("style", "svg"):
            self._skipped += 1
        if tag == "table":
            self.tables.append((dict(attrs).get("class") or "", []))
        if tag == "tr":
            self.tables[-1][1].append([])
        if tag in ("td", "th"):
            self.tables[-1][1][-1].append("")
            self._open.add("cell")
        if tag == "li":
            self.items.append("")
            self._open.add("item")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("style", "svg"):
            self._skipped -= 1
        self._open -= {"cell"} if tag in ("td", "th") else {"item"} if tag == "li" else set()

    def handle_data(self, data: str) -> None:
        if self._skipped:
            return
        data = data.replace("\u2212", "-")
        self.words.append(data)
        if "cell" in self._open:
            self.tables[-1][1][-1][-1] += data
        if "item" in self._open:
            self.items[-1] += data

    @property
    def text(self) -> str:
        """What a reader reads, with single blanks."""
        return re.sub(r"\s+", " ", "".join(self.words))

    def table(self, name: str) -> list[list[str]]:
        """The rows of the first table of a class."""
        rows = next(rows for kinds, rows in self.tables if name in kinds.split())
        return [[re.sub(r"\s+", " ", cell).strip() for cell in row] for row in rows]


def external(text: str) -> list[str]:
    """Anything in a page that would have to be fetched."""
    styles = re.findall(r"@import[^;]*|url\((?!#|data:)[^)]*\)", text)
    return Page(text).elsewhere + styles + re.findall(r"https?://", text)


def chromium_is_missing() -> str:
    """Why a page cannot be run here; empty if it can."""
    return "" if shutil.which("chromium") else "chromium is not installed"


def axe_is_missing() -> str:
    """Why a page cannot be judged here; empty if it can."""
    if chromium_is_missing():
        return chromium_is_missing()
    if find_spec("axe_core_python") is None:
        return "axe-core-python is not installed"
    return ""


def answered(
    text: str, script: str, folder: Path, *, dark: bool = False, width: int = 1280, hash: str = ""
) -> Any:
    """Return what a script that is added to a page passes to `answer`, by way of JSON."""
    begin = (
        "function answer(found) {"
        + """
      document.documentElement.innerHTML = '<body><pre id="found"></pre></body>';
      document.getElementById('found').textContent = JSON.stringify(found);
    }
    """
    )
    path = folder / "judged.html"
    path.write_text(text.replace("</body>", f"<script>{begin}</script><script>{script}</script></body>"))
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000"]
    words += [f"--window-size={width},900", f"--user-data-dir={folder / 'profile'}"]
    words += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--dump-dom", path.as_uri() + hash]
    answer = subprocess.run(
        ["chromium", *words], capture_output=True, text=True, timeout=240, check=True
    ).stdout
    said = re.search(r'<pre id="found">(.*?)</pre>', answer, re.DOTALL)
    assert said is not None, answer[-500:]
    return json.loads(html.unescape(said[1]))


def judged_by_axe(text: str, folder: Path, *, dark: bool, width: int, hash: str = "") -> list[str]:
    """What axe-core finds in a page whose details are all open: impact and rule of each violation."""
    found: Any = find_spec("axe_core_python")
    axe = next(Path(found.submodule_search_locations[0]).glob("axe.min.js")).read_text()
    run = """
    document.querySelectorAll('details').forEach(each => each.open = true);
    setTimeout(() => axe.run().then(found => answer(
      found.violations.map(each => each.impact + ' ' + each.id + ' ' + each.nodes[0].html)
    )), 500);
    """
    return answered(text, f"{axe}\n{run}", folder, dark=dark, width=width, hash=hash)
