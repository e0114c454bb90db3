"""Links: from pages to files of the repository, and from code in a text to the page of a public name."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

from equipoise_docs import names
from equipoise_docs.names import Name
from equipoise_docs.sections import LISTED

DOCS = Path(__file__).parents[2]
ROOT = DOCS.parent
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
FILES = "reference/files"
logger = logging.getLogger(__name__)


def on_site(text: str, folder: Path, page: str) -> str:
    """Return the Markdown of a page with links that lead to pages and files of the site.

    A link to a document stays. One to an example leads to its page, one to another file of the repository to
    a copy of it, which is made here.

    Args:
        text: The Markdown.
        folder: Folder of the file in the repository, to which its links are relative.
        page: Name of the page.
    """
    return outside_code(text, lambda part: LINK.sub(lambda found: _moved(found, folder, page), part))


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Return a text in Markdown, changed outside its blocks of code."""
    parts, last = [], 0
    for fence in FENCE.finditer(text):
        parts += [change(text[last : fence.start()]), fence[0]]
        last = fence.end()
    return "".join([*parts, change(text[last:])])


def _moved(found: re.Match[str], folder: Path, page: str) -> str:
    link = found[2]
    if "://" in link or link.startswith("mailto:"):
        return found[0]
    path = (folder / link).resolve()
    if not path.exists() or not path.is_relative_to(ROOT):
        return found[0]  # Sphinx reports it
    target = place(path)
    return found[1] + os.path.relpath(target, (DOCS / page).parent) + found[3]


def place(path: Path) -> Path:
    """Return the file of the site for a file or folder of the repository."""
    if path.is_dir():
        lister = LISTED.get(str(path.relative_to(DOCS))) if path.is_relative_to(DOCS) else None
        path = DOCS / f"{lister}.md" if lister else path / "README.md"
    if path.is_relative_to(DOCS):
        return path
    if path.parent == ROOT / "examples" and path.suffix == ".py":
        return DOCS / "reference/examples" / f"{path.stem}.md"
    copy = DOCS / FILES / path.relative_to(ROOT)
    if path == ROOT / "README.md":
        return DOCS / "index.md"
    if not copy.exists() and path.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            copy.write_text(on_site(path.read_text(), path.parent, f"{FILES}/{path.stem}"))
        else:
            shutil.copy(path, copy)
    return copy


class LinkNames(SphinxPostTransform):
    """Makes a link of each code in a text that is a public name, or a call of one."""

    default_priority = 8

    def run(self, **kwargs: object) -> None:
        """Change the literals of a page."""
        del kwargs
        here = self.env.docname
        for literal in list(self.document.findall(nodes.literal)):
            if _inside(literal, (nodes.reference, nodes.title, nodes.rubric, nodes.literal_block)):
                continue
            name = found_name(literal.astext())
            if name is None:
                _require_known(literal.astext(), here)
                continue
            page = name.page if isinstance(name, Name) else f"reference/api/{name}"
            if page == here or page not in self.env.found_docs:
                continue
            full = name.full if isinstance(name, Name) else name
            entry = self.env.domains.python_domain.objects.get(full)
            anchor = f"#{entry.node_id}" if entry and isinstance(name, Name) and name.kind == "data" else ""
            uri = self.app.builder.get_relative_uri(here, page) + anchor
            link = nodes.reference("", "", internal=True, refuri=uri, reftitle=full)
            literal.replace_self(link)
            link += literal


def found_name(text: str) -> Name | str | None:
    """Return the public name or module that a code is, or calls; None if it is something else."""
    found = re.fullmatch(r"(?:-|[\d.]+ \* )?([A-Za-z_][\w.]*)(\(.*\))?", text, flags=re.DOTALL)
    if found is None:
        return None
    if found[1] == found[1].lower() and not {".", "_"} & {*found[1]} and found[2] is None:
        return None  # a single lower-case word may be an argument
    dotted = found[1].removeprefix("equipoise.") if found[1] != "equipoise" else found[1]
    known = names.by_text()
    if dotted in known:
        return known[dotted]
    owner = dotted.rpartition(".")[0]  # a method
    return known.get(owner) if owner and isinstance(known.get(owner), Name) else None


def _require_known(text: str, page: str) -> None:
    """Warn of a code such as `equipoise.losses.Missing` that names nothing."""
    found = re.fullmatch(r"(equipoise(?:\.\w+)+)(\(.*\))?", text)
    if found is None:
        return
    import pkgutil

    try:
        pkgutil.resolve_name(found[1])
    except (ImportError, AttributeError):
        if not page.startswith("decisions/"):  # which name what was before
            logger.warning("%s names nothing", text, location=page, type="equipoise", subtype="name")


def _inside(node: nodes.Node, kinds: tuple[type[nodes.Node], ...]) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False


def require_names(app: Sphinx) -> None:
    """Raise if a public name is not in the inventory of the built site.

    Raises:
        ExtensionError: With the names.
    """
    lacking = missing(Path(app.outdir) / "objects.inv")
    if lacking:
        raise ExtensionError(
            f"every public name must have a page, got none for {', '.join(lacking)}; add a docstring, and "
            "the name to the __all__ of its module"
        )


def missing(inventory: Path, expected: tuple[str, ...] | None = None) -> list[str]:
    """Return the public names that are not in an inventory."""
    from sphinx.util.inventory import InventoryFile

    found = InventoryFile.loads(inventory.read_bytes(), uri="")
    known = {name for kind, entries in found.data.items() if kind.startswith("py:") for name in entries}
    wanted = expected or (*names.modules(), *(each.full for each in names.public_names()))
    return sorted(name for name in wanted if name not in known)
