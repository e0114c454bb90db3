r"""
Where q - q^2 has spurious minima
=================================

A gate should choose one of n sections. A formula that circulates penalises :math:`\sum_k (q_k - q_k^2)` with
:math:`q_k = p_k^{\log 2 / \log n}`: it is 0 for one-hot probabilities and largest at equal ones. It is
``penalties.Decisiveness``. From 12 classes on it has local minima that are not one-hot: two classes with
probability 1/2 each. A gate that comes near does not leave. This page computes where they are, and shows that
``Entropy`` and ``Gini`` have none.
"""

from math import log
from typing import Any

import matplotlib.pyplot as plt
import torch

from equipoise.losses import Loss
from equipoise.penalties import Decisiveness, Entropy, Gini

GREY, BLUE, ORANGE, GREEN = "#8a8a8a", "#3d8fd1", "#e0813a", "#3fa35f"  # on a light and on a dark page
plt.rcParams |= {
    "savefig.transparent": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY),
}

# %%
# Along the edge
# --------------
#
# Two rivals share all probability, t and 1 - t; the other n - 2 classes have none.

t = torch.linspace(0.001, 0.999, 401, dtype=torch.float64)
edge = torch.stack((t, 1 - t), 1).log()
figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
for n, colour in ((4, GREY), (8, BLUE), (16, GREEN), (64, ORANGE)):
    axes.plot(t, Decisiveness(num_classes=n)(edge, reduction="none"), color=colour, label=f"q - q^2, n = {n}")
axes.plot(t, Entropy()(edge, reduction="none"), color=GREY, linestyle="--", label="entropy, any n")
axes.set(xlabel="probability of the first of two rivals", ylabel="penalty", ylim=(0, 1))
axes.legend(ncols=2, loc="upper left")

# %%
# With 64 classes there is a dip in the middle, and with 16 a shallow one: there, descent leads to an even
# mixture of two.
#
# The curvature
# -------------
#
# k classes with probability 1/k each are a minimum along their face if the second derivative of one term of
# the sum, at p = 1/k, is positive. Into the face, a class of probability 0 can only add to the penalty, whose
# slope there is infinite. We take the second derivative from the penalty itself: the Hessian by the logits of
# the k classes, in the direction in which one of them gains what another loses.


def curvature(penalty: Loss, k: int) -> float:
    """Return the second derivative at k equal classes, in the direction (1, -1, 0, ...)."""
    hessian = torch.autograd.functional.hessian(penalty, torch.zeros(k, dtype=torch.float64))
    assert isinstance(hessian, torch.Tensor)
    return float(hessian[0, 0] - hessian[0, 1])


first = {
    k: next(n for n in range(k + 1, 100) if curvature(Decisiveness(num_classes=n), k) > 0) for k in (2, 3, 4)
}
for k, n in first.items():
    print(f"{k} classes with 1/{k} each: a local minimum from n = {n} on")
print("control: entropy", [round(curvature(Entropy(), k), 3) for k in (2, 3, 4)], end=", ")
print("Gini", [round(curvature(Gini(), k), 3) for k in (2, 3, 4)], "for every n")

# %%
# By hand, with c = log 2 / log n, a term's second derivative is :math:`c(c - 1)p^{c - 2} - 2c(2c - 1)p^{2c -
# 2}`. Its sign at 1/k, for real n, gives the same limits. Entropy and Gini are concave in p, so every minimum
# is one-hot.


def second(n: float, k: int) -> float:
    """Return the second derivative of p^c - p^(2c) at p = 1/k."""
    c = log(2) / log(n)
    return c * (c - 1) * k ** (2 - c) - 2 * c * (2 * c - 1) * k ** (2 - 2 * c)


limits = {}
for k in (2, 3, 4):
    low, high = 5.0, 100.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (low, middle) if second(middle, k) > 0 else (middle, high)
    limits[k] = high
    print(f"{k} classes: the sign changes at n = {high:.2f}")

sizes = torch.arange(5, 41)
figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
for k, colour in ((2, GREEN), (3, BLUE), (4, ORANGE)):
    curve = [curvature(Decisiveness(num_classes=int(n)), k) for n in sizes]
    axes.plot(sizes, curve, color=colour, label=f"{k} classes with 1/{k}")
    axes.plot(limits[k], 0, "o", color=colour)
axes.axhline(0, color=GREY, linewidth=0.8)
axes.set(xlabel="number of classes n", ylabel="curvature")
axes.legend()

# %%
# Above the line the point is a minimum.
#
# What descent does
# -----------------
#
# 40 rows of logits, and the penalty alone. *Two rivals*: two classes within 1 logit of each other, the others
# 30 below, by gradient descent. *Random*: all logits normal, by gradient descent and by Adam. A row is
# resolved if one class has a probability above 0.99.


def resolved(
    penalty: Loss, logits: torch.Tensor, optimiser: type[torch.optim.Optimizer], rate: float
) -> float:
    """Return the share of rows, in %, in which descent ends in one class."""
    logits = logits.clone().requires_grad_()
    steps: Any = optimiser([logits], lr=rate)  # pyright: ignore[reportCallIssue]
    for _ in range(300):
        steps.zero_grad()
        penalty(logits, reduction="sum").backward()
        steps.step()
    return 100 * float((logits.detach().softmax(1).amax(1) > 0.99).double().mean())


torch.manual_seed(0)
shares = {}
print("resolved, in %              q - q^2   entropy      Gini")
for n in (8, 16, 64):
    rivals, random = torch.full((40, n), -30.0).double(), torch.randn(40, n).double()
    rivals[:, :2] = torch.rand(40, 2).double()
    for start, logits, optimiser, rate in (
        ("two rivals", rivals, torch.optim.SGD, 1.0),
        ("random", random, torch.optim.SGD, 1.0),
        ("random, Adam", random, torch.optim.Adam, 0.05),
    ):
        penalties = Decisiveness(), Entropy(), Gini()
        shares[n, start] = [resolved(penalty, logits, optimiser, rate) for penalty in penalties]
        print(f"n = {n:2}, {start:12}" + " " * 5 + "".join(f"{share:10.0f}" for share in shares[n, start]))

# %%
# With 8 classes all three choose. From 16 on, q - q^2 leaves rows with two rivals as they are, while plain
# descent from random logits never comes near such a point, so the fault is easily missed. Adam, whose steps
# have a similar size for every logit, does come there, the more often the more classes there are. In the gate
# of :doc:`/routing`, trained by Adam, nearly half of the rows stay between sections.
#
# The docstring of ``Decisiveness`` and :doc:`/losses` say this; the penalty is in the package because its
# formula is known. Prefer ``Entropy`` or ``Gini``, with ``Balance``, or ``StraightThrough``, which needs no
# penalty.

plt.show()
