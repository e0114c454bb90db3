"""Maps of rows that are not finite or very large; maps called directly and made for a floor."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

from equipoise.maps import (
    MAPS,
    Clipped,
    ClippedLogits,
    Entmax,
    GumbelSoftmax,
    LogitNorm,
    Map,
    MapEntry,
    Projected,
    SoftCapped,
    Softmax,
    Sparsemax,
    StraightThrough,
)
from support.definitions import Exact
from support.map_cases import CLASSES, DTYPES, EVERY, RANDOM, allowed_in, both, every, inf, nan, slope
from support.map_definitions import definition_of, settings_of

BAD: dict[str, list[float]] = {
    "nan first": [nan, 0.0, 1.0, 2.0, -1.0, 0.5],
    "nan in the middle": [0.0, 5.0, nan, 2.0, -1.0, 0.5],
    "nan last": [0.0, 1.0, 2.0, -1.0, 0.5, nan],
    "all nan": [nan] * CLASSES,
    "nan and masked": [-inf, -inf, nan, -inf, -inf, -inf],
    "infinity": [0.0, 1.0, inf, 2.0, -1.0, 0.5],
    "two infinities": [inf, 1.0, inf, 2.0, -1.0, 0.5],
    "all infinite": [inf] * CLASSES,
    "infinity and nan": [inf, 0.0, nan, 2.0, -1.0, 0.5],
    "both infinities": [inf, -inf, 0.0, -inf, -1.0, 0.5],
    "nothing allowed": [-inf] * CLASSES,
}


def mixed(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows that are bad and rows that are not, by turns, and which are bad."""
    good = torch.randn(len(BAD), CLASSES, dtype=torch.float64) * 2
    good[0, [1, 4]] = -inf
    logits = (
        torch.stack((torch.tensor(list(BAD.values()), dtype=torch.float64), good), 1).flatten(0, 1).to(dtype)
    )
    return logits, torch.tensor([True, False]).repeat(len(BAD))


