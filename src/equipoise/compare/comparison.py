"""`compare`, which trains candidates and plain cross entropy, and `Comparison`, its result."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipoise.compare.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from equipoise.compare.refit import Refitted
    from equipoise.compare.results import Result
    from equipoise.compare.verdict import Verdict
    from equipoise.losses import Loss
    from equipoise.objective import Objective

__all__ = ["Comparison", "compare"]

_NEEDED = {
    "cloudpickle": "cloudpickle",
    "sklearn": "scikit-learn",
    "scipy": "scipy",
    "pandas": "pandas",
    "joblib": "joblib",
    "matplotlib": "matplotlib",
    "jinja2": "jinja2",
    "rich": "rich",
    "tomli_w": "tomli-w",
}


@dataclass(frozen=True, eq=False)
class Comparison:
    """A finished comparison.

    Attributes:
        result: All values, differences and predictions.
        judged: The verdict.
    """

    result: "Result"
    judged: "Verdict"

    def __repr__(self) -> str:
        return f"Comparison(call={self.call!r}, winner={self.winner!r})"

    @property
    def call(self) -> str:
        """The verdict in a word: "better" if a candidate wins, else "equal" or "undecided"."""
        return self.judged.call

    @property
    def verdict(self) -> str:
        """The verdict in a sentence or two, with differences, intervals and the data."""
        return self.judged.sentence

    @property
    def winner(self) -> "Loss":
        """The loss to use; plain cross entropy if no candidate wins.

        With tuning, it has the setting that most splits chose. A scheduled parameter prints as its schedule
        and has the first value of it; to train with the schedule, use `objective`.
        """
        return self.result.chosen(self.judged.winner)[0].candidate.marked

    def objective(self, steps: int) -> "Objective":
        """Return the winner as an `Objective` with its schedules, for a training of this number of steps."""
        return self.result.chosen(self.judged.winner)[0].candidate.objective(steps)

    @property
    def code(self) -> str:
        """The winner as Python code."""
        return self.judged.code

    @property
    def files(self) -> dict[str, str]:
        """The files that were written, by kind; empty without `out`."""
        out = self.result.plan.out
        if out is None:
            return {}
        names = {"report": "report.html", "results": "results.csv", "study": "study.toml", "trials": "trials"}
        return {name: str(out / file) for name, file in names.items()}

    def table(self) -> "pd.DataFrame":
        """Return a data frame with a row for each objective, split and measure."""
        from equipoise.compare.outputs import table

        return table(self.result)

    def predictions(self) -> "pd.DataFrame":
        """Return a data frame with classes and probabilities for each objective, split and test row."""
        from equipoise.compare.outputs import predictions

        return predictions(self.result)

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of `equipoise compare --json`."""
        from equipoise.compare.outputs import summary

        return summary(self.result, self.judged, self.files)

    def report(self, path: str | Path) -> None:
        """Write the report, one self-contained HTML file."""
        from equipoise.compare.report import write_report

        write_report(self.result, self.judged, Path(path))

    def fit(self, X: Any, y: Any = None, *, sample_weight: Any = None) -> "Refitted":  # noqa: N803
        """Train the winner on nine tenths of the rows; the others choose the epoch and fit the calibration.

        With tuning, the setting is the one that most splits chose.

        Args:
            X: Rows, as in `compare`: the same rows, or others in the same format.
            y: (N,) labels.
            sample_weight: (N,) weights of the rows, or None.

        Returns:
            A model with `predict`, `predict_proba`, `module` and `calibration`.

        Raises:
            ValueError: If the rows do not have the format of those of the comparison.
        """
        from equipoise.compare.refit import refit

        return refit(self.result, self.judged, X, y, sample_weight)


