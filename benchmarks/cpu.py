"""Comparisons of the linear layer with the loss on a CPU."""

from collections.abc import Sequence

import torch

from benchmarks import formulas, limits, peers
from benchmarks.comparisons import Comparison, Outcome, Settings
from benchmarks.contenders import Absent, Contender, Products, Runner, linear, summed
from benchmarks.limits import Limit
from benchmarks.memory import MIB, extra
from benchmarks.problems import Shape
from benchmarks.report import Section, Verdict
from benchmarks.row_losses import NOT_TIMED, PLAIN, of_full_rows
from equipoise.losses import CrossEntropy, GammaCrossEntropy
from equipoise.penalties import Entropy, ZLoss

THREE, FOUR = Products(3), Products(4)
OURS = linear(CrossEntropy(), "cross entropy", truth=formulas.cross_entropy)
GAMMA = linear(GammaCrossEntropy(formulas.GAMMA), "gamma cross entropy", truth=formulas.gamma_cross_entropy)
THREE_TERMS = linear(CrossEntropy(label_smoothing=0.1) + 0.01 * Entropy() + 1e-4 * ZLoss(), "three terms")
TORCH_BACKEND = OURS.having("ours: cross entropy, backend torch", backend="torch")
NONE = Contender("ours: reduction none", summed(OURS.run), formulas.cross_entropies, ours=True)
SIXTEENTH = 16
LARGE = 2048  # rows of a block, the largest value for the options of other libraries
BLOCK = 128 * MIB
CURVE = (1024, 2048, 4096, 8192)


def comparisons(shape: Shape, dtype: torch.dtype, *, full: bool) -> list[Comparison]:
    """Return the comparisons on a shape.

    Args:
        shape: Shape of the problem.
        dtype: Dtype of the problem.
        full: Whether to run them all. If not, B runs plain cross entropy only, the other shapes run
            reduction none in float32 only, and the table of losses runs on C, whose products cost least.
    """
    single, lean = dtype == torch.float32, shape.name == "B"
    found = [_main(shape, dtype, every=full or not lean)]
    if full or (single and not lean):
        found += [_none(shape, dtype), _backends(shape, dtype)]
    if full or (single and shape.name == "C"):
        found.append(_table(shape, dtype))
    return found


def _main(shape: Shape, dtype: torch.dtype, *, every: bool) -> Comparison:
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
        runners += [sixteenth, GAMMA, THREE_TERMS, peers.compiled(peers.EAGER, chunker=True)]
        runners += [gamma, peers.compiled(gamma), peers.compiled(gamma, chunker=True)]
    few_classes = shape.name == "C"

    def judge(end: Outcome) -> list[Verdict]:
        products, plain = THREE.name, OURS.name
        found = end.apply(limits.LINEAR, plain, products)
        found += end.apply(limits.LINEAR_THREE_TERMS, THREE_TERMS.name, products)
        found += end.compare("blocks of a sixteenth of the logits, likewise", sixteenth.name, products, 1.30)
        for ours in (OURS, large, GAMMA):
            if (best := end.best_peer(ours.truth)) is not None:
                found += end.compare(f"{ours.name} over its best peer ({best})", ours.name, best, 1.0)
        found += end.compare(f"{GAMMA.name} over plain cross entropy", GAMMA.name, plain, 1.05)
        found += end.compare("three terms over one", THREE_TERMS.name, plain, 1.10)
        found += end.compare(
            "F.linear_cross_entropy with defaults over ours",
            peers.TORCH.name,
            plain,
            None if few_classes else 1.6,
            at_least=True,
        )
        if dtype == torch.bfloat16:
            found.append(end.precision(plain, None))
        return found

    return Comparison("Linear and loss", shape, dtype, runners, THREE, judge, search=lambda best: best)


def _none(shape: Shape, dtype: torch.dtype) -> Comparison:
    def judge(end: Outcome) -> list[Verdict]:
        best = end.best_peer(formulas.cross_entropies)
        return [
            *end.compare("time over the four bare products", NONE.name, FOUR.name),
            *end.compare(f"time over the best peer ({best})", NONE.name, best),
        ]

    def without_reduction(best: Contender) -> Contender:
        name = best.name.replace("best options", "reduction none, best options for mean")
        return peers.TORCH_NONE.having(name, **best.options)

    runners = [FOUR, NONE, peers.EAGER_NONE, peers.TORCH_NONE]
    return Comparison("Reduction none", shape, dtype, runners, FOUR, judge, search=without_reduction)


def _backends(shape: Shape, dtype: torch.dtype) -> Comparison:
    """Return the comparison of the torch backend with the kernels."""

    def judge(end: Outcome) -> list[Verdict]:
        return [
            *end.apply(limits.LINEAR_TORCH, TORCH_BACKEND.name, THREE.name),
            *end.compare("backend torch over the compiled kernels", TORCH_BACKEND.name, OURS.name),
        ]

    runners = [THREE, OURS, TORCH_BACKEND]
    return Comparison("Without kernels", shape, dtype, runners, THREE, judge, threads=1)


def _table(shape: Shape, dtype: torch.dtype) -> Comparison:
    odds, others = ([linear(one.loss) for one in PLAIN if one.log_odds is kind] for kind in (True, False))
    absent = [Absent(one.name, "needs full rows of logits") for one in of_full_rows(shape.classes)]
    absent += [Absent(name, reason) for name, reason in NOT_TIMED.items()]

    def judge(end: Outcome) -> list[Verdict]:
        names, more = ([one.name for one in some] for some in (odds, others))
        return [
            *end.slowest("any loss of log odds over plain cross entropy", names, OURS.name, 1.05),
            *end.slowest("any other loss of the table over plain cross entropy", more, OURS.name),
        ]

    runners: Sequence[Runner | Absent] = [OURS, *odds, *others, *absent]
    return Comparison("Every loss of the table", shape, dtype, runners, OURS, judge)


def memory(shape: Shape, settings: Settings, curve: Sequence[int] = CURVE, block: int = BLOCK) -> Section:
    """Measure the memory beyond the gradients for growing numbers of rows."""
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
            products = max(data["bare products, float32"].values())  # workspace of the matrix products
            requirement = f"{said}: MiB at most (a block and 5 %, and {products:.0f} of the bare products)"
            verdicts.append(Verdict(requirement, max(sizes.values()), Limit(1.05 * block / MIB + products)))
            flat = sizes[last] / max(sizes[first], 1.0)
            requirement = f"{said}: {last} rows over {first} rows"
            verdicts.append(Verdict(requirement, flat, Limit(1.05)))
    title = f"Memory beyond the gradients, MiB, D={shape.features} V={shape.classes}, by rows"
    return Section(title, ("", *(f"N={rows}" for rows in curve)), lines, verdicts, data)
