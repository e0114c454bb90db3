import re
from dataclasses import replace

import numpy as np
import pytest

from equipoise.compare import figures
from equipoise.compare.measures import Predictions
from equipoise.compare.results import Pooled
from equipoise.compare.statistics import Difference
from equipoise.compare.verdict import judge
from support.made_result import DEFAULT, SMALL, called, make
from support.report_pages import Page, axe_is_missing, external, judged_by_axe

pytestmark = pytest.mark.slow  # whole comparisons
NAN = float("nan")


def lost(outcome):
    """The outcome without any finite prediction."""
    pooled = outcome.pooled
    nothing = np.full_like(pooled.predictions.probs, NAN)
    seen = Predictions(nothing, nothing, pooled.predictions.target, pooled.predictions.costs)
    curve = [{"epoch": 1, "accuracy": None, "nll": None, "calibrated": None, "own": None}]
    records = [
        replace(each, finite=False, epoch=0, temperature=NAN, noise=NAN, curve=curve, chance_ece=[])
        for each in outcome.records
    ]
    values = {name: np.full(len(records), NAN) for name in outcome.values}
    unknown = Difference(NAN, NAN, NAN, "undecided", "no split has both values")
    return replace(
        outcome, records=tuple(records), values=values, differences=dict.fromkeys(outcome.values, unknown),
        load=lambda: Pooled(seen, pooled.rows, pooled.split),
    )  # fmt: skip


@pytest.fixture(scope="module")
def result():
    """Four candidates, one for each call."""
    calls = [("undecided", "undecided"), ("better", "undecided"), ("equal", "equal"), ("worse", "worse")]
    return called(make(DEFAULT[:4], **SMALL), calls)


@pytest.fixture(scope="module")
def page(result, written):
    return written(result)


def test_the_report_needs_no_network_and_no_script(page):
    """The report has no script and no reference outside the file."""
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
    """An external reference is found by the check."""
    assert external(page.replace("</main>", planted + "</main>"))


def test_ids_are_unique_and_what_is_referred_to_is_there(page):
    """Ids are unique, and every reference has a target."""
    seen = Page(page)
    assert len(seen.ids) == len(set(seen.ids))
    targets = set(re.findall(r"url\(#([^)]+)\)", page)) | {ref[1:] for ref in seen.inside if ref[0] == "#"}
    targets |= {
        attributes["aria-labelledby"] for _, attributes in seen.tags if "aria-labelledby" in attributes
    }
    assert targets
    assert targets == set(seen.ids)


def unspoken(text):
    """Pictures that say nothing and are not hidden from those who cannot see them."""
    return [
        attributes
        for tag, attributes in Page(text).tags
        if tag == "svg"
        and attributes.get("aria-hidden") != "true"
        and "overflow" not in attributes
        and not (attributes.get("role") == "img" and len(attributes.get("aria-label") or "") > 20)
    ]


def test_every_picture_says_what_it_shows(page, result):
    """Every figure has a text for screen readers."""
    pictures = [attributes for tag, attributes in Page(page).tags if attributes.get("role") == "img"]
    assert len(pictures) == 3 * len(result.outcomes)
    assert unspoken(page) == []
    assert unspoken(page.replace('role="img" ', "", 1))  # the control


def test_what_scrolls_can_be_reached_with_the_keyboard(page):
    """Every region that scrolls can be focused and has a label."""
    scrolled = [
        attributes
        for tag, attributes in Page(page).tags
        if "wide" in (attributes.get("class") or "").split() or tag == "pre"
    ]
    assert scrolled
    assert all(each["tabindex"] == "0" and each["aria-label"] for each in scrolled)
    names = [each["aria-label"] for each in scrolled]
    assert len(names) == len(set(names))
    assert ":focus-visible" in page


def test_the_first_screen_is_the_verdict_and_all_differences(page, result):
    """The first screen shows the verdict and the differences of all candidates."""
    verdict = judge(result)
    first = page[: page.index("<h2>")]
    assert verdict.sentence in Page(first).text
    assert Page(first).text.index("Use GeneralizedCrossEntropy(q=0.7)") < first.index("forest")
    for outcome in result.outcomes[1:]:
        [item] = [each for each in Page(first).items if each.startswith(outcome.candidate.name)]
        for name in ("accuracy", "calibrated_nll"):
            measure = next(each for each in result.plan.measures if each.name == name)
            found = outcome.differences[name]
            low, high = map(measure.show_difference, (found.low, found.high))
            assert f"({low} to {high})" in item
            assert found.call in item
    assert '<li class="winner"><code class="name">GeneralizedCrossEntropy(' in first


