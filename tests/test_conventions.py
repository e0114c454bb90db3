"""Doors that a newcomer tries: each works as the reader of torch and numpy expects, or says what to write."""

import json
import math
import operator
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import equipoise
from equipoise import Objective
from equipoise.cli import main
from equipoise.costs import ClassMatrix
from equipoise.losses import (
    LOSSES,
    CrossEntropy,
    ExpectedCost,
    Focal,
    GammaCrossEntropy,
    Loss,
    PairwiseCrossEntropy,
    SoftmaxMargin,
)
from equipoise.penalties import PENALTIES, Balance, Entropy, Gini
from support.definitions import settings_of

ALL = [loss for entry in (*LOSSES, *PENALTIES) for loss in settings_of(entry)]


def rows(count: int = 6, classes: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(count, classes, dtype=torch.float64, generator=generator)
    return logits, torch.randint(classes, (count,), generator=generator)


class TestCommand:
    @pytest.mark.parametrize(
        "words", [[], ["--version"], ["--help"], ["compare", "--help"], ["compare", "--no"]]
    )
    def test_the_module_is_the_command(self, words: list[str], monkeypatch: Any, capsys: Any) -> None:
        monkeypatch.delitem(
            sys.modules, "equipoise.__main__", raising=False
        )  # where another test imported it
        monkeypatch.setattr(sys, "argv", ["/somewhere/equipoise/__main__.py", *words])
        said: list[Any] = []
        for call in (main, lambda: runpy.run_module("equipoise", run_name="__main__")):
            with pytest.raises(SystemExit) as left:
                call()
            said.append((left.value.code, *capsys.readouterr()))
        assert said[0] == said[1]
        assert "equipoise" in said[0][1] + said[0][2]
        assert "__main__" not in said[0][1] + said[0][2]

    def test_a_fresh_interpreter(self) -> None:
        """What is imported when it is asked for, and what a user is told to import."""
        started = subprocess.run([sys.executable, "-m", "equipoise", "--no"], capture_output=True, text=True)
        assert (started.returncode, started.stdout) == (2, "")
        assert started.stderr.startswith("equipoise: error: ")
        program = """
import sys, equipoise
print("equipoise.metrics" in sys.modules, equipoise.metrics.severity([0], [1], [[0, 1], [6, 0]]))
for part in ("compare", "integrations", "cli"):
    try:
        getattr(equipoise, part)
    except AttributeError as error:
        print(error)
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == [
            "False 1.0",
            *(
                f"module 'equipoise' has no attribute '{part}'; import equipoise.{part} first"
                for part in ("compare", "integrations", "cli")
            ),
        ]


NUMBERS = [
    2,
    0.5,
    np.float16(0.5),
    np.float32(0.1),
    np.float64(0.3),
    np.int64(3),
    np.uint8(2),
    np.array(0.25),
    np.array(2, dtype=np.int32),
    np.float32(0.0),
]


class TestArithmetic:
    @pytest.mark.parametrize("number", NUMBERS, ids=lambda number: f"{type(number).__name__}-{number}")
    @pytest.mark.parametrize("loss", [GammaCrossEntropy(0.2), CrossEntropy() - 0.5 * Balance()], ids=repr)
    def test_a_number_of_python_or_numpy_scales_a_loss(self, number: Any, loss: Loss) -> None:
        logits, target = rows()
        value, plain = loss(logits, target).item(), float(number)
        made = [number * loss, loss * number]
        if plain:
            assert (loss / number)(logits, target).item() == pytest.approx(value / plain, rel=1e-14)
            made.append(loss / (1 / number))
        for scaled in made:
            assert scaled(logits, target).item() == pytest.approx(plain * value, rel=1e-6, abs=0)
            assert all(type(coefficient) is float for coefficient, _ in scaled.terms())
        assert made[0] == made[1] == plain * loss  # to the bit

    def test_numbers_are_divided_not_multiplied_by_a_reciprocal(self) -> None:
        assert (2 * CrossEntropy() / np.float64(3)).terms()[0][0] == 2 / 3
        assert (49 * CrossEntropy() / 49).terms()[0][0] == 1.0 != 49 * (1 / 49)

    @pytest.mark.parametrize("many", [[CrossEntropy()], [CrossEntropy(), 0.1 * Entropy()], ALL], ids=len)
    def test_losses_sum(self, many: list[Loss]) -> None:
        """`sum` of losses is a loss with all their terms, and can be divided."""
        total: Any = sum(many)
        logits, target = rows()
        expected = math.fsum(loss(logits, target).item() for loss in many)
        assert total(logits, target).item() == pytest.approx(expected, rel=1e-12)
        assert total.terms() == tuple(pair for loss in many for pair in loss.terms())
        mean: Any = sum(many) / len(many)  # pyright: ignore[reportOperatorIssue]
        assert mean(logits, target).item() == pytest.approx(expected / len(many), rel=1e-12)

    @pytest.mark.parametrize(
        "call",
        [
            lambda loss: loss + 1,
            lambda loss: 1 + loss,
            lambda loss: np.float32(1) + loss,
            lambda loss: loss * np.array([1.0, 2.0]),
            lambda loss: np.array([1.0, 2.0]) * loss,
            lambda loss: loss * np.bool_(True),
            lambda loss: loss * np.complex64(1),
            lambda loss: loss * "2",
            lambda loss: 2 / loss,
            lambda loss: np.float32(2) / loss,
            lambda loss: torch.tensor(2.0) / loss,
            lambda loss: loss * loss,
            lambda loss: loss / loss,
            lambda loss: loss * Objective(loss),
        ],
    )
    def test_what_is_no_number_is_refused(self, call: Callable[[Any], Any]) -> None:
        for loss in (CrossEntropy(), CrossEntropy() + Entropy()):
            with pytest.raises(
                TypeError, match=r"unsupported operand|can't multiply|does not support ufuncs"
            ):
                call(loss)

    @pytest.mark.parametrize("shape", [(), (1,), (3,)])
    @pytest.mark.parametrize("combine", [operator.mul, operator.truediv, lambda loss, number: number * loss])
    def test_a_tensor_is_refused_with_the_way_out(self, shape: Any, combine: Callable[..., Any]) -> None:
        with pytest.raises(
            TypeError, match=r"a coefficient must be a Python number, got a tensor; use .item()"
        ):
            combine(CrossEntropy(), torch.ones(shape))

    @pytest.mark.parametrize("number", [np.float32("nan"), np.array(np.inf), -np.float64("inf")])
    def test_a_coefficient_is_finite(self, number: Any) -> None:
        for combine in (operator.mul, operator.truediv, lambda loss, by: by * loss):
            with pytest.raises(ValueError, match="a coefficient must be finite, got "):
                combine(CrossEntropy(), number)
        with pytest.raises(ZeroDivisionError):
            CrossEntropy() / np.float32(0)


class TestConfig:
    def test_the_loss_alone(self) -> None:
        """A text or a loss is a whole configuration."""
        for given in ("Focal(gamma=3)", Focal(3)):
            assert Objective.from_config(given).loss == Focal(3)
        given = Objective.from_config("Focal()", reduction="sum", schedules={"gamma": "Linear(2, 0, 9)"})
        assert given.to_config() == Objective.from_config(**given.to_config()).to_config()

    def test_a_mapping_says_what_to_write(self) -> None:
        with pytest.raises(TypeError, match=r"write from_config\(\*\*config\)"):
            Objective.from_config({"loss": "Focal()"})  # pyright: ignore[reportArgumentType]

    def test_names_of_classes_go_there_and_back(self) -> None:
        for made in (ExpectedCost, SoftmaxMargin, PairwiseCrossEntropy):
            objective = Objective(
                CrossEntropy() + made(ClassMatrix([[0, 2], [1, 0]], ["ill", "well"], kind="costs"))
            )
            again = Objective.from_config(**objective.to_config())
            assert repr(again.loss) == repr(objective.loss)
            assert "['ill', 'well']" in repr(again.loss)


class TestTarget:
    @pytest.mark.parametrize("entry", LOSSES, ids=lambda entry: entry.name)
    def test_class_weights_are_third_as_in_torch(self, entry: Any) -> None:
        (logits, target), weight = rows(), torch.linspace(0.5, 2, 8, dtype=torch.float64)
        for loss in settings_of(entry):
            assert torch.equal(loss(logits, target, weight), loss(logits, target, weight=weight))
        plain = F.cross_entropy(logits, target, weight)
        torch.testing.assert_close(CrossEntropy()(logits, target, weight), plain, rtol=1e-14, atol=0)
        assert not torch.equal(plain, F.cross_entropy(logits, target))
        with pytest.raises(TypeError, match="positional argument"):
            CrossEntropy()(logits, target, weight, weight)  # pyright: ignore[reportCallIssue]

    @pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
    @pytest.mark.parametrize("shape", [(8,), (6, 8), (2, 8, 3), (8, 8), (2, 8, 8)])
    def test_integer_one_hot_rows_say_make_them_floating(self, dtype: torch.dtype, shape: Any) -> None:
        axis = 0 if len(shape) == 1 else 1
        logits = torch.randn(shape)
        one_hot = F.one_hot(logits.argmax(axis), 8).movedim(-1, axis)
        says = rf"target must be floating when .* use target.to\(logits.dtype\) .* target.argmax\({axis}\)"
        for loss in (CrossEntropy(), Focal() + 0.1 * Balance()):
            with pytest.raises(TypeError, match=says):
                loss(logits, one_hot.to(dtype))
            floating = loss(logits, one_hot.to(logits.dtype))
            torch.testing.assert_close(loss(logits, one_hot.argmax(axis)), floating)

    @pytest.mark.parametrize(
        "loss", [CrossEntropy(), Focal() + 0.1 * Gini(), ExpectedCost(1 - np.eye(8))], ids=repr
    )
    def test_fused(self, loss: Loss) -> None:
        """A fused loss takes one-hot targets as floats only, and soft targets without gradient."""
        logits, target = rows()
        hidden, weight = torch.randn(6, 3).double(), torch.randn(8, 3).double()
        for dtype in (torch.int64, torch.bool):
            with pytest.raises(
                TypeError, match="target must be floating when it has the shape of the logits"
            ):
                loss.linear(hidden, weight, F.one_hot(target, 8).to(dtype))
        soft = logits.softmax(1).requires_grad_()
        for options in ({}, {"reduction": "none"}, {"grad": "recompute"}, {"grad": "forward"}):
            with pytest.raises(ValueError, match=r"^target must need no gradient .* pass target.detach\(\)"):
                loss.linear(hidden, weight, soft, **options)
        held = loss.linear(hidden, weight, soft.detach())
        torch.testing.assert_close(held, loss(hidden @ weight.T, soft.detach()))
        with torch.no_grad():
            torch.testing.assert_close(loss.linear(hidden, weight, soft.detach()), held)


SNIPPET = """
import torch
from equipoise import Objective
from equipoise.losses import CrossEntropy
from equipoise.costs import ClassMatrix, from_groups

z, t = torch.zeros(3, 4), torch.zeros(3, dtype=torch.long)
loss = CrossEntropy()
{}
"""
RIGHT = [
    'loss(z, t, reduction="none")',
    'loss.linear(z, z, t, reduction="sum", grad="forward", backend="torch")',
    'Objective(loss, reduction="sum")(z, t, reduction="none")',
    'ClassMatrix([[0, 1], [1, 0]], kind="costs")',
    "(loss / 2 + 0.1 * loss)(z, t)",
    'Objective.from_config("Focal()")',
    "__import__('equipoise').metrics.severity",
]
WRONG = [
    'loss(z, t, reduction="avg")',
    'loss.linear(z, z, t, reduction="avg")',
    'loss.linear(z, z, t, grad="never")',
    'loss.linear(z, z, t, backend="cuda")',
    'Objective(loss, reduction="avg")',
    'from_groups("a | b", "cost")',
    'ClassMatrix([[0, 1], [1, 0]], kind="cost")',
    "0.1 * CrossEntropy",
    "Objective(CrossEntropy)",
    "from equipoise.losses import FocalLoss",
]


@pytest.mark.slow
def test_a_type_checker_finds_the_same(tmp_path: Path) -> None:
    pytest.importorskip("basedpyright", reason="basedpyright is not installed")
    lines = SNIPPET.format("\n".join([*RIGHT, *WRONG])).splitlines()
    (tmp_path / "snippet.py").write_text("\n".join(lines))
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps(
            {"typeCheckingMode": "standard", "extraPaths": [str(Path(str(equipoise.__file__)).parents[1])]}
        )
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "basedpyright",
            "-p",
            str(tmp_path),
            "--pythonpath",
            sys.executable,
            "--outputjson",
        ],
        capture_output=True,
        text=True,
    )
    found = {
        lines[each["range"]["start"]["line"]]
        for each in json.loads(done.stdout)["generalDiagnostics"]
        if each["severity"] == "error"
    }
    assert found == set(WRONG)
