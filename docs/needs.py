"""Draw `docs/images/needs.svg`, the four needs of the README: `python docs/needs.py`."""

from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from pictures import STYLE  # of the other pages, in this folder

from equipoise.costs import conditional_risk
from equipoise.losses import CrossEntropy, GammaCrossEntropy, Loss
from equipoise.maps import Floored, Softmax
from equipoise.penalties import Decisiveness, Entropy, Gini

IMAGE = Path(__file__).parent / "images" / "needs.svg"
COSTS = [[0, 1], [20, 0]]


def gate(axes: Axes) -> None:
    """Penalties of a gate with four sections, three of them equally likely."""
    probs = torch.linspace(0.001, 0.999, 400, dtype=torch.float64)
    others = ((1 - probs) / 3)[:, None].expand(-1, 3)
    logits = torch.cat((probs[:, None], others), 1).log()
    for penalty in (Entropy(), Decisiveness(), Gini()):
        values = penalty(logits, reduction="none")
        axes.plot(probs, values / values.max(), label=repr(penalty).partition("(")[0])
    axes.set(
        title="A gate that chooses", xlabel="probability of one of four sections", ylabel="penalty / largest"
    )
    axes.legend(frameon=False)


def policy(axes: Axes) -> None:
    """Probabilities of a policy with three actions."""
    logit = torch.linspace(-8, 8, 400, dtype=torch.float64)
    logits = torch.stack((logit, torch.zeros_like(logit), torch.zeros_like(logit)), 1)
    for shape in (Softmax(), Floored(0.1)):
        axes.plot(logit, shape(logits)[:, 0], label=repr(shape))
    axes.axhline(0.1, color="grey", linewidth=0.8, linestyle=":")
    axes.set(
        title="A policy that keeps exploring",
        xlabel="logit of one of three actions",
        ylabel="its probability",
    )
    axes.set_ylim(-0.05, 1.4)
    axes.legend(frameon=False, loc="upper left")


def pull(loss: Loss, probs: torch.Tensor) -> torch.Tensor:
    """Return the size of the gradient with respect to the target's logit."""
    logits = torch.stack((probs, 1 - probs), 1).log().requires_grad_()
    loss(logits, torch.zeros(len(probs), dtype=torch.long), reduction="sum").backward()
    assert logits.grad is not None
    return logits.grad[:, 0].abs()


def labels(axes: Axes) -> None:
    """Gradients of losses for labels that may be wrong."""
    probs = torch.linspace(0.0005, 0.9995, 800, dtype=torch.float64)
    for loss, name in (
        (CrossEntropy(), "CrossEntropy()"),
        (GammaCrossEntropy(0.1), "GammaCrossEntropy(0.1)"),
        (GammaCrossEntropy(0.5), "GammaCrossEntropy(0.5)"),
    ):
        axes.plot(probs, pull(loss, probs), label=name)
    axes.set(
        title="Labels that may be wrong", xlabel="probability of the label", ylabel="size of the gradient"
    )
    axes.legend(frameon=False)


def mistakes(axes: Axes) -> None:
    """Expected costs of two decisions."""
    ill = np.linspace(0, 0.3, 200)
    risk = conditional_risk(np.stack((1 - ill, ill), 1), COSTS)
    axes.plot(ill, risk[:, 0], label="call it well")
    axes.plot(ill, risk[:, 1], label="call it ill")
    axes.axvline(1 / 21, color="grey", linewidth=0.8, linestyle=":")
    axes.set(
        title="Mistakes that cost more", xlabel="probability of ill; a miss costs 20", ylabel="expected cost"
    )
    axes.legend(frameon=False)


def main() -> None:
    """Draw the four panels and write the image."""
    plt.rcParams |= STYLE
    figure, axes = plt.subplots(2, 2, figsize=(7.2, 5.4), layout="constrained")
    for panel, draw in zip(axes.flat, (gate, policy, labels, mistakes), strict=True):
        draw(panel)
    figure.savefig(IMAGE, metadata={"Date": None})


if __name__ == "__main__":
    main()
