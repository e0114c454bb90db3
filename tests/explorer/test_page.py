"""The page as it is used: sliders, keys, pointer, history, phone, dark, and what axe says of it."""

import random
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from equipoise.label_noise import convert
from support.browser import Visit, browser_is_missing, started
from support.explorer_states import ENTRIES, even_logits, loss_of, map_of, random_states, row_of, the_page
from support.report_pages import axe_is_missing, judged_by_axe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser_is_missing() != "", reason=browser_is_missing() or "never"),
]

BUSY = (
    "loss=Reweighted&penalty=LogitRange&penalty.weight=0.5&noise=0.3&truth=0.7,0.2,0.1&map=Projected&axis=odds"
    "&beside=loss%3DFocal%26loss.gamma%3D3"
)
NOISY = "loss=GammaCrossEntropy&loss.gamma=0.25&noise=0.4&truth=0.8,0.15,0.05&map=ClippedLogits"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started() as found:
        yield found


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("page") / "explorer.html"
    made.write_text(the_page(), encoding="utf-8")
    return made


@pytest.fixture
def visit(browser: Any, path: Path) -> Iterator[Visit]:
    """Return a page that must end without errors and without a request but for itself."""
    with Visit(browser, path) as made:
        yield made
        assert made.errors == []
        assert set(made.requests) == {made.address}


