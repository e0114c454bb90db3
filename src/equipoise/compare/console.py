"""Output of a comparison: a table and a progress bar on a terminal, plain lines otherwise."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from equipoise.compare import sentences
from equipoise.compare.plan import Plan
from equipoise.compare.results import Result
from equipoise.compare.verdict import Verdict
from equipoise.compare.views import features, rows, visible

__all__ = ["announce", "progress", "show"]

_STYLES = {"better": "bold green", "worse": "red", "equal": "cyan", "undecided": "dim"}
REPORTS = 10  # progress lines of a run without a terminal
WIDEST = 10**6  # columns without a terminal, so that no line is broken and no cell cut


def announce(plan: Plan) -> None:
    """Print on stderr the data and the number of trainings."""
    dataset, tried = plan.conditions.dataset, plan.settings.tune
    objectives, splits = len(plan.candidates), len(plan.conditions.splits)
    shared = objectives * splits * max(tried, 1) - plan.trials
    tuned = f" x {tried} settings" if tried > 1 else ""
    once = f" less {shared} that objectives share" if shared else ""
    _print(
        sys.stderr,
        f"{dataset.name}: {len(dataset.labels)} rows, {features(dataset)}, {len(dataset.classes)} classes",
        *(f"note: {note}" for note in dataset.notes),
        *([f"note: costs are {sentences.SIMILARITY_COSTS}"] if plan.costs_from == "similarity" else []),
        f"{objectives} objectives x {splits} splits{tuned}{once} = {plan.trials} trainings",
    )


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yield a function of the number of finished trainings and of all: a bar on a terminal, else lines."""
    if quiet:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("training", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        said: set[int] = set()  # printed tenths; several may be passed at once

        def say(done: int, total: int) -> None:
            if (tenth := done * REPORTS // max(total, 1)) not in said:
                said.add(tenth)
                _print(sys.stderr, f"{done} of {total} trainings")

        yield say


def show(result: Result, verdict: Verdict, report: str | None = None) -> None:
    """Print the table, the verdict, a warning if there is one, and the path of the report, if any."""
    _print(
        sys.stdout,
        _table(result, terminal=sys.stdout.isatty()),
        f"differences from {verdict.against}; intervals are simultaneous; {sentences.splits_words(result)}",
        sentences.nll_words(result),
        *filter(None, (sentences.decision_gain_words(result), verdict.sentence, verdict.others)),
        *([f"warning: {caution}"] if (caution := sentences.caution(result, verdict.winner)) else []),
        *([] if report is None else [f"report: {report}"]),
    )


def _print(stream: TextIO, *lines: str | Table) -> None:
    """Print lines and tables; control characters are escaped, characters that cannot be encoded replaced."""
    terminal, encoding = stream.isatty(), getattr(stream, "encoding", None) or "utf-8"
    console = Console(file=stream, width=None if terminal else WIDEST, soft_wrap=True)
    with console.capture() as got:
        for line in lines:
            console.print(Text(visible(line)) if isinstance(line, str) else line)
    text = "\n".join(line.rstrip() for line in got.get().split("\n"))
    stream.write(text.encode(encoding, "replace").decode(encoding))
    stream.flush()


def _table(result: Result, *, terminal: bool) -> Table:
    """Return a table with a row per objective: a column per measure on a terminal, else three columns."""
    names = {*result.plan.deciding, "accuracy", "calibrated_nll"}
    shown = [measure for measure in result.plan.measures if measure.name in names]
    table = Table() if terminal else Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    more = () if terminal else ("difference (interval)", "called")
    for head in ("objective", *(head for measure in shown for head in (measure.title, *more))):
        table.add_column(head, overflow="fold", no_wrap=not terminal)
    for place, row in enumerate(rows(result), start=1):
        name = Text(f"context: {visible(row.name)}" if row.note == "context" else visible(row.title))
        apart = "not compared" if row.beside else ""
        texts: list[Text] = []
        for cell in (row.cells[measure.name] for measure in shown):
            found = [Text(f"{cell.difference} ({cell.interval})")] if cell.found else []
            if terminal:
                said = Text.assemble(cell.value, " ", (cell.call, _STYLES.get(cell.call, "")))
                texts.append(Text("\n").join([said, *found]))
            else:
                texts += [Text(cell.value), *(found or [Text()]), Text(apart or cell.call)]
        if terminal and apart:
            name.append(f"\n{apart}")
        end = place in (1, len(result.outcomes))
        table.add_row(name, *texts, style="dim" if apart else None, end_section=end)
    return table
