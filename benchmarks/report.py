"""Reports of the benchmark: Markdown tables, verdicts on requirements, JSON with machine and commit."""

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, final

import torch

from benchmarks.check import Gate
from benchmarks.contenders import Absent
from benchmarks.limits import Limit
from benchmarks.measure import Spread, Timings
from benchmarks.processor import kind, read_flags

ROOT = Path(__file__).parents[1]
Status = Literal["goal met", "limit met", "missed", "unsteady", "not measured", "reported"]
UNSTEADY = 2.0  # upper over lower quartile; above it, other programs took too much time for a reliable ratio


@final
@dataclass(frozen=True)
class Verdict:
    """A requirement and the measured number.

    Args:
        requirement: Its text.
        measured: The measured ratio or number; nan without a measurement.
        limit: Limit and goal; None if the number is only reported.
        at_least: Whether the limit is a lower bound.
        spread: Lower and upper quartile over the repeats.
    """

    requirement: str
    measured: float
    limit: Limit | None = None
    at_least: bool = False
    spread: tuple[float, float] | None = None

    @classmethod
    def of(
        cls, requirement: str, ratio: Spread, limit: Limit | None = None, *, at_least: bool = False
    ) -> "Verdict":
        """Return the verdict on a ratio."""
        return cls(requirement, ratio.median, limit, at_least, ratio.quartiles)

    @property
    def status(self) -> Status:
        """Whether the goal, only the limit, or neither is met; or the reason why this is unknown."""
        if self.limit is None:
            return "reported"
        if self.measured != self.measured:
            return "not measured"
        if self.spread is not None and self.spread[1] > UNSTEADY * self.spread[0]:
            return "unsteady"
        if self.limit.goal is not None and self._meets(self.limit.goal):
            return "goal met"
        return "limit met" if self._meets(self.limit.limit) else "missed"

    def _meets(self, bound: float) -> bool:
        return self.measured >= bound if self.at_least else self.measured <= bound

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells of a line of a table."""
        spread = "" if self.spread is None else f"{self.spread[0]:.2f} to {self.spread[1]:.2f}"
        status = f"**{self.status}**" if self.status in _OPEN else self.status
        limit, goal = ("-", "-") if self.limit is None else (self.limit.limit, self.limit.goal)
        return self.requirement, self._bound(limit), self._bound(goal), f"{self.measured:.4g}", spread, status

    def _bound(self, bound: float | str | None) -> str:
        if isinstance(bound, float | int):
            return f"{'>=' if self.at_least else '<='} {bound:.4g}"
        return "-"


_COLUMNS = ("requirement", "limit", "goal", "measured", "half of the repeats", "verdict")


@final
@dataclass
class Section:
    """The report of a comparison or of a measurement of memory.

    Args:
        title: What was measured.
        columns: Titles of the columns of its table.
        lines: Lines of its table.
        verdicts: Verdicts on its requirements.
        data: Numbers for the JSON file.
        column: Shape and threads, the title of its column in `overview`.
    """

    title: str
    columns: Sequence[str]
    lines: list[tuple[str, ...]]
    verdicts: list[Verdict] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    column: str = ""

    def markdown(self) -> str:
        """Return the table and its verdicts."""
        text = f"## {self.title}\n\n{table(self.columns, self.lines)}"
        if self.verdicts:
            text += "\n" + verdict_table(self.verdicts)
        return text


def table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    rows = [columns, ["---"] * len(columns), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """Return the verdicts as a Markdown table."""
    return table(_COLUMNS, [verdict.cells for verdict in verdicts])


def summary(sections: Sequence[Section]) -> str:
    """Return how many goals and limits are met, and a table of those that are not."""
    found = [(one.title, verdict) for one in sections for verdict in one.verdicts]
    counts = {status: sum(verdict.status == status for _, verdict in found) for status in _COUNTED}
    total = sum(counts.values())
    said = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    missed = [(title, *verdict.cells) for title, verdict in found if verdict.status in _OPEN]
    text = f"## Of {total} limits: {said or 'none applied'}\n"
    return text + "\n" + table(("where", *_COLUMNS), missed) if missed else text


_OPEN: tuple[Status, ...] = ("missed", "unsteady", "not measured")
_COUNTED: tuple[Status, ...] = ("goal met", "limit met", *_OPEN)


def overview(sections: Sequence[Section]) -> str:
    """Return a table of the ratios of sections with the same requirements, a column for each section."""
    columns = [one.column for one in sections]
    requirements = list(dict.fromkeys(verdict.requirement for one in sections for verdict in one.verdicts))
    found = [{verdict.requirement: verdict for verdict in one.verdicts} for one in sections]
    lines = [(requirement, *(_short(one.get(requirement)) for one in found)) for requirement in requirements]
    return table(("", *columns), lines)


def _short(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    text = f"{verdict.measured:.2f}"
    return f"**{text}**, {verdict.status}" if verdict.status in _OPEN else text


def timing_section(
    title: str,
    result: Timings,
    gate: Gate,
    absent: Sequence[Absent],
    verdicts: list[Verdict],
    baseline: str,
    *,
    brief: bool = False,
) -> Section:
    """Return the section of a comparison.

    Args:
        title: Title of the section.
        result: The times.
        gate: The errors of the contenders.
        absent: Libraries that could not run.
        verdicts: Verdicts on its requirements.
        baseline: The contender to whose time the others are divided.
        brief: Whether to show only the time of the baseline.
    """
    found = {one.name: one for one in gate.findings}
    lines, data = [], {}
    places = 4 if result.time(baseline).median < 0.005 else 1
    for name in sorted(result.seconds, key=lambda one: result.time(one).median):
        time, ratio, finding = result.time(name), result.ratio(name, baseline), found.get(name)
        error = "" if finding is None or finding.error is None else f"{finding.error.gradient:.1e}"
        note = result.notes.get(name, "")
        if finding is not None and not finding.right:
            note = f"WRONG, not counted as a peer; {note}".rstrip("; ")
        cells = f"{1000 * time.median:.{places}f}", _range(time, places)
        if name == baseline or note or not brief:
            lines.append((name, *cells, f"{ratio.median:.2f}", str(time.repeats), error, note))
        data[name] = {
            "seconds": asdict(time),
            "all_seconds": result.seconds[name],
            f"ratio to {baseline}": asdict(ratio),
            "finding": None if finding is None else asdict(finding),
            "note": note,
        }
    lines += [(one.name, "absent", "", "", "", "", one.reason) for one in absent]
    data |= {one.name: {"absent": one.reason} for one in absent}
    columns = ("", "ms", "range", f"of {baseline}", "repeats", "gradient error", "note")
    return Section(title, columns, lines, verdicts, data)


def _range(time: Spread, places: int) -> str:
    return f"{1000 * time.low:.{places}f} to {1000 * time.high:.{places}f}"


def machine() -> dict[str, Any]:
    """Return processor, memory, versions and commit, and whether the working tree differs from the commit."""
    processor = platform.processor()
    if (info := Path("/proc/cpuinfo")).exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = names[0].partition(":")[2].strip() if names else processor
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--", "src")),
        "processor": processor,
        "kind": kind(read_flags()),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(
            os.getloadavg()[0], 2
        ),  # load of all programs; times are unreliable if it is well above `threads`
        "memory_gib": round(memory, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def write(sections: Sequence[Section], about: dict[str, Any], folder: Path) -> Path:
    """Write everything as JSON, and return the path."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = about["date"].replace(":", "").replace("-", "")[:15]
    path = folder / f"{stamp}-{about['commit'][:8] or 'nocommit'}.json"
    body = [
        {
            "title": one.title,
            "results": one.data,
            "verdicts": [asdict(verdict) | {"status": verdict.status} for verdict in one.verdicts],
        }
        for one in sections
    ]
    path.write_text(json.dumps({"about": about, "sections": body}, indent=1, default=str) + "\n")
    return path
