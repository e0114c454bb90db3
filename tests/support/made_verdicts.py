"""Results of comparisons made by hand, for the tests of verdicts."""

from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import numpy as np

from equipoise.compare.measures import Measure
from equipoise.compare.results import Result
from equipoise.compare.statistics import Difference

DECIDING = ("accuracy", "calibrated_nll")
MEASURES = tuple(
    Measure(name, name, "", lambda _: 0.0, better, percent=name == "accuracy")
    for name, better in (
        ("accuracy", "higher"),
        ("calibrated_nll", "lower"),
        ("nll", "lower"),
        ("decided_cost", "lower"),
    )
)
CALLS = {  # of a measure where higher is better: mean, low, high
    "better": (0.046, 0.021, 0.071),
    "equal": (0.001, -0.002, 0.004),
    "undecided": (0.008, -0.004, 0.02),
    "worse": (-0.03, -0.05, -0.01),
}


@dataclass(frozen=True)
class Stub:
    """What the verdict reads of an outcome."""

    candidate: SimpleNamespace
    means: dict[str, float]
    differences: dict[str, Difference] = field(default_factory=dict)
    diverged: int = 0
    records: tuple[SimpleNamespace, ...] = (SimpleNamespace(flipped=0.4),) * 10
    spread: float = 0.01

    @property
    def values(self):
        wave = self.spread * np.sin(np.arange(10))
        return {name: mean + wave - wave.mean() for name, mean in self.means.items()}

    def mean(self, measure):
        return self.means[measure]

    def call(self, measure):
        return self.differences[measure].call if measure in self.differences else None


def difference(call, name):
    mean, low, high = CALLS[call]
    if name != "accuracy":
        mean, low, high = -mean, -high, -low
    needed = "about 4 repeats of 10 folds would settle it if the difference stays as it is"
    return Difference(mean, low, high, call, None, needed if call == "undecided" else None)


def candidate(text):
    return SimpleNamespace(name=text, code=lambda paths: f"loss = {text}  # {paths}")


def outcome(spec, *calls, nll=0.4, raw=None, deciding=DECIDING, **rest):
    differences = {name: difference(call, name) for name, call in zip(deciding, calls, strict=bool(calls))}
    if raw is not None:
        differences["nll"] = Difference(*raw, None)
    means = {"accuracy": 0.85, "calibrated_nll": nll, "nll": 0.5, "decided_cost": 1.0}
    return Stub(candidate(spec), means | rest.pop("means", {}), differences, **rest)


def result(
    *candidates, deciding=DECIDING, one_test=False, noisy=False, context=(), stop="calibrated", **rest
):
    plain = outcome("CrossEntropy()", nll=0.5, means={"accuracy": 0.8})
    noise = 0.6 * np.eye(10) + 0.4 / 9 * (1 - np.eye(10)) if noisy else np.eye(10)
    conditions = SimpleNamespace(
        dataset=SimpleNamespace(name="digits", labels=np.arange(1797) % 10, classes=tuple("0123456789")),
        noise=noise,
        noisy=noisy,
        splits=(SimpleNamespace(test=np.arange(360)),),
    )
    settings = SimpleNamespace(
        folds=10,
        repeats=rest.get("repeats", 1),
        worthwhile={"accuracy": 0.005, "calibrated_nll": 0.01},
        tune=rest.get("tune", 0),
        stop=stop,
        model="mlp",
    )
    plan = SimpleNamespace(
        deciding=deciding,
        measures=MEASURES,
        settings=settings,
        conditions=conditions,
        one_test=one_test,
        test_ratio=1 / 9,
        noise_name="0.4",
        out=rest.get("out"),
        matrices=rest.get("matrices", {}),
        candidates=[each.candidate for each in (plain, *candidates)],
        units=rest.get("units", ()),
    )
    made = SimpleNamespace(
        plan=plan,
        outcomes=(plain, *candidates),
        baseline=plain,
        context=context,
        noise=SimpleNamespace(rate=0.255, low=0.201, high=0.31),
        nll_of="clean" if noisy else "observed",
    )
    made.chosen = partial(Result.chosen, made)
    return made
