"""Our categorical keeps torch's contract, the floor of its map, and its masks."""

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, distributions
from torch.distributions import kl_divergence

from equipoise.distributions import MapCategorical
from equipoise.maps import (
    Clipped,
    Entmax,
    Floored,
    GumbelSoftmax,
    Map,
    Projected,
    Softmax,
    Sparsemax,
    StraightThrough,
)

MAPS = [
    Softmax(),
    Floored(0.05),
    Projected(0.05),
    Projected(0.05, "euclidean"),
    Clipped(0.05),
    Sparsemax(),
    Entmax(1.5),
]
maps = pytest.mark.parametrize("map", MAPS, ids=repr)


def scores(*batch: int, masked: bool = False) -> Tensor:
    logits = 3 * torch.randn(*batch, 6, dtype=torch.float64)
    if masked:
        logits[..., [1, 4]] = -torch.inf
    return logits


@maps
@pytest.mark.parametrize("masked", [False, True])
def test_probabilities_are_the_maps(map: Map, masked: bool) -> None:
    """Probabilities are those of the map."""
    logits = scores(4, 3, masked=masked)
    ours = MapCategorical(map, logits=logits)
    assert torch.equal(ours.probs, map.probs(logits))
    torch.testing.assert_close(ours.logits.softmax(-1), ours.probs, rtol=1e-12, atol=1e-14)
    every = torch.stack([ours.log_prob(torch.full((4, 3), k)) for k in range(6)], -1)
    torch.testing.assert_close(every.exp(), ours.probs, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(every.exp().sum(-1), torch.ones(4, 3, dtype=torch.float64))
    assert ours.map is map
    assert ours.raw_logits is logits


@maps
def test_shapes_and_expand_are_torchs(map: Map) -> None:
    """Shapes and `expand` are those of torch's Categorical."""
    logits = scores(3)
    ours, torchs = MapCategorical(map, logits=logits), distributions.Categorical(logits=logits)
    for shape in ((), (5,), (5, 2)):
        assert ours.sample(torch.Size(shape)).shape == torchs.sample(torch.Size(shape)).shape
    assert ours.batch_shape == torchs.batch_shape
    assert ours.event_shape == torchs.event_shape
    for wide in (ours.expand((4, 3)), ours.expand(torch.Size([4, 3])), ours.expand([4, 3])):
        assert isinstance(wide, MapCategorical)
        assert wide.batch_shape == (4, 3)
        assert wide.sample().shape == (4, 3)
        assert wide.raw_logits.shape == (4, 3, 6)
        assert wide.map is map
        torch.testing.assert_close(wide.entropy(), ours.entropy().expand(4, 3))
    assert torch.equal(ours.enumerate_support(), torchs.enumerate_support())
    assert torch.equal(ours.mode, map.probs(logits).argmax(-1))
    assert ours.mean.isnan().all()
    independent = distributions.Independent(ours, 1)
    assert independent.log_prob(ours.sample()).shape == ()


@maps
@pytest.mark.parametrize("masked", [False, True])
def test_entropy_is_exact_and_finite_with_its_gradient(map: Map, masked: bool) -> None:
    """The entropy is exact and finite, with its gradient."""
    logits = scores(7, masked=masked).requires_grad_()
    ours = MapCategorical(map, logits=logits)
    probs = ours.probs.detach()
    exact = -torch.special.xlogy(probs, probs).sum(-1)
    torch.testing.assert_close(ours.entropy(), exact, rtol=1e-12, atol=1e-14)
    (slope,) = torch.autograd.grad(ours.entropy().sum(), logits)
    assert slope.isfinite().all()
    assert (slope[logits == -torch.inf] == 0).all()


@maps
def test_samples_come_from_the_probabilities(map: Map) -> None:
    """Samples follow the probabilities."""
    ours = MapCategorical(map, logits=scores())
    counts = torch.bincount(ours.sample(torch.Size([40000])), minlength=6) / 40000
    error = (ours.probs * (1 - ours.probs) / 40000).sqrt()
    assert ((counts - ours.probs).abs() <= 5 * error + 1e-12).all()
    other = MapCategorical(map, logits=scores())
    assert not ((counts - other.probs).abs() <= 5 * error + 1e-12).all()


@pytest.mark.parametrize(
    "map", [each for each in MAPS if each.min_prob(6) > 0 or isinstance(each, Softmax)], ids=repr
)
def test_divergence_is_that_of_the_probabilities(map: Map) -> None:
    """The KL divergence is that of the probabilities."""
    one, two = scores(5), scores(5)
    ours, plain = MapCategorical(map, logits=one), distributions.Categorical(logits=two)
    for p, q in ((ours, MapCategorical(map, logits=two)), (ours, plain), (plain, ours)):
        exact = (p.probs * (p.probs.log() - q.probs.log())).sum(-1)
        torch.testing.assert_close(kl_divergence(p, q), exact, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        kl_divergence(ours, MapCategorical(map, logits=one)), torch.zeros(5, dtype=torch.float64)
    )
    hidden = MapCategorical(map, logits=scores(5, masked=True))
    assert kl_divergence(hidden, ours).isfinite().all()
    assert (kl_divergence(ours, hidden) == torch.inf).all()


@pytest.mark.parametrize("map", [Softmax(), Floored(0.05)], ids=repr)
def test_divergence_has_a_gradient_where_classes_are_masked(map: Map) -> None:
    """The KL divergence has finite gradients with masked classes."""

    def slopes(one: Tensor, two: Tensor, p: Any, q: Any) -> list[Tensor]:
        leaves = [one.clone().requires_grad_(), two.clone().requires_grad_()]
        return list(torch.autograd.grad(kl_divergence(p(leaves[0]), q(leaves[1])).sum(), leaves))

    def ours(logits: Tensor) -> MapCategorical:
        return MapCategorical(map, logits=logits)

    def plain(logits: Tensor) -> distributions.Categorical:
        return distributions.Categorical(logits=logits)

    one, two = scores(3, masked=True), scores(3, masked=True)
    valid = [0, 2, 3, 5]
    for p, q in ((ours, ours), (ours, plain), (plain, ours)):
        for slope, alone in zip(
            slopes(one, two, p, q), slopes(one[:, valid], two[:, valid], p, q), strict=True
        ):
            torch.testing.assert_close(slope[:, valid], alone, rtol=1e-9, atol=1e-12)
            assert (slope[:, [1, 4]] == 0).all()
    assert slopes(one, two, plain, plain)[0].isnan().all()  # control: torch's own has none


@maps
def test_gradient_of_the_log_probability(map: Map) -> None:
    """The log-probability has the derivative of its value."""
    logits = (0.3 * torch.randn(4, 6, dtype=torch.float64)).requires_grad_()
    action = MapCategorical(map, logits=logits).probs.argmax(-1)
    assert torch.autograd.gradcheck(lambda z: MapCategorical(map, logits=z).log_prob(action), (logits,))


def test_validation_is_torchs() -> None:
    """Values and logits are validated as torch does, and can be left unvalidated."""
    ours = MapCategorical(Floored(0.05), logits=scores(3), validate_args=True)
    with pytest.raises(ValueError, match="within the support"):
        ours.log_prob(torch.tensor(6))
    with pytest.raises(ValueError, match="parameter logits"):
        MapCategorical(Softmax(), logits=torch.tensor([0.0, float("nan")]), validate_args=True)
    assert (
        MapCategorical(Floored(0.05), logits=scores(3), validate_args=False).expand((2, 3))._validate_args
        is False
    )


def test_what_is_no_distribution_is_refused() -> None:
    """Maps without probabilities, and invalid logits, are refused."""
    with pytest.raises(
        TypeError, match=r"map must be a Map of equipoise.maps, got 0\.1; for example maps\.Floored"
    ):
        MapCategorical(0.1, logits=scores())  # pyright: ignore[reportArgumentType]
    for map in (GumbelSoftmax(), StraightThrough(Softmax())):
        with pytest.raises(ValueError, match="map must have probabilities to sample from"):
            MapCategorical(map, logits=scores())
    with pytest.raises(ValueError, match="floor must be at most 1/6"):
        MapCategorical(Floored(0.3), logits=scores())


def masks(*batch: int) -> Tensor:
    """Masks that allow two actions or more, others in each row."""
    mask = torch.rand(*batch, 6) > 0.4
    mask[..., :2] = True
    return mask.roll(1, -1)


def masked_ways(logits: Tensor, mask: Tensor, map: Map) -> list[MapCategorical]:
    """The same distribution, masked in every way."""
    return [
        MapCategorical(map, logits=logits, mask=mask),
        MapCategorical(map, logits=logits.masked_fill(~mask, math.nan), mask=mask),
        MapCategorical(map, logits=logits.masked_fill(~mask, -torch.inf)),
        MapCategorical(map, logits=logits.masked_fill(~mask, torch.finfo(logits.dtype).min)),
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@maps
def test_a_masked_distribution_is_that_of_the_actions_that_are_left(map: Map, dtype: torch.dtype) -> None:
    """A masked distribution is that of the allowed actions."""
    logits, mask = scores(5).to(dtype), masks(5)
    for ours in masked_ways(logits, mask, map):
        actions = ours.sample(torch.Size([200]))
        assert mask.expand(200, 5, 6).gather(-1, actions[..., None]).all()
        assert (ours.enumerate_support() == torch.arange(6)[:, None]).all()
        assert ours.mean.isnan().all()
        assert (ours.log_prob(ours.enumerate_support()).T[~mask] == -torch.inf).all()
        wide = ours.expand((3, 5))
        for row in range(5):
            alone = MapCategorical(map, logits=logits[row, mask[row]])
            torch.testing.assert_close(ours.probs[row, mask[row]], alone.probs)
            torch.testing.assert_close(ours.entropy()[row], alone.entropy())
            torch.testing.assert_close(wide.entropy()[:, row], alone.entropy().expand(3))
            left = mask[row].nonzero()[:, 0]
            assert ours.mode[row] == left[alone.mode]
            torch.testing.assert_close(
                ours.expand((5,)).log_prob(left[:, None].expand(-1, 5))[:, row],
                alone.log_prob(alone.enumerate_support()),
            )


@maps
def test_one_mask_may_stand_for_all_rows_and_none_is_broadcast(map: Map) -> None:
    """A mask is for all rows or of the logits' shape; it is not broadcast."""
    logits, mask = scores(4, 3), masks()
    assert torch.equal(
        MapCategorical(map, logits=logits, mask=mask).probs,
        MapCategorical(map, logits=logits, mask=mask.expand(4, 3, 6)).probs,
    )
    for shape in ((1,), (3, 6), (4, 3, 1), (1, 3, 6), (4, 3)):
        with pytest.raises(ValueError, match=r"mask must be \(6,\), one for every class, or of the shape of"):
            MapCategorical(map, logits=logits, mask=torch.ones(shape, dtype=torch.bool))
    with pytest.raises(TypeError, match="mask must be a bool tensor"):
        MapCategorical(map, logits=logits, mask=torch.ones(4, 3, 6))


def test_a_large_negative_number_masks_nothing() -> None:
    """A large negative logit is not masked."""
    assert MapCategorical(Floored(0.02), logits=torch.tensor([-1e8, 0.0, 1.0])).probs[0] >= 0.02


@maps
def test_divergence_with_masks_is_that_of_the_actions_that_are_left(map: Map) -> None:
    """The KL divergence with masks is that of the allowed actions."""
    one, two, mask = scores(4), scores(4), masks(4)
    leaves = [one.clone().requires_grad_(), two.clone().requires_grad_()]
    ours = kl_divergence(
        MapCategorical(map, logits=leaves[0], mask=mask), MapCategorical(map, logits=leaves[1], mask=mask)
    )
    slopes = torch.autograd.grad(ours.masked_fill(ours == torch.inf, 0.0).sum(), leaves)
    for row, at in enumerate(mask):
        alone = kl_divergence(
            MapCategorical(map, logits=one[row, at]), MapCategorical(map, logits=two[row, at])
        )
        torch.testing.assert_close(ours[row], alone)
    for slope in slopes:
        assert (slope[~mask] == 0).all()


ODD = torch.tensor([[False], [True], [False], [True]])
ONE = ODD & (torch.arange(6) == 2)
BROKEN: dict[str, tuple[Tensor, float, Tensor | None]] = {  # where, what is put there, mask
    "every action masked": (ODD, 0.0, ~ODD.expand(4, 6)),
    "minus infinity everywhere": (ODD, -math.inf, None),
    "the smallest number everywhere": (ODD, torch.finfo(torch.float64).min, None),
    "a nan": (ONE, math.nan, None),
    "infinity": (ONE, math.inf, None),
}


@pytest.mark.parametrize("broken", list(BROKEN)[:3])
def test_a_row_of_masked_actions_is_named(broken: str) -> None:
    """A row with all actions masked is named."""
    where, what, mask = BROKEN[broken]
    logits = scores(4).masked_fill(where, what)
    with pytest.raises(
        ValueError, match=r"each row must have an allowed action, got every action masked in row 1; end the"
    ):
        MapCategorical(Softmax(), logits=logits, validate_args=True, mask=mask)
    with pytest.raises(ValueError, match=r"got every action masked in row \(0, 1\)"):
        MapCategorical(
            Softmax(),
            logits=logits.reshape(2, 2, 6),
            validate_args=True,
            mask=mask if mask is None else mask.reshape(2, 2, 6),
        )
    with pytest.raises(ValueError, match="got every action masked; end the episode"):
        MapCategorical(
            Softmax(), logits=torch.zeros(6), validate_args=True, mask=torch.zeros(6, dtype=torch.bool)
        )


@pytest.mark.parametrize("broken", BROKEN)
@maps
def test_a_row_without_a_distribution_is_nan_and_spoils_no_other(map: Map, broken: str) -> None:
    """Without validation, a row without a distribution is nan, and other rows do not change."""
    where, what, mask = BROKEN[broken]
    logits, good = scores(4), [0, 2]
    leaf = logits.masked_fill(where, what).requires_grad_()
    ours = MapCategorical(map, logits=leaf, validate_args=False, mask=mask)
    alone = MapCategorical(map, logits=logits[good])
    action, other = torch.zeros(4, dtype=torch.long), MapCategorical(Softmax(), logits=scores(4))
    for value, expected in (
        (ours.probs, alone.probs),
        (ours.logits, alone.logits),
        (ours.entropy(), alone.entropy()),
        (ours.log_prob(action), alone.log_prob(action[good])),
        (ours.expand((3, 4)).entropy()[0], alone.entropy()),
        (
            kl_divergence(ours, other),
            kl_divergence(alone, MapCategorical(Softmax(), logits=other.raw_logits[good])),
        ),
        (
            kl_divergence(other, ours),
            kl_divergence(MapCategorical(Softmax(), logits=other.raw_logits[good]), alone),
        ),
        (kl_divergence(ours, ours), torch.zeros(2, dtype=torch.float64)),
    ):
        assert value[[1, 3]].isnan().all()
        torch.testing.assert_close(value[good], expected)
        finite = value.masked_fill(value.isinf(), 0.0)
        (slope,) = torch.autograd.grad(finite.sum(), leaf, retain_graph=True)
        assert slope[[1, 3]].isnan().all()
        assert slope[good].isfinite().all()
    for choose in (lambda: ours.mode, ours.sample, lambda: ours.sample(torch.Size([5]))):
        with pytest.raises(
            ValueError, match="probs must be finite to choose an action, got nan in row 1; either"
        ):
            choose()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("map", MAPS[:-1], ids=repr)  # Entmax takes long to compile
def test_a_masked_policy_compiles(map: Map) -> None:
    """A masked policy compiles without graph breaks."""
    torch._dynamo.reset()
    logits, mask, action = scores(5), masks(5), torch.ones(5, dtype=torch.long)

    def act(logits: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        policy = MapCategorical(map, logits=logits, validate_args=False, mask=mask)
        return policy.log_prob(action), policy.entropy(), policy.mode, policy.sample()

    ours, plain = torch.compile(act, backend="aot_eager", fullgraph=True)(logits, mask), act(logits, mask)
    for one, other in zip(ours[:3], plain[:3], strict=True):
        torch.testing.assert_close(one, other)
    assert mask.gather(-1, ours[3][:, None]).all()


@pytest.mark.parametrize("map", [Floored(0.02), Projected(0.02)], ids=repr)
def test_the_floor_holds_and_bounds_the_importance_weights(map: Map) -> None:
    """The floor bounds probabilities and importance weights."""
    logits = torch.randn(500, 6) * torch.logspace(-1, 4, 500)[:, None]
    ours = MapCategorical(map, logits=logits)
    floor = torch.tensor(0.02)
    assert ours.probs.min() >= floor
    assert (-ours.log_prob(ours.sample())).exp().max() <= 50 * (1 + 1e-5)
    assert distributions.Categorical(logits=logits).probs.min() < floor  # control: without a map it does not


def test_copies_and_pickles() -> None:
    """Copies have the same probabilities and map."""
    ours = MapCategorical(Floored(0.05), logits=scores(3))
    for again in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(again.probs, ours.probs)
        assert again.map == ours.map