def test_the_best_calibrated_nll_is_first(page, result):
    """Candidates are sorted by calibrated NLL, the best first."""
    ranked = sorted(result.outcomes[1:], key=lambda outcome: outcome.mean("calibrated_nll"))
    specs = [each.candidate.name for each in ranked]
    first = Page(page[: page.index("<h2>")])
    listed = [spec for item in first.items for spec in specs if item.startswith(spec)]
    assert listed == specs


def test_a_call_is_told_by_its_shape_as_well(page, result):
    """Each call has its own symbol, so that it does not depend on colour."""
    assert len(set(figures.SYMBOLS.values())) == 4
    first = page[: page.index("<h2>")]
    strips = re.findall(r'<svg class="strip".*?class="mark" d="([^"]+)"', first)
    wanted = [
        figures.SYMBOLS[each.differences[name].call]
        for each in sorted(result.outcomes[1:], key=lambda o: o.mean("calibrated_nll"))
        for name in ("accuracy", "calibrated_nll")
    ]
    assert strips == wanted
    assert len(set(wanted)) == 4


def tabled(page, result):
    """The first values of the table, and what the result has for them."""
    rows = Page(page).table("values")[1:]
    measures = {each.name: each for each in result.plan.measures}
    names = ("accuracy", "calibrated_nll", "balanced_accuracy", "nll")
    wanted = [
        [measures[name].show(row.mean(name)) for name in names]
        for row in (*result.outcomes, result.last_epoch, *result.context)
    ]
    shown = [[re.sub(r" (better|worse|equal|undecided)$", "", cell) for cell in row[1:5]] for row in rows]
    return rows, shown, wanted


def test_the_table_has_the_numbers_of_the_result(page, result):
    """The table shows the numbers of the result."""
    rows, shown, wanted = tabled(page, result)
    assert shown == wanted
    assert [row[0] for row in rows] == [
        "CrossEntropy() baseline",
        *DEFAULT[:4],
        "CrossEntropy() last epoch, not calibrated",
        "commonest class context",
        "HistGradientBoostingClassifier context",
    ]


def test_control_another_number_is_seen(page, result):
    """A changed number is found by the comparison with the table."""
    first = result.outcomes[1]
    other = replace(first, values=dict(first.values) | {"accuracy": first.values["accuracy"] - 0.01})
    _, shown, wanted = tabled(page, replace(result, outcomes=(result.baseline, other, *result.outcomes[2:])))
    assert shown != wanted


def test_all_measures_are_there_with_their_meaning(page, result):
    """Each measure is listed with its meaning."""
    text = Page(page).text
    for measure in result.plan.measures:
        assert f"{measure.title}: {measure.meaning}" in text
    assert "about 9,000 rows would settle it" in text


def test_the_page_says_what_was_asked(page):
    """The page states noise, network, splits and settings."""
    text = Page(page).text
    for wanted in (
        "% of the training labels flipped (noise=0.4), validation labels in the same way, no test labels",
        "one hidden layer of 64 (mlp); at most 5 epochs, batches of 128",
        "3-fold cross-validation; in each 360 training rows, "
        "40 validation rows for epoch, calibration and setting",
        "is that of the clean labels (probs), since the test labels are known to be cleaner",
        "only if labels are known to be noisy",
        "from equipoise.losses import GeneralizedCrossEntropy",
        "each has the level 1 - 0.05 / 8",
        "0.5 points of Accuracy",
        "torch 2",
    ):
        assert wanted in text, wanted


def test_noisy_test_labels_are_named(written):
    """Noisy test labels are named as observed labels."""
    text = Page(written(make(DEFAULT[:1], noise=0.3, clean=False, **SMALL))).text
    assert "is that of the observed labels (observed_probs)" in text
    assert "no labels flipped" in text.lower()
    assert "by observed labels, some of which are wrong" in text


def test_one_test_part_and_costs(written):
    """A result on one test part with costs has its own sentences and panels."""
    result = make(DEFAULT[:2], one_test=True, repeats=2, costs=True, epochs=5, rows=600)
    page = written(result)
    text = Page(page).text
    assert text.count("these 200 test rows only") == 1
    assert "they are valid for these test rows only" in text
    assert "Without another training: plain cross entropy costs" in text
    assert "repeat(1, minmax(0, 1fr))" in page  # the cost decides alone, so there is one panel
    assert "the candidate with the best Cost, decided is first" in text
    assert "of Cost, decided" in text  # the smallest difference worth having


