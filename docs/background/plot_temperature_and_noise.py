r"""
A temperature that knows labels may be wrong
============================================

Temperature scaling divides the logits by a number T, chosen by the NLL of labels that the model was not
trained on. If some of those labels are wrong, T becomes too large: the only way in which a temperature can
explain a wrong label is that the model should have been less sure. ``calibration.fit`` fits the rate of wrong
labels together with T,

.. math:: q = \frac{s}{n} + (1 - s)\,\mathrm{softmax}(z / T), \qquad s = \rho\,\frac{n}{n - 1},

where q is the probability of the *observed* label, n the number of classes and :math:`\rho` the rate of wrong
labels. It is the floor of :doc:`plot_one_function_three_names`, this time fitted after training.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits

from equipoise import calibration

GREY, BLUE, ORANGE, GREEN = "#8a8a8a", "#3d8fd1", "#e0813a", "#3fa35f"  # on a light and on a dark page
plt.rcParams |= {
    "savefig.transparent": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY),
}

# %%
# Why a temperature learns the noise
# ----------------------------------
#
# Logits of 2000 rows and ten classes, right at T = 2: the clean labels are drawn from softmax(z / 2). Then 30
# % of the labels are replaced by another class.

draws = np.random.default_rng(0)
ROWS, CLASSES, TRUE_T = 2000, 10, 2.0
logits = 8 * draws.normal(size=(ROWS, CLASSES))
clean = (logits / TRUE_T + draws.gumbel(size=logits.shape)).argmax(1)


def replaced(labels: np.ndarray, rate: float) -> np.ndarray:
    """Return the labels, a share of them replaced by another class."""
    other = (labels + draws.integers(1, CLASSES, len(labels))) % CLASSES
    return np.where(draws.random(len(labels)) < rate, other, labels)


def nll(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Return the mean negative log-likelihood of labels under softmax(z / T)."""
    z = torch.as_tensor(logits) / temperature
    return float(torch.nn.functional.cross_entropy(z, torch.as_tensor(labels)))


observed = replaced(clean, 0.3)
grid = np.geomspace(0.8, 40, 80)
figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
lowest = {}
for labels, name, colour in ((clean, "clean labels", GREEN), (observed, "observed labels", ORANGE)):
    curve = [nll(logits, labels, t) for t in grid]
    lowest[name] = grid[int(np.argmin(curve))]
    axes.plot(grid, curve, color=colour, label=name)
    axes.plot(lowest[name], min(curve), "o", color=colour)
axes.axvline(TRUE_T, color=GREY, linewidth=0.8, linestyle=":")
axes.set(xscale="log", xlabel="temperature", ylabel="NLL", ylim=(0, 4))
axes.set_xticks([1, 2, 5, 10, 20, 40], ["1", "2", "5", "10", "20", "40"])
axes.legend()
for name, t in lowest.items():
    print(f"NLL of {name} is lowest at T = {t:.1f}")

# %%
# The dots are the lowest points, the dotted line is the true temperature. A wrong label in a row where the
# model is sure costs about z / T. A few of them outweigh what all right labels lose by a larger T.
#
# Both together
# -------------

found = calibration.fit(logits, observed)
alone = calibration.fit(logits, observed, noise=0)
print(f"T alone      {alone.temperature:.2f}")
print(f"T and noise  {found.temperature:.2f}, noise {found.noise:.3f}", end=" ")
print("({:.3f} to {:.3f})".format(*found.noise_interval or ()))

# %%
# The interval is the 95 % profile likelihood interval of the rate. The same for other rates, with the NLL of
# the clean labels, which nobody who has noisy labels can compute. ``probs`` are the probabilities of the
# clean label.

rates, values = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6), {}
print("noise   T alone   T and noise   noise found   clean NLL: T alone   T and noise   true T")
for rate in rates:
    labels = replaced(clean, rate)
    one, both = calibration.fit(logits, labels, noise=0), calibration.fit(logits, labels)
    values[rate] = [nll(logits, clean, t) for t in (one.temperature, both.temperature, TRUE_T)]
    shown = "   ".join(f"{value:11.3f}" for value in values[rate])
    print(f"{rate:5.1f}   {one.temperature:7.2f}   {both.temperature:11.2f}   {both.noise:11.3f}   {shown}")

