"""The linear layer and the loss on a CPU."""

from collections.abc import Sequence

import torch

from benchmarks import formulas, peers
from benchmarks.contenders import Absent, Contender, Products, Runner, linear, summed
from benchmarks.heats import Heat, Settings, Standing, table_of_losses
from benchmarks.memory import MIB, extra
from benchmarks.problems import Shape
from benchmarks.report import Section, Verdict
from equipoise.losses import CrossEntropy, GammaCrossEntropy
from equipoise.penalties import Entropy, ZLoss

THREE, FOUR = Products(3), Products(4)
OURS = linear(CrossEntropy(), "cross entropy", truth=formulas.cross_entropy)
GAMMA = linear(GammaCrossEntropy(formulas.GAMMA), "gamma cross entropy", truth=formulas.gamma_cross_entropy)
FOUR_STATISTICS = linear(
    CrossEntropy(label_smoothing=0.1) + 0.01 * Entropy() + 1e-4 * ZLoss(), "four statistics"
)
NONE = Contender("ours: reduction none", summed(OURS.run), formulas.cross_entropies, ours=True)
SIXTEENTH = 16
LARGE = 2048  # rows of a block that peers with options of their own may come to
BLOCK = 128 * MIB
CURVE = (1024, 2048, 4096, 8192)


def heats(shape: Shape, dtype: torch.dtype, *, full: bool) -> list[Heat]:
    """Return the races on a shape.

    Args:
        shape: Of the problem.
        dtype: Of the problem.
        full: Whether to run them all. If not, B runs plain cross entropy only, the other shapes run
            reduction none in float32 only, and the table of losses runs on C, whose products cost least.
    """
    single, lean = dtype == torch.float32, shape.name == "B"
    found = [_main(shape, dtype, every=full or not lean)]
    if full or (single and not lean):
        found.append(_none(shape, dtype))
    if full or (single and shape.name == "C"):
        found.append(_table(shape, dtype))
    return found


def _main(shape: Shape, dtype: torch.dtype, *, every: bool) -> Heat:
    block = shape.rows * shape.classes * dtype.itemsize // SIXTEENTH
    sixteenth = OURS.having("ours: cross entropy, blocks of a sixteenth", block_bytes=block)
    large = OURS.having(
        f"ours: cross entropy, blocks of {LARGE} rows", block_bytes=LARGE * shape.classes * dtype.itemsize
    )
    runners: list[Runner | Absent] = [
        THREE,
        OURS,
        large,
        peers.EAGER,
        peers.compiled(peers.EAGER),
        peers.TORCH,
    ]
    if every:
        gamma = peers.EAGER_GAMMA
        runners += [sixteenth, GAMMA, FOUR_STATISTICS, peers.compiled(peers.EAGER, chunker=True)]
        runners += [gamma, peers.compiled(gamma), peers.compiled(gamma, chunker=True)]
    small = shape.name == "C"
    limit = 1.20 if dtype == torch.bfloat16 else 1.05 if small else 1.10

    def judge(end: Standing) -> list[Verdict]:
        floor, plain = THREE.name, OURS.name
        found = end.compare("time over the three bare products", plain, floor, limit)
        found += end.compare("blocks of a sixteenth of the logits, likewise", sixteenth.name, floor, 1.30)
        for ours in (OURS, large, GAMMA):
            if (best := end.best_peer(ours.truth)) is not None:
                found += end.compare(f"{ours.name} over its best peer ({best})", ours.name, best, 1.0)
        found += end.compare(f"{GAMMA.name} over plain cross entropy", GAMMA.name, plain, 1.05)
        found += end.compare("four statistics over one", FOUR_STATISTICS.name, plain, 1.10)
        found += end.compare(
            "F.linear_cross_entropy with defaults over ours",
            peers.TORCH.name,
            plain,
            None if small else 1.6,
            at_least=True,
        )
        if dtype == torch.bfloat16:
            found.append(end.precision(plain, None))
        return found

    return Heat("Linear and loss", shape, dtype, runners, THREE, judge, search=lambda best: best)


def _none(shape: Shape, dtype: torch.dtype) -> Heat:
    def judge(end: Standing) -> list[Verdict]:
        best = end.best_peer(formulas.cross_entropies)
        return [
            *end.compare("time over the four bare products", NONE.name, FOUR.name, None),
            *end.compare(f"time over the best peer ({best})", NONE.name, best, None),
        ]

    def without_reduction(best: Contender) -> Contender:
        name = best.name.replace("best options", "reduction none, best options for mean")
        return peers.TORCH_NONE.having(name, **best.options)

    runners = [FOUR, NONE, peers.EAGER_NONE, peers.TORCH_NONE]
    return Heat("Reduction none", shape, dtype, runners, FOUR, judge, search=without_reduction)


def _table(shape: Shape, dtype: torch.dtype) -> Heat:
    samples = table_of_losses(shape.classes)
    ours = [linear(one.loss) for one in samples if one.loss is not None]
    absent = [Absent(one.name, one.reason) for one in samples if one.loss is None]

    def judge(end: Standing) -> list[Verdict]:
        names = [one.name for one in ours]
        return end.slowest("any loss of the table over plain cross entropy", names, OURS.name, 1.05)

    runners: Sequence[Runner | Absent] = [OURS, *(one for one in ours if one.name != OURS.name), *absent]
    return Heat("Every loss of the table", shape, dtype, runners, OURS, judge)


def memory(shape: Shape, settings: Settings, curve: Sequence[int] = CURVE, block: int = BLOCK) -> Section:
    """Measure the memory beyond the gradients as the rows grow."""
    ends = (curve[1], curve[-1])
    kinds = (
        ("bare products", "float32", ends, {}),
        ("ours", "float32", curve, {}),
        ("ours", "bfloat16", ends, {}),
        ("ours, gamma cross entropy", "float32", ends, {}),
        ("ours, reduction none", "float32", ends, {}),
        ("eager", "float32", curve, {}),
        ("F.linear_cross_entropy", "float32", curve, {"batch_chunk_size": 1024}),
    )
    verdicts: list[Verdict] = []
    lines: list[tuple[str, ...]] = []
    data: dict[str, dict[int, float]] = {}
    for name, dtype, points, options in kinds:
        sizes: dict[int, float] = {}
        for rows in points:
            here = Shape(shape.name, rows=rows, classes=shape.classes, features=shape.features)
            taken = extra(name, here, dtype, threads=settings.threads, **options)
            sizes[rows] = float("nan") if taken is None else taken / MIB
        said = f"{name}, {dtype}" + "".join(f", {key}={value}" for key, value in options.items())
        lines.append((said, *(f"{sizes[rows]:.0f}" if rows in sizes else "" for rows in curve)))
        data[said] = sizes
        if name.startswith("ours"):
            first, last = ends
            own = max(data["bare products, float32"].values())  # the matrix product's own work space
            demand = f"{said}: MiB at most (a block and 5 %, and {own:.0f} of the bare products)"
            verdicts.append(Verdict(demand, max(sizes.values()), 1.05 * block / MIB + own))
            flat = sizes[last] / max(sizes[first], 1.0)
            demand = f"{said}: {last} rows over {first} rows"
            verdicts.append(Verdict(demand, flat, 1.05))
    title = f"Memory beyond the gradients, MiB, D={shape.features} V={shape.classes}, by rows"
    return Section(title, ("", *(f"N={rows}" for rows in curve)), lines, verdicts, data)
