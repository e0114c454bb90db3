r"""
The threshold has a primitive after all
=======================================

TaiLr trains with cross entropy times a weight through which no gradient flows,

.. math::

   -\operatorname{stop}\left(\max(b, w)\right) \log p_y, \qquad w = \frac{p_y}{\gamma + (1 - \gamma)\,p_y}.

Its gradient is right, but its value is not what is minimised, and may rise while training succeeds. Without
the threshold, b = 0, the function with this gradient is known: gamma cross entropy. With a threshold there is
one too, in closed form. This page checks it, and shows why the value matters.
"""

from itertools import pairwise

import matplotlib.pyplot as plt
import torch

from equipoise.losses import GammaCrossEntropy, Reweighted, TaiLrWeight

GREY, BLUE, ORANGE, GREEN = "#8a8a8a", "#3d8fd1", "#e0813a", "#3fa35f"  # on a light and on a dark page
plt.rcParams |= {
    "savefig.transparent": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY),
}
gamma, b = 0.3, 0.3

# %%
# The function
# ------------
#
# The weight w falls below b where :math:`p_y < p^* = b\gamma / (1 - b(1 - \gamma))`. Above, the gradient is
# that of gamma cross entropy :math:`\ell_\gamma`; below, that of b times cross entropy. So
#
# .. math::
#
#    L(p_y) = \ell_\gamma(p_y) \ \text{ for } p_y \ge p^*, \qquad
#    L(p_y) = \ell_\gamma(p^*) + b\,(\log p^* - \log p_y) \ \text{ below},
#
# has the gradient :math:`-\max(b, w)\,\nabla \log p_y`, and the two pieces meet at :math:`p^*` in value and
# slope. It is ``GammaCrossEntropy(gamma, min_weight=b)``.

threshold = b * gamma / (1 - b * (1 - gamma))
whole, detached = GammaCrossEntropy(gamma, min_weight=b), Reweighted(TaiLrWeight(gamma, min_weight=b))


def textbook(probs: torch.Tensor) -> torch.Tensor:
    """Return L, written as above."""
    at = torch.tensor(threshold, dtype=torch.float64)
    smooth = -(gamma + (1 - gamma) * torch.maximum(probs, at)).log() / (1 - gamma)
    return smooth + b * (at.log() - probs.log()).clamp(min=0)


probs = torch.cat((torch.logspace(-6, -1, 200), torch.linspace(0.101, 0.9999, 300))).double()
rows = torch.stack((probs.log(), (1 - probs).log()), 1).requires_grad_()
first = torch.zeros(len(probs), dtype=torch.long)
value = whole(rows, first, reduction="none")
value_of_product = detached(rows, first, reduction="none")
[slope] = torch.autograd.grad(value.sum(), rows)
[slope_of_product] = torch.autograd.grad(value_of_product.sum(), rows)
value, product = value.detach(), value_of_product.detach()
print(f"p* = {threshold:.4f}")
print(f"value less L:                       at most {float((value - textbook(probs)).abs().max()):.0e}")
print(f"gradient less that of the product:  at most {float((slope - slope_of_product).abs().max()):.0e}")

# %%
# The same by integration, which uses nothing but the weight: the area under max(b, w) over log p, from p to
# 1.

log_p = torch.linspace(-14, 0, 100_001, dtype=torch.float64)
weight = TaiLrWeight(gamma, min_weight=b)(log_p.exp())
pieces = (weight[1:] + weight[:-1]) / 2 * log_p.diff()
area = pieces.flip(0).cumsum(0).flip(0)
at = log_p[:-1].exp()
print(f"area less L:                        at most {float((area - textbook(at)).abs().max()):.0e}")
without = -(gamma + (1 - gamma) * at).log() / (1 - gamma)
print(f"area less the loss without b:       at most {float((area - without).abs().max()):.1f}, a control")

# %%
# What the value is good for
# --------------------------

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.3), layout="constrained")
left.plot(probs, TaiLrWeight(gamma)(probs), color=GREY, linestyle="--", label="w")
left.plot(probs, TaiLrWeight(gamma, b)(probs), color=GREEN, label="max(b, w)")
left.set(ylabel="weight", xlabel="probability of the label")
left.legend(loc="lower right")
right.plot(probs, value, color=GREEN, label="GammaCrossEntropy(0.3, 0.3)")
right.plot(probs, product, color=ORANGE, label="weight times cross entropy")
right.set(xlabel="probability of the label", ylabel="value", xscale="log")
right.legend()
for axes in (left, right):
    axes.axvline(threshold, color=GREY, linewidth=0.8, linestyle=":")

# %%
# Dotted: :math:`p^*`. The product (orange) *rises* while the model learns a label from a probability of p*
# on: the weight grows faster than the logarithm falls.

rising = product.diff() > 0
span = float(probs[1:][rising].min()), float(probs[1:][rising].max())
print(f"the product rises from p = {span[0]:.2f} to {span[1]:.2f}")
print(f"L falls everywhere: {bool((value.diff() < 0).all())}")

# %%
# A training in which that shows: a linear model of eight classes, plain gradient descent. Both losses take
# the same steps, because their gradients are equal.

torch.manual_seed(0)
inputs = torch.randn(400, 20).double()
target = (inputs @ torch.randn(20, 8).double()).argmax(1)
head = torch.nn.Linear(20, 8, dtype=torch.float64)
torch.nn.init.zeros_(head.weight)
optimiser = torch.optim.SGD(head.parameters(), lr=0.5)
history = []
for _ in range(60):
    logits = head(inputs)
    loss = whole(logits, target)
    with torch.no_grad():
        accuracy = (logits.argmax(1) == target).double().mean()
        history.append((float(loss), float(detached(logits, target)), float(accuracy)))
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
values, products, accuracies = zip(*history, strict=True)
axes.plot(values, color=GREEN, label="GammaCrossEntropy(0.3, 0.3)")
axes.plot(products, color=ORANGE, label="weight times cross entropy")
axes.plot(accuracies, color=GREY, linestyle="--", label="accuracy")
axes.set(xlabel="step", ylim=(0, 1.6))
axes.legend()
rises = {
    name: sum(after > before for before, after in pairwise(each))
    for name, each in (("L", values), ("product", products))
}
print(f"steps in which the value rose: L {rises['L']}, the product {rises['product']} of {len(history) - 1}")

# %%
# Early stopping, or a learning rate that is lowered when the loss no longer falls, is misled by the product
# in just the steps in which the accuracy rises fastest. ``GammaCrossEntropy`` has a value that can be
# watched, with TaiLr's gradient; ``Reweighted`` is for those who need the published form. A minimum weight
# helps where training is slow to start, and costs part of the robustness (:doc:`/losses`): it makes wrong
# labels pull again.

plt.show()
