"""Exact gradients of the losses: the textbook definition of the table, differentiated in mpmath.

A definition is evaluated on numbers that record their operations, and differentiated backwards over them. It
shares nothing with the code but the table. Run as a program, it prints the worst error of each setting.
"""

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import mpmath
import torch
from torch import Tensor

from equipoise.losses import LOSSES, BatchLoss, Loss
from equipoise.losses.table import Entry
from equipoise.penalties import PENALTIES
from support.definitions import TEST_CLASSES, Exact, definition_of, settings_of

LIMIT = 64  # of eps (1 + max|z|), relative to the norm of the exact gradient of the row
SPREADS = (0.1, 1.0, 10.0, 40.0)
DTYPES = (torch.float32, torch.float64)
SETTINGS = {
    f"{entry.name}-{index}": (entry, loss)
    for entry in LOSSES + PENALTIES
    for index, loss in enumerate(settings_of(entry))
}


class Recorded:
    """A number that remembers what it was computed from.

    Args:
        value: The number.
        sources: Pairs of a number it was computed from and the derivative with respect to that.
        tape: All numbers in the order they were computed.
    """

    def __init__(self, value: Any, sources: Sequence[tuple["Recorded", Any]], tape: list["Recorded"]) -> None:
        self.value, self.sources, self.tape, self.gradient = value, sources, tape, mpmath.mpf(0)
        tape.append(self)

    def _with(self, value: Any, *sources: tuple[Any, Any]) -> "Recorded":
        pairs = [(source, partial) for source, partial in sources if isinstance(source, Recorded)]
        return Recorded(value, pairs, self.tape)

    def __add__(self, other: Any) -> "Recorded":
        return self._with(self.value + plain(other), (self, 1), (other, 1))

    __radd__ = __add__

    def __sub__(self, other: Any) -> "Recorded":
        return self._with(self.value - plain(other), (self, 1), (other, -1))

    def __rsub__(self, other: Any) -> "Recorded":
        return self._with(plain(other) - self.value, (self, -1))

    def __neg__(self) -> "Recorded":
        return self._with(-self.value, (self, -1))

    def __mul__(self, other: Any) -> "Recorded":
        return self._with(self.value * plain(other), (self, plain(other)), (other, self.value))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> "Recorded":
        inverse = 1 / mpmath.mpf(plain(other))
        value = self.value * inverse
        return self._with(value, (self, inverse), (other, -value * inverse))

    def __rtruediv__(self, other: Any) -> "Recorded":
        value = other / self.value
        return self._with(value, (self, -value / self.value))

    def __pow__(self, exponent: Any) -> "Recorded":
        assert not isinstance(exponent, Recorded)
        return self._with(self.value**exponent, (self, exponent * self.value ** (exponent - 1)))

    def __lt__(self, other: Any) -> bool:
        return self.value < plain(other)

    def __le__(self, other: Any) -> bool:
        return self.value <= plain(other)

    def __gt__(self, other: Any) -> bool:
        return self.value > plain(other)

    def __ge__(self, other: Any) -> bool:
        return self.value >= plain(other)


def plain(number: Any) -> Any:
    """Return the value of a recorded number, or the number itself."""
    return number.value if isinstance(number, Recorded) else number


def backward(result: Any, leaves: Sequence[Recorded]) -> list[Any]:
    """Return the derivatives of a recorded number with respect to the leaves."""
    if not isinstance(result, Recorded):
        return [mpmath.mpf(0) for _ in leaves]
    for number in result.tape:
        number.gradient = mpmath.mpf(0)
    result.gradient = mpmath.mpf(1)
    for number in reversed(result.tape):
        if number.gradient:
            for source, partial in number.sources:
                source.gradient += number.gradient * partial
    return [leaf.gradient for leaf in leaves]


def _exp(number: Any) -> Any:
    if not isinstance(number, Recorded):
        return mpmath.exp(number)
    value = mpmath.exp(number.value)
    return number._with(value, (number, value))


def _log(number: Any) -> Any:
    if not isinstance(number, Recorded):
        return mpmath.log(number)
    return number._with(mpmath.log(number.value), (number, 1 / number.value))


def _fsum(numbers: Any) -> Any:
    total: Any = mpmath.mpf(0)
    for number in numbers:
        total = total + number
    return total


MP = SimpleNamespace(exp=_exp, log=_log, fsum=_fsum, mpf=mpmath.mpf)  # what definitions call of mpmath


def record(logits: Sequence[float], tape: list[Recorded]) -> tuple[list[Recorded], list[Recorded]]:
    """Return the logits that are not masked and their probabilities, recorded on a tape."""
    z = [Recorded(mpmath.mpf(x), (), tape) for x in logits if x != -math.inf]
    largest = max(x.value for x in z)
    terms = [_exp(x - largest) for x in z]
    total = _fsum(terms)
    return z, [term / total for term in terms]


