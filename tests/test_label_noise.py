"""What a gamma means, and that the losses do what the conversions promise."""

from fractions import Fraction

import mpmath
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from equipoise.label_noise import (
    Suggestion,
    convert,
    floored_log_probs,
    floored_probs,
    steepest_prob,
    suggest_gamma,
)
from equipoise.losses import CrossEntropy, FlooredCrossEntropy, GammaCrossEntropy, Loss

EPS = torch.finfo(torch.float64).eps
GAMMAS = [0.0, 1e-7, 1e-3, 0.1, 0.5, 0.8, 0.99]
SIZES = [2, 3, 10, 1000]


def batch(classes: int, rows: int = 40) -> tuple[Tensor, Tensor]:
    return 3 * torch.randn(rows, classes, dtype=torch.float64), torch.randint(classes, (rows,))


def floored(logits: Tensor, floor: float) -> Tensor:
    return floor + (1 - logits.shape[1] * floor) * logits.softmax(1)


def noisy(logits: Tensor, rate: float) -> Tensor:
    """Return the probabilities of labels that are replaced by one of the others at a rate."""
    classes = logits.shape[1]
    change = torch.full((classes, classes), rate / (classes - 1), dtype=logits.dtype)
    return logits.softmax(1) @ change.fill_diagonal_(1 - rate)


def cross_entropy_of(probs: Tensor, target: Tensor) -> Tensor:
    return -probs.gather(1, target[:, None])[:, 0].log()


@pytest.mark.parametrize("classes", SIZES)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_gamma_cross_entropy_is_that_of_a_floor_and_that_of_corrected_noise(
    gamma: float, classes: int
) -> None:
    logits, target = batch(classes)
    logits.requires_grad_()
    offset = torch.tensor(1 + (classes - 1) * gamma, dtype=torch.float64).log()
    ours = (1 - gamma) * GammaCrossEntropy(gamma)(logits, target, reduction="none") + offset
    floor, noise = convert(classes, gamma=gamma).floor, convert(classes, gamma=gamma).noise
    for same in (
        cross_entropy_of(floored(logits, floor), target),
        cross_entropy_of(noisy(logits, noise), target),
        FlooredCrossEntropy(floor)(logits, target, reduction="none"),
    ):
        torch.testing.assert_close(ours, same, rtol=1e-12, atol=1e-13)
        slopes = [torch.autograd.grad(value.sum(), logits, retain_graph=True)[0] for value in (ours, same)]
        torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-13)


def test_the_identity_finds_another_floor() -> None:
    logits, target = batch(10)
    ours = 0.9 * GammaCrossEntropy(0.1)(logits, target, reduction="none") + torch.tensor(1.9).double().log()
    for wrong in (convert(9, gamma=0.1).floor, convert(10, gamma=0.1 + 1e-9).floor):
        same = cross_entropy_of(floored(logits, wrong), target)
        with pytest.raises(AssertionError):
            torch.testing.assert_close(ours, same, rtol=1e-12, atol=1e-13)


@settings(max_examples=200)
@given(st.floats(0, 1), st.one_of(st.integers(2, 300), st.integers(2, 10**6)))
def test_conversions_are_exact_and_stay_in_range(gamma: float, classes: int) -> None:
    exact, n = Fraction(gamma), classes
    floor, noise = exact / (1 + (n - 1) * exact), (n - 1) * exact / (1 + (n - 1) * exact)
    assert convert(n, gamma=gamma).floor == pytest.approx(float(floor), rel=1e-14, abs=1e-300)
    assert convert(n, gamma=gamma).noise == pytest.approx(float(noise), rel=1e-14, abs=1e-300)
    assert convert(n, noise=float(noise * (1 - Fraction(1, 10**12)))).floor <= 1 / n
    assert 0 <= convert(n, gamma=gamma).floor <= 1 / n
    assert 0 <= convert(n, gamma=gamma).noise <= (n - 1) / n * (1 + EPS)