def compare(
    objectives: "Sequence[Any] | Mapping[str, Any] | Loss | str | None",
    X: Any,  # noqa: N803 - scikit-learn's name
    y: Any = None,
    *,
    model: str | Callable[[Any, int], Any] = "mlp",
    test: Any = None,
    clean: Any = None,
    groups: Any = None,
    time: Any = None,
    costs: Any = None,
    similarity: Any = None,
    sample_weight: Any = None,
    noise: Any = 0.0,
    folds: int = 10,
    repeats: int = 1,
    tune: int = 0,
    stop: str = "calibrated",
    patience: int = 20,
    epochs: int = 100,
    lr: float = 3e-3,
    batch_size: int = 128,
    weight_decay: float = 1e-4,
    width: int = 128,
    class_weight: str | None = None,
    worthwhile: Mapping[str, float] | None = None,
    device: str = "cpu",
    jobs: int | None = None,
    out: str | Path | None = None,
    model_name: str | None = None,
    random_state: int = 0,
    progress: bool | Callable[[int, int], None] = True,
) -> Comparison:
    r"""Train each objective and plain cross entropy on the same splits and initial weights, and compare them.

    The baseline is plain cross entropy with its best epoch and a calibration (temperature and rate of wrong
    labels), both chosen on validation rows, and with as many tuning trials as each candidate. The deciding
    measures are accuracy and calibrated negative log likelihood, or, with costs, the cost of decisions. With
    S paired differences of mean :math:`\bar d` and variance :math:`s^2`, the interval of each deciding
    difference is

    .. math:: \bar d \pm t_{1 - \alpha / 2,\, S - 1}\; s \sqrt{\frac{1}{S} + \frac{n_{test}}{n_{train}}},
        \qquad \alpha = 0.05 / m,

    for m comparisons in all: the intervals are simultaneous.

    Args:
        objectives: Candidates: losses, their texts, `Objective` with schedules, or a mapping from names to
            these. The baseline, `CrossEntropy()`, is added. None for one setting of each family.
        X: (N, ...) rows: an array, a tensor, a data frame, a `torch.utils.data.Dataset` of pairs, which is
            read once and in order, or the result of `read`. Built-in models get standardised columns and
            one-hot categories, fitted to the training rows of each split; your own model gets arrays and
            tensors unchanged.
        y: (N,) labels; None if X has them.
        model: "mlp", "linear", or a function from (features, classes) to an `nn.Module` from inputs (B, ...)
            to logits (B, classes), called for each training with its own seed. `features` is the number of
            columns, or the shape of an input of more dimensions.
        test: Test rows instead of cross-validation, (X, y) or a data set.
        clean: (N,) more reliable labels, nan or None if unknown, by which test rows are evaluated. With
            `test`, (M,), one for each test row.
        groups: (N,) groups; rows of a group are always in the same part. With `test`, (N + M,).
        time: (N,) numbers or dates: the latest fifth of the rows is the test part.
        costs: (C, C) costs[true, predicted] in the order of the sorted classes, or labelled, or groups
            "a, b | c, d".
        similarity: (C, C) similarity[true, class], rows summing to one; in the same formats.
        sample_weight: (N,) weights of rows in the loss; rows of weight 0 are left out.
        noise: Share of training and validation labels to flip, or a (C, C) matrix [true, observed].
        folds: Number of folds of the cross-validation.
        repeats: Number of repeats of the cross-validation, or with one test part of the trainings.
        tune: Number of settings to try for each objective, including the baseline, of which validation rows
            choose one; 0 for none.
        stop: Value on the validation rows that chooses the epoch: "calibrated", "own", "accuracy", "nll" or
            "none".
        patience: Training stops after this number of epochs without an improvement.
        epochs: Largest number of epochs.
        lr: Learning rate of AdamW.
        batch_size: Rows per step.
        weight_decay: Weight decay of AdamW.
        width: Hidden units of "mlp".
        class_weight: "balanced", for equal total weight of each class in the loss, or None.
        worthwhile: Smallest relevant differences; by default accuracy 0.005, calibrated_nll 0.01, and 2 % of
            the baseline's cost.
        device: Device of the trainings, as in torch.
        jobs: Processes; None for one per core, or those of an active `joblib.parallel_config`.
        out: Folder for the report, the results, the study and the trainings; a comparison with the same
            folder resumes. None writes nothing.
        model_name: Name of your own model in the keys of stored trainings.
        random_state: Seed of splits, noise, initial weights and batches.
        progress: Whether to show the progress; or a function of (done, all) trainings.

    Returns:
        The comparison: `call`, `verdict`, `winner`, `table()`, `predictions()`, `report(path)`, `fit(X, y)`.

    Raises:
        ImportError: If a library of the extra `compare` is missing.
        TypeError: If an argument has a wrong type.
        ValueError: If an input is invalid; it is raised before anything is written or trained.
        FloatingPointError: If plain cross entropy itself diverges, or a row is too far from the others.
        OSError: If `out` cannot be written; finished trainings are kept.

    Warns:
        UserWarning: Of probable mistakes in the data.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from equipoise.losses import GammaCrossEntropy
        >>> X, y = load_iris(return_X_y=True)
        >>> found = compare(
        ...     [GammaCrossEntropy(0.5)], X, y, model="linear", folds=3, epochs=5, jobs=1, progress=False
        ... )
        >>> found.call, found.winner
        ('undecided', CrossEntropy(label_smoothing=0.0))

    Source:
        Nadeau and Bengio, Machine Learning 52, 2003, for the variance of overlapping training sets.
    """
    given = locals() | {"device": str(device), "worthwhile": worthwhile or {}}
    require_libraries()
    from equipoise.compare import console, folder, runner
    from equipoise.compare.collect import collect
    from equipoise.compare.plan import prepare
    from equipoise.compare.verdict import judge

    settings = Settings(**{each.name: given[each.name] for each in fields(Settings)})
    dataset = _dataset(X, y, test, clean, groups, time, sample_weight)
    if out is not None:
        folder.require(Path(out))
    plan = prepare(
        dataset,
        _listed(objectives),
        settings,
        costs=costs,
        similarity=similarity,
        noise=noise,
        out=None if out is None else Path(out),
    )
    for warning in plan.warnings:
        warnings.warn(warning, UserWarning, stacklevel=2)
    if progress is True:
        console.announce(plan)
        watching: Any = console.progress(quiet=False)
    else:
        watching = nullcontext(progress or None)
    with watching as watch:
        reused = runner.run_missing(plan.tasks, plan.store, jobs, watch)
    result = collect(plan, reused)
    found = Comparison(result, judge(result))
    if out is not None:
        folder.write(result, found.judged, Path(out))
    return found


