"""Links inside the built site: each leads to a file, and to an anchor that the page has."""

from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from equipoise_docs.links import LINK, outside_code


class _Page(HTMLParser):
    """Collects the anchors and the links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what a tag has."""
        found: dict[str, Any] = dict(attrs)
        self.anchors |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag in ("a", "link", "img", "script"):
            self.links |= {found[name] for name in ("href", "src") if found.get(name)}


def dead_links(site: Path) -> list[str]:
    """Return the links of a built site, in HTML and in Markdown, that lead to no file or no anchor of it."""

    @cache
    def read(path: Path) -> _Page:
        page = _Page()
        page.feed(path.read_text())
        return page

    dead = []
    for path in sorted(site.rglob("*.html")):
        if "_static" in path.relative_to(site).parts:
            continue
        for link in sorted(read(path).links):
            to = urlsplit(link)
            if to.scheme or to.netloc:
                continue
            target = path.parent / unquote(to.path) if to.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(to.fragment) if target.suffix == ".html" else ""
            if not target.exists() or (anchor and anchor not in read(target.resolve()).anchors):
                dead.append(f"{path.relative_to(site)} links to {link}")
    for path in sorted([*site.rglob("*.md"), *site.glob("llms*.txt")]):
        links: list[str] = []
        outside_code(path.read_text(), lambda part, links=links: links.extend(LINK.findall(part)) or part)
        for _, link, _ in links:
            if "://" not in link and not link.startswith("mailto:") and not (path.parent / link).exists():
                dead.append(f"{path.relative_to(site)} links to {link}")
    return dead
