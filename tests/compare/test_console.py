import dataclasses
import io
import re
import sys
from dataclasses import replace

import pytest

from equipoise.compare import console
from equipoise.compare.verdict import judge
from support.made_result import DEFAULT, make, renamed

SMALL = {"folds": 3, "epochs": 5, "rows": 600}


@pytest.fixture(scope="module")
def result():
    return make(DEFAULT[:4], **SMALL)


@pytest.fixture
def shown(capsys, monkeypatch):
    """What is printed of a result, on a terminal of a width or, without one, to a pipe."""

    def show(result, width=None):
        if width is not None:
            monkeypatch.setenv("COLUMNS", str(width))
            monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        capsys.readouterr()
        console.show(result, judge(result), "out/report.html")
        return re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)

    return show


def test_a_pipe_gets_a_line_for_each_row(result, shown):
    """In a pipe, each row of the table is one line."""
    lines = shown(result).splitlines()
    verdict = judge(result)
    assert verdict.sentence in lines
    assert lines[-1] == "report: out/report.html"
    assert sum("wrong labels found: " in line and "labels flipped (noise=0.4)" in line for line in lines) == 1
    rows = {line.split("  ")[0]: line for line in lines}
    accuracy, nll = (
        next(m for m in result.plan.measures if m.name == n) for n in ("accuracy", "calibrated_nll")
    )
    for outcome in result.outcomes[1:]:
        line = rows[outcome.candidate.name]
        for measure in (accuracy, nll):
            found = outcome.differences[measure.name]
            mean, low, high = map(measure.show_difference, (found.mean, found.low, found.high))
            assert re.search(rf"{re.escape(f'{mean} ({low} to {high})')} +{found.call}", line)
            assert measure.show(outcome.mean(measure.name)) in line
    assert "(" not in rows["CrossEntropy()"].removeprefix("CrossEntropy()")


def test_what_is_never_compared_is_labelled(result, shown):
    """Rows that are not compared are labelled as such."""
    lines = shown(result).splitlines()
    rows = [line for line in lines if "not compared" in line]
    assert [line.split("  ")[0] for line in rows] == [
        "CrossEntropy(), last epoch, not calibrated",
        "context: commonest class",
        "context: HistGradientBoostingClassifier",
    ]
    assert rows[0].count("not compared") == 2
    assert not any(call in line for line in rows for call in ("better", "worse", "undecided", "equal"))


@pytest.mark.parametrize("width", [60, 100])
def test_a_terminal_gets_a_table_of_its_width(result, shown, width):
    """On a terminal, the table is as wide as the terminal."""
    out = shown(result, width)
    table = [line for line in out.splitlines() if line[:1] in "\u2502\u2503\u250f\u2521\u2514\u251c"]
    assert max(map(len, table)) <= width
    first = re.sub(r"\s", "", "".join(re.findall(r"^\u2502([^\u2502]*)\u2502", out, re.MULTILINE)))
    for name in (*DEFAULT[:4], "CrossEntropy(), last epoch, not calibrated", "context: commonest class"):
        assert name.replace(" ", "") in first
    assert first.count("notcompared") == 3
    assert "report: out/report.html" in out


def test_costs_add_their_columns_and_the_gain(shown):
    """With costs, the table has columns of costs and the gain of decisions is printed."""
    out = shown(make(DEFAULT[:1], costs=True, **SMALL))
    assert "Cost, decided" in out
    assert "Without another training: plain cross entropy costs" in out


def test_a_sharp_winner_is_warned_of(result, shown):
    """A winner with a sharp loss causes a warning."""
    assert "warning: " not in shown(result)
    winner = result.outcomes[1]
    better = {name: replace(found, call="better") for name, found in winner.differences.items()}
    cleaner = replace(
        result,
        outcomes=(result.baseline, replace(winner, differences=better), *result.outcomes[2:]),
        noise=replace(result.noise, rate=0.05, low=0.02, high=0.08),
    )
    assert "warning: the calibration of GammaCrossEntropy(gamma=0.5) finds more noise" in shown(cleaner)
    assert "[EQ012]" in shown(cleaner)


