"""Which pages are in which section of the site; a page that is in none is a guide."""

from fnmatch import fnmatchcase
from pathlib import Path

from equipoise_docs import names

SECTIONS: dict[str, tuple[str, ...]] = {
    "Start": ("choose", "explorer", "losses", "maps", "migration"),
    "Guides": ("guides/*",),
    "Reference": (
        "reference/losses",
        "reference/penalties",
        "reference/maps",
        "reference/schedules",
        "reference/family",
        "reference/api",
        "reference/warnings",
        "configuration",
    ),
    "Background": (
        "numerics",
        "one_function_three_names",
        "threshold_primitive",
        "spurious_minima",
        "temperature_and_noise",
        "fair_trial",
        "stopping",
        "speed",
        "scope",
        "decisions/README",
        "reference/files/CHANGELOG",
    ),
    "Extend": ("extend", "deprecation", "reference/files/CONTRIBUTING"),
}
GENERATED = "reference"  # the folder of pages that are made by the build
# Folders with a page that lists their pages, and that page.
LISTED = {
    "decisions": "decisions/README",
    "warnings": "reference/warnings",
    **{
        f"reference/{name}": f"reference/{name}"
        for name in ("losses", "penalties", "maps", "schedules", "api")
    },
    "reference/examples": "reference/examples",
}


def pages_of(folder: Path) -> dict[str, list[str]]:
    """Return the pages of each section of a folder of documents, without the pages that another one lists."""
    every = sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.md"))
    free = [
        page
        for page in every
        if page != "index" and not page.startswith("_") and LISTED.get(str(Path(page).parent), page) == page
    ]
    found: dict[str, list[str]] = {title: [] for title in SECTIONS}
    for title, patterns in SECTIONS.items():
        for pattern in patterns:
            found[title] += [page for page in free if fnmatchcase(page, pattern) and page not in found[title]]
    placed = {page for pages in found.values() for page in pages}
    found["Guides"] = [page for page in free if page not in placed] + found["Guides"]
    return found


def toctrees(folder: Path) -> str:
    """Return the tables of contents of the index."""
    trees = pages_of(folder).items()
    return "".join(toctree(pages, caption=title) for title, pages in trees if pages)


def listed_by(page: str, folder: Path) -> list[str]:
    """Return the pages in the table of contents of a page that lists others: of a folder, or of a module."""
    module = page.removeprefix("reference/api/")
    if page == "reference/api":
        return [f"reference/api/{name}" for name in names.modules()]
    if module in names.modules():
        return [
            name
            for name in below("reference/api", folder)
            if name.rpartition(".")[0] == page and name.removeprefix("reference/api/") not in names.modules()
        ]
    return below(page, folder)


def below(page: str, folder: Path) -> list[str]:
    """Return all pages of the folders that a page lists."""
    under = [name for name, lister in LISTED.items() if lister == page]
    return [
        str(path.relative_to(folder).with_suffix(""))
        for name in under
        for path in sorted((folder / name).glob("*.md"), key=lambda path: path.stem.lower())
        if str(path.relative_to(folder).with_suffix("")) != page
    ]


def toctree(pages: list[str], *, caption: str = "") -> str:
    """Return a hidden table of contents."""
    head = f":caption: {caption}\n" if caption else ""
    return "\n\n```{toctree}\n:hidden:\n" + head + "\n" + "".join(f"/{page}\n" for page in pages) + "```\n"
