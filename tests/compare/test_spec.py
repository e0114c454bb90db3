import re

import numpy as np
import pytest

from equipoise.compare import spec
from equipoise.losses import (
    LOSSES,
    CrossEntropy,
    ExpectedCost,
    GammaCrossEntropy,
    Reweighted,
    TaiLrWeight,
)
from equipoise.penalties import PENALTIES, Entropy, LogitRange

COSTS = np.array([[0.0, 2.0], [1.0, 0.0]])


@pytest.mark.parametrize(
    ("text", "loss"),
    [
        ("CrossEntropy()", CrossEntropy()),
        (" GammaCrossEntropy( gamma = 0.5 ) ", GammaCrossEntropy(gamma=0.5)),
        ("GammaCrossEntropy(0.5, 0.2)", GammaCrossEntropy(gamma=0.5, min_weight=0.2)),
        ("GammaCrossEntropy(0.5, min_weight=0.2)", GammaCrossEntropy(gamma=0.5, min_weight=0.2)),
        ("GammaCrossEntropy(gamma=1 - 0.5)", GammaCrossEntropy(gamma=0.5)),
        ("CrossEntropy() - 0.1 * Entropy()", CrossEntropy() + -0.1 * Entropy()),
        ("-Entropy()", -1 * Entropy()),
        (
            "CrossEntropy() + LogitRange(low=-4, high=+4) * 0.5",
            CrossEntropy() + 0.5 * LogitRange(low=-4, high=4),
        ),
        ("2 * (CrossEntropy() + Entropy())", 2 * CrossEntropy() + 2 * Entropy()),
        ("Reweighted(TaiLrWeight(gamma=0.1))", Reweighted(TaiLrWeight(gamma=0.1))),
        ("ExpectedCost([[0, 2], [1, 0]])", ExpectedCost(COSTS)),
        ("ExpectedCost(costs)", ExpectedCost(COSTS)),
    ],
)
def test_a_text_makes_the_loss_it_spells(text, loss):
    assert spec.parse(text, {"costs": COSTS}) == loss


def test_another_text_makes_another_loss():
    assert spec.parse("Focal(gamma=2.0)") != spec.parse("Focal(gamma=3.0)")
    assert spec.parse("ExpectedCost(costs)", {"costs": COSTS}) != spec.parse(
        "ExpectedCost(costs)", {"costs": COSTS.T}
    )


def test_every_loss_and_penalty_of_the_tables_is_read_back_from_its_own_code():
    for entry in (*LOSSES, *PENALTIES):
        for loss in entry.at:
            assert spec.parse(repr(loss)) == loss


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("GamaCrossEntropy()", "must use a known name, got 'GamaCrossEntropy'; did you mean"),
        ("focal()", "must use a known name, got 'focal'; did you mean Focal?"),
        ("Zzz()", "must use a known name, got 'Zzz'; there is CrossEntropy, "),
        ("Focal(gama=1)", "Focal must be given an option it has, got 'gama'; did you mean gamma?"),
        ("Focal(alpha=1)", "Focal must be given an option it has, got 'alpha'"),
        ("Entropy(weight=1)", "Entropy must be given an option it has, got 'weight'; there is none"),
        ("Focal(1, 2, 3)", "Focal must have at most 1 options, got 3; it has gamma"),
        ("Focal(**{})", "Focal must be given an option it has"),
        ("CrossEntropy", "must call what it names, got 'CrossEntropy'; write CrossEntropy()"),
        ("Focal(", "must be Python such as GammaCrossEntropy(gamma=0.5), got 'Focal('; '(' was never closed"),
        ("", "must be Python such as"),
        ("CrossEntropy() = 1", "must be Python such as"),
        ("3", "must be a loss, got '3'"),
        ("[1, 2]", "must be a loss, got '[1, 2]'"),
        ("TaiLrWeight()", "must be a loss, got 'TaiLrWeight()'"),
        ("CrossEntropy() + 1", "must add losses to losses and multiply them by numbers"),
        ("CrossEntropy() * Focal()", "must add losses to losses and multiply them by numbers"),
        ("CrossEntropy() / 2", "must use only names, options, numbers, lists, +, - and *"),
        ("[1] + CrossEntropy()", "must combine losses and numbers, got '[1]' beside a sign"),
        ("ExpectedCost(costs)", "must have the matrix it names, got 'costs' without it; add --costs FILE"),
        ("ExpectedCost(cost)", "must use a known name, got 'cost'; did you mean costs?"),
        ("ExpectedCost([[0, 1]])", "ExpectedCost: costs must be (C, C)"),
        ("GammaCrossEntropy(gamma=-1)", "GammaCrossEntropy: gamma must be in [0, 1], got -1"),
        ("GammaCrossEntropy(gamma='a')", 'must use only names, options, numbers, lists, +, - and *'),
        ("-" * 100_000 + "1", "must be Python such as"),
    ],
)  # fmt: skip
def test_a_bad_text_is_refused_with_the_way_out(text, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        spec.parse(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


ATTACKS = [
    "__import__('pathlib').Path('{path}').touch()",
    "().__class__.__base__.__subclasses__()",
    "(lambda: open('{path}', 'w'))()",
    "Focal(gamma=open('{path}', 'w'))",
    "Focal(gamma=[open('{path}', 'w') for _ in [1]])",
    "CrossEntropy().__class__",
    "CrossEntropy() if open('{path}', 'w') else CrossEntropy()",
    'f\'{{open("{path}", "w")}}\'',
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_text_is_never_evaluated(attack, tmp_path):
    path = tmp_path / "evaluated"
    with pytest.raises(ValueError, match="objective must"):
        spec.parse(attack.format(path=path))
    assert not path.exists()


def test_control_the_attacks_would_be_seen_if_evaluated(tmp_path):
    path = tmp_path / "evaluated"
    eval(ATTACKS[0].format(path=path))
    assert path.exists()


def test_code_to_paste_runs_and_makes_the_same_loss(tmp_path):
    import torch

    np.save(tmp_path / "costs.npy", COSTS)
    text = "GammaCrossEntropy(gamma=0.5) + 0.5*ExpectedCost(costs) + Entropy()"
    code = spec.paste(text, lambda name: str(tmp_path / f"{name}.npy"))
    space = {"logits": torch.zeros(3, 2), "target": torch.tensor([0, 1, 1])}
    exec(code, space)
    assert space["loss"] == spec.parse(text, {"costs": COSTS})
    assert "from equipoise.losses import ExpectedCost, GammaCrossEntropy" in code
    assert "from equipoise.penalties import Entropy" in code