def _gradient(entry: Entry, loss: Loss, logits: list[float], y: int, digits: int) -> list[Any]:
    """Return the exact gradient with respect to each logit, 0 at those that are masked."""
    with mpmath.workdps(digits):
        kept = [k for k, x in enumerate(logits) if x != -math.inf]
        z, p = record(logits, [])
        row = Exact(mp=MP, z=z, p=p, y=kept.index(y), kept=kept, num_classes=len(logits))
        exact = {name: mpmath.mpf(v) if isinstance(v, (int, float)) else v for name, v in vars(loss).items()}
        value = definition_of(entry)(SimpleNamespace(**exact), row)
        if entry.reweighted:  # the gradient of cross entropy, times a weight that has none
            cross_entropy = -_log(p[row.y])
            weight = plain(value) / cross_entropy.value if cross_entropy.value else mpmath.mpf(0)
            value = weight * cross_entropy
        found = dict(zip(kept, backward(value, z), strict=True))
        return [found.get(k, mpmath.mpf(0)) for k in range(len(logits))]


def exact_batch_gradient(entry: Entry, loss: Loss, logits: list[list[float]]) -> list[list[Any]]:
    """Return the exact gradient of a penalty on the mean of the probabilities, times the number of rows."""
    reach = max(abs(x) for z in logits for x in z if x != -math.inf)
    with mpmath.workdps(120 + int(6 * reach)):
        classes, tape, leaves = len(logits[0]), list[Recorded](), list[tuple[int, int, Recorded]]()
        parts: list[list[Recorded]] = [[] for _ in range(classes)]
        for i, row in enumerate(logits):
            z, p = record(row, tape)
            kept = [k for k, x in enumerate(row) if x != -math.inf]
            leaves += [(i, k, x) for k, x in zip(kept, z, strict=True)]
            for k, prob in zip(kept, p, strict=True):
                parts[k].append(prob)
        mean = [_fsum(part) / len(logits) for part in parts]
        value = definition_of(entry)(loss, Exact(mp=MP, z=[], p=mean, y=0, kept=[], num_classes=classes))
        found = [[mpmath.mpf(0)] * classes for _ in logits]
        for (i, k, _), gradient in zip(leaves, backward(value, [x for *_, x in leaves]), strict=True):
            found[i][k] = gradient * len(logits)
        return found


def exact_gradient(entry: Entry, loss: Loss, logits: list[float], y: int, *, check: bool = True) -> list[Any]:
    """Return the exact gradient of one row; doubling the digits must not change it.

    Where a hinge has several largest or smallest logits, they share the derivative: the mean over which of
    them is a little larger.
    """
    reach = max(abs(x) for x in logits if x != -math.inf)
    digits = 60 + int(3 * reach)  # probabilities may be as small as exp(-2 reach), and their squares
    if entry.name == "LogitRange":
        return _shared(lambda moved: _gradient(entry, loss, moved, y, digits), logits)
    found, last = _gradient(entry, loss, logits, y, digits), mpmath.mpf(10) ** (20 - digits)
    if check:
        finer = _gradient(entry, loss, logits, y, 2 * digits)
        allowed = max(max(map(abs, finer)) * mpmath.mpf(10) ** -25, last)
        assert max(abs(a - b) for a, b in zip(found, finer, strict=True)) <= allowed
    return [x if abs(x) > last else mpmath.mpf(0) for x in found]


def _shared(gradient: Callable[[list[Any]], list[Any]], logits: list[float]) -> list[Any]:
    sums, tries = [mpmath.mpf(0)] * len(logits), 0
    groups = [[k for k, x in enumerate(logits) if x == value] for value in set(logits) - {-math.inf}]
    with mpmath.workdps(60):
        for step in range(math.lcm(*map(len, groups))):
            moved: list[Any] = list(logits)
            for group in groups:
                for place, k in enumerate(group):
                    moved[k] = logits[k] + (place + step) % len(group) * mpmath.mpf(10) ** -30
            sums = [a + b for a, b in zip(sums, gradient(moved), strict=True)]
            tries += 1
        return [a / tries for a in sums]


