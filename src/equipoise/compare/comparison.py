"""`compare`: train candidates beside plain cross entropy, and say which is better."""

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
        result: Every value, difference and prediction.
        judged: What they say.
    """

    result: "Result"
    judged: "Verdict"

    def __repr__(self) -> str:
        return f"Comparison(call={self.call!r}, winner={self.winner!r})"

    @property
    def call(self) -> str:
        """The answer in a word: "better" if a candidate wins, else "equal" or "undecided"."""
        return self.judged.call

    @property
    def verdict(self) -> str:
        """The answer in a sentence or two, with its size, how sure it is, and the data."""
        return self.judged.sentence

    @property
    def winner(self) -> "Loss":
        """The loss to use; plain cross entropy where no candidate wins.

        Where the comparison tuned, its numbers are those that most splits chose. A scheduled number prints as
        its schedule and counts as its first value: to train with it, take `objective`.
        """
        return self.result.chosen(self.judged.winner)[0].candidate.marked

    def objective(self, steps: int) -> "Objective":
        """Return the winner as an `Objective` with its schedules, for a training of so many steps."""
        return self.result.chosen(self.judged.winner)[0].candidate.objective(steps)

    @property
    def code(self) -> str:
        """The winner as Python to paste."""
        return self.judged.code

    @property
    def files(self) -> dict[str, str]:
        """What was written, by kind; empty without `out`."""
        out = self.result.plan.out
        if out is None:
            return {}
        names = {"report": "report.html", "results": "results.csv", "study": "study.toml", "trials": "trials"}
        return {name: str(out / file) for name, file in names.items()}

    def table(self) -> "pd.DataFrame":
        """Return a row for each objective, split and measure."""
        from equipoise.compare.outputs import table

        return table(self.result)

    def predictions(self) -> "pd.DataFrame":
        """Return a row for each objective, split and test row: true and predicted class, probabilities."""
        from equipoise.compare.outputs import predictions

        return predictions(self.result)

    def to_dict(self) -> dict[str, Any]:
        """Return everything that `equipoise compare --json` prints."""
        from equipoise.compare.outputs import summary

        return summary(self.result, self.judged, self.files)

    def report(self, path: str | Path) -> None:
        """Write the report, one HTML file that needs no network."""
        from equipoise.compare.report import write_report

        write_report(self.result, self.judged, Path(path))

    def fit(self, X: Any, y: Any = None, *, sample_weight: Any = None) -> "Refitted":  # noqa: N803
        """Train the winner on all rows but a tenth, which chooses the epoch and fits the calibration.

        Where the comparison tuned, the setting is the one that most splits chose.

        Args:
            X: Rows as `compare` takes them; those that were compared, or others of the same kind.
            y: (N,) their labels.
            sample_weight: (N,) weights of the rows, or None.

        Returns:
            A model with `predict`, `predict_proba`, `module` and `calibration`.

        Raises:
            ValueError: If the rows are not like those of the comparison.
        """
        from equipoise.compare.refit import refit

        return refit(self.result, self.judged, X, y, sample_weight)


def compare(
    objectives: "Sequence[Any] | Mapping[str, Any] | Loss | str | None",
    X: Any,  # noqa: N803 - the word of scikit-learn
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
    r"""Train each objective beside plain cross entropy, on the same splits and initial weights, and judge.

    The yardstick is plain cross entropy done well: its epoch is chosen on validation rows, its probabilities
    are calibrated there (temperature and share of wrong labels), and where candidates are tuned it is tuned
    as much. Accuracy and the calibrated negative log likelihood decide, or the cost of decisions where costs
    are given. With S paired differences of mean :math:`\bar d` and variance :math:`s^2`, the interval of each
    deciding difference is

    .. math:: \bar d \pm t_{1 - \alpha / 2,\, S - 1}\; s \sqrt{\frac{1}{S} + \frac{n_{test}}{n_{train}}},
        \qquad \alpha = 0.05 / m,

    for m comparisons in all, so that all of them hold together.

    Args:
        objectives: Candidates: losses, their texts, `Objective` with schedules, or a mapping from names to
            these. The baseline, `CrossEntropy()`, is added. None for one setting of each family.
        X: (N, ...) rows: an array, a tensor, a data frame, a `torch.utils.data.Dataset` of pairs, which is
            read once and in order, or what `read` returns of a file. Built-in models see columns
            standardised and categories one-hot, as the training rows of each split say; a model of your own
            sees arrays and tensors as they are.
        y: (N,) labels; None where X has them.
        model: "mlp", "linear", or a function from (features, classes) to an `nn.Module` from inputs (B, ...)
            to logits (B, classes), called anew for each training under its seed. `features` is the number of
            columns, or the shape of an input of more dimensions.
        test: Test rows in place of cross-validation, (X, y) or a data set.
        clean: (N,) labels known to be better, nan or None where unknown: test rows are held against them.
            With `test`, (M,), one for each test row.
        groups: (N,) groups that are never in two parts; with `test`, (N + M,).
        time: (N,) numbers or dates: the latest fifth of the rows is the test part.
        costs: (C, C) costs[true, predicted] in the order of the sorted classes, or labelled, or groups
            "a, b | c, d".
        similarity: (C, C) similarity[true, class], rows summing to one; likewise.
        sample_weight: (N,) weights of rows in the loss; rows of weight 0 are left out.
        noise: Share of training and validation labels to flip, or a (C, C) matrix [true, observed].
        folds: Parts of the cross-validation.
        repeats: How often the rows are divided anew, or with one test part trained anew.
        tune: Settings to try for each objective, the baseline too, chosen on validation rows; 0 for none.
        stop: What chooses the epoch on validation rows: "calibrated", "own", "accuracy", "nll" or "none".
        patience: Epochs without a better one after which training stops.
        epochs: Passes over the training rows at most.
        lr: Learning rate of AdamW.
        batch_size: Rows per step.
        weight_decay: Weight decay of AdamW.
        width: Hidden units of "mlp".
        class_weight: "balanced", for classes that count alike in the loss, or None.
        worthwhile: Smallest differences worth having; by default accuracy 0.005, calibrated_nll 0.01, and
            2 % of the baseline's cost.
        device: Where to train, as torch names it.
        jobs: Processes; None for one per core, or those of an active `joblib.parallel_config`.
        out: Folder for the report, the results, the study and the trainings, by which a comparison that was
            stopped resumes. None keeps nothing on disk.
        model_name: What stands for a model of your own in the names of kept trainings.
        random_state: Decides splits, noise, initial weights and batches.
        progress: Whether to show how far it is; or a function of (done, all) trainings.

    Returns:
        The answer: `call`, `verdict`, `winner`, `table()`, `predictions()`, `report(path)`, `fit(X, y)`.

    Raises:
        ImportError: If a library of the extra `compare` is missing.
        TypeError: If an argument is of a kind that cannot be used.
        ValueError: If any of the input is bad; nothing has been written or trained then.
        FloatingPointError: If plain cross entropy itself diverges, or a row is too far from the others.
        OSError: If `out` cannot be written; what is finished is kept.

    Warns:
        UserWarning: Of what looks wrong in the data without being certainly wrong.

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
    """Raise where a library of the extra is missing."""
    for module, name in _NEEDED.items():
        try:
            found = find_spec(module) is not None
        except (ImportError, ValueError):
            found = False
        if not found:
            raise ImportError(f"compare needs {name}; pip install 'equipoise[compare]'")


def _dataset(X: Any, y: Any, *roles: Any) -> Any:  # noqa: N803
    """The rows as a data set: as they were read from a file, or made from what is given."""
    from equipoise.compare.arrays import from_arrays
    from equipoise.compare.dataset import Dataset

    names = ("test", "clean", "groups", "time", "sample_weight")
    if not isinstance(X, Dataset):
        return from_arrays(X, y, **dict(zip(names, roles, strict=True)))
    for name, given in zip(("y", *names), (y, *roles), strict=True):
        if given is not None:
            raise ValueError(
                f"{name} must be left out where X was read from a file, got {type(given).__name__}; "
                "name it when it is read"
            )
    return X


def _listed(objectives: Any) -> Any:
    """The candidates as a sequence or a mapping."""
    if objectives is None:
        return ()
    if isinstance(objectives, Mapping):
        return objectives
    many = isinstance(objectives, Sequence) and not isinstance(objectives, str)
    return tuple(objectives) if many else (objectives,)
