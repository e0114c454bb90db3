"""A finished comparison with real predictions, made in seconds and without the code that trains."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from equipoise.compare.dataset import Dataset
from equipoise.compare.measures import Predictions, chance_calibration_errors
from equipoise.compare.objectives import Candidate, read_objective
from equipoise.compare.plan import Plan
from equipoise.compare.records import Record, Setting
from equipoise.compare.results import Context, Noise, Outcome, Pooled, Result
from equipoise.compare.settings import Settings
from equipoise.compare.splits import Split, splits
from equipoise.compare.statistics import Difference, compare_paired, worthwhile_difference
from equipoise.compare.trial import Conditions, Unit

SMALL = {"folds": 3, "epochs": 5, "rows": 600}
DEFAULT = (
    "GammaCrossEntropy(gamma=0.5)",
    "GeneralizedCrossEntropy(q=0.7)",
    "CrossEntropy(label_smoothing=0.1)",
    "Focal(gamma=2.0)",
    "SymmetricCrossEntropy(alpha=0.1, beta=1.0)",
    "CrossEntropy() + 0.1 * LogitRange(width=8.0)",
)
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
    epochs: int = 15,
    names: tuple[str, ...] | None = None,
    name: str = "digits",
    warnings: tuple[str, ...] = (),
    rows: int | None = None,
    model: Any = None,
    scale: float = 1.0,
) -> Result:
    """Train small models on digits and return them as a result.

    Args:
        candidates: Beside plain cross entropy.
        noise: Share of wrong labels.
        clean: Whether the test rows have the clean labels (`--noise`), or wrong ones as well.
        costs: Whether a matrix of costs is given.
        one_test: Whether the last third of the rows are a test part, as with `--test`.
        diverged: A candidate without finite predictions on the first two splits.
        tune: Settings tried for each.
        folds: Of the cross-validation.
        repeats: Of the cross-validation, or of the training with one test part.
        epochs: Of the curves.
        names: Names of the classes; more than ten give classes to parts of the digits.
        name: Of the data.
        warnings: Of the plan.
        rows: How many rows to take; None for all.
        model: What the settings say the model is; it is never called.
        scale: Of the costs.
    """
    digits: Any = load_digits()
    features, labels = digits.data[:rows] / 16.0, digits.target[:rows].astype(np.int64)
    names = names or tuple(map(str, range(10)))
    classes = len(names)
    labels = (labels + 10 * (np.arange(len(labels)) % max(classes // 10, 1))) % classes
    generator = np.random.default_rng(0)
    wrong = generator.random(len(labels)) < noise
    observed = np.where(wrong, (labels + generator.integers(1, classes, len(labels))) % classes, labels)
    test = np.arange(len(labels)) >= len(labels) * 2 // 3 if one_test else None
    dataset = Dataset(name, features, labels if clean else observed, names, test=test)
    matrix = 1.0 - np.eye(classes)
    matrix[0, 1:] = 5.0
    settings = Settings(
        folds=folds, repeats=repeats, tune=tune, epochs=epochs, lr=0.02, width=64,
        **({} if model is None else {"model": model}),
    )  # fmt: skip
    flips = (1 - noise * classes / (classes - 1)) * np.eye(classes) + noise / (classes - 1)
    conditions = Conditions(
        dataset, splits(dataset, folds, repeats), settings,
        flips if clean else np.eye(classes), scale * matrix if costs else None,
    )  # fmt: skip
    asked = [
        read_objective("CrossEntropy()", {}),
        *(read_objective(each, {"costs": matrix}) for each in candidates),
    ]
    plan = Plan(
        settings, conditions, {"costs": scale * matrix} if costs else {}, "costs" if costs else None,
        {"noise": noise if clean else 0.0}, tuple(asked),
        tuple(unit for of, each in enumerate(asked) for unit in _units(of, each, conditions)),
        (), {"equipoise": "0.0", "torch": torch.__version__}, Path("comparison"), warnings,
    )  # fmt: skip
    trained = [
        _outcome(each, observed, plan, place=place, lost=each.name == diverged)
        for place, each in enumerate(plan.candidates)
    ]
    plain, last = trained[0]
    outcomes = [plain, *(_compared(each, plain, plan) for each, _ in trained[1:])]
    rates = np.array([record.noise for record in plain.records])
    half = 1.96 * max(float(rates.std()), 0.004)
    found = Noise(float(rates.mean()), max(0.0, float(rates.mean()) - half), float(rates.mean()) + half)
    return Result(plan, tuple(outcomes), last, _context(plan), found, 3)


def renamed(result: Result, name: str) -> Result:
    """The result with that name for the data, its first class and its first candidate."""
    plan, first = result.plan, result.outcomes[1]
    classes = (name, *plan.conditions.dataset.classes[1:])
    dataset = replace(plan.conditions.dataset, name=name, classes=classes)
    candidate = replace(first.candidate, name=name)
    candidates = (plan.candidates[0], candidate, *plan.candidates[2:])
    plan = replace(plan, conditions=replace(plan.conditions, dataset=dataset), candidates=candidates)
    outcomes = (result.baseline, replace(first, candidate=candidate), *result.outcomes[2:])
    return replace(result, plan=plan, outcomes=outcomes)


def _units(of: int, candidate: Candidate, conditions: Conditions) -> list[Unit]:
    settings = conditions.settings
    tried = [Setting(candidate.name, settings.lr * (1 + k), 1e-4, 64) for k in range(max(settings.tune, 1))]
    return [
        Unit(f"{candidate.name}-{repeat}-{k}", of, k, candidate, setting, tuple(conditions.of_repeat(repeat)))
        for repeat in range(settings.repeats)
        for k, setting in enumerate(tried)
    ]


def _context(plan: Plan) -> tuple[Context, ...]:
    """The commonest class as it is, and trees with numbers that nobody has measured."""
    parts = [plan.conditions.splits[place] for place in plan.conditions.of_repeat(0)]
    target = plan.conditions.dataset.target
    often = np.bincount(plan.conditions.dataset.labels).argmax()
    commonest = np.array([float((target[part.test] == often).mean()) for part in parts])
    unknown = {each.name: np.full(len(parts), math.nan) for each in plan.measures}
    trees = {"accuracy": np.full(len(parts), 0.953), "calibrated_nll": np.full(len(parts), 0.2)}
    return (
        Context("commonest class", unknown | {"accuracy": commonest}),
        Context("HistGradientBoostingClassifier", unknown | trees),
    )


def _outcome(
    candidate: Candidate, observed: Array, plan: Plan, *, place: int, lost: bool
) -> tuple[Outcome, Outcome]:
    """The objective at its best epoch, and at its last one without calibration."""
    loss: Any = candidate.loss
    best, last, files = [], [], []
    own = [unit for unit in plan.units if unit.of == place]
    for at_split, split in enumerate(plan.conditions.splits):
        curve, kept = _train(loss, observed, split, plan, at_split)
        tried = [unit for unit in own if at_split in unit.places]
        unit = tried[at_split % len(tried)]
        files.append(f"trials/{unit.key}.npz")
        chosen = min(range(len(curve)), key=lambda at: curve[at]["calibrated"])
        for found, at in ((best, chosen), (last, len(curve) - 1)):
            logits, temperature, rate = kept[at]
            probs, calibrated = _softmax(logits), _softmax(logits / temperature)
            if plan.conditions.nll_of == "observed":
                calibrated = _noisy(calibrated, rate)
            if found is last:
                calibrated, temperature, rate = probs, 1.0, 0.0
            finite = not (lost and at_split < 2 and found is best)
            if not finite:
                probs = calibrated = np.full_like(probs, np.nan)
            target = plan.conditions.dataset.target[split.test]
            seen = Predictions(probs, calibrated, target, plan.conditions.costs)
            values = {each.name: each.of(seen) if finite else None for each in plan.measures}
            record = Record(
                at_split, unit.setting, curve[at]["epoch"], temperature, rate,
                curve[at]["calibrated"], curve, values, finite,
                chance_calibration_errors(probs, 20, at_split) if finite else [], 0.4, 1.0,
            )  # fmt: skip
            found.append((record, seen))
    plain = _pooled(candidate, best, plan)
    plain = replace(plain, files=tuple(files))
    return plain, replace(_pooled(candidate, last, plan), records=plain.records)


def _pooled(candidate: Candidate, found: Sequence[tuple[Record, Predictions]], plan: Plan) -> Outcome:
    records = tuple(record for record, _ in found)
    seen = [each for _, each in found]
    values = {
        each.name: np.array([math.nan if (v := r.measures[each.name]) is None else v for r in records])
        for each in plan.measures
    }
    pooled = Predictions(
        np.concatenate([each.probs for each in seen]), np.concatenate([each.calibrated for each in seen]),
        np.concatenate([each.target for each in seen]), plan.conditions.costs,
    )  # fmt: skip
    parts = [split.test for split in plan.conditions.splits]
    places = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    load: Callable[[], Pooled] = lambda: Pooled(pooled, np.concatenate(parts), places)  # noqa: E731
    return Outcome(candidate, records, values, {}, load)


def _train(
    loss: Any, observed: Array, split: Split, plan: Plan, seed: int
) -> tuple[list[dict[str, Any]], list[tuple[Array, float, float]]]:
    """The curve, and for each of its points the test logits with the calibration fitted then."""
    features: Any = plan.conditions.dataset.features
    classes = len(plan.conditions.dataset.classes)
    inputs, labels = torch.from_numpy(features).float(), torch.from_numpy(observed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = torch.nn.Linear(inputs.shape[1], 64), torch.nn.ReLU(), torch.nn.Linear(64, classes)
        model = torch.nn.Sequential(*layers)
    steps = torch.optim.Adam(model.parameters(), lr=0.02)
    curve, kept = [], []
    train, validation, test = (torch.from_numpy(part) for part in (split.train, split.validation, split.test))
    truth = observed[split.validation]
    for epoch in range(1, plan.settings.epochs + 1):
        for _ in range(4):
            steps.zero_grad()
            loss(model(inputs[train]), labels[train]).backward()
            steps.step()
        with torch.inference_mode():
            watched, predicted = (model(inputs[part]).double().numpy() for part in (validation, test))
        temperature, rate, score = _calibrate(watched, truth)
        nll = float(-np.log(_softmax(watched)[np.arange(len(truth)), truth] + 1e-300).mean())
        accuracy = float((watched.argmax(axis=1) == truth).mean())
        curve.append({"epoch": epoch, "accuracy": accuracy, "nll": nll, "calibrated": score, "own": score})
        kept.append((predicted, temperature, rate))
    return curve, kept


def _calibrate(logits: Array, target: Array) -> tuple[float, float, float]:
    """Temperature, noise and NLL on a grid, under the prior of `equipoise.calibration`."""
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


def _compared(outcome: Outcome, plain: Outcome, plan: Plan) -> Outcome:
    """The outcome with its differences by split, also where the command would compare rows."""
    found = {}
    for measure in plan.measures:
        least = worthwhile_difference(dict(plan.settings.worthwhile), measure.name, plain.mean(measure.name))
        [found[measure.name]] = compare_paired(
            [outcome.values[measure.name]], plain.values[measure.name],
            measure.better if measure.name in plan.deciding else None, test_ratio=plan.test_ratio,
            worthwhile=least, comparisons=(len(plan.candidates) - 1) * len(plan.deciding),
            rows=len(plan.conditions.dataset.labels),
        )  # fmt: skip
    return replace(outcome, differences=found)


def called(result, calls):
    """The result with the calls of its candidates in accuracy and calibrated NLL as given."""
    sizes = {"better": 0.08, "worse": -0.08, "equal": 0.001, "undecided": 0.02}
    outcomes = [result.baseline]
    for outcome, (accuracy, nll) in zip(result.outcomes[1:], calls, strict=True):
        found = dict(outcome.differences)
        for name, call, sign in (("accuracy", accuracy, 1), ("calibrated_nll", nll, -1)):
            half = {"equal": 0.002, "undecided": 0.05}.get(call, 0.03)
            mean = sign * sizes[call]
            needed = "about 9,000 rows would settle it" if call == "undecided" else None
            found[name] = Difference(mean, mean - half, mean + half, call, needed=needed)
        outcomes.append(replace(outcome, differences=found))
    return replace(result, outcomes=tuple(outcomes))
