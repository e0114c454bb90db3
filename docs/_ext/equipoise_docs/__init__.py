"""Sphinx extension of the site: pages from the tables and docstrings, their Markdown, and checks of both."""

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

from equipoise import explorer
from equipoise_docs import links, mathml, names, twins
from equipoise_docs.dead_links import dead_links
from equipoise_docs.links import DOCS, FILES, on_site
from equipoise_docs.pages import Page
from equipoise_docs.relatives import false_relations
from equipoise_docs.sections import GENERATED, LISTED, listed_by, toctree, toctrees

EXPLORER = "_static/explorer.html"  # its place in the site


def made_pages() -> dict[str, Page]:
    """Return the pages that the build makes, by name."""
    from equipoise_docs.api import api_pages
    from equipoise_docs.examples import example_pages
    from equipoise_docs.objectives import objective_pages
    from equipoise_docs.warning_pages import warning_pages

    made = (*objective_pages(), *api_pages(), *example_pages(), *warning_pages())
    return {page.name: page for page in made}


def write_pages(app: Sphinx) -> None:
    """Write the pages that the build makes, and remove those of an earlier build that are no longer made.

    Raises:
        ExtensionError: If a statement about relatives does not hold.
    """
    if wrong := false_relations():
        raise ExtensionError("docs/_ext/equipoise_docs/relatives.py: " + " ".join(wrong))
    app.made_pages = made_pages()  # pyright: ignore[reportAttributeAccessIssue]
    kept: set[Path] = set()
    for page in app.made_pages.values():  # pyright: ignore[reportAttributeAccessIssue]
        path = DOCS / f"{page.name}.md"
        files = {path: page.text, **{path.parent / name: svg for name, svg in page.pictures.items()}}
        kept |= {*files}
        for file, text in files.items():
            write_if_changed(file, text)
    for path in (DOCS / GENERATED).rglob("*"):
        if path.is_file() and path not in kept:
            path.unlink()
    # Files that pages link to, and the two that are pages themselves.
    for name in ("CHANGELOG.md", "CONTRIBUTING.md"):
        links.place(DOCS.parent / name)
    for path in DOCS.rglob("*.md"):
        if not path.is_relative_to(DOCS / "_build"):
            on_site(path.read_text(), path.parent, str(path.relative_to(DOCS).with_suffix("")))


def write_if_changed(path: Path, text: str) -> None:
    """Write a file unless it has this text, so that Sphinx reads only changed pages again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def complete(app: Sphinx, page: str, source: list[str]) -> None:
    """Add the tables of contents to a page, and lead its links to pages of the site."""
    del app
    text = source[0] if page.startswith(FILES) else on_site(source[0], (DOCS / page).parent, page)
    if page == "index":
        text += toctrees(DOCS)
    elif page == "explorer":
        title, _, rest = text.partition("\n\n")
        text = f'{title}\n\n<p><a href="{EXPLORER}"><strong>Open the explorer</strong></a></p>\n\n{rest}'
    elif listed := listed_by(page, DOCS):
        text += toctree(listed)
    source[0] = text


def listers_again(app: Sphinx, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """Return the pages with tables of contents, which change as other pages come and go."""
    del env, added, changed, removed
    modules = {f"reference/api/{name}" for name in names.modules()}
    return sorted({"index", *LISTED.values(), *modules} & app.env.found_docs)


def describe(app: Sphinx, document: nodes.document) -> None:
    """Enter the public names that a page describes in the inventory and in the search."""
    page = app.made_pages.get(app.env.docname)  # pyright: ignore[reportAttributeAccessIssue]
    if page is None:
        return
    anchors = {
        section.next_node(nodes.title).astext(): section["ids"][0]  # pyright: ignore[reportOptionalMemberAccess]
        for section in document.findall(nodes.section)
    }
    python = app.env.domains.python_domain
    for each in page.described:
        if each.kind == "module":
            python.note_module(each.full, anchors[each.heading], "", "", False)
        python.note_object(each.full, each.kind, anchors[each.heading])


def add_markdown(app: Sphinx, page: str, template: str, context: dict[str, Any], document: Any) -> None:
    """Add the address of the Markdown of a page to its head."""
    del template, document
    if page in app.env.found_docs:
        context["markdown"] = f"{page.rpartition('/')[2]}.md"
        link = f'<link rel="alternate" type="text/markdown" href="{context["markdown"]}" />'
        context["metatags"] = context.get("metatags", "") + link


def finish(app: Sphinx, error: Exception | None) -> None:
    """Write the Markdown of the site and the explorer, and check that every public name has a page."""
    if error is None and app.builder.format == "html":
        links.require_names(app)
        twins.write_twins(app)
        explorer.write(Path(app.outdir, EXPLORER))
        if dead := dead_links(Path(app.outdir)):
            raise ExtensionError("; ".join(dead))


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the extension."""
    mathml.setup(app)
    app.add_config_value("description", "", "env")
    app.add_post_transform(links.LinkNames)
    app.connect("builder-inited", write_pages)
    app.connect("env-get-outdated", listers_again)
    app.connect("source-read", complete)
    app.connect("doctree-read", describe)
    app.connect("html-page-context", add_markdown)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
