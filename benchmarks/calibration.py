"""Calibration on noisy labels, compared with other methods: `python -m benchmarks.calibration`.

In each seed all methods have the same rows; differences are paired by seed. NLL is that of clean labels.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from cleanlab.count import num_label_issues
from cleanlab.rank import get_label_quality_scores
from numpy.typing import NDArray
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from statsmodels.datasets import anes96
from threadpoolctl import threadpool_limits

from equipoise.calibration import Calibration, fit
from equipoise.integrations.sklearn import ObjectiveClassifier

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
GAMMA = "GammaCrossEntropy(gamma=0.5)"
TEMPERATURES = np.exp(np.linspace(np.log(0.05), np.log(20), 121))


def softmax(logits: Floats) -> Floats:
    """Return probabilities."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def nll(probs: Floats, target: Labels | Floats) -> float:
    """Return the mean NLL of classes, or of probabilities of the classes."""
    logs = np.log(probs + 1e-300)
    picked = logs[np.arange(len(target)), target] if target.ndim == 1 else (logs * target).sum(1)
    return float(-picked.mean())


def nts(logits: Floats, target: Labels, noise: float) -> float:
    """Return the temperature of least calibration error, its accuracies corrected for a known rate of noise.

    As the abstract of Penso, Frenkel and Goldberger (IEEE TMI 43(6), 2024) describes NTS: observed
    accuracy is s/n + (1 - s) times the clean one. Fifteen bins of equal size and the grid are ours.
    """
    classes = logits.shape[1]
    s = noise * classes / (classes - 1)
    right = logits.argmax(1) == target
    errors = []
    for temperature in TEMPERATURES:
        confidence = softmax(logits / temperature).max(1)
        bins = np.array_split(np.argsort(confidence, kind="stable"), 15)
        gaps = [
            len(rows) * abs((right[rows].mean() - s / classes) / (1 - s) - confidence[rows].mean())
            for rows in bins
            if len(rows)
        ]
        errors.append(sum(gaps))
    return float(TEMPERATURES[int(np.argmin(errors))])


def transition(kind: str, noise: float, classes: int) -> Floats:
    """Return the matrix [true, observed] of symmetric noise, or of pairs: each class for the next one."""
    if kind == "pairs":
        return (1 - noise) * np.eye(classes) + noise * np.roll(np.eye(classes), 1, 1)
    return np.full((classes, classes), noise / (classes - 1)) + (
        1 - noise * classes / (classes - 1)
    ) * np.eye(classes)


def observed(clean: Labels, weak: Floats, kind: str, noise: float, random: Any) -> Labels:
    """Return labels of which a share is wrong.

    Args:
        clean: The labels.
        weak: Scores of a weak model. With kind "rows" the less sure it is of the label, the likelier is
            another one: the class that it likes best of the others.
        kind: "symmetric", "pairs" or "rows".
        noise: The share.
        random: A generator.
    """
    classes = weak.shape[1]
    if kind == "rows":
        others = np.where(np.arange(classes) == clean[:, None], -np.inf, weak)
        margin = np.take_along_axis(weak, clean[:, None], 1)[:, 0] - others.max(1)
        chance = np.clip(2 * noise * (1 - np.argsort(np.argsort(margin)) / (len(margin) - 1)), 0, 1)
        return np.where(random.random(len(clean)) < chance, others.argmax(1), clean)
    if kind == "pairs":
        wrong = (clean + 1) % classes
    else:
        wrong = (clean + random.integers(1, classes, len(clean))) % classes
    return np.where(random.random(len(clean)) < noise, wrong, clean)


def methods(logits: Floats, target: Labels, kind: str, noise: float) -> dict[str, Calibration]:
    """Return a calibration by each method; NTS, "rate given" and "matrix given" get the true values."""
    classes = logits.shape[1]
    found = {
        "T alone": fit(logits, target, noise=0),
        "T and noise": fit(logits, target),
        "rate given": fit(logits, target, noise=min(noise, (classes - 1) / classes)),
        "NTS, rate given": Calibration(nts(logits, target, noise), noise, None, classes),
    }
    if kind == "pairs":
        found["matrix given"] = fit(logits, target, noise=transition(kind, noise, classes))
    return found