@settings(max_examples=200)
@given(st.floats(0, 1), st.one_of(st.integers(2, 300), st.integers(2, 10**6)))
def test_conversions_round_trip(gamma: float, classes: int) -> None:
    """Gamma to floor or noise and back is gamma."""
    n = classes
    floor = convert(n, gamma=gamma).floor
    lost = 1 / (1 - (n - 1) / n * min(1.0, n * floor))  # 1 - noise, whose digits go as it nears 1
    near = {"rel": 8 * EPS * (1 + lost), "abs": 1e-300}
    for back in (
        convert(n, floor=floor).gamma,
        convert(n, noise=convert(n, gamma=gamma).noise).gamma,
        convert(n, floor=convert(n, noise=convert(n, floor=floor).noise).floor).gamma,
    ):
        GammaCrossEntropy(gamma=back)
        assert back == pytest.approx(gamma, **near)


def test_the_ends_of_the_ranges_can_be_converted_for_any_number_of_classes() -> None:
    for n in (*range(2, 200), 1000, 4097, 50_257, 128_256):
        for gamma, floor, noise in ((0.0, 0.0, 0.0), (1.0, 1 / n, (n - 1) / n)):
            assert convert(n, gamma=gamma).floor == pytest.approx(floor, rel=1e-15)
            assert convert(n, gamma=gamma).noise == pytest.approx(noise, rel=1e-15)
            assert convert(n, noise=noise).floor == pytest.approx(floor, rel=1e-15)
            assert convert(n, floor=floor).noise == pytest.approx(noise, rel=1e-15)
            for back in (
                convert(n, floor=floor).gamma,
                convert(n, noise=noise).gamma,
                convert(n, noise=convert(n, gamma=gamma).noise).gamma,
            ):
                assert back == pytest.approx(gamma, rel=4 * EPS * n)
                GammaCrossEntropy(gamma=back)


def simplex(steps: int) -> Tensor:
    """Return a grid of probabilities over three classes."""
    points = [(i, j, steps - i - j) for i in range(steps + 1) for j in range(steps + 1 - i)]
    return torch.tensor(points, dtype=torch.float64) / steps


def expected(loss: Loss, probs: Tensor, true: Tensor) -> Tensor:
    return loss(probs.log(), true.expand_as(probs), reduction="none")


def test_the_optimum_is_sharper_than_the_truth() -> None:
    true = torch.tensor([0.7, 0.3], dtype=torch.float64)
    first = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    probs = torch.stack((first, 1 - first), 1)
    best = probs[expected(GammaCrossEntropy(0.1), probs, true).argmin()]
    assert best[0].item() == pytest.approx((0.7 * 1.1 - 0.1) / 0.9, abs=1e-4)
    assert best[0].item() == pytest.approx(0.744, abs=5e-4)
    plain = probs[expected(CrossEntropy(), probs, true).argmin()]
    assert plain[0].item() == pytest.approx(0.7, abs=1e-4)


def test_a_large_gamma_has_its_optimum_at_one_class() -> None:
    true = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    probs = simplex(100)
    best = probs[expected(GammaCrossEntropy(0.5), probs, true).argmin()]
    assert best.tolist() == [1.0, 0.0, 0.0]
    mixed = probs[expected(GammaCrossEntropy(0.3), probs, true).argmin()]
    assert mixed.min() == 0
    assert mixed.max() < 1


@pytest.mark.parametrize("gamma", [0.0, 1e-7, 0.02, 0.1])
def test_reading_out_the_optimum_returns_the_truth(gamma: float) -> None:
    true = torch.tensor([[0.5, 0.3, 0.2], [0.4, 0.35, 0.25]], dtype=torch.float64)
    optimum = (true * (1 + 2 * gamma) - gamma) / (1 - gamma)
    assert (optimum > 0).all()
    logits = optimum.log().requires_grad_()
    (slope,) = torch.autograd.grad(GammaCrossEntropy(gamma)(logits, true), logits)
    assert slope.abs().max() < 1e-15
    torch.testing.assert_close(floored_probs(logits.detach(), gamma), true, rtol=1e-13, atol=0)
    if gamma:
        assert not torch.allclose(logits.softmax(1), true, rtol=1e-9, atol=0)


