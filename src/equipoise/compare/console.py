"""What a comparison prints: a table and a progress bar on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from equipoise.compare.measures import Measure
from equipoise.compare.records import mean
from equipoise.compare.sentences import (
    cautions,
    deciding,
    decision_gain_words,
    found_words,
    last_epoch_name,
    nll_words,
    noise_words,
    splits_words,
)

if TYPE_CHECKING:
    from equipoise.compare.plan import Plan
    from equipoise.compare.results import Context, Outcome, Result
    from equipoise.compare.verdict import Verdict

__all__ = ["announce", "progress", "show"]

_STYLES = {"better": "bold green", "worse": "red", "equal": "cyan", "undecided": "dim"}
REPORTS = 10  # how often a run without a terminal says how far it is
NOT_COMPARED = "not compared"


def announce(plan: "Plan") -> None:
    """Say what is about to be done."""
    dataset = plan.conditions.dataset
    rows, columns, classes = len(dataset.labels), dataset.features.shape[1], len(dataset.classes)
    print(f"{dataset.name}: {rows} rows, {columns} columns, {classes} classes")
    for note in dataset.notes:
        print(f"note: {note}")
    if plan.costs_from == "similarity":
        print(
            "note: costs are made from the similarity: similarity[true, true] - similarity[true, predicted]"
        )
    objectives, splits, tried = len(plan.candidates), len(plan.conditions.splits), plan.settings.tune
    tuned = f" x {tried} settings" if tried > 1 else ""
    shared = objectives * splits * max(tried, 1) - plan.trials
    once = f" less {shared} that objectives share" if shared else ""
    print(f"{objectives} objectives x {splits} splits{tuned}{once} = {plan.trials} trainings", flush=True)


@contextmanager
def progress(*, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Yield a function to call with the number of finished trials and of all trials.

    Args:
        quiet: Say nothing unless there is a terminal to show a bar on.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("training", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    elif quiet:
        yield lambda done, total: None
    else:
        yield _say


def _say(done: int, total: int) -> None:
    """Print a line at the start and at every tenth of the way."""
    if done == total or done * REPORTS // total > (done - 1) * REPORTS // total:
        print(f"{done} of {total} trainings", flush=True)


def show(result: "Result", verdict: "Verdict", report: str) -> None:
    """Print the table, the verdict, what to beware of, and where the report is."""
    print(noise_words(result))
    print(found_words(result))
    if sys.stdout.isatty():
        _show_table(result)
    else:
        _print_lines(result)
    print(f"differences from {verdict.against}; intervals are simultaneous; {splits_words(result)}")
    print(nll_words(result))
    if words := decision_gain_words(result):
        print(words)
    print(verdict.sentence)
    if verdict.others:
        print(verdict.others)
    for caution in cautions(result, verdict):
        print(f"warning: {caution}")
    print(f"report: {report}")


def _show_table(result: "Result") -> None:
    """Print a table that folds to the width of the terminal: two lines for each measure of an objective."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    measures = _shown(result)
    table = Table("objective", *(measure.title for measure in measures), show_lines=False)
    for column in table.columns:
        column.overflow = "fold"
    for place, outcome in enumerate(result.outcomes):
        cells = [Text(outcome.candidate.spec)]
        for measure in measures:
            value, difference, call = _cells(outcome, measure)
            style = _STYLES.get(call, "")
            cells.append(Text.assemble(value, " ", (call, style), "\n" * bool(difference), difference))
        table.add_row(*cells, end_section=place in (0, len(result.outcomes) - 1))
    for name, values in _apart(result, measures):
        table.add_row(Text.assemble(name, "\n", (NOT_COMPARED, "dim")), *map(Text, values), style="dim")
    Console().print(table)


def _print_lines(result: "Result") -> None:
    """Print aligned lines, for a file or a pipe."""
    measures = _shown(result)
    heads = ["objective"]
    for measure in measures:
        heads += [measure.title, "difference (interval)", "called"]
    rows = [
        [outcome.candidate.spec, *(cell for measure in measures for cell in _cells(outcome, measure))]
        for outcome in result.outcomes
    ]
    apart = [
        [name, *(cell for value in values for cell in (value, "", NOT_COMPARED))]
        for name, values in _apart(result, measures)
    ]
    lines = [heads, *rows, *apart]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _shown(result: "Result") -> list[Measure]:
    """Return the measures that fit a terminal, those that decide; the report has them all."""
    names = {measure.name for measure in deciding(result)} | {"accuracy", "calibrated_nll"}
    return [measure for measure in result.plan.measures if measure.name in names]


def _apart(result: "Result", measures: list[Measure]) -> list[tuple[str, list[str]]]:
    """Return the rows that are never compared, with their values."""
    rows: list[tuple[str, Outcome | Context]] = [(last_epoch_name(result), result.last_epoch)]
    rows += [(f"context: {row.name}", row) for row in result.context]
    return [(name, [_value(row, measure) for measure in measures]) for name, row in rows]


def _value(row: "Outcome | Context", measure: Measure) -> str:
    return measure.show(mean(row.values.get(measure.name, ())))


def _cells(outcome: "Outcome", measure: Measure) -> tuple[str, str, str]:
    """Return a value, its difference from the baseline with the interval, and what that is called."""
    value = measure.show(outcome.mean(measure.name))
    found = outcome.differences.get(measure.name)
    if found is None:
        return value, "", ""
    mean, low, high = map(measure.show_difference, (found.mean, found.low, found.high))
    return value, f"{mean} ({low} to {high})", found.call or ""