def test_control_a_request_and_an_error_are_seen(browser: Any, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.html"
    planted = "<img src='elsewhere.png' alt=''><script>none.there;</script></main>"
    other.write_text(path.read_text("utf-8").replace("</main>", planted))
    with Visit(browser, other) as made:
        assert len(made.requests) == 2
        assert any("none is not defined" in error for error in made.errors)


def test_everything_that_can_be_chosen_is_drawn(visit: Visit) -> None:
    for kind, name in (("losses", "loss"), ("penalties", "penalty"), ("maps", "map")):
        assert visit.page.eval_on_selector_all(f"#{name} option", "all => all.map(each => each.value)") == [
            *([""] if name == "penalty" else []),
            *ENTRIES[kind],
        ]
        for each in ENTRIES[kind]:
            visit.page.select_option(f"#{name}", each)
            assert visit.text(f"{name}-sentence") == ENTRIES[kind][each]["sentence"]
            shown = visit.page.eval_on_selector_all(
                f"#{name}-settings :is(number-slider, .choice):not([hidden]) label",
                "all => all.map(each => each.textContent)",
            )
            at_first = [
                setting["name"]
                for setting in ENTRIES[kind][each]["settings"]
                if not setting["when"] or setting["when"][1] in ("ordered", "TaiLrWeight")
            ]
            assert [label for label in shown if label not in ("weight", "gap of the logits")] == [
                label for label in at_first if label != "weight"
            ]
    assert visit.page.locator("line-chart svg path.series").count() >= 11


def as_number(text: str) -> float:
    """Return the number of a text as the page writes it."""
    return 1 - float(text.removeprefix("1 - ")) if text.startswith("1 - ") else float(text)


def test_what_is_on_the_screen_is_what_the_library_computes(visit: Visit) -> None:
    """To the four digits shown."""
    for given in random_states(60, seed=5):
        visit.go(visit.page.evaluate("given => hashOf(valid(given))", given))
        state = visit.page.evaluate("state")
        row = row_of(loss_of(state, state["classes"]), even_logits(state), 0)
        for name, value in (
            ("value", row["value"]),
            ("gradient", row["gradient"][0]),
            ("weight", row["weight"]),
        ):
            assert as_number(visit.text(f"row-{name}")) == pytest.approx(value, rel=6e-3, abs=1e-12), (
                name,
                state,
            )
        least = map_of(state).min_prob(state["classes"])
        assert as_number(visit.text("map-least").removesuffix(": nothing is guaranteed")) == pytest.approx(
            least, rel=6e-3, abs=1e-12
        )


def test_states_survive_the_address(visit: Visit) -> None:
    states = random_states(300, seed=6)
    same = visit.page.evaluate(
        """states => states.map(given => {
          const made = valid(given);
          return [JSON.stringify(stateOf('#' + hashOf(made))), JSON.stringify(made)];
        })""",
        states,
    )
    assert all(once == again for once, again in same)
    assert len({once for once, _ in same}) == 300


def test_a_reload_brings_the_state_back(visit: Visit) -> None:
    visit.go(BUSY)
    before = visit.text("python")
    assert "Reweighted" in before
    visit.page.reload()
    assert visit.text("python") == before
    assert visit.text("beside-text") == "Focal (gamma 3)."


def test_any_address_is_a_page(visit: Visit) -> None:
    draw = random.Random(7)
    names = [
        "loss",
        "loss.gamma",
        "penalty",
        "penalty.weight",
        "classes",
        "p",
        "noise",
        "truth",
        "map",
        "map.floor",
        "gap",
        "beside",
        "axis",
    ]
    words = [
        "",
        "nan",
        "inf",
        "-1",
        "1e999",
        "0,0,0",
        "1,2",
        "Focal",
        "Floored",
        "constructor",
        "__proto__",
        "%",
        "<b>",
        "loss%3DFocal",
    ]
    for _ in range(300):
        pairs = [
            f"{draw.choice(names)}={draw.choice([*words, ''.join(draw.choices(string.printable, k=6))])}"
            for _ in range(4)
        ]
        found = visit.page.evaluate(
            """text => {
              const made = stateOf(text);
              const { row, optimum, map } = numbersOf(made);
              const all = [row.value, row.gradient, ...optimum.probs, ...made.truth, map.first, map.minProb];
              return all.every(Number.isFinite) && pythonOf(made, numbersOf(made)).length > 0;
            }""",
            "&".join(pairs),
        )
        assert found, pairs


def test_back_and_forward(visit: Visit) -> None:
    page = visit.page
    start = visit.text("python")
    page.select_option("#loss", "Focal")
    focal = visit.text("python")
    page.fill("#loss-gamma-box", "3.5")
    page.keyboard.press("Enter")
    assert "Focal(gamma=3.5)" in visit.text("python")
    page.go_back()
    assert visit.text("python") == focal
    page.go_back()
    assert visit.text("python") == start
    page.go_forward()
    page.go_forward()
    assert "Focal(gamma=3.5)" in visit.text("python")
    assert "loss.gamma=3.5" in visit.hash


def test_a_drag_is_one_step_of_the_history(visit: Visit) -> None:
    page = visit.page
    page.locator("#simplex").scroll_into_view_if_needed()
    before = page.evaluate("history.length")
    frame = page.locator("#simplex svg").bounding_box()
    middle = frame["x"] + frame["width"] / 2
    page.mouse.move(middle, frame["y"] + 100)
    page.mouse.down()
    for step in range(10):
        page.mouse.move(middle, frame["y"] + 100 + 10 * step)
    page.mouse.up()
    assert page.evaluate("history.length") == before + 1
    a, b, c = page.evaluate("state.truth")
    assert b == pytest.approx(c, abs=0.01)
    assert a < 0.6
    assert f"truth={a},{b},{c}" in visit.hash


def test_keys_on_one_control_are_one_step_of_the_history(visit: Visit) -> None:
    page = visit.page
    for name, count in (("#loss-gamma-range", 5), ("#noise-range", 3), ('#simplex [role="slider"]', 4)):
        before = page.evaluate("history.length")
        page.focus(name)
        for _ in range(count):
            page.keyboard.press("ArrowRight")
        assert page.evaluate("history.length") == before + 1
    assert page.evaluate("state.settings.gamma") == pytest.approx(0.15)
    page.go_back()
    page.go_back()
    assert page.evaluate("[state.settings.gamma, state.noise]") == pytest.approx([0.15, 0])
    page.go_back()
    assert page.evaluate("state.settings.gamma") == 0.1


def test_keys_move_everything(visit: Visit) -> None:
    page = visit.page
    page.focus("#loss-gamma-range")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("state.settings.gamma") == 0.11
    page.focus("#loss-gamma-box")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("state.settings.gamma") == 0.12
    page.focus('#simplex [role="slider"]')
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("state.truth") == pytest.approx([0.61, 0.305, 0.085], abs=1e-3)
    assert page.get_attribute('#simplex [role="slider"]', "aria-valuetext").startswith("A 0.61")
    page.keyboard.press("End")
    assert page.evaluate("state.truth") == [1, 0, 0]
    assert page.evaluate("document.activeElement.getAttribute('role')") == "slider"
    for key in ("ArrowUp", "ArrowLeft", "ArrowRight", "ArrowDown", "Home"):
        page.keyboard.press(key)
    assert page.evaluate("state.truth") == [0, 0.5, 0.5]


def test_all_controls_are_reached_by_tab_and_show_it(visit: Visit) -> None:
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


def test_the_gamma_of_the_noise_undoes_it(visit: Visit) -> None:
    page = visit.page
    assert not page.is_visible("#use-gamma")
    page.fill("#noise-box", "0.3")
    page.keyboard.press("Enter")
    page.click("#use-gamma")
    assert page.evaluate("state.settings.gamma") == pytest.approx(convert(3, noise=0.3).gamma, rel=1e-12)
    assert page.evaluate("numbersOf(state).optimum.probs") == pytest.approx([0.6, 0.3, 0.1], abs=1e-9)
    assert "the optimum by up to 0." in visit.text("three-text")
    page.fill("#noise-box", "1")  # moved to the limit, 2/3
    page.keyboard.press("Enter")
    assert page.evaluate("state.noise") == pytest.approx(2 / 3)
    assert not page.is_visible("#use-gamma")


def test_the_dashed_line_is_kept(visit: Visit) -> None:
    page = visit.page
    page.select_option("#loss", "Focal")
    page.click("#keep")
    page.select_option("#loss", "Brier")
    assert visit.text("beside-text") == "Focal."
    assert page.evaluate("besideOf(state).settings.gamma") == 2
    page.click("#unkeep")
    assert visit.text("beside-text") == "CrossEntropy."
    assert page.evaluate("document.activeElement.id") == "keep"


def test_the_python_and_the_address_are_copied(browser: Any, path: Path) -> None:
    with Visit(browser, path, NOISY, permissions=["clipboard-read", "clipboard-write"]) as made:
        made.page.click("#copy")
        made.page.wait_for_function("document.getElementById('copied').textContent !== ''")
        assert made.text("copied") == "Python copied."
        assert made.page.evaluate("navigator.clipboard.readText()") == made.page.evaluate(
            "byId('python').textContent"
        )
        made.page.click("#copy-link")
        made.page.wait_for_function("document.getElementById('copied').textContent.startsWith('Address')")
        copied = made.page.evaluate("navigator.clipboard.readText()")
        assert copied.startswith(f"{made.address}#loss=GammaCrossEntropy")
        before = made.text("python")
        made.page.goto("about:blank")
        made.page.goto(copied)
        assert made.text("python") == before


def test_nothing_moves_by_itself(browser: Any, path: Path) -> None:
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
    assert judged_by_axe(the_page(), tmp_path, dark=dark, width=width, hash=f"#{hash}") == []


@pytest.mark.skipif(axe_is_missing() != "", reason=axe_is_missing() or "never")
def test_control_axe_finds_planted_faults(tmp_path: Path) -> None:
    text = the_page().replace("--muted: #566070", "--muted: #b8bec8").replace('<label for="loss">', "<label>")
    found = judged_by_axe(text, tmp_path, dark=False, width=1280)
    assert {each.split()[1] for each in found} == {"color-contrast", "select-name"}