def interval(values: Sequence[float] | Floats) -> str:
    """Return mean and half-width of the 95 % t interval of paired differences."""
    sample = np.asarray(values)
    half = stats.t.ppf(0.975, len(sample) - 1) * sample.std(ddof=1) / len(sample) ** 0.5
    return f"{sample.mean():+.4f} ± {half:.4f}"


COLUMNS = ("T alone", "T and noise", "rate given", "NTS, rate given", "matrix given")
HEAD = (
    "",
    *COLUMNS,
    "T and noise less T alone",
    "T and noise less NTS",
    "noise found (true)",
    "interval holds it",
)


def line(
    name: str, scores: dict[str, list[float]], fits: Sequence[Calibration], true: Sequence[float]
) -> list[str]:
    """Return a line of a table: means, paired differences, noise found, how often its interval holds it."""
    ours = np.asarray(scores["T and noise"])
    held = [
        (one.noise_interval or (0, 0))[0] <= rate <= (one.noise_interval or (0, 0))[1]
        for one, rate in zip(fits, true, strict=True)
    ]
    return [
        name,
        *(_shown(column, scores.get(column)) for column in COLUMNS),
        interval(ours - np.asarray(scores["T alone"])),
        interval(ours - np.asarray(scores["NTS, rate given"])),
        f"{np.mean([each.noise for each in fits]):.3f} ({np.mean(true):.3f})",
        f"{np.mean(held):.0%}",
    ]


def _shown(column: str, values: Sequence[float] | None) -> str:
    """Return a mean, and the median too for NTS, which a few bad searches can carry off."""
    if values is None:
        return ""
    median = f" ({np.median(values):.4f})" if "NTS" in column else ""
    return f"{np.mean(values):.4f}{median}"


