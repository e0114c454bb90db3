"""What comes out: Markdown tables, a verdict for every demand, and JSON with the machine and the commit."""

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

import torch

from benchmarks.check import Gate
from benchmarks.contenders import Absent
from benchmarks.measure import Race, Spread

ROOT = Path(__file__).parents[1]


@final
@dataclass(frozen=True)
class Verdict:
    """A demand beside what was measured.

    Args:
        demand: In words.
        measured: The ratio, or the number.
        limit: None where nothing is demanded and the number is only reported.
        at_least: Whether the limit is a lower one.
        spread: Smallest and largest over the repeats.
    """

    demand: str
    measured: float
    limit: float | None = None
    at_least: bool = False
    spread: tuple[float, float] | None = None

    @classmethod
    def of(
        cls, demand: str, ratio: Spread, limit: float | None = None, *, at_least: bool = False
    ) -> "Verdict":
        """Return the verdict on a ratio."""
        return cls(demand, ratio.median, limit, at_least, (ratio.low, ratio.high))

    @property
    def held(self) -> bool | None:
        """Whether the limit holds; None without a limit, or if nothing could be measured."""
        if self.limit is None or self.measured != self.measured:
            return None
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    @property
    def cells(self) -> tuple[str, ...]:
        """As a line of a table."""
        limit = "-" if self.limit is None else f"{'>=' if self.at_least else '<='} {self.limit:.4g}"
        spread = "" if self.spread is None else f"{self.spread[0]:.2f} to {self.spread[1]:.2f}"
        return self.demand, limit, f"{self.measured:.4g}", spread, _WORDS[self.held]


_COLUMNS = ("demand", "limit", "measured", "range over repeats", "verdict")
_WORDS = {True: "held", False: "**MISSED**", None: "reported"}


@final
@dataclass
class Section:
    """One race, or one measurement of memory, as it is reported.

    Args:
        title: What was measured.
        columns: Of its table.
        lines: Of its table.
        verdicts: On its demands.
        data: For the JSON.
    """

    title: str
    columns: Sequence[str]
    lines: list[tuple[str, ...]]
    verdicts: list[Verdict] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

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
    """Return how many limits held, and a table of those that did not."""
    judged = [
        (one.title, verdict) for one in sections for verdict in one.verdicts if verdict.held is not None
    ]
    missed = [(title, *verdict.cells) for title, verdict in judged if not verdict.held]
    text = f"## {len(judged) - len(missed)} of {len(judged)} limits held\n"
    return text + "\n" + table(("where", *_COLUMNS), missed) if missed else text


def race_section(
    title: str, result: Race, gate: Gate, absent: Sequence[Absent], verdicts: list[Verdict], floor: str
) -> Section:
    """Return the section of a race.

    Args:
        title: What was raced.
        result: The times.
        gate: The errors.
        absent: Peers that could not run.
        verdicts: On its demands.
        floor: The contender whose time is 1.
    """
    found = {one.name: one for one in gate.findings}
    lines, data = [], {}
    for name in sorted(result.seconds, key=lambda one: result.time(one).median):
        time, ratio, finding = result.time(name), result.ratio(name, floor), found.get(name)
        error = "" if finding is None or finding.error is None else f"{finding.error.gradient:.1e}"
        note = result.notes.get(name, "")
        if finding is not None and not finding.right:
            note = f"WRONG, not counted as a peer; {note}".rstrip("; ")
        cells = f"{1000 * time.median:.1f}", f"{1000 * time.low:.1f} to {1000 * time.high:.1f}"
        lines.append((name, *cells, f"{ratio.median:.2f}", str(time.repeats), error, note))
        data[name] = {
            "seconds": asdict(time),
            "all_seconds": result.seconds[name],
            f"ratio to {floor}": asdict(ratio),
            "finding": None if finding is None else asdict(finding),
            "note": note,
        }
    lines += [(one.name, "absent", "", "", "", "", one.reason) for one in absent]
    data |= {one.name: {"absent": one.reason} for one in absent}
    columns = ("", "ms", "range", f"of {floor}", "repeats", "gradient error", "note")
    return Section(title, columns, lines, verdicts, data)


def machine() -> dict[str, Any]:
    """Return what ran: processor, memory, versions, commit, and whether the tree differs from it."""
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
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),  # of others too: well above `threads`, times mean little
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
    """Write everything as JSON, and return where."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = about["date"].replace(":", "").replace("-", "")[:15]
    path = folder / f"{stamp}-{about['commit'][:8] or 'nocommit'}.json"
    body = [
        {
            "title": one.title,
            "results": one.data,
            "verdicts": [asdict(verdict) | {"held": verdict.held} for verdict in one.verdicts],
        }
        for one in sections
    ]
    path.write_text(json.dumps({"about": about, "sections": body}, indent=1, default=str) + "\n")
    return path
