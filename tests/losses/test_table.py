"""The tables and the modules agree."""

import inspect
from types import ModuleType

import pytest
import torch
from torch.nn import functional

import equipoise
from equipoise import label_noise, losses, penalties, schedules
from equipoise._batch import REDUCTIONS
from equipoise.costs import ClassMatrix
from equipoise.losses import LOSSES, WEIGHTS, BatchLoss, Loss, RowLoss, Sum
from equipoise.penalties import PENALTIES
from support.definitions import settings_of

TABLES = LOSSES + PENALTIES


def public_losses(module: ModuleType) -> set[type]:
    return {
        value
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, Loss)
        and not name.startswith("_")
        and value not in (Loss, RowLoss, BatchLoss, Sum)
    }


def test_every_loss_and_penalty_is_in_a_table() -> None:
    """Every public loss and penalty is in its table."""
    assert public_losses(losses) == {entry.make for entry in LOSSES}
    assert public_losses(penalties) == {entry.make for entry in PENALTIES}
    assert len({entry.name for entry in TABLES}) == len(TABLES)


def test_a_loss_missing_from_the_table_is_found() -> None:
    """A loss that is missing from the table is found."""
    module = ModuleType("planted")
    module.CrossEntropy = losses.CrossEntropy  # pyright: ignore[reportAttributeAccessIssue]
    assert public_losses(module) != {entry.make for entry in LOSSES}


@pytest.mark.parametrize(
    "module", [equipoise, losses, penalties, schedules, label_noise], ids=lambda m: m.__name__
)
def test_all_lists_every_public_name(module: ModuleType) -> None:
    """`__all__` lists every public name."""
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert hasattr(module, name), name
    written_here = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__.startswith(module.__name__)
    }
    assert written_here <= set(module.__all__)


@pytest.mark.parametrize("entry", TABLES, ids=lambda entry: entry.name)
def test_entry_is_complete(entry: losses.Entry) -> None:
    """An entry has a source and settings, and its class a docstring with every part."""
    assert entry.source
    assert settings_of(entry)
    assert all(type(loss) is entry.make for loss in settings_of(entry))
    assert len(set(settings_of(entry))) == len(settings_of(entry))
    doc = inspect.getdoc(entry.make) or ""
    parts = ["Shapes:", "Example:", "Source:", ".. math::"]
    if inspect.signature(entry.make).parameters:
        parts += ["Args:", "Raises:"]
    for part in parts:
        assert part in doc, f"{entry.name} lacks {part}"


@pytest.mark.parametrize(
    "loss", [loss for entry in TABLES for loss in settings_of(entry)], ids=lambda loss: repr(loss)[:50]
)
def test_a_loss_prints_as_the_code_that_makes_it(loss: Loss) -> None:
    """A loss prints as code that makes it."""
    names = {entry.name: entry.make for entry in TABLES} | {
        made.__name__: made for made in (*WEIGHTS, ClassMatrix)
    }
    assert eval(repr(loss), {"__builtins__": {}}, names) == loss


def test_a_sum_prints_as_the_code_that_makes_it() -> None:
    """A sum prints as code that makes it."""
    total = losses.CrossEntropy() + 0.5 * penalties.Entropy() - penalties.LogitRange(width=8.0) * 2
    assert repr(total) == (
        "CrossEntropy(label_smoothing=0.0) + 0.5 * Entropy() - 2.0 * LogitRange(width=8.0)"
    )
    assert repr(-penalties.Gini()) == "-Gini()"
    names = {entry.name: entry.make for entry in TABLES}
    assert eval(repr(total), {"__builtins__": {}}, names) == total


@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "max", ""])
def test_reductions_are_those_of_torch(reduction: str) -> None:
    """A loss takes the reductions that `F.cross_entropy` takes, and refuses the others as it does."""
    logits, target = torch.randn(3, 4), torch.tensor([0, 3, 1])
    values = []
    for loss in (functional.cross_entropy, losses.CrossEntropy()):
        try:
            values.append(loss(logits, target, reduction=reduction))  # pyright: ignore[reportArgumentType]
        except ValueError:
            values.append(None)
    torchs, ours = values
    assert (ours is None) == (torchs is None) == (reduction not in REDUCTIONS)
    if torchs is not None:
        torch.testing.assert_close(ours, torchs)
