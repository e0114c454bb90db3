"""Every page as Markdown beside its HTML, and `llms.txt`, which lists them."""

import posixpath
import re
import shutil
from pathlib import Path

from sphinx.application import Sphinx

from equipoise_docs.links import DOCS, FENCE, LINK, on_site, outside_code
from equipoise_docs.sections import LISTED, below, pages_of

IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")
NOTE = (
    "Each page is also at the same address with .md in place of .html. llms-full.txt has all pages in one "
    "file. In formulas p = softmax(z), y is the target and n the number of classes."
)


def write_twins(app: Sphinx) -> None:
    """Write the Markdown of every page, with the pictures it shows, `llms.txt` and `llms-full.txt`."""
    out = Path(app.outdir)
    texts = {name: twin(name) for name in sorted(app.env.found_docs)}
    for name, text in texts.items():
        path = out / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for image in IMAGE.findall(text):
            source = (DOCS / name).parent / image
            if source.exists():
                (path.parent / image).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, path.parent / image)
    for file in (DOCS / "reference/files").rglob("*"):
        if file.is_file() and file.suffix != ".md":
            copy = out / file.relative_to(DOCS)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
    base = app.config.html_baseurl
    (out / "llms.txt").write_text(listing(texts, app.config.html_short_title, app.config.description, base))
    order = [name for _, names in _sections() for name in names]
    whole = "\n\n---\n\n".join(from_root(texts[name], name).strip() for name in order)
    (out / "llms-full.txt").write_text(whole + "\n")


def twin(name: str) -> str:
    """Return the Markdown of a page."""
    path = DOCS / f"{name}.md"
    return on_site(path.read_text(), path.parent, name)


def from_root(text: str, name: str) -> str:
    """Return the Markdown of a page with links relative to the root of the site."""

    def moved(found: re.Match[str]) -> str:
        link = found[2]
        if "://" not in link and not link.startswith("mailto:"):
            link = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
        return found[1] + link + found[3]

    return outside_code(text, lambda part: LINK.sub(moved, part))


def listing(texts: dict[str, str], title: str, about: str, base: str) -> str:
    """Return `llms.txt`: the title, what the package is, and the pages of each section with a sentence each.

    Args:
        texts: The Markdown of each page.
        title: Name of the package.
        about: A sentence.
        base: Address of the site, which ends with a slash; "" for relative links.
    """
    parts = [f"# {title}", f"> {about}", NOTE]
    for head, names in _sections():
        lines = [
            f"- [{_title(texts[name])}]({base}{name}.md): {first_sentence(texts[name])}" for name in names
        ]
        parts += [f"## {head}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _sections() -> list[tuple[str, list[str]]]:
    """Return the sections of the site; the pages that another one lists are sections of their own."""
    found = [("Start", ["index"])]
    more: list[tuple[str, list[str]]] = []
    for title, pages in pages_of(DOCS).items():
        if title == "Start":
            found[0][1].extend(pages)
        else:
            found.append((title, list(pages)))
        for page in pages:
            if page in LISTED.values() and (listed := below(page, DOCS)):
                more.append((_title((DOCS / f"{page}.md").read_text()), listed))
    return [(title, pages) for title, pages in [*found, *more] if pages]


def _title(text: str) -> str:
    found = re.search(r"^# (.+)$", text, flags=re.MULTILINE)
    return found[1].replace("`", "") if found else ""


def first_sentence(text: str) -> str:
    """Return the first sentence of the first paragraph of a page, without links."""
    for block in re.split(r"\n\s*\n", FENCE.sub("", text)):
        words = " ".join(block.split())
        if words and words[0] not in "#|![$<-":
            words = words.replace("**", "")
            plain = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", words)
            return re.split(r"(?<=[^.][.:?])\s(?=[A-Z`])", plain)[0].rstrip(":")
    return ""