def test_the_announcement_counts_trainings(result, capsys):
    """The announcement counts objectives, splits, settings and trainings."""
    console.announce(result.plan)
    assert "5 objectives x 3 splits = 15 trainings" in capsys.readouterr().err
    console.announce(make(DEFAULT[:1], tune=2, repeats=2, costs=True, **SMALL).plan)
    assert "2 objectives x 6 splits x 2 settings = 24 trainings" in capsys.readouterr().err
    same = dataclasses.replace(result.plan, candidates=(*result.plan.candidates, result.plan.candidates[-1]))
    console.announce(same)
    assert "6 objectives x 3 splits less 3 that objectives share = 15 trainings" in capsys.readouterr().err


NAMES = {
    "[red]markup[/red]": "[red]markup[/red]",
    ":warning: [link=x]": ":warning: [link=x]",
    "<script>x</script>": "<script>x</script>",
    "=cmd()": "=cmd()",
    "\x1b[31mred\x1b[0m": "\\x1b[31mred\\x1b[0m",
    "two\nlines\r": "two\\nlines\\r",
    "turned \u202e": "turned \\u202e",
    "half \ud800": "half \\ud800",
}


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_as_text(result, shown, capsys, name, terminal):
    """Markup and control characters in a name are printed as text."""
    result = renamed(result, name)
    out = shown(result, 200 if terminal else None)
    assert f"Data: {NAMES[name]}, 600 rows" in out
    assert any(NAMES[name] in line and "undecided" in line for line in out.splitlines())
    console.announce(result.plan)
    assert capsys.readouterr().err.startswith(f"{NAMES[name]}: 600 rows, 64 columns, 10 classes\n")


def test_no_cell_is_cut_in_a_pipe(result, shown):
    """In a pipe, no cell is truncated."""
    name = " ".join(["a very long name"] * 100)
    lines = shown(renamed(result, name)).splitlines()
    [line] = [line for line in lines if line.startswith(f"{name}  ")]
    assert line.endswith(("better", "worse", "equal", "undecided"))


class Stream(io.TextIOWrapper):
    """Standard output or error of an encoding, as a terminal or a pipe."""

    def __init__(self, encoding, terminal):
        super().__init__(io.BytesIO(), encoding=encoding)
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    def written(self):
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_an_encoding_without_our_characters_is_no_error(result, monkeypatch, encoding, terminal):
    """An output encoding that lacks some characters is no error."""
    streams = {name: Stream(encoding, terminal) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    monkeypatch.setenv("TERM", "xterm")
    result = renamed(result, "\u5bb6 \u2013")
    console.announce(result.plan)
    with console.progress() as watch:
        watch(1, 2)
        watch(2, 2)
    console.show(result, judge(result))
    out, err = (streams[name].written() for name in ("stdout", "stderr"))
    assert "Data: \u5bb6 \u2013, 600 rows".encode(encoding, "replace").decode(encoding) in out
    assert ("\u5bb6" in out) == (encoding == "utf-8")
    assert "5 objectives x 3 splits = 15 trainings" in err
    assert ("\u2502" in out) == (terminal and encoding == "utf-8")
    assert "report: " not in out


def test_progress_is_lines_in_a_pipe_and_nothing_if_quiet(capsys):
    """Progress is printed as lines in a pipe, and not at all if quiet."""
    for quiet, lines in ((False, 11), (True, 0)):
        with console.progress(quiet=quiet) as watch:
            for done in range(41):
                watch(done, 40)
        said = capsys.readouterr()
        assert said.out == ""
        assert len(said.err.splitlines()) == lines
    with console.progress(quiet=False) as watch:
        watch(40, 40)
    assert capsys.readouterr().err == "40 of 40 trainings\n"


@pytest.mark.parametrize("total", [20, 60, 80, 88])
def test_progress_is_told_where_many_trainings_finish_at_once(capsys, total):
    """Progress is printed even if many trainings finish at once."""
    with console.progress() as watch:
        for done in (0, 10, 20, total):
            watch(done, total)
    told = capsys.readouterr().err.splitlines()
    assert told == [f"{done} of {total} trainings" for done in dict.fromkeys((0, 10, 20, total))]
