"""The loss alone, on logits in memory."""

import torch

from benchmarks import formulas, peers
from benchmarks.contenders import Absent, Contender, Runner, dense
from benchmarks.heats import Heat, Settings, Standing, table_of_losses
from benchmarks.memory import MIB, extra
from benchmarks.problems import Shape
from benchmarks.report import Section, Verdict
from equipoise.losses import CrossEntropy, Focal, GammaCrossEntropy, GeneralizedCrossEntropy
from equipoise.stats import LogOdds

TORCH = Contender("F.cross_entropy", formulas.cross_entropy, formulas.cross_entropy)
BY_HAND = tuple(
    (dense(loss, formula), Contender(f"eager {name}", formula, formula))
    for loss, name, formula in (
        (CrossEntropy(), "cross entropy", formulas.cross_entropy),
        (GammaCrossEntropy(formulas.GAMMA), "gamma cross entropy", formulas.gamma_cross_entropy),
        (GeneralizedCrossEntropy(formulas.POWER), "generalised", formulas.generalised_cross_entropy),
        (Focal(formulas.FOCUS), "focal", formulas.focal),
    )
)


def heat(shape: Shape) -> Heat:
    """Return the race of every loss that asks for the target's log odds alone, against torch's."""
    written = [ours for ours, _ in BY_HAND]
    kinds = {type(ours.run) for ours in written}
    others = [
        dense(one.loss)
        for one in table_of_losses(shape.classes)
        if one.loss is not None and one.stats == (LogOdds(1.0),) and type(one.loss) not in kinds
    ]
    compiled = [(ours, peers.compiled(peer)) for ours, peer in BY_HAND]
    runners: list[Runner | Absent] = [TORCH, *written, *others, *(peer for _, peer in compiled)]
    runners.append(BY_HAND[1][1])
    limit = 0.6 if shape.name == "large" else 1.0

    def judge(end: Standing) -> list[Verdict]:
        names = [one.name for one in (*written, *others)]
        found = end.slowest("any loss of log odds over F.cross_entropy", names, TORCH.name, limit)
        for ours, peer in compiled:
            found += end.compare(f"{ours.name} over {peer.name}", ours.name, peer.name, 1.10)
        return found

    return Heat("The loss alone", shape, torch.float32, runners, TORCH, judge)


def memory(shape: Shape, settings: Settings) -> Section:
    """Measure the memory beyond the gradient."""
    names = ("dense F.cross_entropy", "dense ours", "dense ours, gamma cross entropy")
    taken = {name: extra(name, shape, "float32", threads=settings.threads) for name in names}
    sizes = {name: float("nan") if size is None else size / MIB for name, size in taken.items()}
    plain = sizes[names[0]]
    verdicts = [Verdict(f"{name} over F.cross_entropy", sizes[name] / plain, 0.5) for name in names[1:]]
    lines = [(name, f"{size:.0f}") for name, size in sizes.items()]
    return Section(f"Memory beyond the gradient, {shape}, float32", ("", "MiB"), lines, verdicts, sizes)
