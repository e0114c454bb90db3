"""Lightning itself: schedules follow the optimiser, resume exactly, and what is logged is what it says."""

import csv
import importlib
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("lightning", reason="lightning is not installed")
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision

from equipoise import Objective
from equipoise.integrations.lightning import ConfidenceMonitor, ScheduleCallback
from equipoise.losses import CrossEntropy, GammaCrossEntropy
from equipoise.penalties import Entropy
from equipoise.schedules import Cosine, Linear, Schedule

pytestmark = [  # Lightning's own: advice, and its use of torch
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.* is deprecated:FutureWarning"),
]

SIZES = (4, 2, 3, 1, 4, 3, 2, 4, 1, 2, 3, 4)  # rows of the batches


def batches() -> list[list[Tensor]]:
    """Return batches of unequal size, some rows of which are ignored."""
    source = torch.Generator().manual_seed(1)
    inputs, target = torch.randn(33, 6, generator=source), torch.randint(5, (33,), generator=source)
    target[::7] = -100
    return [list(pair) for pair in zip(inputs.split(SIZES), target.split(SIZES), strict=True)]


class Batches:
    """The batches in order; it knows where it is, so that a run may resume within an epoch."""

    def __init__(self) -> None:
        self.at = 0

    def __len__(self) -> int:
        return len(SIZES)

    def __iter__(self) -> Iterator[list[Tensor]]:
        for batch in batches()[self.at :]:
            self.at += 1
            yield batch
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


class Net(LightningModule):
    def __init__(self, schedule: Schedule | None = None, fused: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 5)
        self.objective = Objective(
            GammaCrossEntropy(), schedules={} if schedule is None else {"gamma": schedule}
        )
        self.fused = fused
        self.seen: list[tuple[int, float]] = []  # of each batch: the optimiser's steps before it, gamma

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        inputs, target = batch
        self.seen.append((self.trainer.global_step, self.objective.scheduled().get("gamma", 0.0)))
        hidden = self.body(inputs).tanh()
        if self.fused:
            return self.objective.linear(hidden, self.head.weight, target, linear_bias=self.head.bias)
        return self.objective(self.head(hidden), target)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.05)


def make(folder: Path, *callbacks: Callback, steps: int = 6, **options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        max_steps=steps,
        logger=CSVLogger(folder, name="", version=""),
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"log_every_n_steps": 1, "enable_checkpointing": False, **options},
    )


class SaveHalfWay(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 3 and not self.path.exists():
            trainer.save_checkpoint(self.path)


def logged(folder: Path) -> list[dict[str, float]]:
    """Return what was logged at each step."""
    with (folder / "metrics.csv").open() as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


SCHEDULES = [Linear(0.0, 0.5, steps=5), Cosine(0.3, 0.1, steps=9)]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda each: type(each).__name__)
def test_a_run_that_resumes_in_the_middle_is_the_run(
    schedule: Schedule, accumulate: int, tmp_path: Path
) -> None:
    """A run resumed in the middle has the parameters and logs of one uninterrupted run."""
    options = {"accumulate_grad_batches": accumulate}
    whole = Net(schedule)
    callbacks = [SaveHalfWay(tmp_path / "half.ckpt"), ConfidenceMonitor(), ScheduleCallback()]
    make(tmp_path / "a", *callbacks, **options).fit(whole, Batches())
    assert len({gamma for _, gamma in whole.seen}) == 6
    resumed = Net(schedule)
    trainer = make(tmp_path / "b", ScheduleCallback(), ConfidenceMonitor(), **options)
    trainer.fit(resumed, Batches(), ckpt_path=str(tmp_path / "half.ckpt"))
    assert trainer.global_step == whole.objective.steps == resumed.objective.steps == 6
    assert resumed.seen == whole.seen[3 * accumulate :]
    for ours, theirs in zip(resumed.state_dict().values(), whole.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert logged(tmp_path / "b") == logged(tmp_path / "a")[3:]
    without = Net(schedule)  # control: the checkpoint matters
    make(tmp_path / "c", ScheduleCallback(), steps=3, **options).fit(without, Batches())
    assert not torch.equal(without.body.weight, resumed.body.weight)


def test_steps_are_those_of_the_optimiser(tmp_path: Path) -> None:
    """A schedule advances once for each step of the optimiser."""
    net = Net(Linear(0.0, 0.5, steps=5))
    same = net.configure_optimizers()
    net.configure_optimizers = lambda: same
    callback = ScheduleCallback()
    make(tmp_path, callback, accumulate_grad_batches=5).fit(net, Batches())  # 12 batches: 5, 5 and 2
    assert [step for step, _ in net.seen] == [0] * 5 + [1] * 5 + [2] * 2 + [3] * 5 + [4] * 5 + [5] * 2
    assert all(gamma == pytest.approx(0.1 * step) for step, gamma in net.seen)
    make(tmp_path / "again", callback, steps=2).fit(net, Batches())  # goes on, and is not followed twice
    assert net.objective.steps == 8
    without = Net(Linear(0.0, 0.5, steps=5))
    make(tmp_path / "without").fit(without, Batches())
    assert without.objective.steps == 0  # control


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_the_scaler_skips_does_not_count(fused: bool, tmp_path: Path) -> None:
    """A fused optimiser is called all the same, and skips by itself."""

    class Half(Net):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.05, fused=fused)

    net, moved, before = Half(Linear(0.0, 0.5, steps=5)), [], []

    class Watch(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            before[:] = [net.head.weight.detach().clone()]

        def on_train_batch_end(self, *_: Any) -> None:
            moved.append(not torch.equal(net.head.weight, before[0]))

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**19, backoff_factor=1 / 8)
    precision = MixedPrecision("16-mixed", "cpu", scaler)
    trainer = make(tmp_path, Watch(), ScheduleCallback(), plugins=[precision])
    trainer.fit(net, Batches())
    assert trainer.global_step == len(moved) == 6
    assert 0 < sum(moved) < 6
    assert net.objective.steps == sum(moved)


