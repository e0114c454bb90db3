"""Time and memory of a linear layer and cross entropy against rows and classes.

`python -m benchmarks.scaling` writes `benchmarks/results/scaling.json` and draws
`docs/images/scaling.svg`; with `--picture` it draws the results of an earlier run.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import memory, peers
from benchmarks.contenders import Contender, linear
from benchmarks.measure import time_contenders
from benchmarks.problems import Problem, Shape
from benchmarks.report import machine
from equipoise.losses import CrossEntropy

RESULTS = Path(__file__).parent / "results" / "scaling.json"
IMAGE = Path(__file__).parents[1] / "docs" / "images" / "scaling.svg"
FEATURES, ROWS, CLASSES = 256, 1024, 16384  # those that are not varied
SWEEPS = {
    "rows": [Shape(str(n), n, CLASSES, FEATURES) for n in (16, 64, 256, 1024, 4096, 16384)],
    "classes": [Shape(str(c), ROWS, c, FEATURES) for c in (10, 100, 1000, 8192, 32768, 131072)],
}
EAGER, COMPILED, TORCH, OURS = (
    "F.linear and F.cross_entropy",
    "the same, torch.compile",
    "F.linear_cross_entropy",
    "CrossEntropy().linear",
)
IN_MEMORY = {EAGER: "eager", TORCH: "F.linear_cross_entropy", OURS: "ours"}  # of `memory.CONTENDERS`
COLOURS = {EAGER: "#8a8a8a", COMPILED: "#3fa35f", TORCH: "#e0813a", OURS: "#3d8fd1"}


def contenders() -> list[Contender]:
    """Return the ways to compute the loss and both gradients."""
    compiled = peers.compiled(peers.EAGER)
    found = [peers.EAGER.having(EAGER), peers.TORCH.having(TORCH), linear(CrossEntropy()).having(OURS)]
    return [*found, compiled.having(COMPILED)] if isinstance(compiled, Contender) else found


def measured(shape: Shape, repeats: int) -> dict[str, dict[str, float]]:
    """Return milliseconds and MiB beyond the gradients of each contender."""
    problem = Problem.make(shape, torch.float32)
    timings = time_contenders(contenders(), problem, peers.cpu_seconds, repeats=repeats, budget=10)
    found = {name: {"ms": 1000 * timings.time(name).median} for name in timings.seconds}
    for name, key in IN_MEMORY.items():
        taken = memory.extra(key, shape, "float32", threads=torch.get_num_threads())
        if taken is not None:
            found[name]["MiB"] = taken / memory.MIB
    return found


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw time and memory against rows and classes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    ink = "#8a8a8a"  # read on a light and on a dark page
    colours = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), ink
    )
    style: Any = {
        "svg.hashsalt": "equipoise",
        "savefig.transparent": True,
        "legend.frameon": False,
        **colours,
    }
    with mpl.rc_context(style):
        figure, axes = plt.subplots(2, 2, figsize=(9, 6), sharex="col", layout="constrained")
        for column, (varied, points) in enumerate(results["sweeps"].items()):
            for row, unit in enumerate(("ms", "MiB")):
                for name, colour in COLOURS.items():
                    pairs = [
                        (int(at), found[name][unit])
                        for at, found in points.items()
                        if unit in found.get(name, {})
                    ]
                    if pairs:
                        axes[row, column].loglog(
                            *zip(*pairs, strict=True), marker="o", color=colour, label=name
                        )
                axes[row, column].spines[["top", "right"]].set_visible(False)
            axes[1, column].set_xlabel(varied)
        axes[0, 0].set_ylabel("ms, forward and backward")
        axes[1, 0].set_ylabel("MiB beyond the gradients")
        axes[0, 0].set_title(f"{CLASSES} classes")
        axes[0, 1].set_title(f"{ROWS} rows")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=2)
        figure.savefig(path, metadata={"Date": None})


def main(arguments: list[str] | None = None) -> int:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--picture", action="store_true", help="draw the results of an earlier run")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    if options.picture:
        results = json.loads(RESULTS.read_text())
    else:
        torch.set_num_threads(1)
        sweeps = {
            varied: {shape.name: measured(shape, options.repeats) for shape in shapes}
            for varied, shapes in SWEEPS.items()
        }
        results = {"machine": machine(), "sweeps": sweeps}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    draw(results, IMAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