def check_rows(
    map: Map, function: Callable[[Tensor], Tensor], alone: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    logits, bad = mixed(dtype)
    weight = torch.randn(len(logits), CLASSES)
    value, gradient = function(logits), slope(function, logits, weight)
    assert value[bad].isnan().all()
    assert gradient[bad].isnan().all()
    assert not value[~bad].isnan().any()
    assert gradient[~bad].isfinite().all()
    if map not in RANDOM:
        torch.testing.assert_close(value[~bad], alone(logits[~bad]))
        torch.testing.assert_close(gradient[~bad], slope(alone, logits[~bad], weight[~bad]))


@pytest.mark.parametrize("dtype", DTYPES)
@both
@every
def test_a_bad_row_is_nan_and_spoils_no_other(map: Map, form: str, dtype: torch.dtype) -> None:
    """A bad row has nan probabilities, and other rows do not change."""
    function = getattr(map, form)
    check_rows(map, function, function, dtype)
    check_rows(map, lambda z: function(z.T[:, None], dim=0).squeeze(1).T, function, dtype)


@every
def test_each_bad_row_by_itself_is_nan(map: Map) -> None:
    """Each kind of bad row has nan probabilities and gradients."""
    for row in BAD.values():
        for function in (map.probs, map.log_probs):
            assert function(torch.tensor(row)).isnan().all()
            assert slope(function, torch.tensor(row), torch.zeros(CLASSES)).isnan().all()


def test_the_reported_row_is_nan() -> None:
    """A row reported by a user is nan."""
    assert Projected(0.02).probs(torch.tensor([nan, 0.0, 1.0])).isnan().all()


# torch's own, while it traces an autograd function
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@both
@pytest.mark.parametrize("map", [settings_of(entry)[0] for entry in MAPS] + EVERY[-4:], ids=repr)
def test_a_bad_row_is_nan_where_it_is_compiled(map: Map, form: str) -> None:
    """A bad row is nan in compiled maps."""
    torch._dynamo.reset()
    function = getattr(map, form)
    check_rows(map, torch.compile(function, backend="aot_eager", fullgraph=True), function, torch.float32)


@both
@every
def test_a_bad_row_is_nan_under_vmap(map: Map, form: str) -> None:
    """A bad row is nan under vmap."""
    function = getattr(map, form)
    check_rows(map, torch.vmap(function, randomness="different"), function, torch.float32)


@every
def test_a_gradient_that_a_bad_row_is_left_out_of_is_finite_for_the_others(map: Map) -> None:
    """If a bad row is left out of the sum, the gradients of other rows are finite."""
    logits, bad = mixed(torch.float32)
    leaf = logits.clone().requires_grad_()
    map.probs(leaf)[~bad].square().sum().backward()
    assert leaf.grad is not None
    assert leaf.grad[~bad].isfinite().all()


@pytest.mark.parametrize("map", [Sparsemax(), Entmax(1.5), Entmax(3.0)], ids=repr)
def test_sparse_maps_have_derivatives_under_torch_func(map: Map) -> None:
    """Sparse maps have derivatives under `torch.func`."""
    logits = torch.randn(4, CLASSES, dtype=torch.float64) * 0.4
    jacobians = torch.func.vmap(torch.func.jacrev(map.probs))(logits)
    for row, jacobian in zip(logits, jacobians, strict=True):
        torch.testing.assert_close(jacobian, torch.autograd.functional.jacobian(map.probs, row))
    assert torch.autograd.gradgradcheck(map.probs, (logits.requires_grad_(),))


# large logits

BOUNDED = (ClippedLogits, SoftCapped, LogitNorm)  # these do not ignore a shift
SHIFTED = [map for map in EVERY if not isinstance(getattr(map, "map", map), BOUNDED) and map not in RANDOM]
LARGE = [
    *((entry, map) for entry in MAPS if definition_of(entry) is not None for map in settings_of(entry)),
    *((entry, Softmax(1e-3)) for entry in MAPS if entry.make is Softmax),
    *((entry, map) for entry in MAPS if entry.make is Entmax for map in (Entmax(1.1), Entmax(2.5))),
]


def large(dtype: torch.dtype) -> Tensor:
    """Rows of three logits of every size a dtype has: near one another, apart, and at both ends."""
    most = torch.finfo(dtype).max
    rows: list[list[float]] = []
    for size in (1.0, 3e4, 1e8, 1e30, 1e38, 1e300):
        if size < most / 4:
            step = float(torch.tensor(size, dtype=dtype)) * torch.finfo(dtype).eps
            rows += [
                [1.2 * size, 1.6 * size, 1.6 * size],
                [size, size + step, size - step],
                [-size, -size - step, -size],
                [-size, size, 0.0],
                [-3 * size, -2 * size, -2 * size],
            ]
    rows += [[0.99 * most, 0.99 * most, 0.98 * most], [0.99 * most, -0.99 * most, 0.0], [most, most, most]]
    return torch.tensor(rows, dtype=torch.float64).to(dtype)


def truth(entry: MapEntry, map: Map, row: Tensor) -> list[float]:
    """Exact probabilities. A gap above 100 counts as 100: no map gives so far a class more than e^-50."""
    z = row.tolist()
    gaps = [max(value - max(z), -100.0) for value in z]
    with mpmath.workdps(60):
        exact_gaps = [mpmath.mpf(gap) for gap in gaps]
        total = mpmath.fsum(mpmath.exp(gap) for gap in exact_gaps)
        probs = [mpmath.exp(gap) / total for gap in exact_gaps]
        given = [mpmath.mpf(value) for value in row.tolist()] if isinstance(map, BOUNDED) else exact_gaps
        lifted = {k: mpmath.mpf(v) if isinstance(v, (int, float)) else v for k, v in vars(map).items()}
        assert definition_of(entry) is not None
        values = definition_of(entry)(SimpleNamespace(**lifted), Exact(mpmath, given, probs, 0, [0, 1, 2], 3))
        return [float(value) for value in values]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("entry", "map"), LARGE, ids=lambda value: repr(value) if isinstance(value, Map) else ""
)
def test_large_logits_are_exact(entry: MapEntry, map: Map, dtype: torch.dtype) -> None:
    """Large logits give exact probabilities."""
    logits = large(dtype)
    probs, logs = map.probs(logits), map.log_probs(logits)
    eps = torch.finfo(probs.dtype).eps
    for row, ours, log in zip(logits, probs, logs, strict=True):
        right = torch.tensor(truth(entry, map, row), dtype=torch.float64)
        if isinstance(map, StraightThrough):
            assert ours.argmax() == row.argmax()
            continue
        torch.testing.assert_close(ours.double(), right, rtol=0, atol=16 * eps)
        torch.testing.assert_close(log.double().exp(), right, rtol=0, atol=16 * eps)
        for function in (map.probs, map.log_probs):
            assert slope(function, row, torch.randn(3)).isfinite().all()


