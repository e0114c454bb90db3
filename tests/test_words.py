"""Source and pages use the words of the field, and each test states its claim in its docstring."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Whole words, where an underscore separates words too, so that identifiers are read.
METAPHOR = re.compile(
    r"(?<![^\W_])"
    r"(waists?|houses?|rooms?|heats?|heated|(let|lets|letting)\s+go|looks?\s+on)"
    r"(?![^\W_])|(?<![^\W_])"
    r"(mends?|mended|told|asked\s+of)"
    r"(?![^\W_])",
    re.IGNORECASE,
)
SPELL = re.compile(r"(?<![^\W_])spell(s|ed|ing|ings)?(?![^\W_])", re.IGNORECASE)


def files() -> list[Path]:
    """Return Python, C++, scripts and templates of src, examples and benchmarks, and the pages of docs."""
    code = [
        path
        for folder in ("src", "examples", "benchmarks")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".h", ".cpp", ".js", ".html", ".jinja"}
    ]
    docs = ROOT / "docs"
    own = [path for folder in (docs, docs / "warnings") for path in folder.glob("*.md")]
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *own]
    return sorted([*code, *pages, *docs.glob("*.py"), *docs.glob("_ext/*/*.py")])


def metaphors(text: str) -> list[str]:
    """Return "line: words" of each metaphor in a text."""
    return [f"{text.count(chr(10), 0, found.start()) + 1}: {found[0]}" for found in METAPHOR.finditer(text)]


def spelled(source: str) -> list[str]:
    """Return "line: name" of each identifier of Python with the word `spell`."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [f"{t.start[0]}: {t.string}" for t in tokens if t.type == tokenize.NAME and SPELL.search(t.string)]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_metaphors(path: Path) -> None:
    """No file has a word of the list of metaphors."""
    text = path.read_text()
    assert not metaphors(text)
    if path.suffix == ".py":
        assert not spelled(text)


def test_all_kinds_of_files_are_read() -> None:
    """The check reads each kind of file."""
    assert {path.suffix for path in files()} == {".py", ".h", ".cpp", ".js", ".html", ".jinja", ".md"}
    assert len(files()) > 150


@pytest.mark.parametrize(
    "planted",
    [
        "# the waist of the library",
        "// leaves room for a sum",
        "a loss that lets\ngo of labels",
        "told = 1",
        "_told_once = 1",
        "what is asked of a row",
    ],
)
def test_a_planted_metaphor_is_found(planted: str) -> None:
    """A planted metaphor is found."""
    clean = (
        '"""Return the log-sum-exp."""\nheather, mushroom, household, amended = go, letting, looks, asked\n'
    )
    assert not metaphors(clean)
    found = metaphors(f"{clean}{planted}\n")
    assert len(found) == 1
    assert found[0].startswith("3: ")


def test_a_planted_identifier_is_found() -> None:
    """A planted identifier is found."""
    clean = '"""Spell it alike."""\ndispel = misspelt = 1  # spelled\n'
    assert not spelled(clean)
    assert spelled(f"{clean}def _spell_text(spelling): ...\n") == ["3: _spell_text", "3: spelling"]


def without_docstring(source: str) -> list[str]:
    """Return the names of the test functions and methods without a docstring."""
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return [each.name for each in found if each.name.startswith("test_") and not ast.get_docstring(each)]


def test_each_test_states_its_claim() -> None:
    """Each test function has a docstring."""
    sources = {path: path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    assert {path: names for path, text in sources.items() if (names := without_docstring(text))} == {}
    assert sum(text.count("def test_") for text in sources.values()) > 1400


def test_a_test_without_a_claim_is_found() -> None:
    """A function and a method without a docstring are found; helpers need none."""
    documented = 'def test_one():\n    """One is one."""\n\n\ndef helper(): ...\n'
    assert without_docstring(documented) == []
    planted = documented + "def test_two(): ...\nclass TestThree:\n    def test_three(self): ...\n"
    assert without_docstring(planted) == ["test_two", "test_three"]
