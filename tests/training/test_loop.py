"""Copies that train together are what each is alone, and each stops at its own best epoch."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from equipoise.losses import CrossEntropy, Focal, GammaCrossEntropy
from equipoise.objective import Objective
from equipoise.penalties import Balance, Entropy
from equipoise.schedules import Linear
from equipoise.training import Alone, Copies, Options, Rows, Stop, Trained, predict, separable, train

SIZES = (70, 73, 66)  # the last batch of 16 is full, half full, nearly empty
CLASSES, FEATURES = 4, 6


def network(seed: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, CLASSES)).to(dtype)


def rows(seed: int, size: int, weighted: bool = False, dtype: torch.dtype = torch.float64) -> Rows:
    """Overlapping classes, a quarter of the labels wrong."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.randint(CLASSES, (size,), generator=generator)
    inputs = torch.randn(size, FEATURES, generator=generator) + 2 * torch.eye(CLASSES, FEATURES)[true]
    wrong = torch.rand(size, generator=generator) < 0.25
    target = torch.where(wrong, torch.randint(CLASSES, (size,), generator=generator), true)
    weight = torch.rand(size, generator=generator).to(dtype) + 0.1 if weighted else None
    return Rows(inputs.to(dtype), target, weight)


def run(
    copies: Sequence[int],
    objective: Objective,
    options: Options,
    *,
    alone: bool = False,
    weighted: bool = False,
) -> list[Trained]:
    models = [network(copy) for copy in copies]
    return train(
        Alone(models[0]) if alone else Copies(models),
        objective,
        [rows(copy, SIZES[copy], weighted) for copy in copies],
        [rows(100 + copy, 30 + copy, weighted) for copy in copies],
        options,
        copies,
    )


def laid_out(trained: Trained) -> list[Tensor]:
    """The parameters of a network trained alone in the layout of `Copies`: weights first, transposed."""
    weights, biases = trained.state[::2], trained.state[1::2]
    return [*(weight.T for weight in weights), *(bias[None] for bias in biases)]


LOSSES = [
    CrossEntropy(),
    CrossEntropy(label_smoothing=0.1),
    GammaCrossEntropy(gamma=0.5),
    Focal() + 0.1 * Entropy(),
]


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("weighted", [False, True])
def test_copies_are_what_each_is_alone(loss: CrossEntropy, weighted: bool) -> None:
    """A copy trained with others has the weights of one trained alone."""
    options = Options(epochs=6, batch_size=16, stop="none")  # 30 steps
    together = run(range(3), Objective(loss), options, weighted=weighted)
    for copy in range(3):
        (single,) = run([copy], Objective(loss), options, alone=True, weighted=weighted)
        for ours, theirs in zip(together[copy].state, laid_out(single), strict=True):
            torch.testing.assert_close(ours.squeeze(), theirs.squeeze(), rtol=0, atol=1e-9)
        for ours, theirs in zip(together[copy].curve, single.curve, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-7)


def test_the_weights_of_rows_matter() -> None:
    """Row weights change the training."""
    options = Options(epochs=2, batch_size=16, stop="none")
    plain, weighted = (run([0], Objective(CrossEntropy()), options, weighted=w)[0] for w in (False, True))
    assert not torch.allclose(plain.state[0], weighted.state[0])


