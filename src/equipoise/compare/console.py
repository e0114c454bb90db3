"""What a comparison prints: a table and a progress bar on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from equipoise.compare.experiment import Outcome, Plan, Result, Watch
from equipoise.compare.measures import Measure
from equipoise.compare.outputs import free_rule_words, noise_words
from equipoise.compare.verdict import Verdict

__all__ = ["announce", "progress", "show"]

_STYLES = {"better": "bold green", "worse": "red", "undecided": "dim"}
REPORTS = 10  # how often a run without a terminal says how far it is


def announce(plan: Plan) -> None:
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
    trials = len(plan.candidates) * plan.settings.seeds
    print(f"{len(plan.candidates)} objectives x {plan.settings.seeds} seeds = {trials} trials", flush=True)


@contextmanager
def progress(*, quiet: bool) -> Iterator[Watch]:
    """A function to call with the number of finished trials and of all trials.

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
        print(f"{done} of {total} trials", flush=True)


def show(result: Result, verdict: Verdict, report: str) -> None:
    """Print the table, the verdict and where the report is."""
    print(noise_words(result))
    if sys.stdout.isatty():
        _show_table(result)
    else:
        _print_lines(result)
    if words := free_rule_words(result):
        print(words)
    print(verdict.sentence)
    if verdict.others:
        print(verdict.others)
    print(f"report: {report}")


def _show_table(result: Result) -> None:
    """A table that folds to the width of the terminal: two lines for each measure of an objective."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        "objective", *(measure.title for measure in _shown(result)), "ECE (by chance)", show_lines=True
    )
    for column in table.columns:
        column.overflow = "fold"
    for outcome in result.outcomes:
        cells = [Text(outcome.candidate.spec)]
        for measure in _shown(result):
            value, difference, call = _cells(outcome, measure)
            cells.append(
                Text.assemble(value, " ", (call, _STYLES.get(call, "")), "\n" * bool(difference), difference)
            )
        table.add_row(*cells, _ece(outcome))
    Console().print(table)


def _print_lines(result: Result) -> None:
    """Aligned lines, for a file or a pipe."""
    heads = ["objective"]
    for measure in _shown(result):
        heads += [measure.title, "difference (95 % interval)", "called"]
    rows = [
        [
            outcome.candidate.spec,
            *(cell for measure in _shown(result) for cell in _cells(outcome, measure)),
            _ece(outcome),
        ]
        for outcome in result.outcomes
    ]
    lines = [[*heads, "ECE (by chance)"], *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _shown(result: Result) -> list[Measure]:
    """The measures that fit a terminal; the report has them all."""
    return [
        measure
        for measure in result.plan.measures
        if measure.name in ("accuracy", "nll", "cost", "decided_cost")
    ]


def _cells(outcome: Outcome, measure: Measure) -> tuple[str, str, str]:
    """A value, its difference from plain cross entropy with the interval, and what that is called."""
    value = measure.show(outcome.mean(measure.name))
    found = outcome.differences.get(measure.name)
    if found is None:
        return value, "", ""
    mean, low, high = map(measure.show_difference, (found.mean, found.low, found.high))
    return value, f"{mean} ({low} to {high})", found.call or ""


def _ece(outcome: Outcome) -> str:
    return f"{outcome.mean('ece'):.3f} ({outcome.chance_ece()[0]:.3f})"
