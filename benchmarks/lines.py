"""How many lines the engine takes: statistics, kernels, the linear path and what is shared."""

from pathlib import Path

from benchmarks import limits
from benchmarks.limits import find_limit
from benchmarks.report import ROOT, Section, Verdict

SOURCE = ROOT / "src" / "equipoise"
ENGINE = (  # folders and files, as far as they exist: those before the engine was rebuilt, and those after
    "stats",
    "rows.py",
    "reduction.py",
    "sharded.py",
    "statistics",
    "kernels",
    "linear",
    "distributed.py",
    "_batch.py",
)
SUFFIXES = (".py", ".cpp", ".h")


def count(source: Path = SOURCE) -> Section:
    """Return the lines of each part of the engine, beside the limits.

    Args:
        source: Folder of the package.
    """
    sizes: dict[str, int] = {}
    for name in ENGINE:
        place = source / name
        files = sorted(place.rglob("*")) if place.is_dir() else [place]
        for file in files:
            if file.suffix in SUFFIXES and file.is_file():
                sizes[str(file.relative_to(source))] = len(file.read_text().splitlines())
    longest = max(sizes.values(), default=0)
    verdicts = [
        Verdict(limits.LINES, sum(sizes.values()), find_limit(limits.LINES)),
        Verdict(limits.FILE_LINES, longest, find_limit(limits.FILE_LINES)),
    ]
    parts = dict.fromkeys(name.partition("/")[0] for name in sizes)
    totals = {
        part: sum(size for name, size in sizes.items() if name.partition("/")[0] == part) for part in parts
    }
    lines = [(part, str(total)) for part, total in totals.items()]
    return Section("Lines of the engine", ("", "lines"), lines, verdicts, dict(sizes))
