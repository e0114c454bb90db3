"""Every map of the table: value against exact arithmetic, guarantee hunted, gradients, masks, exporters."""

import io
import math
import warnings
from types import SimpleNamespace
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError

from equipoise.losses import CrossEntropy, FlooredCrossEntropy
from equipoise.maps import (
    MAPS,
    Clipped,
    ClippedLogits,
    Entmax,
    Floored,
    GumbelSoftmax,
    LogitNorm,
    Map,
    MapEntry,
    Projected,
    Resoftmax,
    Softmax,
    Sparsemax,
    StraightThrough,
    emit_log_probs,
)
from equipoise.maps.sharpening import _least_sharpening
from support.definitions import Exact
from support.map_cases import SETTINGS
from support.map_definitions import definition_of, settings_of

CLASSES = 8

FIXED = [param for param in SETTINGS if definition_of(param.values[0]) is not None]
EPS = torch.finfo(torch.float64).eps


def rows(spread: float, *, masked: bool = True) -> Tensor:
    """Rows of eight logits: random, certain, tied, two rivals, masked."""
    logits = (torch.rand(7, CLASSES, dtype=torch.float64) * 2 - 1) * spread
    logits[1, 2] = 2 * spread
    logits[2] = logits[2].max()
    logits[3, :2] = logits[3].max()
    if masked:
        logits[4, [0, 5]] = -torch.inf
        logits[5, 1:] = -torch.inf
    return logits


def exact(entry: MapEntry, map: Map, z: list[float]) -> list[Any]:
    """Exact probabilities by the definition, zero for masked classes."""
    kept = [k for k, value in enumerate(z) if value != -math.inf]
    reach = max(abs(z[k]) for k in kept)
    with mpmath.workdps(60 + int(10 * reach)):
        exact_z = [mpmath.mpf(z[k]) for k in kept]
        terms = [mpmath.exp(value) for value in exact_z]
        total = mpmath.fsum(terms)
        row = Exact(mpmath, exact_z, [term / total for term in terms], 0, kept, len(z))
        lifted = {k: mpmath.mpf(v) if isinstance(v, (int, float)) else v for k, v in vars(map).items()}
        assert definition_of(entry) is not None
        values = definition_of(entry)(SimpleNamespace(**lifted), row)
    probs = [mpmath.mpf(0)] * len(z)
    for k, value in zip(kept, values, strict=True):
        probs[k] = value
    return probs


@pytest.mark.parametrize("spread", [1e-3, 1.0, 10.0, 100.0])
@pytest.mark.parametrize(("entry", "map"), FIXED)
def test_values_against_exact_arithmetic(entry: MapEntry, map: Map, spread: float) -> None:
    logits = rows(spread)
    for z, probs, logs in zip(
        logits.tolist(), map.probs(logits).tolist(), map.log_probs(logits).tolist(), strict=True
    ):
        truth = exact(entry, map, z)
        scale = 1 + max(abs(math.log(max(float(t), 1e-300))) for t in truth if t > 0)
        for p, log, t in zip(probs, logs, truth, strict=True):
            assert abs(p - float(t)) <= 16 * EPS * scale
            if t > 1e-12:
                assert abs(log - float(mpmath.log(t))) <= 64 * EPS * scale / (
                    float(t) if is_sparse(map) else 1
                )
            elif t == 0:
                assert log == -math.inf or is_sparse(map)


def is_sparse(map: Map) -> bool:
    return isinstance(map, (Sparsemax, Entmax)) or getattr(map, "metric", "kl") == "euclidean"


