"""The list of the warnings of the command; their pages are written by hand, in docs/warnings."""

from collections.abc import Iterator
from pathlib import Path

from equipoise.compare.codes import WARNINGS
from equipoise_docs.pages import Page, joined, table

DOCS = Path(__file__).parents[2]


def warning_pages() -> Iterator[Page]:
    """Yield the list of the warnings.

    Raises:
        ValueError: If a warning has no page, or a page no warning.
    """
    codes, pages = {kind.code for kind in WARNINGS}, {path.stem for path in (DOCS / "warnings").glob("*.md")}
    if codes != pages:
        raise ValueError(
            "each warning must have a page in docs/warnings, got codes without a page: "
            f"{sorted(codes - pages)}, pages without a code: {sorted(pages - codes)}"
        )
    lines = [(f"[{kind.code}](../warnings/{kind.code}.md)", kind.title) for kind in WARNINGS]
    text = (
        "`equipoise compare` and its report put a code after each warning about data and objectives. The "
        "page of a code says what it means and what to do, and has a case that gives it."
    )
    yield Page(
        "reference/warnings", joined("# Warnings of the command", text, table(("code", "warning"), lines))
    )