# %%
# What to read out
# ----------------
#
# ``probs`` is for the clean label, ``observed_probs`` for the label as it would be observed. Each is right
# about its own label: among the rows in which the likeliest class has a probability of about c, it is the
# label in a share of c.


def reliability(probs: np.ndarray, labels: np.ndarray) -> tuple[list[float], list[float]]:
    """Return the mean confidence and the share of right rows, in eight bins of equal size."""
    confidence, right = probs.max(1), probs.argmax(1) == labels
    bins = np.array_split(np.argsort(confidence, kind="stable"), 8)
    return [float(confidence[b].mean()) for b in bins], [float(right[b].mean()) for b in bins]


figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained", sharey=True)
readings = ((alone.probs(logits), "T alone", ORANGE), (found.probs(logits), "probs", GREEN))
for probs, name, colour in readings:
    left.plot(*reliability(probs, clean), "o-", color=colour, label=name)
right.plot(*reliability(found.observed_probs(logits), observed), "o-", color=BLUE, label="observed_probs")
for axes, title in ((left, "clean labels"), (right, "observed labels")):
    axes.plot((0.2, 1), (0.2, 1), color=GREY, linewidth=0.8, linestyle=":")
    axes.set_title(title, color=GREY)
    axes.set(xlabel="probability of the likeliest class")
    axes.legend(loc="upper left")
left.set_ylabel("share in which it is the label")

gaps = {}
for probs, name, _ in readings:
    confidence, share = reliability(probs, clean)
    gaps[name] = float(np.mean(np.abs(np.subtract(confidence, share))))
    print(f"{name:8} mean gap on clean labels {gaps[name]:.3f}")

# %%
# A network
# ---------
#
# scikit-learn's digits with 30 % of all labels replaced. A hidden layer, trained for 60 epochs on one third;
# the fit on the second third, also noisy; the NLL of the clean labels on the last.

torch.manual_seed(0)
X, y = map(np.asarray, load_digits(return_X_y=True))
order = draws.permutation(len(y))
inputs, truth = torch.as_tensor(X[order] / 16).float(), y[order]
noisy = replaced(truth, 0.3)
train, validation, test = np.array_split(np.arange(len(y)), 3)
network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
for _ in range(60):
    for batch in np.array_split(draws.permutation(train), 10):
        optimiser.zero_grad()
        value = torch.nn.functional.cross_entropy(network(inputs[batch]), torch.as_tensor(noisy[batch]))
        value.backward()
        optimiser.step()
with torch.no_grad():
    scores = network(inputs).double().numpy()

both = calibration.fit(scores[validation], noisy[validation])
one = calibration.fit(scores[validation], noisy[validation], noise=0)
digits = {
    name: nll(scores[test], truth[test], t)
    for name, t in (("raw", 1.0), ("T alone", one.temperature), ("T and noise", both.temperature))
}
print(f"noise found {both.noise:.3f}; true {np.mean(noisy[validation] != truth[validation]):.3f}")
for name, value in digits.items():
    print(f"{name:12} NLL of clean labels {value:.3f}")

# %%
# Plain temperature scaling makes the probabilities of the clean labels worse than no calibration.
# :doc:`/calibration` repeats this with ten seeds, other noise and other methods.
#
# Where it finds nothing
# ----------------------
#
# The fit assumes that a wrong label can be any other class, in any row. If one class is often labelled as
# another and the model has learnt it, the logits do not show that these labels are wrong. Here a third of
# class 0 is labelled 1, and the model predicts the observed label perfectly well:

matrix = np.eye(CLASSES)
matrix[0, :2] = 2 / 3, 1 / 3  # [true, observed]
probs = torch.as_tensor(logits / TRUE_T).softmax(1).numpy()
learnt = np.log(probs @ matrix + 1e-12)
labels = (learnt + draws.gumbel(size=learnt.shape)).argmax(1)
blind = calibration.fit(learnt, labels)
print(f"wrong labels {float((probs[:, 0] / 3).mean()):.3f}; noise found {blind.noise:.3f}")

# %%
# It finds next to none. ``fit`` also takes a rate or a matrix that is known: ``fit(..., noise=0.2)``,
# ``fit(..., noise=matrix)``; :doc:`/calibration` measures what that is worth. If labels are clean but
# ambiguous, use ``noise=0`` or ``observed_probs``: the fit takes the sharpness of an overconfident model for
# noise.

plt.show()
