"""The page as it is used: sliders, keys, pointer, history, clipboard."""

import random
import string
from pathlib import Path
from typing import Any

import pytest

from equipoise.label_noise import convert
from support.browser import Visit, browser_is_missing
from support.explorer_states import (
    BUSY,
    ENTRIES,
    NOISY,
    even_logits,
    loss_of,
    map_of,
    random_states,
    row_of,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser_is_missing() != "", reason=browser_is_missing() or "never"),
]


def test_control_a_request_and_an_error_are_seen(browser: Any, path: Path, tmp_path: Path) -> None:
    """A planted request and a planted error of a script are seen."""
    other = tmp_path / "other.html"
    planted = "<img src='elsewhere.png' alt=''><script>none.there;</script></main>"
    other.write_text(path.read_text("utf-8").replace("</main>", planted))
    with Visit(browser, other) as made:
        assert len(made.requests) == 2
        assert any("none is not defined" in error for error in made.errors)


def test_everything_that_can_be_chosen_is_drawn(visit: Visit) -> None:
    """Each loss, penalty and map can be chosen, and shows its sentence and its settings."""
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
    """A state is the same after it was written to the address and read again."""
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
    """A reload shows the same Python and the same dashed line."""
    visit.go(BUSY)
    before = visit.text("python")
    assert "Reweighted" in before
    visit.page.reload()
    assert visit.text("python") == before
    assert visit.text("beside-text") == "Focal (gamma 3)."


def test_any_address_is_a_page(visit: Visit) -> None:
    """An address with anything in it gives finite numbers."""
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
    """Back and forward of the browser go through the choices."""
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
    """Dragging the truth adds one step to the history."""
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
    """Arrow keys on one control add one step to the history."""
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
    """Arrow keys move a slider, a box and the truth in the triangle."""
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


def test_the_gamma_of_the_noise_undoes_it(visit: Visit) -> None:
    """The button sets the gamma whose optimum is the truth, and is hidden where there is none."""
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
    """An objective is kept as dashed line until cross entropy is wanted again."""
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
    """The buttons copy the Python and an address that shows it again."""
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