def test_a_candidate_that_is_lost_shows_no_nan(written, result):
    """A candidate that diverged in all splits shows no nan."""
    outcomes = (result.baseline, lost(result.outcomes[1]), *result.outcomes[2:])
    page = written(replace(result, outcomes=outcomes))
    assert not re.search(r"\b([Nn]a[Nn]|inf|None)\b", Page(page).text)
    assert not re.search(r'="[^"]*\bnan\b', re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL))
    assert "diverged in 3 of 3 splits, left out of its numbers" in Page(page).text


def test_many_classes_are_listed_by_recall(written):
    """With many classes, recall is listed for those of lowest recall."""
    names = tuple(f"class {k}" for k in range(30))
    result = make(DEFAULT[:1], names=names, **SMALL)
    seen = Page(written(result))
    assert "the lowest recall is first, 6 classes with a higher recall are left out" in seen.text
    rows = next(rows for _, rows in seen.tables if rows[0][0] == "True class")
    recalls = [float(row[2].removesuffix("\u00a0%")) for row in rows[1:]]
    assert len(recalls) == 24
    assert recalls == sorted(recalls)


def test_few_classes_have_the_whole_matrix(page, result):
    """With few classes, the whole confusion matrix is shown."""
    winner = judge(result).winner
    rows = Page(page).table("matrix")
    counts = np.array([[int(cell) for cell in row[3:]] for row in rows[1:]])
    predictions = winner.predictions
    assert counts.sum() == len(predictions.target)
    assert counts.trace() == (predictions.probs.argmax(axis=1) == predictions.target).sum()


@pytest.mark.slow
def test_twenty_candidates_fit_a_mebibyte(written, result):
    """A report on twenty candidates is smaller than a mebibyte."""
    more = []
    for k in range(20):
        outcome = result.outcomes[1 + k % 4]
        name = f"Poly(epsilon={k + 0.5}) + 0.1 * LogitRange(width={k}.0)"
        more.append(replace(outcome, candidate=replace(outcome.candidate, name=name)))
    page = written(replace(result, outcomes=(result.baseline, *more)))
    assert 100_000 < len(page.encode()) < 2**20
    assert "11 more have no figures here" in Page(page).text


@pytest.mark.slow
def test_a_sharp_winner_is_not_to_be_used_with_probs(written, result):
    """An improper loss that fits more noise than the data have is cautioned of; a proper one is not."""
    cleaner = replace(result, noise=replace(result.noise, rate=0.05, low=0.02, high=0.08))
    assert (
        "finds more noise than the data have, because this loss makes probabilities sharp"
        in Page(written(cleaner)).text
    )
    assert "[EQ012]" in Page(written(cleaner)).text
    assert "finds more noise than the data have" not in Page(written(result)).text


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [375, 1440])
@pytest.mark.skipif(axe_is_missing() != "", reason=axe_is_missing() or "never")
def test_axe_finds_nothing_serious(page, tmp_path, dark, width):
    """axe-core finds no serious problem in either colour scheme, at any width."""
    assert judged_by_axe(page, tmp_path, dark=dark, width=width) == []


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.skipif(axe_is_missing() != "", reason=axe_is_missing() or "never")
def test_control_axe_finds_a_planted_fault(page, tmp_path, dark):
    """A faint colour of that scheme alone."""
    good, bad = ("#a3adba", "#4a525c") if dark else ("#566070", "#c5cad0")
    faint = page.replace(f"--muted: {good}", f"--muted: {bad}")
    assert faint != page
    found = judged_by_axe(faint, tmp_path, dark=dark, width=1440)
    assert any(each.startswith("serious color-contrast") for each in found)


@pytest.mark.parametrize("scale", [1e150, 1e-150])
def test_costs_of_any_size_are_numbers(written, scale):
    """Costs of extreme sizes are shown in scientific notation."""
    page = written(make(DEFAULT[:1], costs=True, scale=scale, **SMALL))
    seen = Page(page)
    assert re.search(r"\de[+]1[45]\d" if scale > 1 else r"\de-1[45]\d", seen.text)
    assert not re.search(r"[0-9]{20}|\bnan\b|\binf\b", seen.text)
    assert not re.search(r"[0-9]{60}|\bnan\b", "".join(re.findall(r"<svg.*?</svg>", page)))