def test_the_reported_logits_are_exact() -> None:
    """Logits reported by a user give exact probabilities."""
    assert Entmax(1.5).probs(torch.tensor([1.2e8, 1.6e8])).tolist() == [0.0, 1.0]
    near = Entmax(1.5).probs(torch.tensor([30000.0, 30000.5]))
    torch.testing.assert_close(near, Entmax(1.5).probs(torch.tensor([0.0, 0.5])), rtol=0, atol=1e-7)
    far = ClippedLogits(low=-2.0, high=2.0).probs(torch.tensor([1e9, 0.0]))
    torch.testing.assert_close(far, torch.tensor([2.0, 0.0]).softmax(-1), rtol=0, atol=1e-7)


@pytest.mark.parametrize("shift", [3e4, 1e8, 1e30])
@pytest.mark.parametrize("map", SHIFTED, ids=repr)
def test_a_shift_changes_nothing_not_even_the_gradient(map: Map, shift: float) -> None:
    """A shift of the logits changes neither probabilities nor gradients."""
    step = shift * torch.finfo(torch.float32).eps
    shifted = torch.tensor(shift) + torch.tensor([[0.0, 1.0, 3.0], [2.0, 2.0, 0.0]]) * step
    gaps = (shifted.double() - shifted.double().amax(-1, keepdim=True)).clamp(min=-1e30)
    assert (gaps != 0).any()
    weight = torch.tensor([0.3, -1.0, 0.7])
    for function in (map.probs, map.log_probs):
        torch.testing.assert_close(function(shifted), function(gaps).float(), rtol=2e-5, atol=1e-6)
        torch.testing.assert_close(
            slope(function, shifted, weight), slope(function, gaps, weight).float(), rtol=2e-5, atol=1e-6
        )


@pytest.mark.parametrize("dtype", DTYPES[:3])  # float16 ends at 65504
@every
def test_logits_of_zero_have_a_finite_gradient(map: Map, dtype: torch.dtype) -> None:
    """Logits of zero have a finite gradient."""
    for row in ([0.0] * 3, [0.0, -inf, 0.0], [0.0, torch.finfo(dtype).tiny, 0.0]):
        for function in (map.probs, map.log_probs):
            assert slope(function, torch.tensor(row, dtype=dtype), torch.randn(3)).isfinite().all()


@pytest.mark.parametrize("temperature", [0.04, 0.5])
@pytest.mark.parametrize("level", [0.0, 1e-30, 1e-5, 3.0, -1e30])
def test_normalized_has_a_gradient_that_can_be_squared_at_equal_logits(
    level: float, temperature: float
) -> None:
    """At equal logits, `LogitNorm` has a finite gradient."""
    map, weight = LogitNorm(temperature), torch.tensor([1.0, 2.0, 4.0])
    for function in (map.probs, map.log_probs):
        leaf = torch.full((3,), level, requires_grad=True)
        (first,) = torch.autograd.grad((function(leaf) * weight).sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), leaf)
        assert first.abs().max() > 0
        assert first.square().sum().isfinite()
        assert second.isfinite().all()
    if level == 0:  # without a least norm there would be nothing to square
        leaf = torch.full((3,), level, requires_grad=True)
        scaled = leaf / torch.finfo(torch.float32).tiny ** 0.5
        (first,) = torch.autograd.grad((scaled / temperature).log_softmax(0) @ weight, leaf)
        assert first.square().sum().isinf()


