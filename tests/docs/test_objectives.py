"""What is on the pages of losses, penalties, maps and schedules comes from the tables and the library."""

import re
import xml.etree.ElementTree as ET

import pytest
import torch
from equipoise_docs import objectives, plots
from equipoise_docs.names import FAMILIES
from equipoise_docs.relatives import made

from equipoise.losses import LOSSES, Focal
from equipoise.maps import MAPS, Floored
from equipoise.penalties import PENALTIES

ENTRIES = (*LOSSES, *PENALTIES)
EVERY = [made_.__name__ for family in FAMILIES.values() for made_ in family]


@pytest.mark.parametrize("name", EVERY)
def test_every_setting_that_is_drawn_is_one(name: str) -> None:
    """Each setting in the table of settings makes the class it is listed for."""
    for text in plots.settings(name):
        assert type(made(text, plots.CLASSES)).__name__ == name
    assert {*plots.SETTINGS} <= {*EVERY}


def test_curves_are_values_and_derivatives() -> None:
    """The curves are the values and derivatives of formulas written by hand."""
    probs = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    value, slope = plots.curves(Focal(gamma=2.0), probs)
    torch.testing.assert_close(value, -((1 - probs) ** 2) * probs.log())
    rest = 1 - probs
    by_hand = (2 * rest * probs.log() - rest**2 / probs) * probs * rest
    torch.testing.assert_close(slope, by_hand)
    shown, change = plots.curves(Floored(0.1), probs)
    torch.testing.assert_close(shown, 0.1 + 0.6 * probs)
    torch.testing.assert_close(change, 0.6 * probs * rest)
    with pytest.raises(AssertionError):  # control
        torch.testing.assert_close(plots.curves(Focal(gamma=1.0), probs)[0], value)


@pytest.mark.parametrize("name", ["GammaCrossEntropy", "Balance", "GumbelSoftmax", "Cosine"])
def test_pictures_are_the_same_in_each_build(name: str) -> None:
    """Two drawings of a class are equal, and are SVG."""
    first, again = plots.drawn(name), plots.drawn(name)
    assert first == again
    assert list(first) == (["value"] if name == "Cosine" else ["value", "gradient"])
    assert all(ET.fromstring(each).tag.endswith("svg") for each in first.values())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_traits_are_those_of_the_table(entry) -> None:
    """The table of traits says what the entry says of each setting."""
    lines = re.findall(r"^\| `(.+)` \| (.+) \|$", objectives.traits(entry), re.MULTILINE)
    assert len(lines) == len(plots.settings(entry.name))
    for (_, cells), text in zip(lines, plots.settings(entry.name), strict=True):
        loss = made(text, plots.CLASSES)
        wanted = [entry.proper(loss), entry.bounded(loss)] if entry.reads_target else [entry.bounded(loss)]
        assert [cell == "yes" for cell in cells.split(" | ")] == wanted


def test_traits_differ_between_losses() -> None:
    """The traits of losses that differ are written differently."""
    by_name = {entry.name: objectives.traits(entry) for entry in ENTRIES}
    assert "| yes | yes |" in by_name["Brier"]
    assert "on purpose" in by_name["Reweighted"]
    assert "on purpose" not in by_name["Brier"]
    assert "It needs no target" in by_name["Entropy"]


def test_statistics_and_cost_come_from_the_recording() -> None:
    """What a loss reads and costs is what its recording says."""
    by_name = {entry.name: entry for entry in ENTRIES}
    assert "`LogOdds`" in objectives.statistics(by_name["Focal"])
    assert "`Largest`" in objectives.statistics(by_name["LogitRange"])
    assert "complete rows" in objectives.statistics(by_name["PairwiseCrossEntropy"])
    assert "all rows of a batch" in objectives.statistics(by_name["Balance"])
    assert re.search(r"a program of [\d to]+ elementwise", objectives.cost(by_name["Focal"]))
    assert "by operations of torch" in objectives.cost(by_name["PairwiseCrossEntropy"])


def test_measured_times_are_found_in_the_page_on_speed() -> None:
    """Every loss and penalty but `Balance` has measured times."""
    found = {entry.name: objectives.speed_of(entry.name)[1] for entry in ENTRIES}
    without = {name for name, cells in found.items() if not cells}
    assert without <= {"Balance"}
    assert found["Focal"] != found["Brier"]
    assert all(len(cells) == len(objectives.speed_of("Focal")[0]) for cells in found.values() if cells)
    assert objectives.speed_of("Missing")[1] == ()


@pytest.mark.parametrize("entry", MAPS, ids=lambda entry: entry.name)
def test_traits_of_maps(entry) -> None:
    """The traits of a map are those of its entry."""
    text = objectives.map_traits(entry)
    assert entry.gradient in text
    assert ("on purpose" in text) == entry.straight_through
    if smallest := entry.example.min_prob(8):
        assert f"{smallest:.3g}" in text
