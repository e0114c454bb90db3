"""Each warning of the command has a code, a page, and a case on it that gives it."""

import re
import warnings
from pathlib import Path

import pytest
from equipoise_docs import warning_pages

from equipoise.compare import codes
from equipoise.compare.codes import WARNINGS, with_code

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "warnings"


def block_of(page: str) -> str:
    """Return the code of a page."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE))


def test_codes_are_in_order_and_used() -> None:
    """Codes are numbered without gaps, and each is given in one place."""
    assert [kind.code for kind in WARNINGS] == [f"EQ{place:03}" for place in range(1, len(WARNINGS) + 1)]
    source = "".join(
        path.read_text() for path in (ROOT / "src/equipoise/compare").glob("*.py") if path.stem != "codes"
    )
    used = re.findall(r'with_code\(\s*"(EQ\d+)"', source)
    assert sorted(used) == [kind.code for kind in WARNINGS]  # each in one place
    with pytest.raises(KeyError, match="EQ999"):
        with_code("EQ999", "anything")


def test_each_code_has_a_page_and_each_page_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each code has a page with its title; a code or a page alone is refused."""
    (page,) = warning_pages.warning_pages()
    for kind in WARNINGS:
        text = (PAGES / f"{kind.code}.md").read_text()
        assert text.startswith(f"# {kind.code}: {kind.title[0].lower()}{kind.title[1:]}\n")
        assert "**What to do.**" in text
        assert f"](../warnings/{kind.code}.md)" in page.text
    for planted in (WARNINGS[:-1], (*WARNINGS, codes.Kind("EQ999", "New"))):
        monkeypatch.setattr(warning_pages, "WARNINGS", planted)
        with pytest.raises(ValueError, match=r"must have a page in docs/warnings, got .*EQ"):
            list(warning_pages.warning_pages())


@pytest.mark.parametrize("kind", WARNINGS, ids=lambda kind: kind.code)
def test_a_page_shows_a_case_and_its_warning(kind: codes.Kind) -> None:
    """`test_docs` runs the case, and compares what it prints with what is shown."""
    text = (PAGES / f"{kind.code}.md").read_text()
    (shown,) = re.findall(r"^```python\n.*?^```\n\n```\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert f"[{kind.code}]" in shown


@pytest.mark.slow
def test_control_without_the_mistake_there_is_no_warning(capsys: pytest.CaptureFixture[str]) -> None:
    """The case of a page without its mistake gives no warning."""
    code = block_of((PAGES / "EQ002.md").read_text())
    assert "np.ones(120)" in code
    right = code.replace("np.ones(120)", "rng.normal(size=120)").replace(
        "print(said[0].message)", "print(said)"
    )
    with warnings.catch_warnings():
        exec(compile(right, "EQ002", "exec"), {})
    assert capsys.readouterr().out == "[]\n"