def by_hand(net: Net, step: int, accumulate: int) -> dict[str, float]:
    """Return what the log should hold of a step, from the batches and the parameters before it."""
    probs, entropies = [], []
    for inputs, target in batches()[step * accumulate : (step + 1) * accumulate]:
        p = F.softmax(net.head(net.body(inputs).tanh()).double(), 1)[target != -100]
        probs += p.gather(1, target[target != -100, None]).flatten().tolist()
        entropies += torch.special.entr(p).sum(1).tolist()
    return {
        "objective/target_prob": sum(probs) / len(probs),
        "objective/entropy": sum(entropies) / len(entropies),
        "objective/gamma": 0.1 * step,
    }


class ByHand(Callback):
    def __init__(self, accumulate: int) -> None:
        self.accumulate, self.found = accumulate, []

    @torch.no_grad()
    def on_train_batch_start(self, trainer: Trainer, net: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx % self.accumulate == 0:
            self.found.append(by_hand(net, trainer.global_step, self.accumulate))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("accumulate", "every"), [(1, 1), (2, 1), (2, 3)])
def test_the_log_holds_what_was_so_in_the_step(
    accumulate: int, every: int, fused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log holds the confidence and the scheduled values of its step, computed only in logged steps."""
    module, looks = importlib.import_module("equipoise.integrations.lightning"), []
    for name in ("_of_logits", "_of_hidden"):

        def counted(*args: Any, name: str, plain: Any, **options: Any) -> Any:
            looks.append(name)
            return plain(*args, **options)

        monkeypatch.setattr(module, name, partial(counted, name=name, plain=getattr(module, name)))
    options = {"accumulate_grad_batches": accumulate, "log_every_n_steps": every}
    net, hand = Net(Linear(0.0, 0.5, steps=5), fused), ByHand(accumulate)
    make(tmp_path / "a", hand, ScheduleCallback(), ConfidenceMonitor(), **options).fit(net, Batches())
    rows = logged(tmp_path / "a")
    assert [row["step"] for row in rows] == list(range(every - 1, 6, every))
    for row in rows:
        wanted = hand.found[int(row["step"])]
        assert {key: row[key] for key in wanted} == pytest.approx(wanted, rel=1e-6, abs=1e-7)
    assert looks == ["_of_hidden" if fused else "_of_logits"] * (6 * accumulate // every)
    assert len(set(rows[0])) == 5  # the three, the step and the epoch
    undisturbed = Net(Linear(0.0, 0.5, steps=5), fused)
    make(tmp_path / "b", ScheduleCallback(), **options).fit(undisturbed, Batches())
    for ours, theirs in zip(net.parameters(), undisturbed.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert "linear" not in vars(net.objective)
    assert not net.objective._forward_hooks


@pytest.mark.parametrize("fused", [False, True])
def test_rows_count_in_the_log_as_they_do_in_the_loss(fused: bool, tmp_path: Path) -> None:
    """By their weight, under another index for ignored ones, and in single precision within autocast."""

    class Weighted(Net):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            hidden = self.body(batch[0]).tanh()
            self.logits = self.head(hidden).detach().double()
            self.target, self.weights = batch[1].masked_fill(batch[1] == -100, 9), 10.0 ** -batch[1].abs()
            options = {"sample_weight": self.weights}
            if fused:
                return self.objective.linear(
                    hidden, self.head.weight, self.target, linear_bias=self.head.bias, **options
                )
            return self.objective(self.head(hidden), self.target, **options)

    net = Weighted()
    net.objective = Objective(GammaCrossEntropy(), ignore_index=9)
    precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1.0))
    make(tmp_path, ConfidenceMonitor(), steps=1, plugins=[precision]).fit(net, Batches())
    counts = net.weights * (net.target != 9)
    probs = net.logits.softmax(1)
    own = probs.gather(1, net.target.clamp(max=4)[:, None])[:, 0]
    wanted = {
        "objective/target_prob": ((own * counts).sum() / counts.sum()).item(),
        "objective/entropy": ((torch.special.entr(probs).sum(1) * counts).sum() / counts.sum()).item(),
    }
    assert {key: logged(tmp_path)[0][key] for key in wanted} == pytest.approx(wanted, rel=1e-6)


# torch itself does what it warns of, when it traces
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_compiled_objective_is_seen_too(tmp_path: Path) -> None:
    """A compiled objective is logged like a plain one."""
    net, plain = Net(Linear(0.0, 0.5, steps=5)), Net(Linear(0.0, 0.5, steps=5))
    net.objective = torch.compile(net.objective, backend="eager", fullgraph=True)
    for name, each in (("compiled", net), ("plain", plain)):
        callbacks = ScheduleCallback("objective"), ConfidenceMonitor()
        make(tmp_path / name, *callbacks, log_every_n_steps=2, steps=2).fit(each, Batches())
    for ours, theirs in zip(logged(tmp_path / "compiled"), logged(tmp_path / "plain"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)


class Several(LightningModule):
    """Two optimisers and two objectives."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.automatic_optimization = False
        self.heads = nn.ModuleDict({"a": nn.Linear(6, 5), "b": nn.Linear(6, 5)})
        self.plain = Objective(CrossEntropy())
        self.bonus = Objective(
            CrossEntropy() - 0.1 * Entropy(), schedules={"Entropy": Linear(-0.1, 0.0, steps=10)}
        )

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        inputs, target = batch
        target = F.one_hot(target.clamp(min=0), 5).float()
        losses = (
            self.plain(self.heads["a"](inputs), target),
            self.bonus.linear(inputs, self.heads["b"].weight, target, logit_scale=2.0, reduction="sum"),
        )
        for step, (loss, optimizer) in enumerate(zip(losses, self.optimizers(), strict=True)):
            optimizer.zero_grad()
            self.manual_backward(loss)
            if step == 0 or batch_idx % 2:
                optimizer.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD(head.parameters(), lr=0.1) for head in self.heads.values()]