def test_schedules_step_with_the_copies() -> None:
    """Copies share the steps of a schedule."""

    def objective() -> Objective:
        return Objective(GammaCrossEntropy(gamma=0.0), schedules={"gamma": Linear(0, 0.9, steps=30)})

    options = Options(epochs=6, batch_size=16, stop="none")
    together = run(range(3), made := objective(), options)
    assert made.scheduled() == {"gamma": 0.9}
    (single,) = run([1], objective(), options, alone=True)
    torch.testing.assert_close(together[1].state[0].squeeze(), laid_out(single)[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("stop", ["calibrated", "own", "accuracy", "nll"])
def test_each_copy_keeps_the_weights_of_its_best_epoch(stop: Stop) -> None:
    """Each copy keeps the weights of its own best epoch."""
    options = Options(epochs=40, batch_size=32, lr=0.03, stop=stop, patience=5)
    together = run(range(3), Objective(CrossEntropy()), options)
    assert len({trained.epoch for trained in together}) > 1  # else nothing is shown to be each copy's own
    for copy, trained in enumerate(together):
        values = [point[stop] for point in trained.curve[1:]]
        sign = -1 if stop == "accuracy" else 1
        assert sign * values[trained.epoch - 1] == min(sign * value for value in values)
        assert len(trained.curve) == min(41, trained.epoch + 6)
        held_out = rows(100 + copy, 30 + copy)
        logits = predict(Copies([network(0)]), trained.state, held_out.inputs)
        accuracy = (logits.argmax(1) == held_out.target).double().mean().item()
        assert accuracy == pytest.approx(trained.curve[trained.epoch]["accuracy"])


def test_to_the_end_changes_the_last_weights_and_not_the_chosen_ones() -> None:
    """`to_the_end` changes the last weights only."""
    options = {"epochs": 25, "batch_size": 32, "lr": 0.03, "patience": 4}
    stopped = run(range(3), Objective(CrossEntropy()), Options(**options))
    ended = run(range(3), Objective(CrossEntropy()), Options(**options, to_the_end=True))
    for one, other in zip(stopped, ended, strict=True):
        assert one.epoch == other.epoch < 21
        assert len(other.curve) == 26
        torch.testing.assert_close(one.state, other.state, rtol=0, atol=1e-9)
        assert not torch.allclose(one.last[0], other.last[0])


def test_a_copy_that_diverges_stops_and_leaves_the_others_alone() -> None:
    """A diverged copy stops, and the others do not change."""
    options = Options(epochs=8, batch_size=16, patience=8)
    bad = rows(1, SIZES[1])
    models = [network(copy) for copy in range(3)]
    trained = train(
        Copies(models),
        Objective(CrossEntropy()),
        [rows(0, SIZES[0]), Rows(bad.inputs * torch.inf, bad.target), rows(2, SIZES[2])],
        [rows(100 + copy, 30 + copy) for copy in range(3)],
        options,
        range(3),
    )
    assert trained[1].epoch == 0
    assert trained[1].curve[-1]["nll"] is None
    whole = run(range(3), Objective(CrossEntropy()), options)
    for copy in (0, 2):
        torch.testing.assert_close(trained[copy].state, whole[copy].state, rtol=0, atol=1e-9)


def poisoned(options: Options) -> list[Trained]:
    """Copies of which the second has infinite logits after its second epoch."""
    model, copies = Copies([network(copy) for copy in range(3)]), range(3)

    def watch(epoch: int) -> None:
        if epoch == 2:
            model.biases[-1].data[1] = torch.inf

    return train(
        model,
        Objective(CrossEntropy()),
        [rows(copy, SIZES[copy]) for copy in copies],
        [rows(100 + copy, 30 + copy) for copy in copies],
        options,
        copies,
        watch,
    )


def test_the_last_epoch_of_a_copy_that_diverges_is_not_an_earlier_one() -> None:
    """The last epoch of a diverged copy is not replaced by an earlier one."""
    last, best = (poisoned(Options(epochs=6, batch_size=16, stop=s)) for s in ("none", "calibrated"))
    assert last[1].epoch == 0
    assert not torch.stack([each.isfinite().all() for each in last[1].state]).all()
    assert best[1].epoch in (1, 2)
    assert torch.stack([each.isfinite().all() for each in best[1].state]).all()
    assert last[0].epoch == last[2].epoch == 6


def test_what_reads_a_batch_as_a_whole_is_not_shared() -> None:
    """An objective that depends on the whole batch is not shared between copies."""
    assert not separable(Objective(CrossEntropy() + 0.1 * Balance()))
    assert separable(Objective(CrossEntropy() - 0.1 * Entropy()))
    assert separable(Objective(GammaCrossEntropy(), schedules={"gamma": Linear(0, 0.5, steps=9)}))
    (alone,) = run([0], Objective(CrossEntropy() + 0.1 * Balance()), Options(epochs=2), alone=True)
    assert alone.epoch == 2


def test_rows_with_other_numbers_of_batches_are_refused() -> None:
    """Copies with different numbers of batches are refused."""
    with pytest.raises(ValueError, match="rows must have the same number of batches, got \\[70, 20\\] rows"):
        train(
            Copies([network(0), network(1)]),
            Objective(CrossEntropy()),
            [rows(0, 70), rows(1, 20)],
            [rows(2, 9), rows(3, 9)],
            Options(batch_size=16),
            [0, 1],
        )


def test_the_network_of_one_copy_need_not_be_linear_layers() -> None:
    """A network trained alone may have any layers."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Unflatten(1, (1, FEATURES)), nn.Conv1d(1, 3, 3), nn.Flatten(), nn.LazyLinear(CLASSES)
    )
    model.double()(rows(0, 2).inputs)
    (trained,) = train(
        Alone(model),
        Objective(CrossEntropy()),
        [rows(0, 70)],
        [rows(1, 30)],
        Options(epochs=30, lr=0.03),
        [0],
    )
    assert trained.curve[trained.epoch]["accuracy"] > trained.curve[0]["accuracy"] + 0.2