def test_values_control_another_temperature_is_found() -> None:
    (entry,) = [entry for entry in MAPS if entry.make is Softmax]
    z = rows(1.0)[0]
    truth = [float(p) for p in exact(entry, Softmax(), z.tolist())]
    off = Softmax(temperature=1 + 1e-13).probs(z)
    assert (off - torch.tensor(truth, dtype=torch.float64)).abs().max() > 16 * EPS


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("entry", "map"), SETTINGS)
def test_distributions_in_every_dtype(entry: MapEntry, map: Map, dtype: torch.dtype) -> None:
    logits = rows(20.0).to(dtype)
    torch.manual_seed(0)
    probs = map.probs(logits)
    torch.manual_seed(0)
    logs = map.log_probs(logits)
    assert probs.dtype == logs.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    eps = torch.finfo(probs.dtype).eps
    torch.testing.assert_close(probs.sum(-1), torch.ones_like(probs[:, 0]), rtol=16 * eps, atol=0)
    assert (probs >= 0).all()
    masked = logits == -torch.inf
    assert (probs[masked] == 0).all()
    assert (logs[masked] == -torch.inf).all()
    torch.testing.assert_close(logs.exp(), probs, rtol=0, atol=200 * eps)
    torch.testing.assert_close(logs.softmax(-1), probs, rtol=0, atol=200 * eps)  # what a hook relies on


@pytest.mark.parametrize(("entry", "map"), FIXED)
def test_gradient_is_that_of_the_value_unless_it_is_designed(entry: MapEntry, map: Map) -> None:
    logits = (torch.randn(4, 6, dtype=torch.float64) * 2).requires_grad_()
    functions = (
        [map.probs] if is_sparse(map) and not isinstance(map, Projected) else [map.probs, map.log_probs]
    )
    for function in functions:
        if entry.straight_through:
            with pytest.raises(GradcheckError):
                torch.autograd.gradcheck(
                    lambda z, f=function: f(z).masked_fill(f(z) == -torch.inf, 0.0), (logits * 3,)
                )
        else:
            assert torch.autograd.gradcheck(function, (logits,))


@pytest.mark.parametrize(("entry", "map"), SETTINGS)
def test_slopes_are_finite_and_masked_ones_zero(entry: MapEntry, map: Map) -> None:
    for spread in (1.0, 300.0):
        for function in (map.probs, map.log_probs):
            logits = rows(spread).requires_grad_()
            value = function(logits)
            value.masked_fill(value == -torch.inf, 0.0).mul(torch.randn(7, CLASSES)).sum().backward()
            assert logits.grad is not None
            assert logits.grad.isfinite().all()
            assert (logits.grad[logits == -torch.inf] == 0).all()


def test_straight_through_gradients_are_those_they_stand_for() -> None:
    logits = torch.randn(5, 6, dtype=torch.float64)
    weights = torch.randn(5, 6, dtype=torch.float64)

    def slope(function: Any) -> Tensor:
        leaf = logits.clone().requires_grad_()
        return torch.autograd.grad((function(leaf) * weights).sum(), leaf)[0]

    hard = StraightThrough(Softmax(temperature=0.5))
    torch.testing.assert_close(
        slope(hard.probs), slope(Softmax(temperature=0.5).probs), rtol=1e-13, atol=1e-16
    )
    assert set(hard.probs(logits).unique().tolist()) == {0.0, 1.0}

    logits = logits * 5
    clipped = ClippedLogits(low=-1.0, high=1.0)
    held = logits.clamp(-1, 1)
    inside = held.clone().requires_grad_()
    (expected,) = torch.autograd.grad((inside.softmax(-1) * weights).sum(), inside)
    torch.testing.assert_close(slope(clipped.probs), expected, rtol=1e-12, atol=1e-15)
    assert (slope(clipped.probs) != 0).all()
    assert (slope(lambda z: z.clamp(-1, 1).softmax(-1)) == 0).any()  # control: a plain clip is dead outside


@pytest.mark.parametrize(("entry", "map"), FIXED)
def test_the_class_dimension_may_be_any(entry: MapEntry, map: Map) -> None:
    logits = torch.randn(3, 8, 4)
    for function in (map.probs, map.log_probs):
        torch.testing.assert_close(
            function(logits, dim=1), function(logits.movedim(1, -1)).movedim(-1, 1), rtol=0, atol=0
        )
    assert map.probs(logits[0, :, 0]).shape == (8,)