def test_a_draw_is_one_however_large_the_logits() -> None:
    """A sample is one class, however large the logits are."""
    draws = StraightThrough(GumbelSoftmax(0.5)).probs(torch.full((4000, 4), 1e30))
    assert (draws.mean(0) - 0.25).abs().max() < 0.04
    assert not GumbelSoftmax(1e-6).probs(torch.full((100, 4), 3e38)).isnan().any()


def test_what_is_chosen_is_one_to_the_bit() -> None:
    """Straight-through probabilities are exactly 0 and 1."""
    for map in (StraightThrough(Softmax()), StraightThrough(Sparsemax()), StraightThrough(GumbelSoftmax())):
        assert set(map.probs(torch.randn(2000, 11)).unique().tolist()) == {0.0, 1.0}


# what a newcomer tries


@every
def test_a_map_is_called_as_torchs_softmax_is(map: Map) -> None:
    """A map is called like `torch.softmax`."""
    logits, mask = torch.randn(3, CLASSES, 2), allowed_in((CLASSES,))
    for arguments in ({"dim": 1}, {"dim": 1, "mask": mask}):
        torch.manual_seed(0)
        called = map(logits, **arguments)
        torch.manual_seed(0)
        assert torch.equal(called, map.probs(logits, **arguments))


@pytest.mark.parametrize("make", [Clipped, ClippedLogits])
@pytest.mark.parametrize("classes", [2, 3, 8])
@pytest.mark.parametrize("share", [1e-6, 0.1, 0.5])
def test_a_map_made_for_a_floor_keeps_it_and_reaches_it(make: Any, classes: int, share: float) -> None:
    """`for_floor` makes a map that keeps and reaches its floor."""
    floor = share / classes
    map = make.for_floor(floor, num_classes=classes)
    assert isinstance(map, make)
    assert map.min_prob(classes) == pytest.approx(floor, rel=1e-14)
    logits = torch.cat((torch.eye(classes), -torch.eye(classes), torch.randn(50, classes))).double() * 100
    assert map.probs(logits).min().item() == pytest.approx(floor, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Clipped.for_floor(0.06, 10), r"floor must be in \[0, 0\.0526316\], got 0\.06; a clip keeps"),
        (lambda: Clipped.for_floor(-0.1, 10), r"floor must be in \[0, 0\.0526316\], got -0\.1"),
        (lambda: Clipped.for_floor(0.1, 0), "num_classes must be at least 1, got 0"),
        (lambda: ClippedLogits.for_floor(0.1, 10), r"floor must be below 1/10, got 0\.1; the probabilities"),
        (lambda: ClippedLogits.for_floor(0.0, 10), r"floor must be in \(0, 1\], got 0\.0; it is a prob"),
        (lambda: ClippedLogits.for_floor(0.1, 1), "num_classes must be at least 2, got 1; one class always"),
        (lambda: Softmax().probs(torch.zeros(3, 0)), r"logits must have at least one class, got shape \(3, "),
        (lambda: Softmax().probs(torch.tensor(0.0)), r"logits must have at least one class, got shape \(\)"),
    ],
)  # fmt: skip
def test_what_an_error_says(call: Callable[[], Any], says: str) -> None:
    """Each error names the argument, the rule and the value."""
    with pytest.raises(ValueError, match=says):
        call()


def test_a_module_of_a_map_is_the_map_and_prints_it() -> None:
    """The module of a map gives its probabilities along its dimension, and prints map and dimension."""
    logits = torch.randn(4, CLASSES, 3)
    made = Projected(0.02).module(dim=1)
    assert torch.equal(made(logits), Projected(0.02).probs(logits, dim=1))
    assert repr(made) == f"MapModule({Projected(0.02)!r}, dim=1)"
