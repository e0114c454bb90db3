"""The built site: every page also as Markdown, no dead link, no stray directive; and what breaks a build."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import equipoise_docs
import pytest
from equipoise_docs import links, twins
from equipoise_docs.dead_links import dead_links
from equipoise_docs.relatives import Relation
from equipoise_docs.sections import SECTIONS, pages_of
from sphinx.errors import ExtensionError

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make docs` does."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "-q", "-j", "2", "-b", "html"]
    words = ["-d", str(out / "doctrees"), str(DOCS), str(out / "html")]
    done = subprocess.run([*command, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / "html"


@pytest.mark.slow
def test_the_site(site: Path) -> None:
    """Every page is also Markdown and listed; no link is dead, and nothing is loaded from elsewhere."""
    pages = {str(path.relative_to(site).with_suffix("")) for path in site.rglob("*.html")}
    pages -= {"search", "genindex", "py-modindex", "_static/explorer"}
    assert len(pages) > 200
    for page in pages:
        twin = (site / f"{page}.md").read_text()
        assert twin.startswith("# "), page
        assert not re.search(r"^```\{|^\.\. \w+::|:\w+:`", twin, re.MULTILINE), page
        html = (site / f"{page}.html").read_text()
        assert f'<link rel="alternate" type="text/markdown" href="{page.rpartition("/")[2]}.md" />' in html
        assert not re.search(r'<(?:script|link|img)[^>]*(?:src|href)="https?://(?!.*canonical)', html), page
    assert dead_links(site) == []
    assert links.missing(site / "objects.inv") == []
    listed = re.findall(r"^- \[[^\]]+\]\(([^)]+)\.md\): ", (site / "llms.txt").read_text(), re.MULTILINE)
    assert {*listed} == pages
    assert len(listed) == len(pages)
    whole = (site / "llms-full.txt").read_text()
    assert all((site / f"{page}.md").read_text().partition("\n")[0] in whole for page in pages)
    assert (site / ".nojekyll").exists()


@pytest.mark.slow
def test_what_readers_look_for(site: Path) -> None:
    """The page of a loss has its parts, names are links, and the search knows names and titles."""
    page = (site / "reference/losses/GammaCrossEntropy.html").read_text()
    assert "<mfrac>" in page
    assert "MathJax" not in page
    assert '<a class="reference internal" href="../api/equipoise.losses.html"' in page
    for title in (
        "Formula and effect",
        "Traits",
        "Numerics",
        "Statistics it reads",
        "Cost",
        "Relatives",
        "Source",
    ):
        assert f"<h2>{title}<" in page
    assert 'href="../losses/CrossEntropy.html"' in page or 'href="CrossEntropy.html"' in page
    index = (site / "searchindex.js").read_text()
    found = json.loads(index[index.index("{") : index.rindex("}") + 1])
    assert "equipoise.losses" in found["objects"]
    assert any("GammaCrossEntropy" in title for title in found["titles"])
    assert (site / "warnings/EQ001.html").exists()
    assert "<h1>Changelog<" in (site / "reference/files/CHANGELOG.html").read_text()


@pytest.mark.slow
def test_control_a_planted_dead_link_is_found(site: Path) -> None:
    """A dead link to a page, an anchor or a picture is found, in HTML and in Markdown."""
    planted = {
        "<a href='missing.html'>": "missing.html",
        "<a href='maps.html#missing'>": "maps.html#missing",
        "<img src='missing.svg'>": "missing.svg",
    }
    for tag, link in planted.items():
        (site / "planted.html").write_text(tag)
        assert dead_links(site) == [f"planted.html links to {link}"]
    (site / "planted.html").write_text(
        "<a href='maps.html'><a href='#here'><p id='here'><a href='https://x.y'>"
    )
    assert dead_links(site) == []
    (site / "planted.html").unlink()
    (site / "planted.md").write_text("[one](maps.md) [two](missing.md)\n\n```\n[three](missing.md)\n```\n")
    assert dead_links(site) == ["planted.md links to missing.md"]
    (site / "planted.md").unlink()


def test_a_false_relation_stops_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """A false statement about relatives raises before any page is made."""
    from equipoise_docs import relatives

    planted = (Relation("Focal(gamma=1)", relatives.EQUALS, "CrossEntropy()"),)
    monkeypatch.setattr(equipoise_docs, "false_relations", lambda: relatives.false_relations(planted))
    monkeypatch.setattr(equipoise_docs, "made_pages", lambda: pytest.fail("the build goes on"))
    with pytest.raises(ExtensionError, match=r"Focal\(gamma=1\)` equals .* It does not hold: "):
        equipoise_docs.write_pages(SimpleNamespace())  # pyright: ignore[reportArgumentType]


def test_a_name_without_a_page_stops_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A public name without a page raises at the end of the build."""
    monkeypatch.setattr(links, "missing", lambda inventory: ["equipoise.losses.New"])
    app = SimpleNamespace(builder=SimpleNamespace(format="html"), outdir=tmp_path)
    with pytest.raises(ExtensionError, match=r"must have a page, got none for equipoise\.losses\.New"):
        equipoise_docs.finish(app, None)  # pyright: ignore[reportArgumentType]


def test_every_page_is_in_one_section(tmp_path: Path) -> None:
    """A page is in the section of the table, or among the guides."""
    for name in (
        "index",
        "losses",
        "new_guide",
        "scope",
        "decisions/README",
        "decisions/0001-x",
        "warnings/EQ001",
    ):
        path = tmp_path / f"{name}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text("# x\n")
    assert pages_of(tmp_path) == {
        "Start": ["losses"],
        "Guides": ["new_guide"],
        "Reference": [],
        "Background": ["scope", "decisions/README"],
        "Extend": [],
    }
    assert list(SECTIONS) == ["Start", "Guides", "Reference", "Background", "Extend"]


@pytest.mark.parametrize(
    ("link", "place"),
    [
        ("maps.md", "maps.md"),
        ("maps.md#x", "maps.md#x"),
        ("../examples/scheduled.py", "reference/examples/scheduled.md"),
        ("decisions", "decisions/README.md"),
        ("warnings", "reference/warnings.md"),
        ("../README.md", "index.md"),
        ("../CHANGELOG.md", "reference/files/CHANGELOG.md"),
        ("https://pytorch.org/a.md", "https://pytorch.org/a.md"),
        ("missing.md", "missing.md"),
    ],
)
def test_links_to_the_repository_lead_to_the_site(link: str, place: str) -> None:
    """Links to files of the repository lead to their pages; code is left as it is."""
    assert links.on_site(f"[a]({link})", DOCS, "here") == f"[a]({place})"
    assert links.on_site(f"```\n[a]({link})\n```\n", DOCS, "here") == f"```\n[a]({link})\n```\n"


def test_first_sentences() -> None:
    """The first sentence of a page is found behind titles, pictures and code."""
    text = (
        "# T\n\n![p](p.svg)\n\n```python\nx = 1\n\ny = 2\n```\n\n**A [link](a.md)**: see\n0.5. Then `more`.\n"
    )
    assert twins.first_sentence(text) == "A link: see 0.5."
    assert twins.first_sentence("# T\n") == ""
    assert twins.from_root("[a](../b/c.md#d) ![e](f.svg) [g](https://h.i)", "x/y") == (
        "[a](b/c.md#d) ![e](x/f.svg) [g](https://h.i)"
    )