def test_under_noise_the_softmax_estimates_clean_labels_and_the_read_out_noisy_ones() -> None:
    clean = torch.tensor([[0.85, 0.1, 0.05]], dtype=torch.float64)
    noise = 0.3
    labels = noisy(clean.log(), noise)
    gamma = convert(3, noise=noise).gamma
    logits = clean.log().requires_grad_()
    (slope,) = torch.autograd.grad(GammaCrossEntropy(gamma)(logits, labels), logits)
    assert slope.abs().max() < 1e-15
    torch.testing.assert_close(floored_probs(logits.detach(), gamma), labels, rtol=1e-13, atol=0)


@pytest.mark.parametrize(("gamma", "published"), [(1e-7, 3.2e-4), (0.1, 0.24), (0.8, 0.47), (1.0, 0.5)])
def test_where_the_loss_pulls_hardest(gamma: float, published: float) -> None:
    odds = torch.linspace(-12, 4, 160_001, dtype=torch.float64)
    logits = torch.stack((odds, torch.zeros_like(odds)), 1).requires_grad_()
    loss = GammaCrossEntropy(gamma)(logits, torch.zeros(len(odds), dtype=torch.long), reduction="sum")
    pull = -torch.autograd.grad(loss, logits)[0][:, 0]
    hardest = odds[pull.argmax()].sigmoid().item()
    assert steepest_prob(gamma) == pytest.approx(hardest, rel=1e-3)
    assert steepest_prob(gamma) == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize(
    ("classes", "gamma", "count"),
    [(10, 0.1, 0.53), (10, 0.8, 0.12), (10, 1.0, 0.1), (32_000, 1e-7, 0.997), (32_000, 0.1, 3e-4)],
)
def test_how_much_a_row_counts_when_classes_are_alike(classes: int, gamma: float, count: float) -> None:
    logits = torch.zeros(1, classes, dtype=torch.float64, requires_grad=True)
    slopes = [
        torch.autograd.grad(loss(logits, torch.tensor([3])), logits)[0]
        for loss in (GammaCrossEntropy(gamma), CrossEntropy())
    ]
    ratio = (slopes[0] / slopes[1]).mean().item()
    assert ratio == pytest.approx(1 / (1 + (classes - 1) * gamma), rel=1e-9)
    assert ratio == pytest.approx(count, rel=0.07)


@pytest.mark.parametrize("spread", [1e-3, 3.0, 300.0])
@pytest.mark.parametrize("gamma", [0.0, 1e-12, 1e-3, 0.5, 0.999, 1.0])
def test_log_read_out_is_exact(gamma: float, spread: float) -> None:
    logits = (torch.rand(6, 5, dtype=torch.float64) * 2 - 1) * spread
    logits[1, 2] = spread
    logits[2] = 0.0
    logits[3, [0, 4]] = -torch.inf
    logits[4, 1:] = -torch.inf
    ours = floored_log_probs(logits, gamma)
    for row, values in zip(logits.tolist(), ours.tolist(), strict=True):
        with mpmath.workdps(400):
            terms = [mpmath.exp(mpmath.mpf(z)) if z > -mpmath.inf else None for z in row]
            total = mpmath.fsum(term for term in terms if term is not None)
            count, g = sum(term is not None for term in terms), mpmath.mpf(gamma)
            for term, value in zip(terms, values, strict=True):
                if term is None:
                    assert value == -torch.inf
                    continue
                exact = mpmath.log((g + (1 - g) * term / total) / (1 + (count - 1) * g))
                # absolute error: a probability near 1 is a difference of two logarithms
                assert abs(value - exact) <= 16 * EPS * (1 + spread)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_read_out_is_a_distribution_above_the_floor(dim: int) -> None:
    logits = 20 * torch.randn(7, 7)
    for gamma in (0.0, 1e-3, 0.4, 1.0):
        probs = floored_probs(logits, gamma, dim=dim)
        torch.testing.assert_close(probs.sum(dim), torch.ones(7))
        assert probs.min() >= convert(7, gamma=gamma).floor * (1 - 1e-6)
        if dim == 1:
            torch.testing.assert_close(probs, floored(logits, convert(7, gamma=gamma).floor))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_read_out_of_half_precision_is_single(dtype: torch.dtype) -> None:
    logits = torch.randn(3, 4).to(dtype)
    assert floored_probs(logits, 0.2).dtype == torch.float32
    assert torch.equal(floored_probs(logits, 0.2), floored_probs(logits.float(), 0.2))


