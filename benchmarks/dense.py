"""The loss alone, on logits in memory: small batches, large ones, bfloat16, and under `torch.compile`."""

import torch

from benchmarks import formulas, limits, peers
from benchmarks.comparisons import Comparison, Outcome, Settings
from benchmarks.contenders import Absent, Contender, Runner, dense
from benchmarks.limits import find_limit
from benchmarks.memory import MIB, extra
from benchmarks.problems import Shape
from benchmarks.report import Section, Verdict
from benchmarks.row_losses import CROSS_ENTROPY, GAMMA, PLAIN, TimedLoss, timed_losses

TORCH = Contender("F.cross_entropy", formulas.cross_entropy, formulas.cross_entropy)
OURS = dense(CROSS_ENTROPY.loss, CROSS_ENTROPY.formula, CROSS_ENTROPY.name)
SMALL, COMPILED = "Small batches", "Compiled small batches"  # titles
LARGE_COMPILED = tuple(one for one in PLAIN if one.log_odds)[:3]  # each takes seconds to compile
FEW = ("gamma cross entropy", "Brier", "entropy", "gamma cross entropy - 0.1 entropy")


def small(shape: Shape, threads: int) -> Comparison:
    """Return the comparison of every loss of a row with the same by hand, in eager torch."""
    losses = timed_losses(shape.classes)

    def judge(end: Outcome) -> list[Verdict]:
        found = end.apply(limits.CROSS_ENTROPY, OURS.name, TORCH.name)
        for one in losses:
            requirement = f"{one.name} over the same by hand"
            found += end.apply(one.what, _ours(one).name, _by_hand(one).name, requirement)
        return found

    runners = [TORCH, OURS, *(run for one in losses for run in (_ours(one), _by_hand(one)))]
    return Comparison(SMALL, shape, torch.float32, runners, TORCH, judge, threads=threads, brief=True)


def compiled(shape: Shape, *, full: bool) -> Comparison:
    """Return the comparison of losses with the same by hand where both are compiled.

    Args:
        shape: Of the problem.
        full: Whether to compile every loss, which takes minutes, or a few.
    """
    losses = [CROSS_ENTROPY]
    losses += [one for one in timed_losses(shape.classes) if full or one.name in FEW]
    threes = [(_ours(one), peers.compiled(_ours(one)), peers.compiled(_by_hand(one))) for one in losses]

    def judge(end: Outcome) -> list[Verdict]:
        found: list[Verdict] = []
        for one, (ours, ours_compiled, by_hand) in zip(losses, threes, strict=True):
            requirement = f"{one.name}: compiled over the same by hand, compiled"
            found += end.apply(limits.COMPILED, ours_compiled.name, by_hand.name, requirement)
            found += end.compare(
                f"{one.name}: not compiled over the same by hand, compiled", ours.name, by_hand.name
            )
        return found

    runners = [TORCH, *(run for three in threes for run in three)]
    return Comparison(COMPILED, shape, torch.float32, runners, TORCH, judge, threads=1)


def large(shape: Shape) -> Comparison:
    """Return the comparison of every loss that asks for the target's log odds alone, with torch's."""
    ours = [OURS, *(_ours(one) for one in PLAIN if one.log_odds)]
    pairs = [(_ours(one), peers.compiled(_by_hand(one))) for one in (CROSS_ENTROPY, *LARGE_COMPILED)]
    runners: list[Runner | Absent] = [TORCH, *ours, *(peer for _, peer in pairs), _by_hand(GAMMA)]
    limit = 0.6 if shape.name == "large" else 1.0

    def judge(end: Outcome) -> list[Verdict]:
        names = [one.name for one in ours]
        found = end.slowest("any loss of log odds over F.cross_entropy", names, TORCH.name, limit)
        for one, peer in pairs:
            found += end.compare(f"{one.name} over {peer.name}", one.name, peer.name, 1.10)
        return found

    return Comparison("Large batches", shape, torch.float32, runners, TORCH, judge)


def half(shape: Shape) -> Comparison:
    """Return the comparison with torch's cross entropy in bfloat16."""
    ours, by_hand = _ours(GAMMA), _by_hand(GAMMA)

    def judge(end: Outcome) -> list[Verdict]:
        return [
            *end.apply(limits.CROSS_ENTROPY, OURS.name, TORCH.name),
            *end.compare(f"{GAMMA.name} over the same by hand", ours.name, by_hand.name),
        ]

    runners = [TORCH, OURS, ours, by_hand]
    return Comparison("Large batches", shape, torch.bfloat16, runners, TORCH, judge)


def _ours(one: TimedLoss) -> Contender:
    return OURS if one is CROSS_ENTROPY else dense(one.loss, one.formula, one.name)


def _by_hand(one: TimedLoss) -> Contender:
    return Contender(f"by hand: {one.name}", one.formula, one.formula)


def memory(shape: Shape, dtype: str, settings: Settings) -> Section:
    """Measure the memory beyond the gradient, as a share of the logits."""
    names = ("dense F.cross_entropy", "dense ours", "dense ours, gamma cross entropy")
    logits = shape.rows * shape.classes * getattr(torch, dtype).itemsize
    taken = {name: extra(name, shape, dtype, threads=settings.threads) for name in names}
    sizes = {name: float("nan") if size is None else size for name, size in taken.items()}
    limit = find_limit(limits.MEMORY, shape.name, dtype, amx=settings.amx)
    verdicts = [Verdict(f"{name}: {limits.MEMORY}", sizes[name] / logits, limit) for name in names[1:]]
    lines = [(name, f"{size / MIB:.1f}", f"{size / logits:.4f}") for name, size in sizes.items()]
    title = f"Memory beyond the gradient, {shape}, {dtype}"
    return Section(title, ("", "MiB", "of the logits"), lines, verdicts, dict(sizes))