# torch's own, while it traces an autograd function
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(("entry", "map"), FIXED)
def test_compiled_and_exported_maps_are_the_same(entry: MapEntry, map: Map) -> None:
    torch._dynamo.reset()
    logits = rows(3.0, masked=False).float()
    compiled = torch.compile(map.log_probs, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(logits), map.log_probs(logits), rtol=1e-5, atol=1e-6)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(Head(map), (logits,), dynamic_shapes={"logits": {0: batch}})
    torch.testing.assert_close(program.module()(logits[:3]), map.probs(logits[:3]), rtol=1e-5, atol=1e-6)


class Head(nn.Module):
    def __init__(self, map: Map) -> None:
        super().__init__()
        self.map = map

    def forward(self, logits: Tensor) -> Tensor:
        return self.map.probs(logits)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("entry", "map"), FIXED)
def test_onnxruntime_computes_the_same(entry: MapEntry, map: Map) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    logits = torch.cat(
        (rows(3.0), torch.eye(CLASSES).log(), torch.eye(CLASSES).log().neg(), torch.eye(CLASSES))
    )
    logits = logits.float()
    logits[-CLASSES:].fill_diagonal_(math.nan)
    logits[-1] = -math.inf
    with torch.no_grad():
        program = torch.onnx.export(Head(map), (logits,), dynamo=True, verbose=False)
    assert program is not None
    buffer = io.BytesIO()
    program.save(buffer)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    (ours,) = session.run(None, {session.get_inputs()[0].name: logits.numpy()})
    theirs = map.probs(logits).numpy()
    assert np.isnan(theirs).all(axis=1).sum() == 2 * CLASSES
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_floored_log_probs_are_floored_cross_entropy() -> None:
    logits, target = torch.randn(9, 5, dtype=torch.float64) * 4, torch.randint(5, (9,))
    ours = -Floored(0.03).log_probs(logits).gather(1, target[:, None])[:, 0]
    loss = FlooredCrossEntropy(0.03)(logits, target, reduction="none")
    torch.testing.assert_close(ours, loss, rtol=1e-13, atol=0)


@pytest.mark.parametrize("metric", ["kl", "euclidean"])
def test_a_projection_takes_nothing_from_rows_that_are_above_the_floor(metric: Any) -> None:
    logits = torch.randn(50, 5, dtype=torch.float64) * 0.3
    map = Projected(0.05, metric)
    assert logits.softmax(-1).min() > 0.05
    torch.testing.assert_close(map.probs(logits), logits.softmax(-1), rtol=1e-12, atol=0)
    assert (Floored(0.05).probs(logits) - logits.softmax(-1)).abs().max() > 0.01


@pytest.mark.parametrize("map", [Floored(0.125), Projected(0.125), Projected(0.125, "euclidean")])
def test_n_floors_of_one_nth_are_the_constant_map(map: Map) -> None:
    for logits in (torch.randn(20, 8) * 10, rows(100.0, masked=False)):
        torch.testing.assert_close(map.probs(logits), torch.full_like(logits, 1 / 8), rtol=1e-6, atol=0)


@pytest.mark.parametrize("make", [Floored, Clipped, Projected])
def test_a_floor_that_does_not_fit_says_the_largest(make: Any) -> None:
    with pytest.raises(ValueError, match=r"floor must be at most 1/8 = 0\.125 for 8 classes, got 0\.2"):
        make(0.2).probs(torch.zeros(8))
    with pytest.raises(ValueError, match=r"floor must be at most 1/8"):
        make(0.2).min_prob(8)
    with pytest.raises(ValueError, match=r"floor must be in \[0, 1\], got -0\.1; it is a probability"):
        make(-0.1)


