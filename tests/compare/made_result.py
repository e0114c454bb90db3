"""A finished comparison with real predictions, made in seconds and without the code that trains."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from compare_types import (
    Candidate,
    Conditions,
    Context,
    Noise,
    Outcome,
    Plan,
    Record,
    Result,
    Setting,
    Split,
    Verdict,
)
from numpy.typing import NDArray
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold, train_test_split

from equipoise.compare import spec
from equipoise.compare.measures import MEASURES, Measure, Predictions
from equipoise.compare.settings import Training
from equipoise.compare.statistics import Difference

DEFAULT = (
    "GammaCrossEntropy(gamma=0.5)",
    "GeneralizedCrossEntropy(q=0.7)",
    "CrossEntropy(label_smoothing=0.1)",
    "Focal(gamma=2.0)",
    "SymmetricCrossEntropy(alpha=0.1, beta=1.0)",
    "CrossEntropy() + 0.1 * LogitRange(width=8.0)",
)
AGAINST = "plain cross entropy, best epoch, calibrated"
WORTHWHILE = (("accuracy", 0.005), ("calibrated_nll", 0.01))
Array = NDArray[Any]


@cache
def make(
    candidates: tuple[str, ...] = DEFAULT,
    *,
    noise: float = 0.4,
    clean: bool = True,
    costs: bool = False,
    one_test: bool = False,
    diverged: str | None = None,
    tune: int = 0,
    folds: int = 10,
    repeats: int = 1,
    epochs: int = 60,
    names: tuple[str, ...] | None = None,
    name: str = "digits",
    warnings: tuple[str, ...] = (),
    rows: int | None = None,
) -> Result:
    """Train linear models on digits and return them as a result.

    Args:
        candidates: Beside plain cross entropy.
        noise: Share of wrong labels.
        clean: Whether the test rows have the clean labels (`--noise`), or wrong ones as well.
        costs: Whether a matrix of costs is given.
        one_test: Whether there is one test part, as with `--test`.
        diverged: A candidate without finite predictions in two splits.
        tune: Settings tried for each.
        folds: Of the cross-validation.
        repeats: Of the cross-validation, or of the training with one test part.
        epochs: Steps of gradient descent, four an epoch of the curves.
        names: Names of the classes; more than ten give classes to parts of the digits.
        name: Of the data.
        warnings: Of the plan.
        rows: How many rows to take.
    """
    digits: Any = load_digits()
    features, labels = digits.data[:rows] / 16.0, digits.target[:rows].astype(np.int64)
    names = names or tuple(map(str, range(10)))
    if len(names) > 10:
        labels = labels + 10 * (np.arange(len(labels)) % (len(names) // 10))
    labels = labels % len(names)
    classes = len(names)
    generator = np.random.default_rng(0)
    wrong = generator.random(len(labels)) < noise
    observed = np.where(wrong, (labels + generator.integers(1, classes, len(labels))) % classes, labels)
    splits = _splits(labels, folds, repeats, one_test)
    matrix = 1.0 - np.eye(classes)
    matrix[0, 1:] = 5.0
    given = matrix if costs else None
    measures = tuple(each for each in MEASURES if costs or not each.needs_costs)
    settings = SimpleNamespace(
        noise=str(noise) if clean else "0", folds=folds, repeats=repeats, tune=tune, stop="calibrated",
        patience=20, class_weight=None, worthwhile=WORTHWHILE, test="later.csv" if one_test else None,
        clean=None, group=None, time=None, costs="costs.csv" if costs else None, similarity=None,
        command=f"equipoise compare --noise {noise:g}", out="comparison",
        training=Training(model="linear", epochs=epochs, lr=0.05),
    )  # fmt: skip
    flips = (1 - noise * classes / (classes - 1)) * np.eye(classes) + noise / (classes - 1)
    dataset = SimpleNamespace(
        name=name, features=features, labels=labels if clean else observed, classes=names, notes=(),
        clean=None, groups=None, time=None, test=None,
    )  # fmt: skip
    out = Path("comparison")
    plan = Plan(
        settings, Conditions(dataset, flips if clean else np.eye(classes)),
        {"costs": matrix} if costs else {},
        "costs" if costs else None, tuple(Candidate(each, spec.parse(each, {})) for each in candidates),
        measures, splits, len(splits[0].test) / (len(labels) - len(splits[0].test)), one_test, out,
        SimpleNamespace(predictions=lambda key: out / "trials" / f"{key}.npz"),
        {"versions": {"equipoise": "0.0", "torch": torch.__version__}}, warnings,
    )  # fmt: skip
    target = labels if clean else observed
    trained = [
        _outcome(each, features, observed, target, plan, given, diverged=each == diverged)
        for each in ("CrossEntropy()", *candidates)
    ]
    plain, last = trained[0]
    outcomes = [plain, *(_compared(each, plain, plan, len(candidates)) for each, _ in trained[1:])]
    commonest = np.bincount(observed).argmax()
    context = tuple(
        Context(title, {each.name: _shares(each, target, splits, commonest, high) for each in measures})
        for title, high in (("commonest class", None), ("HistGradientBoostingClassifier", 0.953))
    )
    rates = np.array([record.noise for record in plain.records])
    half = 1.96 * max(float(rates.std()), 0.004)
    found = Noise(float(rates.mean()), max(0.0, float(rates.mean()) - half), float(rates.mean()) + half)
    return Result(plan, tuple(outcomes), last, context, found, "clean" if clean else "observed", 3)


def judged(result: Result) -> Verdict:
    """A verdict, by a short form of the rule."""
    deciding = [name for name, each in _first(result).items() if each.call is not None]
    better = [each for each in result.outcomes[1:] if "better" in map(each.call, deciding)]
    clean = [each for each in better if "worse" not in map(each.call, deciding)]
    shared = (
        f"Data: {result.plan.conditions.dataset.name}, {len(result.plan.conditions.dataset.labels)} rows, "
    )
    shared += f"{len(result.plan.conditions.dataset.classes)} classes."
    if not clean:
        names = (*(each.candidate.spec for each in better), result.baseline.candidate.spec) if better else ()
        sentence = f"Undecided against {AGAINST}: no candidate was shown to be better. {shared}"
        return Verdict("undecided", result.baseline, AGAINST, names, sentence, "", "loss = CrossEntropy()")
    winner = min(clean, key=lambda each: each.mean("calibrated_nll"))
    gain = winner.differences["accuracy"]
    nll = winner.differences["calibrated_nll"]
    sentence = (
        f"Use {winner.candidate.spec}. Against {AGAINST}, accuracy is {100 * gain.mean:.1f} percentage "
        f"points higher (simultaneous 95 % interval {100 * gain.low:.1f} to {100 * gain.high:.1f}) and "
        f"calibrated NLL changes by {nll.mean:+.3f} ({nll.low:+.3f} to {nll.high:+.3f}). {shared}"
    )
    others = [each.candidate.spec for each in clean if each is not winner]
    others = f"Also better than {AGAINST}: {', '.join(others)}." if others else ""
    return Verdict("better", winner, AGAINST, (), sentence, others, spec.paste(winner.candidate.spec, str))


def _splits(labels: Array, folds: int, repeats: int, one_test: bool) -> tuple[Split, ...]:
    found = []
    for repeat in range(repeats):
        if one_test:
            rest, test = train_test_split(
                np.arange(len(labels)), test_size=0.3, random_state=0, stratify=labels
            )
            parts = [(rest, test)]
        else:
            parts = StratifiedKFold(folds, shuffle=True, random_state=repeat).split(labels[:, None], labels)
        for rest, test in parts:
            train, validation = train_test_split(rest, test_size=0.2, random_state=repeat)
            found.append(Split(train, validation, test))
    return tuple(found)


def _outcome(
    text: str,
    features: Array,
    observed: Array,
    target: Array,
    plan: Plan,
    costs: Array | None,
    *,
    diverged: bool,
) -> tuple[Outcome, Outcome]:
    """The objective at its best epoch, and at its last one without calibration."""
    loss: Any = spec.parse(text, {})
    classes = len(plan.conditions.dataset.classes)
    best, last = [], []
    for place, split in enumerate(plan.splits):
        curve, kept = _train(loss, features, observed, split, classes, plan.settings.training.epochs, place)
        chosen = min(range(len(curve)), key=lambda at: curve[at]["calibrated"])
        for found, at in ((best, chosen), (last, len(curve) - 1)):
            logits, temperature, rate = kept[at]
            probs, calibrated = _softmax(logits), _softmax(logits / temperature)
            if observed is target or np.array_equal(observed, target):
                calibrated = _noisy(calibrated, rate)
            if found is last:
                calibrated, temperature, rate = probs, 1.0, 0.0
            finite = not (diverged and place < 2 and found is best)
            if not finite:
                probs, calibrated = np.full_like(probs, np.nan), np.full_like(probs, np.nan)
            seen = Predictions(probs, calibrated, target[split.test], costs)
            values = {each.name: each.of(seen) if finite else None for each in plan.measures}
            tuned = text.replace("0.5)", f"{0.3 + 0.1 * (place % 4):.1f})") if plan.settings.tune else text
            setting = Setting(tuned, 0.05 / (1 + place % 3) if plan.settings.tune else 0.05, 1e-4, 128)
            record = Record(
                place, setting, curve[at]["epoch"], temperature, rate, curve[at]["calibrated"], curve, values,
                finite, 1.0, f"{abs(hash(text)) % 10**6:06d}{place}",
            )  # fmt: skip
            found.append((record, seen))
    return _pooled(text, loss, best, plan, costs), _pooled(text, loss, last, plan, costs)


def _pooled(text: str, loss: Any, found: Sequence[Any], plan: Plan, costs: Array | None) -> Outcome:
    records = tuple(record for record, _ in found)
    seen = [each for _, each in found]
    values = {
        each.name: np.array(
            [math.nan if r.measures[each.name] is None else r.measures[each.name] for r in records]
        )
        for each in plan.measures
    }
    pooled = Predictions(
        np.concatenate([each.probs for each in seen]), np.concatenate([each.calibrated for each in seen]),
        np.concatenate([each.target for each in seen]), costs,
    )  # fmt: skip
    rows = np.concatenate([split.test for split in plan.splits])
    places = np.repeat(np.arange(len(plan.splits)), [len(split.test) for split in plan.splits])
    return Outcome(Candidate(text, loss), records, values, {}, pooled, rows, places)


def _train(
    loss: Any, features: Array, observed: Array, split: Split, classes: int, epochs: int, seed: int
) -> tuple[list[dict[str, Any]], list[Any]]:
    inputs, labels = torch.from_numpy(features).float(), torch.from_numpy(observed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = torch.nn.Sequential(
            torch.nn.Linear(inputs.shape[1], 64), torch.nn.ReLU(), torch.nn.Linear(64, classes)
        )
    steps = torch.optim.Adam(model.parameters(), lr=0.02)
    curve, kept = [], []
    train, validation, test = (
        torch.from_numpy(np.asarray(part)) for part in (split.train, split.validation, split.test)
    )
    for epoch in range(epochs + 1):
        if epoch % 4 == 0:
            with torch.inference_mode():
                watched, predicted = (model(inputs[part]).double().numpy() for part in (validation, test))
            truth = observed[split.validation]
            temperature, rate, score = _calibrate(watched, truth)
            nll = float(-np.log(_softmax(watched)[np.arange(len(truth)), truth] + 1e-300).mean())
            accuracy = float((watched.argmax(axis=1) == truth).mean())
            curve.append(
                {"epoch": epoch // 4, "accuracy": accuracy, "nll": nll, "calibrated": score, "own": score}
            )
            kept.append((predicted, temperature, rate))
        steps.zero_grad()
        loss(model(inputs[train]), labels[train]).backward()
        steps.step()
    return curve, kept


def _calibrate(logits: Array, target: Array) -> tuple[float, float, float]:
    """Temperature, noise and NLL on a grid."""
    best = (1.0, 0.0, math.inf)
    for temperature in 2.0 ** np.arange(-2, 2.1, 0.5):
        taken = _softmax(logits / temperature)[np.arange(len(target)), target]
        for rate in (0.0, 0.02, 0.1, 0.2, 0.3, 0.36, 0.4, 0.45):
            scale = rate * logits.shape[1] / (logits.shape[1] - 1)
            score = float(-np.log(np.maximum((1 - scale) * taken + scale / logits.shape[1], 1e-300)).mean())
            prior = math.log(temperature) ** 2 / 2 + (math.log((scale + 0.01) / (1.01 - scale)) + 2) ** 2 / 8
            if score + prior / len(target) < best[2]:
                best = (float(temperature), rate, score + prior / len(target))
    return best


def _softmax(logits: Array) -> Array:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def _noisy(probs: Array, rate: float) -> Array:
    scale = rate * probs.shape[1] / (probs.shape[1] - 1)
    return scale / probs.shape[1] + (1 - scale) * probs


def _compared(outcome: Outcome, plain: Outcome, plan: Plan, count: int) -> Outcome:
    deciding = [each.name for each in plan.measures if each.decides]
    found = {}
    for measure in plan.measures:
        pairs = outcome.values[measure.name] - plain.values[measure.name]
        pairs = pairs[np.isfinite(pairs)]
        spread = (
            math.sqrt((1 / len(pairs) + plan.test_ratio) * float(pairs.var(ddof=1)))
            if len(pairs) > 1
            else math.nan
        )
        level = 0.05 / (count * len(deciding)) if measure.name in deciding else 0.05
        half = float(stats.t.ppf(1 - level / 2, max(len(pairs) - 1, 1))) * spread
        mean = float(pairs.mean())
        call = _call(measure, mean, mean - half, mean + half) if measure.name in deciding else None
        needed = "about 4 times as many rows" if call == "undecided" else None
        found[measure.name] = Difference(mean, mean - half, mean + half, call, needed=needed)
    return replace(outcome, differences=found)


def _call(measure: Measure, mean: float, low: float, high: float) -> str:
    least = dict(WORTHWHILE).get(measure.name, 0.0)
    if measure.better == "lower":
        mean, low, high = -mean, -high, -low
    if low > 0 and mean >= least:
        return "better"
    if -least <= low and high <= least:
        return "equal"
    return "worse" if high < 0 and mean <= -least else "undecided"


def _shares(
    measure: Measure, target: Array, splits: Sequence[Split], commonest: int, high: float | None
) -> Array:
    if measure.name != "accuracy":
        return np.full(len(splits), math.nan)
    return np.array([high or float((target[split.test] == commonest).mean()) for split in splits])


def _first(result: Result) -> dict[str, Difference]:
    return dict(result.outcomes[1].differences)
