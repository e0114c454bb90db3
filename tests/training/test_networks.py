"""Networks of one's own in the training loop: buffers, dropout, frozen parameters, devices, results."""

import pickle
import re
from typing import Any, final

import pytest
import torch
from torch import Tensor, nn

from equipoise.losses import CrossEntropy, GammaCrossEntropy
from equipoise.objective import Objective
from equipoise.penalties import Balance
from equipoise.training import Alone, Copies, Options, Rows, Trained, load, predict, train
from support.training_cases import CLASSES, FEATURES, fit, layers, rows, same, trainer


def test_buffers_belong_to_the_state_of_an_epoch() -> None:
    model = layers(nn.BatchNorm1d(6))
    trained = fit(model, epochs=30, stop="nll", lr=0.05, patience=5)
    assert 0 < trained.epoch < len(trained.losses)
    assert [each.dtype for each in trained.state][-1] == torch.int64  # num_batches_tracked
    assert (trained.state[-1].item(), trained.last[-1].item()) == (5 * trained.epoch, 5 * len(trained.losses))
    held_out = rows(1, 30)
    fresh = Alone(layers(nn.BatchNorm1d(6), seed=5))
    for state, epoch in ((trained.state, trained.epoch), (trained.last, -1)):
        logits = predict(fresh, state, held_out.inputs)
        nll = nn.functional.cross_entropy(logits, held_out.target).item()
        assert nll == pytest.approx(trained.curve[epoch]["nll"], rel=1e-5)
    parameters = len(list(fresh.parameters()))
    with torch.no_grad():
        for buffer in fresh.buffers():
            buffer.zero_()
    for own, kept in zip(fresh.parameters(), trained.last[:parameters], strict=True):
        assert torch.equal(own, kept)
    assert not torch.equal(predict(fresh, None, held_out.inputs), logits)  # the control: parameters alone


def test_modules_train_in_training_mode_and_are_valued_in_the_other() -> None:
    seen: list[tuple[bool, bool]] = []

    @final
    class Watching(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            seen.append((self.training, torch.is_grad_enabled()))
            return inputs

    trained = fit(layers(Watching(), nn.Dropout(0.5)), epochs=2)
    steps = [(True, True)] * 5
    assert seen == [(False, False), *steps, (False, False), *steps, (False, False)]
    model = Alone(layers(Watching(), nn.Dropout(0.5)))
    logits = [predict(model.train(), trained.state, rows(2).inputs) for _ in range(2)]
    assert torch.equal(*logits)  # without dropout
    assert not model.training


def test_seeds_decide_and_the_generator_of_torch_does_not() -> None:
    found = []
    for seed, state in ((0, 7), (0, 8), (1, 7)):
        model = layers(nn.Dropout(0.5))
        torch.manual_seed(state)
        before = torch.get_rng_state()
        found.append(fit(model, seed=seed))
        assert torch.equal(torch.get_rng_state(), before)
    assert same(found[0], found[1])
    assert not same(found[0], found[2])
    plain = [fit(layers(nn.Dropout(p)), shuffle=False, seed=seed) for p in (0.0, 0.5) for seed in (0, 1)]
    assert same(plain[0], plain[1])
    assert not same(plain[2], plain[3])  # the seed of dropout is all that differs


def test_frozen_parameters_stay_and_the_others_train() -> None:
    model = layers()
    model[0].requires_grad_(False)
    before = [each.detach().clone() for each in model.parameters()]
    trained = fit(model)
    moved = [not torch.equal(one, other) for one, other in zip(before, trained.state, strict=True)]
    assert moved == [False, False, True, True]
    with pytest.raises(
        ValueError, match="model must have a parameter to train, got 4 of which none requires"
    ):
        fit(layers().requires_grad_(False))
    with pytest.raises(ValueError, match="model must have a parameter to train, got 0"):
        fit(nn.Flatten(), loss=CrossEntropy())


def test_lazy_modules_are_made_before_the_optimiser() -> None:
    for validated in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(CLASSES))
        trained = fit(model, epochs=15, validated=validated)
        assert trained.losses[-1] < 0.8 * trained.losses[0]


