"""Pages that the build makes: plain Markdown, and the public names that it describes."""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Described:
    """A public name that a page describes.

    Args:
        full: The dotted name.
        kind: "class", "function", "method", "property", "data" or "module".
        heading: Text of the heading below which it is described.
    """

    full: str
    kind: str
    heading: str


@dataclass(frozen=True)
class Page:
    """A page made by the build.

    Args:
        name: Path below the folder of documents, without a suffix.
        text: Markdown.
        described: The public names that it describes.
        pictures: SVG by file name, written beside the page.
    """

    name: str
    text: str
    described: tuple[Described, ...] = ()
    pictures: dict[str, str] = field(default_factory=dict)


def script(name: str) -> Any:
    """Return a script of the folder of documents as a module, such as `tables` or `pictures`."""
    path = Path(__file__).parents[2] / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"docs_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table(heads: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    every = [heads, ("---",) * len(heads), *lines]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in every)


def joined(*parts: str) -> str:
    """Return the parts that are not empty as paragraphs."""
    return "\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"
