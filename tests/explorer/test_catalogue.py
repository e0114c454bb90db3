"""What the explorer offers is what the package has, and the page is one file."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from equipoise import explorer, losses, maps, penalties
from equipoise.explorer import catalogue
from equipoise.losses import LOSSES
from equipoise.maps import MAPS
from equipoise.penalties import PENALTIES
from support.explorer_states import ENTRIES, loss_of, map_of
from support.report_pages import Page, external

FOLDER = Path(explorer.__file__).parent
SCRIPTS = sorted(FOLDER.glob("*.js"))
CLASSES = 4
STATE: dict[str, Any] = {
    "loss": "CrossEntropy",
    "settings": {"label_smoothing": 0.0},
    "penalty": "",
    "penaltyWeight": 1.0,
    "penaltySettings": {},
}


def test_the_file_is_what_the_tables_make() -> None:
    """The stored catalogue is made of the tables, and a changed number is seen."""
    stored = catalogue.FILE.read_text("utf-8")
    assert catalogue.written() == stored, "run python -m equipoise.explorer.catalogue"
    assert catalogue.written() != stored.replace('"default": 0.1', '"default": 0.2', 1)


@pytest.mark.parametrize(("kind", "table"), [("losses", LOSSES), ("penalties", PENALTIES), ("maps", MAPS)])
def test_every_entry_is_there_or_left_out_with_a_reason(kind: str, table: Any) -> None:
    """Each loss, penalty and map is offered and has a formula in the scripts, or is left out by name."""
    names = {entry.name for entry in table}
    assert names - set(ENTRIES[kind]) == names & set(catalogue.LEFT_OUT)
    assert set(ENTRIES[kind]) <= names
    text = "".join(path.read_text("utf-8") for path in SCRIPTS)
    start = {"losses": "const LOSSES = {", "penalties": "const PENALTIES = {", "maps": "const MAPS = {"}[kind]
    block = text[text.index(start) :]
    block = block[: block.index("\n};\n")]
    assert set(re.findall(r"^  (\w+)(?:\(|:)", block, re.MULTILINE)) == set(ENTRIES[kind])


def test_only_what_has_no_single_row_is_left_out() -> None:
    """Balance is of a batch, GumbelSoftmax is random; every loss is there."""
    assert set(catalogue.LEFT_OUT) == {"Balance", "GumbelSoftmax"}
    assert len(ENTRIES["losses"]) == len(LOSSES)


SETTINGS = [
    (kind, name, setting["name"])
    for kind in ENTRIES
    for name, entry in ENTRIES[kind].items()
    for setting in entry["settings"]
]


def made(kind: str, name: str, changed: dict[str, Any]) -> Any:
    """Return a loss, penalty or map at its defaults, with some settings changed."""
    settings = {each["name"]: each["default"] for each in ENTRIES[kind][name]["settings"]} | changed
    if kind == "maps":
        return map_of({"map": name, "mapSettings": settings})
    if kind == "penalties":
        return loss_of(STATE | {"penalty": name, "penaltySettings": settings}, CLASSES)
    return loss_of(STATE | {"loss": name, "settings": settings}, CLASSES)


@pytest.mark.parametrize(("kind", "name", "setting"), SETTINGS, ids=lambda each: str(each))
def test_the_limits_are_those_of_the_class(kind: str, name: str, setting: str) -> None:
    """All values of a setting are accepted; beyond limits of the docstring the class raises."""
    shown = next(each for each in ENTRIES[kind][name]["settings"] if each["name"] == setting)
    for value in shown.get("choices", ()) or (
        shown["least"],
        shown["most"],
        shown["default"],
        shown["start"],
    ):
        made(kind, name, {setting: value})
    described = shown["text"].split(".")[0]
    if re.match(r"In \[|At least", described):
        with pytest.raises(ValueError, match=f"{setting} must"):
            made(kind, name, {setting: shown["least"] - 1e-3})
    if re.match(r"In \[0, 1\]", described):
        with pytest.raises(ValueError, match=f"{setting} must"):
            made(kind, name, {setting: shown["most"] + 1e-3})


def test_a_description_without_a_range_needs_limits() -> None:
    """A setting whose docstring names no range is refused, as is one without a description."""
    with pytest.raises(ValueError, match=r"text must begin with the range of the option, got 'Any number'"):
        catalogue.limits("Any number")
    with pytest.raises(ValueError, match=r"delta must be described in the docstring of Focal, got none"):
        catalogue.describe(losses.Focal, "delta")


def test_defaults_are_those_of_the_package() -> None:
    """The page starts at the defaults of the classes."""
    for name, setting in (
        ("Focal", "gamma"),
        ("GammaCrossEntropy", "gamma"),
        ("SymmetricCrossEntropy", "log_zero"),
    ):
        shown = next(each for each in ENTRIES["losses"][name]["settings"] if each["name"] == setting)
        assert shown["default"] == getattr(getattr(losses, name)(), setting)
    assert made("penalties", "LogitRange", {}).terms()[1][1] == penalties.LogitRange(width=4)
    assert made("maps", "Floored", {}) == maps.Floored(0.01)


@pytest.mark.parametrize("kind", ENTRIES)
def test_each_has_a_sentence_and_a_formula(kind: str) -> None:
    """Each entry has a sentence and a formula with closed braces."""
    for name, entry in ENTRIES[kind].items():
        assert entry["sentence"].endswith("."), name
        assert entry["formula"], name
        assert entry["formula"].count("{") == entry["formula"].count("}"), name


def test_the_page_is_one_file() -> None:
    """The page refers to nothing outside it, and to no id that is missing."""
    text = explorer.page()
    assert not re.search(r"\{\{ \w+ \}\}", text)
    found = [each for each in external(text) if each != "http://"]
    assert found == [], found
    assert text.count("http://www.w3.org/2000/svg") == 1  # a namespace, which nothing fetches
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    referred = re.findall(r'(?:for|aria-labelledby)="([^"]+)"', text) + re.findall(
        r'byId\("([\w-]+)"\)', text
    )
    assert set(referred) <= set(page.ids)


def test_control_a_request_is_found() -> None:
    """A planted import and a planted picture are found."""
    assert external(explorer.page().replace("</style>", "@import url(x.css);</style>"))
    assert external(explorer.page().replace("<main>", '<main><img src="x.png">'))


def test_files_are_short() -> None:
    """No file of the explorer has more than 400 lines."""
    files = [path for path in FOLDER.iterdir() if path.is_file()]
    assert {path.suffix for path in files} == {".py", ".js", ".json", ".css", ".html"}
    assert all(len(path.read_text("utf-8").splitlines()) <= 400 for path in files)


def test_no_script_closes_the_element_it_is_in() -> None:
    """No script or style ends its element early, and the catalogue in the page is the stored one."""
    text = explorer.page()
    assert text.count("</script>") == text.count("</style>") == text.count("</body>") == 1
    start, end = text.index("const CATALOGUE = ") + len("const CATALOGUE = "), text.index(";\n/*")
    assert json.loads(text[start:end]) == json.loads(catalogue.FILE.read_text("utf-8"))