def test_several_objectives_and_optimisers(tmp_path: Path) -> None:
    """With several objectives and optimisers, each schedule follows its optimiser."""
    net = Several()
    start = {name: head.weight.detach().clone() for name, head in net.heads.items()}
    bias = net.heads["a"].bias.detach().clone()
    callbacks = ScheduleCallback("plain", optimizer=0), ScheduleCallback("bonus", optimizer=1)
    make(tmp_path, *callbacks, ConfidenceMonitor(), steps=18).fit(net, Batches())
    assert (net.plain.steps, net.bonus.steps) == (12, 6)
    first = logged(tmp_path)[0]
    assert set(first) - {"step", "epoch"} == {
        *("plain/target_prob", "plain/entropy", "bonus/entropy", "bonus/Entropy"),
    }
    inputs, target = batches()[0]
    probs = (inputs @ start["a"].T + bias).softmax(1)
    wanted = probs.gather(1, target.clamp(min=0)[:, None]).mean().item()
    assert first["plain/target_prob"] == pytest.approx(wanted, rel=1e-6)
    spread = torch.special.entr((2 * inputs @ start["b"].T).softmax(1)).sum(1).mean().item()
    assert first["bonus/entropy"] == pytest.approx(spread, rel=1e-6)
    assert first["bonus/Entropy"] == pytest.approx(-0.1, rel=1e-6)


def test_nothing_is_left_after_an_exception(tmp_path: Path) -> None:
    """After an exception, no hook is left on the objective."""

    class Fails(Net):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            assert "linear" in vars(self.objective)
            super().training_step(batch, batch_idx)
            raise RuntimeError("enough")

    net = Fails(Linear(0.0, 0.5, steps=5))
    optimizer = net.configure_optimizers()
    net.configure_optimizers = lambda: optimizer
    with pytest.raises(RuntimeError, match="enough"):
        make(tmp_path, ScheduleCallback(), ConfidenceMonitor()).fit(net, Batches())
    optimizer.step()
    assert net.objective.steps == 0
    assert "linear" not in vars(net.objective)
    assert not net.objective._forward_hooks


def test_errors(tmp_path: Path) -> None:
    """Callbacks refuse an objective or an optimiser that the module does not have, by name."""

    class Without(Net):
        def __init__(self) -> None:
            super().__init__()
            self.objective = None

    for callback in (ScheduleCallback, ConfidenceMonitor):
        with pytest.raises(
            ValueError,
            match=r"objective must name an Objective of the LightningModule, got None; it has none",
        ):
            make(tmp_path, callback()).fit(Without(), Batches())
        with pytest.raises(ValueError, match=r"objective must name .*, got 'criterion'; it has 'objective'$"):
            make(tmp_path, callback("criterion")).fit(Net(), Batches())
    for index in (None, 2, -1):
        with pytest.raises(
            ValueError, match=rf"optimizer must be the index of one of 2 optimisers, got {index}$"
        ):
            make(tmp_path, ScheduleCallback(optimizer=index)).fit(Several(), Batches())


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without lightning, the error names the command that installs it."""
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, "equipoise.integrations.lightning")
    with pytest.raises(ImportError, match=r"integrations\.lightning needs lightning; pip install"):
        importlib.import_module("equipoise.integrations.lightning")
