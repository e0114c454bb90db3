"""The figures of a report: directions, extents, colours, thinned curves and missing values."""

import re

import numpy as np
import pytest

from equipoise.compare import figures
from equipoise.compare.statistics import Difference

pytestmark = pytest.mark.slow  # whole comparisons
NAN = float("nan")


def test_good_lies_on_the_right():
    differences = [Difference(-0.05, -0.1, 0.02, "undecided"), Difference(0.01, 0.0, 0.02, "undecided")]
    for better, sign in (("higher", 1), ("lower", -1)):
        along = figures.axis(differences, better, 0.01)
        places = [along.place(sign * value) for value in (-0.1, -0.01, 0.0, 0.01, 0.02)]
        assert places == sorted(places)
        assert all(along.holds(end) for each in differences for end in (each.low, each.high, 0.01, -0.01))


def test_a_long_interval_does_not_flatten_the_others():
    short = [Difference(0.01, 0.0, 0.02, "undecided")] * 4
    long = Difference(5.0, -40.0, 50.0, "undecided")
    along = figures.axis([*short, long], "lower", 0.01)
    assert along.place(0.0) - along.place(0.02) > 5
    marks = figures.strip(along, long)
    assert "M7-5L0 0L7 5" in marks  # an arrow where the interval goes on
    assert "M-7-5L0 0L-7 5" in marks
    assert 'class="mark"' not in marks  # the mean lies outside
    assert "L7 5" not in figures.strip(along, short[0])


def test_a_strip_without_numbers_has_no_marks():
    unknown = Difference(NAN, NAN, NAN, "undecided")
    along = figures.axis([unknown], "higher", 0.0)
    assert 'class="zero"' in figures.strip(along, unknown)
    assert "mark" not in figures.strip(along, unknown)
    assert "nan" not in figures.strip(along, unknown)


def test_pictures_follow_the_colours_of_the_page():
    confidence = np.linspace(0.3, 1, 50)
    stated = (confidence, confidence > 0.6)
    svg = figures.reliability("one", "reliability of <x> & y", stated, stated)
    assert "var(--ink)" in svg
    assert not re.search(r"#(0[1-7])\1\1", svg)
    assert 'aria-label="reliability of &lt;x&gt; &amp; y"' in svg
    assert svg.startswith("<svg ")
    assert svg.endswith("</svg>")
    assert svg == figures.reliability("one", "reliability of <x> & y", stated, stated)
    ids = set(re.findall(r' id="([^"]+)"', svg))
    others = set(re.findall(r' id="([^"]+)"', figures.reliability("two", "t", stated, stated)))
    assert ids
    assert ids.isdisjoint(others)


def test_long_curves_are_thinned_and_keep_the_chosen_epoch():
    curve = [{"epoch": k, "accuracy": 0.5 + k / 4000, "calibrated": 2 - k / 1000} for k in range(1, 1001)]
    drawn = figures.curves("c", "curves", [(curve, 437)] * 100, "accuracy", "accuracy")
    assert len(drawn) < 60_000
    assert drawn.count("var(--wrong)") >= figures.MOST_LINES
    line = np.array([(point["epoch"], point["accuracy"]) for point in curve])
    points = figures._thinned(line, line[436:437])
    assert len(points) <= figures.MOST_POINTS + 1
    assert {1, 437, 1000} <= {*points[:, 0]}


def test_pictures_stand_missing_values():
    curve = [
        {"epoch": 1, "accuracy": 0.1, "calibrated": 2.0},
        {"epoch": 2, "accuracy": None, "calibrated": None},
    ]
    for key in ("accuracy", "calibrated"):
        assert "<svg" in figures.curves("c", "curves", [(curve, 1), (curve[1:], 0)], key, key)


def test_a_few_points_far_out_do_not_flatten_curves():
    wild = np.array([(1, 500.0), *((epoch, 1.0) for epoch in range(2, 40))])
    nothing = np.full((1, 2), NAN)
    low, high = figures._window([wild], [wild[5:6]], "calibrated")
    assert low < 1.0 < high < 1.1
    chosen = np.array([(7, 7.0)])
    assert figures._window([wild], [chosen], "calibrated")[1] > 7  # a chosen epoch is never cut off
    assert figures._window([nothing], [nothing], "accuracy") is None
