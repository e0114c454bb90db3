"""Benchmark equipoise: `make bench`, or `python -m benchmarks.run --part cpu --shapes A --dtypes float32`.

Correctness comes first: if anything of ours is wrong, nothing is timed and nothing printed but the fault.
Then each race runs its contenders in turn, and ratios are taken within a repeat. Tables and verdicts go to
standard output as Markdown, everything to a JSON file.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks import cpu, dense
from benchmarks.check import check
from benchmarks.heats import DTYPES, Heat, Settings
from benchmarks.problems import DENSE, GPU, LINEAR, Shape
from benchmarks.report import Section, machine, summary, table, write

PARTS = ("cpu", "dense", "memory", "gpu")
NO_GPU = "No GPU here: the GPU part was not run, and claims nothing."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status: 1 if something of ours is wrong."""
    parser = _parser()
    options = parser.parse_args(arguments)
    settings = Settings(repeats=options.repeats, budget=options.budget, threads=options.threads)
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    parts = PARTS if options.part == "all" else (options.part,)
    heats = _heats(parts, options)
    if options.part == "cpu" and not heats:
        parser.error("B in bfloat16 takes long and runs with --full only")
    gates = [heat.check() for heat in heats]
    if "memory" in parts:
        gates.append(check((cpu.OURS, cpu.GAMMA, cpu.NONE), _cut(LINEAR["A"], options.small), torch.float32))
    if faults := [fault for gate in gates for fault in gate.faults()]:
        print("Nothing was timed, because this is wrong:", *faults, sep="\n", file=sys.stderr)
        return 1
    about = machine()
    print("# Benchmark\n")
    print(table(("", ""), [(name, str(value)) for name, value in about.items()]))
    if options.small:
        print("Small shapes: they show that the benchmark runs, and nothing else.\n")
    sections: list[Section] = []
    jobs: list[Callable[[], Section]] = [
        lambda heat=heat, gate=gate: heat.run(gate, settings)
        for heat, gate in zip(heats, gates, strict=False)
    ]
    jobs += _memory_jobs(parts, options, settings)
    for job in jobs:
        sections.append(job())
        print(sections[-1].markdown(), flush=True)
    if "gpu" in parts and not torch.cuda.is_available():
        print(NO_GPU + "\n")
    print(summary(sections))
    print(f"Written to {write(sections, about, options.out)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--shapes", type=_names(LINEAR), default=tuple(LINEAR), help="such as A,C")
    parser.add_argument("--dtypes", type=_names(DTYPES), default=tuple(DTYPES), help="such as float32")
    parser.add_argument("--repeats", type=int, default=Settings.repeats, help="of each race, at most")
    parser.add_argument("--budget", type=float, default=Settings.budget, help="seconds per race, about")
    parser.add_argument("--threads", type=int, default=Settings.threads)
    parser.add_argument("--full", action="store_true", help="every race on every shape and in every dtype")
    parser.add_argument("--small", action="store_true", help="tiny shapes, to try the script")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser


def _names(known: Mapping[str, object]) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"must be among {', '.join(known)}, got {unknown[0]}")
        return names

    return read


def _cut(shape: Shape, small: bool) -> Shape:
    return shape.at_most(rows=192, classes=300, features=32) if small else shape


def _heats(parts: Sequence[str], options: argparse.Namespace) -> list[Heat]:
    heats: list[Heat] = []
    if "cpu" in parts:
        for name in options.shapes:
            for dtype in options.dtypes:
                shape = _cut(LINEAR[name], options.small)
                heats += cpu.heats(shape, DTYPES[dtype], full=options.full)
    if "dense" in parts:
        heats += [dense.heat(_cut(shape, options.small)) for shape in DENSE]
    if "gpu" in parts and torch.cuda.is_available():
        from benchmarks import gpu

        heats.append(gpu.heat(_cut(GPU, options.small)))
    return heats


def _memory_jobs(
    parts: Sequence[str], options: argparse.Namespace, settings: Settings
) -> list[Callable[[], Section]]:
    jobs: list[Callable[[], Section]] = []
    if "memory" in parts:
        curve = tuple(rows // 16 for rows in cpu.CURVE) if options.small else cpu.CURVE
        jobs.append(lambda: cpu.memory(_cut(LINEAR["A"], options.small), settings, curve))
        jobs.append(lambda: dense.memory(_cut(DENSE[0], options.small), settings))
    if "gpu" in parts and torch.cuda.is_available():
        from benchmarks import gpu

        jobs.append(lambda: gpu.memory(_cut(GPU, options.small)))
    return jobs


if __name__ == "__main__":
    sys.exit(main())
