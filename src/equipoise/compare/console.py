"""What a comparison prints: a table and a progress bar on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from equipoise.compare.sentences import (
    SIMILARITY_COSTS,
    cautions,
    decision_gain_words,
    found_words,
    nll_words,
    noise_words,
    splits_words,
)
from equipoise.compare.views import features, measures, rows, visible

if TYPE_CHECKING:
    from equipoise.compare.plan import Plan
    from equipoise.compare.results import Result
    from equipoise.compare.verdict import Verdict

__all__ = ["announce", "progress", "show"]

_STYLES = {"better": "bold green", "worse": "red", "equal": "cyan", "undecided": "dim"}
REPORTS = 10  # how often a run without a terminal says how far it is
WIDEST = 10**6  # columns of what is no terminal: a line is never broken, and a cell never cut


def announce(plan: "Plan") -> None:
    """Say on stderr what is about to be done."""
    dataset, tried = plan.conditions.dataset, plan.settings.tune
    objectives, splits = len(plan.candidates), len(plan.conditions.splits)
    shared = objectives * splits * max(tried, 1) - plan.trials
    tuned = f" x {tried} settings" if tried > 1 else ""
    once = f" less {shared} that objectives share" if shared else ""
    _print(
        sys.stderr,
        f"{dataset.name}: {len(dataset.labels)} rows, {features(dataset)}, {len(dataset.classes)} classes",
        *(f"note: {note}" for note in dataset.notes),
        *([f"note: costs are {SIMILARITY_COSTS}"] if plan.costs_from == "similarity" else []),
        f"{objectives} objectives x {splits} splits{tuned}{once} = {plan.trials} trainings",
    )


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yield a function to call with the number of finished trainings and of all.

    It shows a bar on stderr if that is a terminal, and lines elsewhere.

    Args:
        quiet: Show nothing.
    """
    if quiet:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("training", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        yield _say


def _say(done: int, total: int) -> None:
    """Print a line at every tenth of the way."""
    if done == total or done * REPORTS // total > (done - 1) * REPORTS // total:
        _print(sys.stderr, f"{done} of {total} trainings")


def show(result: "Result", verdict: "Verdict", report: str | None = None) -> None:
    """Print the table, the verdict, what to beware of, and where the report is, if there is one."""
    _print(
        sys.stdout,
        noise_words(result),
        found_words(result),
        _table(result, terminal=sys.stdout.isatty()),
        f"differences from {verdict.against}; intervals are simultaneous; {splits_words(result)}",
        nll_words(result),
        *filter(None, (decision_gain_words(result), verdict.sentence, verdict.others)),
        *(f"warning: {caution}" for caution in cautions(result, verdict)),
        *([] if report is None else [f"report: {report}"]),
    )


def _print(stream: TextIO, *lines: str | Table) -> None:
    """Print lines and tables; what the stream cannot encode is replaced, and control characters are spelled."""
    terminal, encoding = stream.isatty(), getattr(stream, "encoding", None) or "utf-8"
    console = Console(file=stream, width=None if terminal else WIDEST, soft_wrap=True)
    with console.capture() as got:
        for line in lines:
            console.print(Text(visible(line)) if isinstance(line, str) else line)
    text = "\n".join(line.rstrip() for line in got.get().split("\n"))
    stream.write(text.encode(encoding, "replace").decode(encoding))
    stream.flush()


def _table(result: "Result", *, terminal: bool) -> Table:
    """Return a row for each objective: a terminal has one column for a measure, with two lines in a cell."""
    names = {*result.plan.deciding, "accuracy", "calibrated_nll"}
    shown = [measure for measure in result.plan.measures if measure.name in names]
    table = Table("objective") if terminal else Table("objective", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for measure in shown:
        for head in (measure.title, "difference (interval)", "called")[: 1 if terminal else None]:
            table.add_column(head)
    for column in table.columns:
        column.overflow, column.no_wrap = "fold", not terminal
    listed = list(rows(result))
    for place, row in enumerate(listed):
        name = visible(row.name)
        if row.beside:
            name = f"context: {name}" if row.note == "context" else f"{name}, {row.note}"
        cells: list[Any] = [Text(f"{name}\nnot compared" if row.beside and terminal else name)]
        for measure in shown:
            cell = row.cells[measure.name]
            call = "not compared" if row.beside else cell.call
            change = f"{cell.difference} ({cell.interval})" if cell.found else ""
            if terminal:
                said = "" if row.beside else call
                cells.append(Text.assemble(cell.value, " ", (said, _STYLES.get(said, "")), "\n" * bool(change), change))
            else:
                cells += [cell.value, change, call]
        last = place == len(result.outcomes) - 1
        table.add_row(*cells, style="dim" if row.beside else None, end_section=place == 0 or last)
    return table