def test_other_errors_and_warnings() -> None:
    with pytest.raises(TypeError, match=r"logits must be a floating tensor, got torch\.int64"):
        Softmax().probs(torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="metric must be 'kl' or 'euclidean', got 'l1'"):
        Projected(0.1, metric="l1")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"low must be below high, got 1\.0 and 1\.0"):
        ClippedLogits(1.0, 1.0)
    with pytest.raises(
        ValueError, match=r"alpha must be finite and above 1, got 1\.0; towards 1 it is Softmax"
    ):
        Entmax(1.0)
    for make in (Softmax, LogitNorm, GumbelSoftmax):
        with pytest.raises(ValueError, match="temperature must be finite and above 0, got 0"):
            make(temperature=0)
    with pytest.raises(TypeError, match=r"map must be a map, got 3; for example Softmax\(\)"):
        StraightThrough(3)  # pyright: ignore[reportArgumentType]
    with pytest.warns(UserWarning, match=r"flattens 10 classes: no probability can be above 0\.232"):
        Resoftmax(1.0).probs(torch.zeros(10))


def test_a_missing_entmax_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "entmax", None)
    with pytest.raises(ImportError, match=r"maps\.Sparsemax and maps\.Entmax need entmax; pip install"):
        Sparsemax().probs(torch.zeros(3))


@pytest.mark.filterwarnings("ignore:Resoftmax")
@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_resoftmax_flattens_where_it_warns_and_sharpens_some_row_where_it_does_not(classes: int) -> None:
    leader = torch.linspace(1 / classes, 1, 2001, dtype=torch.float64)[1:-1, None]
    rows = torch.cat((leader, ((1 - leader) / (classes - 1)).expand(-1, classes - 1)), 1)
    rows = torch.cat((rows, torch.rand(2000, classes, dtype=torch.float64).mul(8).softmax(-1)))

    def gain(alpha: float) -> float:
        return (Resoftmax(alpha).probs(rows.log()).amax(-1) - rows.amax(-1)).max().item()

    limit = _least_sharpening(classes)
    assert gain(limit * 0.999) <= 1e-9
    assert gain(limit * 1.01) > 0
    with pytest.warns(UserWarning, match=f"flattens {classes} classes"):
        Resoftmax(limit).probs(rows.log())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Resoftmax(limit * 1.01).probs(rows.log())


def test_sharpened_reaches_one_hot() -> None:
    near = torch.tensor([0.2, *[0.8 / 9] * 9])
    assert Softmax(1 / 100).probs(near.log()).amax() > 0.999


def test_gumbel_softmax_draws_from_the_softmax_and_anew_each_time() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    draws = StraightThrough(GumbelSoftmax(0.5)).probs(logits.expand(20000, 3)).mean(0)
    torch.testing.assert_close(draws, logits.exp(), rtol=0, atol=0.02)
    assert not torch.equal(GumbelSoftmax().probs(logits), GumbelSoftmax().probs(logits))


def test_a_hook_makes_a_head_emit_log_probs_and_can_be_taken_off() -> None:
    import pickle

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 5))
    inputs = 50 * torch.randn(32, 4)
    plain = model(inputs)
    handle = emit_log_probs(model[2], Projected(0.02))
    out = model(inputs)
    assert plain.softmax(-1).min() < 0.02
    assert out.softmax(-1).min() >= 0.02 * (1 - 1e-5)
    torch.testing.assert_close(out.softmax(-1), Projected(0.02).probs(plain))
    assert torch.distributions.Categorical(logits=out).probs.min() >= 0.02 * (1 - 1e-5)  # pyright: ignore[reportAttributeAccessIssue]
    CrossEntropy()(out, torch.zeros(32, dtype=torch.long)).backward()
    torch.testing.assert_close(pickle.loads(pickle.dumps(model))(inputs), out)
    handle.remove()
    torch.testing.assert_close(model(inputs), plain, rtol=0, atol=0)


def test_maps_are_values_in_the_table() -> None:
    names = {entry.name: entry.make for entry in MAPS}
    assert len(names) == len(MAPS)
    for entry in MAPS:
        assert entry.gradient
        for map in settings_of(entry):
            assert eval(repr(map), {"__builtins__": {}}, names) == map
            assert hash(map) == hash(eval(repr(map), {"__builtins__": {}}, names))