def test_read_out_leaves_masked_classes_out() -> None:
    logits = torch.tensor([[1.0, -torch.inf, 3.0]], dtype=torch.float64)
    probs = floored_probs(logits, 0.1)
    assert probs[0, 1] == 0
    torch.testing.assert_close(probs[:, [0, 2]], floored_probs(logits[:, [0, 2]], 0.1), rtol=1e-14, atol=0)


def test_read_out_has_a_gradient() -> None:
    logits = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: floored_log_probs(z, 0.1), (logits,))
    masked = torch.tensor([[1.0, -torch.inf, 3.0]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(floored_probs(masked, 0.1)[0, 0], masked)
    assert slope.isfinite().all()
    assert slope[0, 1] == 0


def test_suggestions() -> None:
    """Suggested values of gamma are those of the published tasks, and the reason says where from."""
    noisy_labels = suggest_gamma(noise=0.4, num_classes=10)
    assert noisy_labels.gamma == 0.5 > convert(10, noise=0.4).gamma
    assert (
        "0.074 corrects for symmetric label noise of 0.4 among 10 classes; 0.5 keeps" in noisy_labels.reason
    )
    assert suggest_gamma(noise=0.45, num_classes=2).gamma == convert(2, noise=0.45).gamma > 0.5
    many = suggest_gamma(noise=0.4, num_classes=101)
    assert many.gamma == convert(101, noise=0.4).gamma
    assert "by heart" not in many.reason
    scratch = suggest_gamma(num_classes=50)
    assert scratch.gamma == 1 / 50
    assert "from scratch" in scratch.reason
    logits = torch.zeros(1, 50, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(GammaCrossEntropy(scratch.gamma)(logits, torch.tensor([0])), logits)
    assert -slope[0, 0].item() == pytest.approx(0.5, abs=0.01)  # about half, as the reason says
    published = {"language modelling": 1e-7, "translation": 0.1, "summarisation": 0.8}
    for task, gamma in published.items():
        assert suggest_gamma(task=task).gamma == gamma
        assert "published" in suggest_gamma(task=task).reason
    for suggestion in (noisy_labels, scratch, *(suggest_gamma(task=task) for task in published)):
        assert isinstance(suggestion, Suggestion)
        assert suggestion.steepest == steepest_prob(suggestion.gamma)
        GammaCrossEntropy(gamma=suggestion.gamma)


@pytest.mark.parametrize("noise", [0.0, 0.9])
def test_suggestions_at_the_ends_of_the_noise(noise: float) -> None:
    assert suggest_gamma(noise=noise, num_classes=10).gamma == pytest.approx(noise / 0.9, rel=1e-14)
    assert "by heart" not in suggest_gamma(noise=noise, num_classes=10).reason


def slope(value: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(value.sum(), logits)[0]


@pytest.mark.parametrize("gamma", [1e-7, 1e-3, 0.1, 0.5])
def test_gamma_cross_entropy_of_logits_far_apart_agrees_with_log_space(gamma: float) -> None:
    logits, target = 40 * torch.randn(100, 5, dtype=torch.float64), torch.randint(5, (100,))
    log_prob = -F.cross_entropy(logits, target, reduction="none")
    level = torch.tensor(gamma, dtype=torch.float64)
    expected = -torch.logaddexp(level.log(), torch.log1p(-level) + log_prob) / (1 - level)
    torch.testing.assert_close(
        GammaCrossEntropy(gamma)(logits, target, reduction="none"), expected, rtol=1e-12, atol=1e-13
    )
