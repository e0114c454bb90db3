r"""
One function, three names
=========================

A floor under the probabilities, gamma cross entropy, and a correction for symmetric label noise look like
three methods. They are one function of the target's probability :math:`p_y`, with n classes:

* cross entropy of floored probabilities, :math:`-\log(f + (1 - n f)\,p_y)`: ``FlooredCrossEntropy(floor)``;
* gamma cross entropy, :math:`-\log(\gamma + (1 - \gamma)\,p_y) / (1 - \gamma)`: ``GammaCrossEntropy(gamma)``;
* cross entropy of the noisy label, if a label is replaced by one of the n - 1 others with probability
  :math:`\rho`: :math:`-\log\left((1 - \rho)\,p_y + \frac{\rho}{n - 1}(1 - p_y)\right)`.

So whoever puts a floor into the loss gets a robust loss, and whoever trains with gamma assumes wrong labels.
This page checks that, computes the optimum of the loss, and shows which probabilities to read from a trained
model.
"""

from math import log

import matplotlib.pyplot as plt
import torch

from equipoise.label_noise import convert, floored_probs
from equipoise.losses import CrossEntropy, FlooredCrossEntropy, GammaCrossEntropy, Loss

GREY, BLUE, ORANGE, GREEN = "#8a8a8a", "#3d8fd1", "#e0813a", "#3fa35f"  # on a light and on a dark page
plt.rcParams |= {
    "savefig.transparent": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY),
}

# %%
# The same function
# -----------------
#
# ``label_noise.convert`` returns gamma, the floor and the rate of wrong labels that belong together.

print("classes   gamma      floor      noise")
for classes in (2, 10, 1000, 32000):
    gamma, floor, noise = convert(classes, noise=0.2)
    print(f"{classes:7}   {gamma:.2e}   {floor:.2e}   {noise:.2f}")

# %%
# The more classes there are, the smaller the gamma of one rate of noise: a wrong label falls on one of many.
#
# On random logits the three losses agree, up to the factor 1 - gamma and a constant that no gradient sees.

torch.manual_seed(0)
n = 10
gamma, floor, noise = convert(n, gamma=0.1)
logits, target = 5 * torch.randn(1000, n).double(), torch.randint(n, (1000,))
by_gamma = GammaCrossEntropy(gamma)(logits, target, reduction="none")
by_floor = FlooredCrossEntropy(floor)(logits, target, reduction="none")
prob = logits.softmax(1).gather(1, target[:, None])[:, 0]
by_noise = -((1 - noise) * prob + noise / (n - 1) * (1 - prob)).log()

constant = log(1 + (n - 1) * gamma)
scaled = (1 - gamma) * by_gamma + constant
same = [float((other - scaled).abs().max()) for other in (by_floor, by_noise)]
print(f"largest difference: floor {same[0]:.0e}, noise {same[1]:.0e}")
control = FlooredCrossEntropy(floor / 2)(logits, target, reduction="none")
print(f"half the floor, as a control: {float((control - scaled).std()):.2f}, the constant left out")

# %%
# Its gradient is that of cross entropy times :math:`w = p_y / (\gamma + (1 - \gamma)\,p_y)`. Where the model
# finds the label unlikely, cross entropy pulls most and the others hardly at all: that is the robustness. It
# is also why a floor in the loss does not bring an unlikely class back.

probs = torch.linspace(0.002, 0.998, 500, dtype=torch.float64)
pair = torch.stack((probs.log(), ((1 - probs) / (n - 1)).log()), 1)
rows = torch.cat((pair[:, :1], pair[:, 1:].expand(-1, n - 1)), 1).requires_grad_()
first = torch.zeros(len(probs), dtype=torch.long)

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
for loss, name, colour in (
    (CrossEntropy(), "CrossEntropy()", BLUE),
    (FlooredCrossEntropy(floor), f"FlooredCrossEntropy({floor:.3f})", ORANGE),
    ((1 - gamma) * GammaCrossEntropy(gamma), f"{1 - gamma} * GammaCrossEntropy({gamma})", GREEN),
):
    values = loss(rows, first, reduction="none")
    [gradient] = torch.autograd.grad(values.sum(), rows)
    style = {"color": colour, "linestyle": "--" if colour == GREEN else "-"}
    left.plot(probs, values.detach(), label=name, **style)
    right.plot(probs, -gradient[:, 0], **style)
left.set(xlabel="probability of the label", ylabel="loss", ylim=(0, 5))
right.set(xlabel="probability of the label", ylabel="pull at its logit")
left.legend()

# %%
# What the loss asks for
# ----------------------
#
# A loss is *proper* if the true probabilities minimise its expected value. Take a row whose label is drawn
# from :math:`\eta = (0.6, 0.3, 0.1)`, and minimise the expected loss over the logits.


