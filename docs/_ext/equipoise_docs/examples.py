"""Pages of the scripts in examples/, made from their docstrings and sources."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from equipoise_docs import docstrings
from equipoise_docs.pages import Page, joined, table

DOCS = Path(__file__).parents[2]
SCRIPTS = DOCS.parent / "examples"


def example_pages() -> Iterator[Page]:
    """Yield the list of the examples, and a page for each."""
    lines = []
    for path in sorted(SCRIPTS.glob("*.py")):
        source = path.read_text()
        said = ast.get_docstring(ast.parse(source))
        if not said:
            raise ValueError(f"examples/{path.name} must have a docstring, as it has a page")
        summary, _, rest = said.partition("\n\n")
        title = f"{path.stem[0].upper()}{path.stem[1:]}".replace("_", " ")
        guides = _guides(path.name)
        lines.append((f"[{title}](examples/{path.stem}.md)", " ".join(summary.split())))
        image = DOCS / "images" / f"{path.stem}.svg"
        yield Page(
            f"reference/examples/{path.stem}",
            joined(
                f"# Example: {title.lower()}",
                " ".join(summary.split()),
                *map(_paragraph, re.split(r"\n\s*\n", rest)),
                f"The results are in {guides}." if guides else "",
                f"![Picture drawn by the script]({_up(image)})" if image.exists() else "",
                f"## examples/{path.name}",
                f"```python\n{source.strip()}\n```",
            ),
        )
    head = ("script", "what it shows")
    text = "Programs that run on a CPU in minutes, with the data that the libraries bring."
    yield Page("reference/examples", joined("# Examples", text, table(head, lines)))


def _paragraph(text: str) -> str:
    if text.startswith("python "):
        return f"```sh\n{text}\n```"
    return docstrings.markdown(text)


def _guides(name: str) -> str:
    """Return links to the pages that mention a script."""
    found = [path for path in sorted(DOCS.glob("*.md")) if f"examples/{name}" in path.read_text()]
    return ", ".join(f"[{path.stem.replace('_', ' ')}]({_up(path)})" for path in found)


def _up(path: Path) -> str:
    return f"../../{path.relative_to(DOCS)}"