def table(title: str, head: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    print(f"\n**{title}**\n", "| " + " | ".join(head) + " |", "|" + "---|" * len(head), sep="\n")
    for each in lines:
        print("| " + " | ".join(each) + " |", flush=True)


def made(
    seed: int,
    kind: str,
    noise: float,
    *,
    rows: int = 300,
    classes: int = 10,
    spread: float = 4.0,
    skew: float = 0.0,
) -> tuple[Floats, Labels, Labels, Floats, Floats]:
    """Return logits that T = 2 makes right, observed and clean labels, and fresh logits with their truth.

    With skew the classes have shares that fall by that factor from the first to the last.
    """
    random = np.random.default_rng(seed)
    prior = -np.log(skew) * np.arange(classes) / (classes - 1) if skew else np.zeros(classes)
    right, fresh = (spread * random.normal(size=(size, classes)) + prior for size in (rows, 2000))
    clean = (right + random.gumbel(size=right.shape)).argmax(1)
    weak = right + spread * random.normal(size=right.shape)
    return 2 * right, observed(clean, weak, kind, noise, random), clean, 2 * fresh, softmax(fresh)


SIMULATED: list[tuple[str, str, float, dict[str, Any]]] = [
    *((f"symmetric, {noise:.0%}", "symmetric", noise, {}) for noise in (0.0, 0.1, 0.2, 0.4, 0.6)),
    ("no noise, 180 rows", "symmetric", 0.0, {"rows": 180}),
    ("no noise, ambiguous (spread 1)", "symmetric", 0.0, {"spread": 1.0}),
    ("no noise, two ambiguous classes", "symmetric", 0.0, {"spread": 1.0, "classes": 2}),
    ("20 %, ambiguous (spread 1)", "symmetric", 0.2, {"spread": 1.0}),
    ("20 %, two classes", "symmetric", 0.2, {"classes": 2}),
    ("40 %, classes from 1 to 1/50", "symmetric", 0.4, {"skew": 50.0}),
    ("no noise, 100 classes", "symmetric", 0.0, {"classes": 100}),
    ("40 %, 100 classes", "symmetric", 0.4, {"classes": 100}),
    ("40 %, 27 rows", "symmetric", 0.4, {"rows": 27}),
    ("each class for the next, 20 %", "pairs", 0.2, {}),
    ("each class for the next, 40 %", "pairs", 0.4, {}),
    ("by the row, 20 %", "rows", 0.2, {}),
    ("by the row, 40 %", "rows", 0.4, {}),
]


def simulated(seeds: int) -> None:
    """Print NLL beyond that of the true probabilities, in expectation over fresh rows."""
    lines = []
    for name, kind, noise, options in SIMULATED:
        scores: dict[str, list[float]] = {}
        fits, true = [], []
        for seed in range(seeds):
            logits, target, clean, fresh, truth = made(seed, kind, noise, **options)
            found = methods(logits, target, kind, noise)
            for method, calibration in found.items():
                beyond = nll(calibration.probs(fresh), truth) - nll(truth, truth)
                scores.setdefault(method, []).append(beyond)
            fits.append(found["T and noise"])
            true.append(float((target != clean).mean()) if kind == "rows" else noise)
        lines.append(line(name, scores, fits, true))
    title = (
        f"Made rows: NLL beyond that of the truth ({seeds} seeds, 300 rows of 10 classes but where it says)"
    )
    table(title, HEAD, lines)


def trained(seeds: int) -> None:
    """Print NLL of the clean test labels of digits, networks and temperatures both from noisy labels."""
    digits = load_digits()
    pixels, clean = digits.data / 16.0, np.asarray(digits.target)
    lines = []
    conditions = [("symmetric", noise) for noise in (0.0, 0.1, 0.2, 0.4, 0.6)]
    conditions += [(kind, noise) for kind in ("pairs", "rows") for noise in (0.2, 0.4)]
    for kind, noise in conditions:
        scores: dict[str, list[float]] = {}
        fits, true = [], []
        for seed in range(seeds):
            random = np.random.default_rng(seed)
            order = random.permutation(len(clean))
            train, held, test = order[:600], order[600:900], order[900:]
            weak = LogisticRegression(max_iter=50).fit(pixels[order[:60], :32], clean[order[:60]])
            target = observed(clean, _scores(weak, pixels[:, :32], 10), kind, noise, random)
            model = MLPClassifier(
                (100,), max_iter=25, learning_rate_init=0.003, batch_size=50, random_state=seed
            )
            model.set_params(tol=0.0, n_iter_no_change=1000).fit(pixels[train], target[train])
            logits = np.log(_scores(model, pixels, 10, probs=True) + 1e-16)
            found = methods(logits[held], target[held], kind, noise)
            for method, calibration in found.items():
                scores.setdefault(method, []).append(nll(calibration.probs(logits[test]), clean[test]))
            scores.setdefault("raw", []).append(nll(softmax(logits[test]), clean[test]))
            fits.append(found["T and noise"])
            true.append(float((target != clean)[held].mean()))
        raw = f"{np.mean(scores['raw']):.4f}"
        first, *rest = line(f"{kind}, {noise:.0%}", scores, fits, true)
        lines.append([first, raw, *rest])
    title = (
        f"Digits, a network: NLL of clean test labels ({seeds} seeds, 600 rows to train, 300 to calibrate)"
    )
    table(title, (HEAD[0], "raw", *HEAD[1:]), lines)


def _scores(model: Any, rows: Floats, classes: int, *, probs: bool = False) -> Floats:
    """Return scores with a column for each class, those that a model did not see too."""
    found = np.full((len(rows), classes), 0.0 if probs else -50.0)
    found[:, model.classes_] = model.predict_proba(rows) if probs else model.decision_function(rows)
    return found


def ambiguous(repeats: int) -> None:
    """Print what happens to `probs` where labels are clean but ambiguous."""
    data = anes96.load_pandas()
    rows, target = StandardScaler().fit_transform(data.exog), data.endog.to_numpy().astype(int)
    objectives = [(loss, passes) for loss in ("CrossEntropy()", GAMMA) for passes in (10, 100)]
    names = ("T alone", "probs", "observed_probs")
    scores = {objective: {name: [] for name in names} for objective in objectives}
    found: dict[Any, list[Calibration]] = {objective: [] for objective in objectives}
    options: dict[str, Any] = {"hidden_layer_sizes": (128,), "learning_rate_init": 0.003, "batch_size": 128}
    options |= {"n_iter_no_change": np.inf, "alpha": 0.0}
    for repeat in range(repeats):
        folds = StratifiedKFold(5, shuffle=True, random_state=repeat)
        for rest, test in folds.split(rows, target):
            train, held = train_test_split(rest, test_size=0.25, stratify=target[rest], random_state=repeat)
            for objective in objectives:
                loss, passes = objective
                model = ObjectiveClassifier(loss, max_iter=passes, random_state=repeat, **options)
                model.fit(rows[train], target[train])
                logits = model.decision_function(rows)
                ours, alone = (fit(logits[held], target[held], noise=noise) for noise in ("fit", 0))
                found[objective].append(ours)
                kinds = (alone.probs, ours.probs, ours.observed_probs)
                for name, probs in zip(names, kinds, strict=True):
                    scores[objective][name].append(nll(probs(logits[test]), target[test]))
    beyond = {
        (one, name): np.subtract(scores[one][name], scores[one]["T alone"])
        for one in objectives
        for name in names
    }
    lines = [
        [
            "{}, {} passes".format(*objective),
            *(f"{np.mean(scores[objective][name]):.3f}" for name in names),
            interval(beyond[objective, "probs"]),
            f"{beyond[objective, 'probs'].max():+.3f}",
            interval(beyond[objective, "observed_probs"]),
            f"{np.mean([each.noise for each in found[objective]]):.3f}",
            "{:.2f} to {:.2f}".format(
                *np.mean([each.noise_interval or (0, 0) for each in found[objective]], 0)
            ),
        ]
        for objective in objectives
    ]
    title = f"ANES96, seven ambiguous classes, labels as they are: NLL ({repeats} x 5 folds)"
    head = ("", *names, "probs less T", "worst fold", "observed less T", "noise found", "interval, mean")
    table(title, head, lines)


def ranked(seeds: int) -> None:
    """Print how planted errors in digits are ranked, and how many are said to be there."""
    digits = load_digits()
    pixels, clean = digits.data / 16.0, np.asarray(digits.target)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=200))
    rivals = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
    lines = []
    for kind, noise in [
        ("symmetric", 0.05),
        ("symmetric", 0.2),
        ("symmetric", 0.4),
        ("pairs", 0.2),
        ("rows", 0.2),
    ]:
        precision: dict[str, list[float]] = {}
        area: dict[str, list[float]] = {}
        counts: dict[str, list[float]] = {"ours": [], "cleanlab": [], "true": []}
        for seed in range(seeds):
            random = np.random.default_rng(seed)
            some = random.permutation(len(clean))[:60]
            weak = LogisticRegression(max_iter=50).fit(pixels[some, :32], clean[some])
            target = observed(clean, _scores(weak, pixels[:, :32], 10), kind, noise, random)
            folds = StratifiedKFold(5, shuffle=True, random_state=seed)
            probs = cross_val_predict(model, pixels, target, cv=folds, method="predict_proba")
            logits = np.log(probs + 1e-16)
            wrong = target != clean
            ours = fit(logits, target).wrong_label_probs(logits, target)
            suspicion = {"wrong_label_probs": ours}
            for method in rivals:
                suspicion[method] = -get_label_quality_scores(target, probs, method=method)
            for method, values in suspicion.items():
                precision.setdefault(method, []).append(average_precision_score(wrong, values))
                area.setdefault(method, []).append(roc_auc_score(wrong, values))
            counts["ours"].append(ours.sum())
            counts["cleanlab"].append(num_label_issues(target, probs))
            counts["true"].append(wrong.sum())
        lines.append(
            [
                f"{kind}, {noise:.0%}",
                *(f"{np.mean(precision[method]):.3f} / {np.mean(area[method]):.3f}" for method in precision),
                interval(np.subtract(precision["wrong_label_probs"], precision["self_confidence"])),
                *(f"{np.mean(counts[name]):.0f}" for name in ("true", "ours", "cleanlab")),
            ]
        )
    title = f"Planted errors in digits, out of fold: average precision / area under ROC ({seeds} seeds)"
    head = (
        "",
        "wrong_label_probs",
        *rivals,
        "precision less self_confidence",
        "wrong",
        "sum of ours",
        "cleanlab",
    )
    table(title, head, lines)


PARTS: dict[str, tuple[Callable[[int], None], int]] = {
    "simulated": (simulated, 40),
    "trained": (trained, 10),
    "ambiguous": (ambiguous, 4),
    "ranked": (ranked, 10),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__)
    parser.add_argument("--part", choices=PARTS, help="one table; default: all")
    parser.add_argument("--seeds", type=int, help="seeds, or repeats of the folds; default: as in the docs")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with threadpool_limits(1):
        for name, (run, seeds) in PARTS.items():
            if options.part in (None, name):
                run(options.seeds or seeds)


if __name__ == "__main__":
    main()