def require_libraries() -> None:
    """Raise if a library of the extra is missing."""
    for module, name in _NEEDED.items():
        try:
            found = find_spec(module) is not None
        except (ImportError, ValueError):
            found = False
        if not found:
            raise ImportError(f"compare needs {name}; pip install 'equipoise[compare]'")


def _dataset(X: Any, y: Any, *roles: Any) -> Any:  # noqa: N803
    """Return the rows as a data set: the result of `read`, or made from the arguments."""
    from equipoise.compare.arrays import from_arrays
    from equipoise.compare.dataset import Dataset

    names = ("test", "clean", "groups", "time", "sample_weight")
    if not isinstance(X, Dataset):
        return from_arrays(X, y, **dict(zip(names, roles, strict=True)))
    for name, given in zip(("y", *names), (y, *roles), strict=True):
        if given is not None:
            raise ValueError(
                f"{name} must be left out where X was read from a file, got {type(given).__name__}; name "
                "the column in the call that reads the file"
            )
    return X


def _listed(objectives: Any) -> Any:
    """Return the candidates as a sequence or a mapping."""
    if objectives is None:
        return ()
    if isinstance(objectives, Mapping):
        return objectives
    many = isinstance(objectives, Sequence) and not isinstance(objectives, str)
    return tuple(objectives) if many else (objectives,)