@final
class Returning(nn.Module):
    """A network whose result is changed."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.layer, self.change = nn.Linear(FEATURES, CLASSES), change

    def forward(self, inputs: Tensor) -> Any:
        return self.change(self.layer(inputs))


@final
class Output(dict[str, Tensor]):
    """As transformers returns it."""


WRONG = [
    (lambda z: Output(logits=z), TypeError, "model must return its logits, one floating tensor, got Output"),
    (lambda z: (z, z), TypeError, "one floating tensor, got tuple from Returning; wrap it in a module"),
    (lambda z: z.argmax(1), TypeError, "one floating tensor, got torch.int64 from Returning"),
    (lambda z: z[:, 0], ValueError, "model must return logits (B, C), a row for each input and two classes"),
    (lambda z: z[:, :1], ValueError, "two classes or more, got (30, 1) from Returning for inputs (30, 8)"),
    (lambda z: z[1:], ValueError, "got (29, 3) from Returning for inputs (30, 8)"),
    (lambda z: z[None], ValueError, "got (1, 30, 3) from Returning"),
    (lambda z: z[:, :2], ValueError, "target must be"),
    (lambda z: z.detach(), ValueError, "model must have logits that depend on its trainable parameters"),
]


@pytest.mark.parametrize(("change", "error", "message"), WRONG, ids=range(len(WRONG)))
def test_what_is_no_logits_is_refused(change: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        fit(Returning(change))
    with pytest.raises(error):
        fit(Returning(change), validated=False)


def test_logits_of_another_dtype() -> None:
    plain = fit(Returning(lambda z: z), epochs=20)
    for model in (Returning(lambda z: z.bfloat16()), Returning(lambda z: z).bfloat16(), layers().bfloat16()):
        for weighted in (False, True):
            given = rows()
            weight = torch.rand(70) + 0.5 if weighted else None
            (trained,) = train(
                Alone(model),
                Objective(GammaCrossEntropy(0.1) + 0.1 * Balance()),
                [Rows(given.inputs.double(), given.target, weight)],
                [rows(1, 30)],
                Options(epochs=20, batch_size=16, lr=0.01),
                [0],
            )
            assert trained.losses[-1] < trained.losses[0]
    assert plain.losses[-1] < plain.losses[0]
    assert predict(Alone(model), trained.state, rows().inputs).dtype == torch.bfloat16


def test_large_inputs_are_valued_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from equipoise.training import rows as module

    sizes: list[int] = []

    @final
    class Counting(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            sizes.append(len(inputs))
            return inputs.flatten(1)

    torch.manual_seed(0)
    model = Alone(nn.Sequential(nn.Conv1d(2, 2, 3), Counting(), nn.Linear(4, CLASSES)).double())
    data = rows(shape=(2, 4))
    whole = predict(model, None, data.inputs.double())
    monkeypatch.setattr(module, "EVALUATED", 8 * 16)
    parts = predict(model, None, data.inputs.double())
    assert sizes == [70, 16, 16, 16, 16, 6]
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)
    sizes.clear()
    (trained,) = train(
        model, Objective(CrossEntropy()), [data], [data], Options(epochs=1, batch_size=35), [0]
    )
    assert sizes == [16, 16, 16, 16, 6, 35, 35, 16, 16, 16, 16, 6]
    monkeypatch.setattr(module, "EVALUATED", 1)
    assert trained.curve[1]["own"] == pytest.approx(
        nn.functional.cross_entropy(predict(model, None, data.inputs), data.target).item(), rel=1e-9
    )


@final
class Lazy:
    """Rows that are made when they are needed."""

    def __init__(self, inputs: Tensor) -> None:
        self.inputs, self.shape, self.asked = inputs, inputs.shape, 0

    def __getitem__(self, places: Tensor, /) -> Tensor:
        self.asked = max(self.asked, len(places))
        return self.inputs[places]


def test_a_source_gives_the_rows_of_a_batch() -> None:
    data, held_out = rows(), rows(1, 30)
    found = []
    for wrap in (Lazy, lambda inputs: inputs):
        source = wrap(data.inputs)
        objective, options = Objective(CrossEntropy()), Options(epochs=3, batch_size=16)
        validation = [Rows(wrap(held_out.inputs), held_out.target)]
        model = Alone(layers())
        found += train(model, objective, [Rows(source, data.target)], validation, options, [0])
        assert torch.equal(predict(model, None, source), predict(model, None, data.inputs))
    assert same(*found)


def test_batch_normalisation_is_given_no_single_row() -> None:
    with pytest.raises(ValueError, match="batch normalisation no batch of a single row, got 23 for 70 rows"):
        fit(layers(nn.BatchNorm1d(6)), batch_size=23)


def test_a_trainer_goes_on_where_it_was() -> None:
    whole, parts = trainer(epochs=4), trainer(epochs=1)
    (expected,) = list(whole.run([rows()]))[-1]
    losses = []
    for _ in range(4):
        (found,) = list(parts.run([rows()]))[-1]
        losses += found.losses
        parts = pickle.loads(pickle.dumps(parts))
    assert losses == expected.losses
    assert same(found, expected)
    assert parts.objective.scheduled() == whole.objective.scheduled() == {"gamma": 0.5}
    again, afresh = parts.run([rows()]), trainer(epochs=1)
    load(afresh.model, found.state)
    assert next(again)[0].losses != next(afresh.run([rows()]))[0].losses  # AdamW has a state too


def test_without_validation_rows_the_training_loss_ends_and_the_last_epoch_stays() -> None:
    trained = fit(layers(), validated=False, epochs=200, tol=0.02, patience=3)
    assert trained.epoch == len(trained.losses) < 200
    assert trained.stopped
    assert trained.curve == []
    assert same(trained, Trained(state=trained.last))
    best, waited = float("inf"), 0
    for loss in trained.losses:  # the rule of scikit-learn's MLPClassifier
        waited = 0 if loss < best - 0.02 else waited + 1
        best = min(best, loss)
    assert waited == 3
    endless = fit(layers(), validated=False, epochs=200, tol=0.02, patience=float("inf"))
    assert (endless.epoch, endless.stopped) == (200, False)
    with pytest.raises(ValueError, match="stop must be 'none' without validation rows, got 'nll'"):
        fit(layers(), validated=False, stop="nll")
    diverged = fit(layers(), validated=False, lr=1e30, epochs=9)
    assert (diverged.epoch, diverged.stopped) == (0, True)


def test_rows_must_be_there() -> None:
    empty = Rows(torch.zeros(0, FEATURES), torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match=r"rows must not be empty, got \[0\] rows"):
        train(Alone(layers()), Objective(CrossEntropy()), [empty], None, Options(stop="none"), [0])


def test_rows_stay_in_their_order_without_shuffling() -> None:
    seen: list[Tensor] = []

    @final
    class Watching(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            if self.training:
                seen.append(inputs)
            return inputs

    for shuffle in (False, True):
        seen.clear()
        fit(nn.Sequential(Watching(), layers()), shuffle=shuffle, epochs=1)
        assert torch.equal(torch.cat(seen), rows().inputs) != shuffle


@pytest.mark.parametrize("together", [False, True])
def test_the_penalty_is_that_of_the_squared_weights(together: bool) -> None:
    """One step of each batch by hand; alpha / (2 B) times the squared weights, B the sum of row weights."""
    models = [layers(seed=seed).double() for seed in range(2 if together else 1)]
    given = [rows(seed) for seed in range(2)]
    weights = [torch.rand(70, dtype=torch.float64) + 0.1 for _ in range(2)]
    options = Options(1, 16, 0.01, 0.0, stop="none", alpha=5.0, shuffle=False)
    trained = train(
        Copies(models) if together else Alone(models[0]),
        Objective(CrossEntropy()),
        [
            Rows(each.inputs.double(), each.target, weight)
            for each, weight in zip(given, weights, strict=True)
        ][: len(models)],
        None,
        options,
        [0, 1],
    )
    for place, copy in enumerate(trained):
        model = layers(seed=place).double()
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        for part in torch.arange(70).split(16):
            weight = weights[place][part]
            losses = nn.functional.cross_entropy(
                model(given[place].inputs.double()[part]), given[place].target[part], reduction="none"
            )
            squares = model[0].weight.square().sum() + model[-1].weight.square().sum()
            optimiser.zero_grad()
            ((losses * weight).sum() / weight.sum() + 5.0 / (2 * weight.sum()) * squares).backward()
            optimiser.step()
        expected = list(model.parameters())
        if together:
            expected = [expected[0].T, expected[2].T, expected[1], expected[3]]
        for ours, theirs in zip(copy.state, expected, strict=True):
            torch.testing.assert_close(ours.squeeze(), theirs.squeeze(), rtol=0, atol=1e-9)


def test_weights_of_validation_rows_are_in_its_scores() -> None:
    held_out = rows(1, 30)
    times = torch.arange(30) % 3
    repeated = Rows(held_out.inputs.repeat_interleave(times, 0), held_out.target.repeat_interleave(times))
    weighted = Rows(held_out.inputs, held_out.target, score_weight=times.float())
    curves = []
    for validation in (weighted, repeated, held_out):
        options = Options(epochs=2, scores=("calibrated", "accuracy", "nll"), stop="accuracy")
        (found,) = train(Alone(layers()), Objective(CrossEntropy()), [rows()], [validation], options, [0])
        curves.append(found.curve)
    assert [*curves[0][-1]] == ["epoch", "calibrated", "accuracy", "nll"]
    for one, two, three in zip(*curves, strict=True):
        assert one == pytest.approx(two, rel=1e-6)
        assert one != pytest.approx(three, rel=1e-6)