def rows(spread: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return rows of eight logits: random, right, wrong, with the target second, tied, masked."""
    generator = torch.Generator().manual_seed(int(1000 * spread))
    logits = (torch.rand(16, TEST_CLASSES, generator=generator, dtype=torch.float64) * 2 - 1) * spread
    target = torch.randint(TEST_CLASSES, (16,), generator=generator)
    order = logits.argsort(1, descending=True)
    target[2:4] = order[2:4, 0]  # right
    logits[3] = torch.where(torch.arange(TEST_CLASSES) == target[3], spread, -logits[3].abs())
    target[4:6] = order[4:6, 3]  # wrong
    logits[5, order[5, 0]] = spread
    logits[5, order[5, 1:3]] = -spread / 2
    target[6:9] = order[6:9, 1]  # second
    logits[8] = torch.where(logits[8] == logits[8].max(), logits[8], logits[8] - spread / 2)
    logits[9] = logits[9].max()  # tied
    logits[10:12, :4] = logits[10:12].amax(1, keepdim=True)
    target[10:12] = torch.tensor([1, 6])
    for row, y in ((12, order[12, 0]), (13, order[13, 2])):
        target[row] = y
        logits[row, (y + torch.tensor([1, 4, 6])) % TEST_CLASSES] = -torch.inf
    target[14] = order[14, -1]  # the smallest
    logits[15, torch.arange(TEST_CLASSES) != target[15]] = -torch.inf  # alone
    return logits.to(dtype), target


def by_autograd(loss: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Return the gradient of logits as a user gets it: by the kernels, where there are any."""
    leaf = logits.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf), leaf)[0]


def by_functional(loss: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Return the gradient by `torch.func.grad`, which sees plain differentiable torch."""
    return torch.func.grad(loss)(logits)


BACKENDS = {"kernel": by_autograd, "reference": by_functional}


# Where q is near 1/2 for every class, the gradient of Decisiveness is a small difference: 1 - 2 q is of the
# size of the spread of the logits, its error is not. See docs/decisions/0014-states-and-programs.md.
LEAST_NORM = {"Decisiveness": 1 / 16}


def error(
    ours: Sequence[float], exact: Sequence[Any], reach: float, dtype: torch.dtype, least: float = 0.0
) -> float:
    """Return the largest error, in units of eps (1 + max|z|) of the exact gradient's norm or of `least`."""
    info = torch.finfo(dtype)
    norm = mpmath.sqrt(mpmath.fsum(x * x for x in exact))
    off = (
        max(abs(mpmath.mpf(a) - b) for a, b in zip(ours, exact, strict=True))
        if all(map(math.isfinite, ours))
        else mpmath.inf
    )
    if norm < info.tiny:  # no normal number is as small
        return 0.0 if off <= info.tiny else math.inf
    return float(off / (max(norm, least) * info.eps * (1 + reach)))


def cases(name: str, spread: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return rows of logits and their targets for a setting."""
    logits, target = rows(spread, dtype)
    if name.startswith("ZLoss"):  # relative digits of a log-sum-exp are lost where it crosses zero
        logits = logits + spread
    return logits, target


_exact: dict[tuple[str, float, torch.dtype], list[list[Any]]] = {}


def exact_gradients(name: str, spread: float, dtype: torch.dtype) -> list[list[Any]]:
    """Return the exact gradients of `cases`, computed once."""
    key = name, spread, dtype
    if key not in _exact:
        entry, loss = SETTINGS[name]
        logits, target = cases(name, spread, dtype)
        if isinstance(loss, BatchLoss):
            _exact[key] = exact_batch_gradient(entry, loss, logits.tolist())
        else:
            pairs = enumerate(zip(logits.tolist(), target.tolist(), strict=True))
            _exact[key] = [exact_gradient(entry, loss, z, y, check=i % 5 == 0) for i, (z, y) in pairs]
    return _exact[key]


def errors(loss: Loss, name: str, spread: float, dtype: torch.dtype, backend: str) -> list[float]:
    """Return the error of each row of `cases`, for a loss that should be the setting of that name."""
    logits, target = cases(name, spread, dtype)
    ours = BACKENDS[backend](lambda z: loss(z, target, reduction="sum"), logits)
    reach = logits.masked_fill(logits == -torch.inf, 0.0).abs().amax(1).tolist()
    exact = exact_gradients(name, spread, dtype)
    least = LEAST_NORM.get(name.partition("-")[0], 0.0)
    return [error(*row, dtype, least) for row in zip(ours.tolist(), exact, reach, strict=True)]


def main() -> None:
    """Print the worst error of every setting, with the spread and the row where it is."""
    for name, (_, loss) in SETTINGS.items():
        line = f"{name:28}"
        for backend in BACKENDS:
            for dtype in DTYPES:
                worst, spread, row = max(
                    (value, spread, row)
                    for spread in SPREADS
                    for row, value in enumerate(errors(loss, name, spread, dtype, backend))
                )
                line += f" | {worst:9.3g} {spread:4g} {row:2}" + ("*" if worst > LIMIT else " ")
        print(line)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
