"""The language model example runs small, measures what it says, and prints it."""

import argparse
import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.slow

pd = pytest.importorskip("pandas", reason="the example needs the extra compare")
pytest.importorskip("matplotlib", reason="the example needs the extra compare")
pytest.importorskip("torchmetrics", reason="the example measures calibration with it")
pytest.importorskip("transformers", reason="the example needs the extra transformers")

SMALL = ["--vocabulary", "500", "--hidden", "32", "--layers", "1", "--length", "32", "--batch", "32"]
SHORT = ["--every", "12", "--steps", "80", "--tune-steps", "15", "--validation", "50", "--seeds", "2"]
RATES = ["--rate", "0.01", "--tune-rate", "0.005", "--rounds", "0"]


@pytest.fixture
def given(tmp_path: Path) -> argparse.Namespace:
    sizes = {"vocabulary": 300, "hidden": 16, "layers": 1, "length": 12, "batch": 4}
    return argparse.Namespace(**sizes, steps=3, rate=1e-2, out=tmp_path)


def test_small_run(example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A small run prints the tables that it writes, with an interval for each candidate."""
    example.main([*SMALL, *SHORT, *RATES, "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    tables = (tmp_path / "tables.md").read_text()
    assert tables.strip() in printed
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tables.splitlines() if "|" in line]
    trained = ["cross entropy", "gamma 1e-07", "gamma 0 to 0.1"]
    tuned = ["gamma 0", "gamma 6.7e-04", "gamma 0.1", "gamma 0.8", "DFT", example.CLEAN, "before"]
    assert [row[0] for row in rows] == ["", "---", *trained, "", "---", *tuned]
    assert {len(row) for row in rows} == {7}
    said = re.compile(r"[+-]\S+ \(\S+ to \S+\) (better|equal|worse|undecided)")
    assert [row[0] for row in rows if said.fullmatch(row[2])] == [*trained[1:], *tuned[1:]]

    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["options"]["vocabulary"] == 500
    found = pd.DataFrame(numbers["models"]).set_index(["name", "seed"])
    assert len(found) == 2 * 10
    counted = re.search(r"Tokens counted alone: perplexity (\S+)\.$", tables, re.M)
    assert counted is not None
    for seed in (0, 1):
        model = found.xs(seed, level="seed")
        assert model.nll["cross entropy"] < np.log(float(counted[1])) - 0.3  # it reads what stands before
        assert abs(model.nll["gamma 1e-07"] - model.nll["cross entropy"]) < 0.01
        assert model.nll["before"] == model.nll["cross entropy"]
        assert model.nll["gamma 0"] > model.nll["before"] + 0.01  # wrong tokens harm
        assert model.nll[example.CLEAN] < model.nll["gamma 0"] - 0.02  # the control: it is they that harm
        assert model.nll["gamma 6.7e-04"] < model.nll["gamma 0"] - 0.02
        assert model.top["gamma 0"] < model.top["before"] < model.top["gamma 0.8"]
    drawn = (tmp_path / "language_model.svg").read_text()
    assert all(name in drawn for name in (*trained, *tuned))


def test_runs_are_paired(example: ModuleType, given: argparse.Namespace) -> None:
    """Runs with one seed share initial weights and batches, so two forms of one loss train alike."""
    windows = torch.randint(300, (40, 12))

    def weight(seed: int, loss: object) -> torch.Tensor:
        model = example.make_model(given, seed)
        objective = None if loss is None else example.Objective(loss)
        example.train(model, windows, objective, given, steps=3, rate=1e-2, seed=seed)
        return model.model.embed_tokens.weight.detach()

    plain, fused = weight(0, None), weight(0, example.CrossEntropy())
    torch.testing.assert_close(plain, fused, rtol=0, atol=1e-4)  # Adam divides by gradients near 0
    assert not torch.allclose(plain, weight(0, example.GammaCrossEntropy(0.5)), rtol=0, atol=1e-3)
    assert not torch.allclose(plain, weight(1, None), rtol=0, atol=1e-3)


def test_a_schedule_moves(example: ModuleType, given: argparse.Namespace) -> None:
    """The scheduled gamma is raised once per step."""
    given.end = 0.3
    objective = example.pretraining(given)["gamma 0 to 0.3"]
    assert objective.scheduled() == {"gamma": 0.0}
    model = example.make_model(given, 0)
    example.train(model, torch.randint(300, (40, 12)), objective, given, steps=2, rate=1e-2, seed=0)
    assert objective.scheduled() == {"gamma": 0.2}


def test_what_rows_say_is_what_logits_say(example: ModuleType, given: argparse.Namespace) -> None:
    """Statistics of the fused head agree with those computed from the logits."""
    model, windows = example.make_model(given, 0), torch.randint(300, (6, 12))
    with torch.no_grad():
        model.lm_head.weight *= 5  # surer
        told = example.look(model, windows, batch=4)
        probs = model(input_ids=windows).logits[:, :-1].flatten(0, 1).double().softmax(1)
    target = windows[:, 1:].flatten()
    own = probs.gather(1, target[:, None])[:, 0]
    np.testing.assert_allclose(told.target, own, rtol=1e-4)
    np.testing.assert_allclose(told.nll, -own.log(), rtol=1e-4)
    np.testing.assert_allclose(told.top, probs.amax(1), rtol=1e-4)
    np.testing.assert_array_equal(told.right, probs.argmax(1) == target)

    from torchmetrics.functional.classification import multiclass_calibration_error

    whole = multiclass_calibration_error(probs, target, num_classes=300, n_bins=15, norm="l1")
    error = example.measure(told).ECE
    assert error == pytest.approx(whole.item(), rel=1e-4)
    assert error > 0.01


def test_a_confidence_of_one_counts(example: ModuleType) -> None:
    """A confidence of 1 belongs to the last bin of the calibration error."""
    told = pd.DataFrame({"top": [0.95, 1.0], "right": [True, False]})
    np.testing.assert_allclose(example.measure(told).ECE, 0.475, rtol=1e-6)


def test_wrong_tokens(example: ModuleType) -> None:
    """A quarter of the tokens becomes another one, each as often, and the same for one seed."""
    windows = torch.randint(50, (200, 100))
    wrong = example.corrupt(windows, 0.25, 50, seed=3)
    hit = wrong != windows
    assert hit.double().mean().item() == pytest.approx(0.25, abs=0.015)  # 5 deviations; never itself
    assert wrong.min() == 0
    assert wrong.max() == 49
    shift = torch.bincount((wrong - windows)[hit] % 50, minlength=50)[1:]
    assert shift.min() > 0.5 * shift.max()  # each of the others alike
    assert torch.equal(wrong, example.corrupt(windows, 0.25, 50, seed=3))
    assert not torch.equal(wrong, example.corrupt(windows, 0.25, 50, seed=4))
    assert torch.equal(windows, example.corrupt(windows, 0.0, 50, seed=3))


def test_parts_are_files(example: ModuleType) -> None:
    """Training, tuning and validation text come from different files."""
    files = example.read_files()
    assert len(files) > 300
    assert "json/decoder.py" in files
    assert not [name for name in files if {"test", "tests", "site-packages"} & set(name.split("/"))]
    assert len(example.read_files(10)) == -(-len(files) // 10)
    parts = pd.Series({name: example.part_of(name) for name in files})
    shares = parts.value_counts(normalize=True)
    assert shares["validation"] == pytest.approx(0.05, abs=0.03)
    assert shares["tuning"] == pytest.approx(0.15, abs=0.05)

    one = {part: parts.index[parts == part][0] for part in ("training", "tuning", "validation")}
    text = {one["training"]: "alpha " * 40, one["tuning"]: "omega " * 40, one["validation"]: "alpha " * 20}
    windows = example.read_text(text, 300, 4)
    count = {part: window.numel() for part, window in windows.items()}
    assert 16 <= count["validation"] <= 24  # a word of the training text is a token
    assert count["tuning"] > 120  # and one it lacks is not
    assert windows["validation"].shape[1] == 4


def test_the_table_says_what_the_numbers_say(example: ModuleType) -> None:
    """The table marks differences whose interval excludes zero."""
    nll = {
        "plain": [2.0, 2.1, 2.2],
        "lower": [1.5, 1.6, 1.72],
        "higher": [3.0, 3.1, 3.21],
        "same": [2.1, 2.0, 2.2],
    }
    rest = {"target": 0.25, "right": 0.5, "top": 0.75, "ECE": 0.125}
    found = [
        {"name": name, "seed": k, "nll": v, **rest}
        for name, values in nll.items()
        for k, v in enumerate(values)
    ]
    lines = example.table(pd.DataFrame(found)).splitlines()[2:]
    assert lines[0] == "| plain | 8.2 (7.4 to 9.0) |  | 0.250 | 50.0 % | 75.0 % | 0.125 |"
    calls = [line.split("|")[3].split() for line in lines]
    assert [call[-1] for call in calls[1:]] == ["better", "worse", "undecided"]
    # 7.648864 is the quantile of t with 2 degrees of freedom at 1 - 0.05 / 3 / 2, for three comparisons.
    mean, half = -1.48 / 3, 7.648864 * np.std([-0.5, -0.5, -0.48], ddof=1) / np.sqrt(3)
    assert " ".join(calls[1][:-1]) == f"{mean:+.4f} ({mean - half:.4f} to {mean + half:.4f})"


def test_the_fused_head_holds_less(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fused head needs less peak memory than the plain Trainer."""
    ways = ["plain Trainer", "fused"]
    monkeypatch.setattr(example, "COSTS", {way: example.COSTS[way] for way in ways})
    torch.save(torch.randint(16384, (200, 64)), tmp_path / "windows.pt")
    sizes = ["--hidden", "16", "--layers", "1", "--length", "64", "--cost-batch", "32", "--cost-steps", "3"]
    argv = [*sizes, "--out", str(tmp_path)]
    given = argparse.Namespace(rounds=1, cost_batch=32, length=64, vocabulary=16384)
    costs = example.compare_costs(argv, given)
    plain, fused = (costs[costs.way == way].iloc[0] for way in ways)
    logits = 4 * 32 * 64 * 16384
    assert fused.loss == pytest.approx(plain.loss, rel=1e-6)
    assert len(plain.seconds) == len(fused.seconds) == 2
    assert plain.memory > 2 * logits  # the control: a process that does hold them
    assert fused.memory < logits
    lines = example.cost_table(costs, given).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| plain Trainer", "| fused"]
    assert lines[-1] == "The logits of a step would take 128 MiB in float32."


def test_arguments_that_show_nothing(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Arguments that leave no result are refused."""
    for options, words in (
        (["--seeds", "1"], "--seeds must be at least 2, for an interval, got 1"),
        (["--every", "500"], "--every must leave text for each part, got 500"),
    ):
        with pytest.raises(SystemExit):
            example.main([*options, "--out", str(tmp_path)])
        assert words in capsys.readouterr().err