def optimum(loss: Loss, eta: torch.Tensor) -> torch.Tensor:
    """Return the logits of least expected loss, if labels are drawn from eta."""
    logits = eta.log()[None].requires_grad_()
    search = torch.optim.LBFGS(
        [logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        search.zero_grad()
        value = loss(logits, eta[None])
        value.backward()
        return value

    search.step(closure)  # pyright: ignore[reportArgumentType]
    return logits.detach()[0]


eta = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
print("cross entropy:", optimum(CrossEntropy(), eta).softmax(0).numpy().round(3))
for gamma in (0.05, 0.1, 0.5):
    best = optimum(GammaCrossEntropy(gamma), eta)
    raw, read = best.softmax(0), floored_probs(best, gamma)
    print(f"gamma {gamma:4}:  softmax {raw.numpy().round(3)}, floored {read.numpy().round(3)}")

# %%
# Cross entropy returns eta. Gamma cross entropy is not proper: its softmax is *sharper* than eta, and with a
# large gamma one-hot. The floored probabilities, :math:`(\gamma + (1 - \gamma)\,p_k) / (1 + (n - 1)\gamma)`,
# return eta as long as no entry of eta is below the floor, since they cannot be below it.

gammas = torch.linspace(0.01, 0.6, 25, dtype=torch.float64)
found = [optimum(GammaCrossEntropy(float(gamma)), eta) for gamma in gammas]
raw = torch.stack([logits.softmax(0) for logits in found])
read = torch.stack([floored_probs(logits, float(g)) for logits, g in zip(found, gammas, strict=True)])
limit = convert(3, floor=0.1).gamma

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained", sharey=True)
for axes, values, title in ((left, raw, "softmax"), (right, read, "floored_probs")):
    for k, colour in enumerate((BLUE, ORANGE, GREEN)):
        axes.axhline(float(eta[k]), color=colour, linewidth=0.8, linestyle=":")
        axes.plot(gammas, values[:, k], color=colour, label=f"class {k}, true {float(eta[k]):.1f}")
    axes.axvline(limit, color=GREY, linewidth=0.8)
    axes.set_title(title, color=GREY)
    axes.set(xlabel="gamma", ylim=(-0.02, 1.02))
left.set_ylabel("probability at the optimum")
left.legend(loc="upper left")

# %%
# Dotted: the true probabilities. Vertical line: the gamma whose floor is 0.1, the smallest entry of eta.
#
# What to read out
# ----------------
#
# If labels are wrong with probability rho, eta is the distribution of the *noisy* label. With the gamma that
# belongs to rho, softmax returns the probabilities of the *clean* label, and ``floored_probs`` those of the
# noisy one. The same is true of a model that is trained. Three Gaussian classes in the plane, whose true
# probabilities are known, and a linear model that can represent them:

classes, noise = 3, 0.3
matching = convert(classes, noise=noise).gamma
centres = torch.tensor([[0.0, 1.2], [1.0, -0.6], [-1.0, -0.6]], dtype=torch.float64)
true = torch.randint(classes, (3000,))
inputs = centres[true] + torch.randn(3000, 2).double()
clean = (inputs @ centres.T - centres.square().sum(1) / 2).softmax(1)
noisy = (1 - noise) * clean + noise / (classes - 1) * (1 - clean)
wrong = torch.rand(3000) < noise
observed = torch.where(wrong, (true + torch.randint(1, classes, (3000,))) % classes, true)


def trained(loss: Loss) -> torch.Tensor:
    """Return the logits of a linear model that is trained on the observed labels."""
    head = torch.nn.Linear(2, classes, dtype=torch.float64)
    search = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        search.zero_grad()
        value = loss(head(inputs), observed)
        value.backward()
        return value

    search.step(closure)  # pyright: ignore[reportArgumentType]
    return head(inputs).detach()


errors = {}
print("mean error of probabilities       clean label   noisy label")
for gamma in (0.0, matching, 0.9):
    logits = trained(GammaCrossEntropy(gamma))
    for name, probs in (("softmax", logits.softmax(1)), ("floored", floored_probs(logits, gamma))):
        errors[gamma, name] = [float((probs - truth).abs().mean()) for truth in (clean, noisy)]
        print(f"gamma {gamma:.3f}, {name:8}" + "".join(f"{error:20.3f}" for error in errors[gamma, name]))

# %%
# Trained with the gamma of the noise, one model returns both: its softmax is right for the clean label, its
# floored probabilities for the noisy one. Cross entropy (gamma 0) learns the noisy label, and gamma 0.9 is
# too sharp for either.
#
# So gamma reduces the overconfidence that *wrong labels* cause. It does not reduce that of *ambiguous* rows:
# there its softmax is too sure, and ``floored_probs`` is the one to use. A network that is trained for many
# epochs needs a larger gamma than ``convert`` returns, because it learns wrong labels by heart
# (:doc:`/losses`); a temperature and the rate of noise can be fitted after training (:doc:`/calibration`).
# For a floor in a policy see :doc:`/policies`.

plt.show()
