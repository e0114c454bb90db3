"""Settings to try for a candidate, drawn before anything is trained, and the choice among them."""

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import signature
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from equipoise import spelling
from equipoise.compare.records import Setting
from equipoise.losses import LOSSES, WEIGHTS
from equipoise.penalties import PENALTIES
from equipoise.schedules import SCHEDULES

__all__ = ["OPTIONS", "Range", "WIDTHS", "choose", "draw"]

WIDTHS = (32, 64, 128, 256)


@final
@dataclass(frozen=True)
class Range:
    """Where a number is drawn from.

    Attributes:
        low: Smallest value.
        high: Largest value.
        log: Whether its logarithm is uniform, and not the number.
        per_class: Whether low and high are divided by the number of classes.
        off: Value at which the option is switched off and left so; None if it is always tuned.
    """

    low: float
    high: float
    log: bool = False
    per_class: bool = False
    off: float | None = None

    def between(self, classes: int) -> tuple[float, float]:
        """Return the ends for a number of classes."""
        return (self.low / classes, self.high / classes) if self.per_class else (self.low, self.high)


LR = Range(3e-4, 3e-2, log=True)
WEIGHT_DECAY = Range(1e-6, 1e-1, log=True)
WIDTH = Range(0.0, len(WIDTHS) - 1e-3)  # the place in WIDTHS, rounded down
FACTOR = Range(0.1, 10.0, log=True)  # on the coefficient of a penalty

OPTIONS: dict[tuple[str, str], Range] = {
    ("CrossEntropy", "label_smoothing"): Range(0.01, 0.5, log=True, off=0.0),
    ("FlooredCrossEntropy", "floor"): Range(1e-4, 0.5, log=True, per_class=True),
    ("Focal", "gamma"): Range(0.5, 5.0),
    ("Poly", "epsilon"): Range(-0.5, 5.0),
    ("GammaCrossEntropy", "gamma"): Range(0.05, 0.95),
    ("TaiLrWeight", "gamma"): Range(0.05, 0.95),
    ("GeneralizedCrossEntropy", "q"): Range(0.05, 0.95),
    ("SymmetricCrossEntropy", "alpha"): Range(0.01, 10.0, log=True),
    ("SymmetricCrossEntropy", "beta"): Range(0.1, 10.0, log=True),
    ("HierarchicalCrossEntropy", "alpha"): Range(0.05, 1.0),
    ("LogitRange", "width"): Range(2.0, 20.0, log=True),
}
"""Where the options of losses are drawn from; any other keeps the value that its text gives it."""

_MADE: dict[str, Any] = {entry.name: entry.make for entry in (*LOSSES, *PENALTIES)} | {
    made.__name__: made for made in (*WEIGHTS, *SCHEDULES)
}
_PENALTIES = {entry.name for entry in PENALTIES}
_ENDS = {"Constant": ("value",), "Linear": ("end", "start"), "Cosine": ("end", "start")}


def draw_texts(candidate: str, training: Any, count: int, classes: int, seed: int) -> tuple[Setting, ...]:
    """Draw the settings that a candidate is tried with, its own text with the given training first.

    Every split of a candidate tries the same settings, and each picks its own by the score of its validation
    rows (`choose`). So they are drawn once, whatever comes of them: a search that adapts would need a list
    per split, could not train one setting on all splits at once, and could not be resumed in any order.
    Learning rate, weight decay and width are the same draws for every candidate, the baseline included; the
    loss's own numbers, `OPTIONS` and the coefficients of penalties, are drawn beside them. A schedule is
    tuned at its end, or at its start where it ends at 0.

    Args:
        candidate: A loss as text; matrices stay the names that they are.
        training: How it is trained by default.
        count: How many settings, the first included; at least 1.
        classes: Number of classes, which floors are relative to.
        seed: Decides the draws.

    Raises:
        ValueError: If count is below 1 or the text is no expression.

    Numerics:
        Optuna's quasi-random sampler, of a scrambled Halton sequence: a few draws spread over each range, and
        those of the first numbers do not depend on how many others there are. Drawn numbers are rounded to
        three digits, so that their text is short. The first setting is put in front and not enqueued in the
        study, which cannot hold one outside the ranges, such as a weight decay of 0.

    Example:
        >>> settings = draw("Focal()", Training(), count=3, classes=10, seed=0)
        >>> settings[0]
        Setting(objective='Focal()', lr=0.003, weight_decay=0.0001, width=128)
        >>> len({setting.objective for setting in settings})
        3
    """
    if count < 1:
        raise ValueError(f"count must be 1 or more, got {count}; the first setting is the candidate as it is")
    text = spelling.normalise(candidate)
    first = Setting(text, training.lr, training.weight_decay, training.width)
    own = [range_ for range_, _ in _numbers(ast.parse(text, mode="eval"))]
    settings = [first]
    for lr, weight_decay, place, *numbers in _draws(
        [LR, WEIGHT_DECAY, WIDTH, *own], count - 1, classes, seed
    ):
        width = WIDTHS[int(place)] if training.model == "mlp" else training.width
        numbered = _with_numbers(text, [_rounded(number) for number in numbers])
        settings.append(Setting(numbered, _rounded(lr), _rounded(weight_decay), width))
    return tuple(settings)


