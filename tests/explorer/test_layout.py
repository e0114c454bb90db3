"""The page as it is seen and heard: widths, phone, dark, focus, texts of pictures, findings of axe."""

from pathlib import Path
from typing import Any

import pytest

from support.browser import Visit, browser_is_missing
from support.explorer_states import BUSY, NOISY, the_page
from support.report_pages import axe_is_missing, judged_by_axe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser_is_missing() != "", reason=browser_is_missing() or "never"),
]


def test_all_controls_are_reached_by_tab_and_show_it(visit: Visit) -> None:
    """Tab reaches each control, which has an outline then."""
    page = visit.page
    visit.go(BUSY)
    wanted = page.evaluate(
        """[...document.querySelectorAll('a, select, button, summary, input, [tabindex="0"]')]
          .filter(each => each.checkVisibility() && each.getClientRects().length)
          .filter(each => each.tagName === 'SUMMARY' || !each.closest('details:not([open])'))
          .filter(each => each.type !== 'radio' || each.checked).length"""
    )
    page.evaluate("document.activeElement.blur()")
    seen = set()
    for _ in range(wanted + 20):
        page.keyboard.press("Tab")
        outline, name = page.evaluate(
            """(() => {
              const each = document.activeElement;
              const place = [...document.querySelectorAll('*')].indexOf(each);
              return [getComputedStyle(each).outlineStyle, each === document.body ? -1 : place];
            })()"""
        )
        if name < 0:
            break
        assert outline != "none", page.evaluate("document.activeElement.outerHTML")
        seen.add(name)
    assert len(seen) == wanted


@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("hash", ["", BUSY, NOISY], ids=["start", "busy", "noisy"])
def test_nothing_is_wider_than_the_window(browser: Any, path: Path, width: int, hash: str) -> None:
    """Nothing is wider than the window, no label of a chart is cut off, no chart is tiny."""
    with Visit(browser, path, hash, viewport={"width": width, "height": 800}) as made:
        made.page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        made.page.wait_for_timeout(300)
        assert made.page.evaluate("document.documentElement.scrollWidth") <= width
        drawn = "[...document.querySelectorAll('line-chart, simplex-plot')].map(each => each.clientWidth)"
        assert min(made.page.evaluate(drawn)) >= (270 if width < 500 else 200)
        clipped = made.page.evaluate(
            """[...document.querySelectorAll('line-chart svg, simplex-plot svg')].flatMap(svg => {
              const box = svg.getBoundingClientRect();
              return [...svg.querySelectorAll('text')].filter(text => {
                const own = text.getBoundingClientRect();
                return own.left < box.left - 1 || own.right > box.right + 1 ||
                  own.bottom > box.bottom + 1 || own.top < box.top - 1;
              }).map(text => text.textContent);
            })"""
        )
        assert clipped == []
        assert made.errors == []


def test_each_picture_has_words_and_a_table(visit: Visit) -> None:
    """Each chart has a text alternative and a table, which follow the settings."""
    page = visit.page
    page.wait_for_timeout(300)
    for label in page.eval_on_selector_all(
        "line-chart svg", "all => all.map(each => each.getAttribute('aria-label'))"
    ):
        assert "The table below has the curve." in label
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    page.wait_for_timeout(100)
    assert page.locator("#row-table tbody tr").count() == 21
    assert page.locator("#three-curve tbody tr").count() == 29
    assert page.locator("#map-table tbody tr").count() == 21
    assert "Truth: A 0.6" in page.locator("#simplex desc").text_content()
    before = page.inner_text("#row-table")
    page.select_option("#loss", "Poly")
    page.wait_for_timeout(300)
    assert page.inner_text("#row-table") != before
    assert page.inner_text("#status").startswith("Loss ")


def test_nothing_moves_by_itself(browser: Any, path: Path) -> None:
    """The page has no animation, and scrolls at once where less motion is wanted."""
    with Visit(browser, path, reduced_motion="reduce") as made:
        assert made.page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
        assert made.page.evaluate("document.getAnimations().length") == 0
    with Visit(browser, path) as made:
        assert made.page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "smooth"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("hash", ["", BUSY, NOISY], ids=["start", "busy", "noisy"])
@pytest.mark.skipif(axe_is_missing() != "", reason=axe_is_missing() or "never")
def test_axe_finds_nothing(tmp_path: Path, dark: bool, width: int, hash: str) -> None:
    """axe has no finding of any impact, in light and dark, on a desktop and a phone."""
    assert judged_by_axe(the_page(), tmp_path, dark=dark, width=width, hash=f"#{hash}") == []


@pytest.mark.skipif(axe_is_missing() != "", reason=axe_is_missing() or "never")
def test_control_axe_finds_planted_faults(tmp_path: Path) -> None:
    """Poor contrast and a missing label are found."""
    text = the_page().replace("--muted: #566070", "--muted: #b8bec8").replace('<label for="loss">', "<label>")
    found = judged_by_axe(text, tmp_path, dark=False, width=1280)
    assert {each.split()[1] for each in found} == {"color-contrast", "select-name"}
