"""Benchmark equipoise: `make bench`, or `python -m benchmarks.run --part cpu --shapes A --dtypes float32`.

It checks correctness first: if a result of equipoise is wrong, it prints the error and times nothing. Then
each comparison times its contenders in turn, and ratios are taken within a repeat. The limits are those of
`benchmarks/limits.py` for this kind of processor. It prints tables and verdicts as Markdown, and writes all
numbers to a JSON file.
"""

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch

from benchmarks import cpu, dense, lines
from benchmarks.check import Gate, check
from benchmarks.comparisons import DTYPES, Comparison, Settings
from benchmarks.problems import DENSE, GPU, HALF, LINEAR, SMALL, Shape
from benchmarks.processor import has_amx, read_flags
from benchmarks.report import Section, machine, overview, summary, table, write

PARTS = ("small", "dense", "cpu", "memory", "gpu", "lines")
SHAPES = {shape.name.replace(" ", ""): shape for shape in (*SMALL, HALF, *DENSE, *LINEAR.values())}
THREADS = (1, 2)  # for small batches
NO_GPU = "There is no GPU: the GPU part was not run."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status: 1 if a result of equipoise is wrong."""
    parser = _parser()
    options = parser.parse_args(arguments)
    amx = has_amx(read_flags())
    settings = Settings(repeats=options.repeats, budget=options.budget, threads=options.threads, amx=amx)
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    parts = PARTS if options.part == "all" else (options.part,)
    comparisons = _comparisons(parts, options)
    if options.part == "cpu" and not comparisons:
        parser.error("B in bfloat16 takes long and runs with --full only")
    gates = [one.check() for one in comparisons]
    if faults := [fault for gate in (*gates, *_memory_gates(parts, options)) for fault in gate.faults()]:
        print("Nothing was timed, because this is wrong:", *faults, sep="\n", file=sys.stderr)
        return 1
    about = machine()
    print("# Benchmark\n")
    print(table(("", ""), [(name, str(value)) for name, value in about.items()]))
    if options.small:
        print("Small shapes: they show that the benchmark runs, and nothing else.\n")
    sections: list[Section] = []
    measurements: list[Callable[[], Section]] = [
        lambda one=one, gate=gate: one.run(gate, settings)
        for one, gate in zip(comparisons, gates, strict=True)
    ]
    measurements += _other_measurements(parts, options, settings)
    for measure in measurements:
        sections.append(measure())
        print(sections[-1].markdown(), flush=True)
    if "gpu" in parts and not torch.cuda.is_available():
        print(NO_GPU + "\n")
    for name in (dense.SMALL, dense.COMPILED):
        if found := [one for one in sections if one.title.startswith(f"{name}, ")]:
            print(f"## {name}, all ratios\n\n{overview(found)}")
    print(summary(sections))
    print(f"Written to {write(sections, about, options.out)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--shapes", type=_names(SHAPES), default=tuple(SHAPES), help="such as A,32x10")
    parser.add_argument("--dtypes", type=_names(DTYPES), default=tuple(DTYPES), help="such as float32")
    parser.add_argument("--repeats", type=int, default=Settings.repeats, help="of each comparison, at most")
    parser.add_argument("--budget", type=float, default=Settings.budget, help="seconds per comparison, about")
    parser.add_argument("--threads", type=int, default=Settings.threads)
    parser.add_argument("--full", action="store_true", help="every comparison on every shape and dtype")
    parser.add_argument("--small", action="store_true", help="tiny shapes, to try the script")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser


def _names(allowed: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        if unknown := [name for name in names if name not in allowed]:
            raise argparse.ArgumentTypeError(f"must be among {', '.join(allowed)}, got {unknown[0]}")
        return names

    return read


def _cut(shape: Shape, small: bool) -> Shape:
    return shape.at_most(rows=192, classes=300, features=32) if small else shape


def _comparisons(parts: Sequence[str], options: argparse.Namespace) -> list[Comparison]:
    def chosen(shapes: Sequence[Shape]) -> list[Shape]:
        named = [SHAPES[name] for name in options.shapes]
        return [_cut(shape, options.small) for shape in shapes if shape in named]

    single, half = ("float32" in options.dtypes, "bfloat16" in options.dtypes)
    found: list[Comparison] = []
    if "small" in parts and single:
        found += [dense.small(shape, threads) for threads in THREADS for shape in chosen(SMALL)]
        found += [dense.compiled(shape, full=options.full) for shape in chosen((SMALL[1], SMALL[-1]))]
    if "dense" in parts:
        found += [dense.large(shape) for shape in chosen(DENSE) if single]
        found += [dense.half(shape) for shape in chosen((HALF,)) if half]
    if "cpu" in parts:
        for shape in chosen(tuple(LINEAR.values())):
            for dtype in options.dtypes:
                found += cpu.comparisons(shape, DTYPES[dtype], full=options.full)
    if "gpu" in parts and torch.cuda.is_available():
        from benchmarks import gpu

        found.append(gpu.comparison(_cut(GPU, options.small)))
    return found


def _memory_gates(parts: Sequence[str], options: argparse.Namespace) -> list[Gate]:
    if "memory" not in parts:
        return []
    return [check((cpu.OURS, cpu.GAMMA, cpu.NONE), _cut(LINEAR["A"], options.small), torch.float32)]


def _other_measurements(
    parts: Sequence[str], options: argparse.Namespace, settings: Settings
) -> list[Callable[[], Section]]:
    found: list[Callable[[], Section]] = []
    if "memory" in parts:
        curve = tuple(rows // 16 for rows in cpu.CURVE) if options.small else cpu.CURVE
        large, half = (_cut(shape, options.small) for shape in (DENSE[0], HALF))
        found.append(lambda: cpu.memory(_cut(LINEAR["A"], options.small), settings, curve))
        found.append(lambda: dense.memory(large, "float32", settings))
        found.append(lambda: dense.memory(half, "bfloat16", settings))
    if "gpu" in parts and torch.cuda.is_available():
        from benchmarks import gpu

        found.append(lambda: gpu.memory(_cut(GPU, options.small)))
    if "lines" in parts:
        found.append(lines.count)
    return found


if __name__ == "__main__":
    sys.exit(main())