def choose(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return which setting each split chooses: that of the smallest score, the first among equals.

    Args:
        scores: Of validation rows, the smaller the better; nan, from a training that diverged, comes last.

    Shapes:
        scores (settings, splits); result (splits,).

    Example:
        >>> choose(np.array([[0.5, 0.2, np.nan], [0.4, np.nan, np.nan]]))
        array([1, 0, 0])
    """
    return np.argsort(scores, axis=0, kind="stable")[0]  # numpy sorts nan last


def _draws(ranges: list[Range], count: int, classes: int, seed: int) -> list[list[float]]:
    """Return count draws of each number."""
    import optuna  # an extra

    kinds: dict[str, Any] = {}
    for place, range_ in enumerate(ranges):
        low, high = range_.between(classes)
        kinds[f"number {place}"] = optuna.distributions.FloatDistribution(low, high, log=range_.log)
    said = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.QMCSampler(qmc_type="halton", scramble=True, seed=seed)
        study = optuna.create_study(sampler=sampler)
        study.tell(study.ask(kinds), 0.0)  # the sampler learns from a first trial what there is to draw
        return [list(study.ask(kinds).params.values()) for _ in range(count)]
    finally:
        optuna.logging.set_verbosity(said)


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _with_numbers(text: str, values: list[float]) -> str:
    """Return the text with its tuned numbers replaced, in the order of `_numbers`."""
    tree = ast.parse(text, mode="eval")
    for (_, put), value in zip(list(_numbers(tree)), values, strict=True):
        put(value)
    return ast.unparse(tree)


def _numbers(tree: ast.Expression) -> Iterator[tuple[Range, Any]]:
    """Return the range of each number to tune, and a function that puts another into the tree."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        made = node.func.id
        if made in _PENALTIES:
            yield FACTOR, _Coefficient(tree, node).multiply
        for (name, option), range_ in OPTIONS.items():
            if name == made and (found := _option(node, option, range_.off)) is not None:
                yield range_, found.put


@final
@dataclass(frozen=True)
class _Argument:
    """The place of an option in a call."""

    call: ast.Call
    option: str

    def get(self) -> ast.expr | None:
        """Return what is given for the option; None if it keeps its default."""
        place = _options(self.call).index(self.option)
        if place < len(self.call.args):
            return self.call.args[place]
        return next((each.value for each in self.call.keywords if each.arg == self.option), None)

    def put(self, value: float) -> None:
        """Give another number for the option."""
        node = ast.Constant(value)
        place = _options(self.call).index(self.option)
        keyword = next((each for each in self.call.keywords if each.arg == self.option), None)
        if place < len(self.call.args):
            self.call.args[place] = node
        elif keyword is not None:
            keyword.value = node
        else:
            self.call.keywords.append(ast.keyword(self.option, node))


def _options(call: ast.Call) -> list[str]:
    made: Any = call.func
    return list(signature(_MADE[made.id]).parameters)


def _option(call: ast.Call, option: str, off: float | None) -> _Argument | None:
    """Return where the number of an option is, or that of its schedule; None if it is not to be tuned."""
    argument = _Argument(call, option)
    given = argument.get()
    if isinstance(given, ast.Call) and isinstance(given.func, ast.Name):
        ends = [_Argument(given, end) for end in _ENDS.get(given.func.id, ())]
        return next((end for end in ends if _value(end) != 0), None)
    value = _value(argument)
    return None if value is None or value == off else argument


def _value(argument: _Argument) -> Any:
    """Return the value of an argument that is written out, or else its default; None where it has none."""
    given = argument.get()
    if given is not None:
        try:
            return ast.literal_eval(given)
        except ValueError:
            return float("nan")  # a sum or a product of numbers, none of which is 0 or off
    made: Any = argument.call.func
    default = signature(_MADE[made.id]).parameters[argument.option].default
    return None if default is signature(_MADE[made.id]).empty else default


@final
@dataclass(frozen=True)
class _Coefficient:
    """The coefficient of a penalty in an expression."""

    tree: ast.Expression
    call: ast.Call

    def multiply(self, factor: float) -> None:
        """Multiply it: the number beside the penalty, or a new one in front of it."""
        for node in ast.walk(self.tree):
            if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Mult):
                continue
            for side, other in (("left", "right"), ("right", "left")):
                beside = getattr(node, other)
                if getattr(node, side) is self.call and isinstance(beside, ast.Constant):
                    number: Any = beside.value
                    setattr(node, other, ast.Constant(_rounded(number * factor)))
                    return
        product = ast.BinOp(ast.Constant(factor), ast.Mult(), self.call)
        _Replace(self.call, product).visit(self.tree)


class _Replace(ast.NodeTransformer):
    """Puts one node of a tree in the place of another."""

    def __init__(self, old: ast.Call, new: ast.expr) -> None:
        self.old, self.new = old, new

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """Return the new node for the old one, and any other with what it calls visited."""
        if node is self.old:
            return self.new
        self.generic_visit(node)
        return node


def draw(candidate, settings, count, classes):
    from equipoise.compare.objectives import read_objective

    found = draw_texts(candidate.name, settings, count, classes, 0)
    return tuple((read_objective(s.objective, {}) if count > 1 else candidate, s) for s in found)
