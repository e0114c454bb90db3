import html.parser
import re

import numpy as np
import pytest

from equipoise.compare import figures

NASTY = '<script>alert("x")</script> & $a_b$'


class Page(html.parser.HTMLParser):
    """What a page holds: tags with their attributes, ids, and references to elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.elsewhere, self.inside = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "srcset", "action", "data", "poster", "xlink:href") and value:
                (self.inside if value.startswith(("#", "data:")) else self.elsewhere).append(value)


def external(text):
    """Anything in a page that would have to be fetched."""
    styles = re.findall(r"@import[^;]*|url\((?!#|data:)[^)]*\)", text)
    return Page(text).elsewhere + styles + re.findall(r"https?://", text)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of a table whose classes and columns try to break it."""
    from equipoise.cli import main

    folder = tmp_path_factory.mktemp("report")
    path = folder / "fruit & nuts.csv"
    generator = np.random.default_rng(0)
    rows = [
        f'{generator.normal() + k % 2},"{("a" + NASTY.replace(chr(34), chr(34) * 2), "b")[k % 2]}"'
        for k in range(80)
    ]
    path.write_text("\n".join(["<b>weight</b>,<i>kind</i>", *rows]))
    words = ["--target", "<i>kind</i>", "--objective", "CrossEntropy() + 0.1 * Entropy()", "--noise", "0.2"]
    small = [
        "--seeds",
        "3",
        "--epochs",
        "2",
        "--width",
        "4",
        "--jobs",
        "1",
        "--json",
        "--out",
        str(folder / "out"),
    ]
    assert main(["compare", str(path), *words, *small]) == 0
    return (folder / "out" / "report.html").read_text()


def test_the_report_needs_no_network_and_no_script(page):
    assert external(page) == []
    fetching = ("script", "link", "iframe", "object", "embed", "img")
    assert [attributes for tag, attributes in Page(page).tags if tag in fetching] == [
        {"rel": "icon", "href": "data:,"}
    ]
    assert not any(name.startswith("on") for _, attributes in Page(page).tags for name in attributes)


@pytest.mark.parametrize(
    "planted",
    [
        '<script src="https://example.org/x.js"></script>',
        '<img src="picture.png">',
        "<style>@import url(https://example.org/x.css)</style>",
        '<a href="http://example.org">x</a>',
    ],
)
def test_control_a_reference_to_elsewhere_is_seen(page, planted):
    assert external(page.replace("</main>", planted + "</main>"))


def test_names_from_the_data_are_text(page):
    assert NASTY not in page
    assert "<b>weight</b>" not in page
    assert "<i>kind</i>" not in page
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt; &amp; $a_b$" in page
    assert "fruit &amp; nuts.csv" in page


def test_ids_are_unique_and_what_is_referred_to_is_there(page):
    seen = Page(page)
    assert len(seen.ids) == len(set(seen.ids)) > 20
    targets = set(re.findall(r"url\(#([^)]+)\)", page)) | {
        ref[1:] for ref in seen.inside if ref.startswith("#")
    }
    assert targets
    assert targets == set(seen.ids)


def test_every_picture_says_what_it_shows(page):
    pictures = [attributes for tag, attributes in Page(page).tags if tag == "svg"]
    assert len(pictures) == 2 * 2 + 2
    assert all(attributes["role"] == "img" and len(attributes["aria-label"]) > 20 for attributes in pictures)
    assert page.count("<title>") == len(pictures) + 1


def test_the_page_says_what_was_asked(page):
    for wanted in (
        "plain cross entropy",
        "equipoise compare",
        "of the training labels flipped (--noise 0.2), validation labels alike, test labels never",
        "one hidden layer of 4 (mlp); 2 epochs, batches of 128",
        "40 rows to train, 8 to watch training, 32 to test",
        "loss = CrossEntropy()",
        "torch 2",
        "&#39;CrossEntropy() + 0.1 * Entropy()&#39;",
        "All measures",
    ):
        assert wanted in page, wanted


def test_pictures_follow_the_colours_of_the_page():
    confidence = np.linspace(0.3, 1, 50)
    svg = figures.reliability("one", "reliability of <x> & y", confidence, confidence > 0.6)
    assert "var(--ink)" in svg
    assert not re.search(r"#(0[1-7])\1\1", svg)
    assert 'aria-label="reliability of &lt;x&gt; &amp; y"' in svg
    assert svg.startswith("<svg ")
    assert svg.endswith("</svg>")
    assert svg == figures.reliability("one", "reliability of <x> & y", confidence, confidence > 0.6)
    ids = set(re.findall(r' id="([^"]+)"', svg))
    others = set(re.findall(r' id="([^"]+)"', figures.reliability("two", "t", confidence, confidence > 0.6)))
    assert ids
    assert ids.isdisjoint(others)


def test_pictures_stand_missing_values():
    curve = [{"epoch": 0, "accuracy": 0.1, "nll": 2.0}, {"epoch": 1, "accuracy": 0.2, "nll": None}]
    assert "<svg" in figures.curves("c", "curves", [curve, curve], None)
    nan = float("nan")
    assert "<svg" in figures.interval("i", "interval", nan, 0.2, nan, 0.3, "undecided")
