import re

import numpy as np
import pytest

from equipoise.compare import spec
from equipoise.losses import CrossEntropy, ExpectedCost

COSTS = np.array([[0.0, 2.0], [1.0, 0.0]])


def test_a_matrix_goes_by_its_name():
    assert spec.parse("ExpectedCost(costs)", {"costs": COSTS}) == ExpectedCost(COSTS)
    assert spec.parse("ExpectedCost(costs)", {"costs": COSTS}) != ExpectedCost(COSTS.T)
    assert spec.parse("CrossEntropy()") == CrossEntropy()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ExpectedCost(costs)", "must have the matrix it names, got 'costs' without it; add --costs FILE"),
        ("ExpectedCost(cost)", "must use a known name, got 'cost'; did you mean costs?"),
        ("ExpectedCost(", "must be Python such as"),
    ],
)
def test_a_bad_text_is_refused_with_the_way_out(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        spec.parse(text)


def test_code_to_paste_runs_and_makes_the_same_loss(tmp_path):
    import torch

    np.save(tmp_path / "costs.npy", COSTS)
    named = "ExpectedCost(Matrix([[0, 1], [1, 0]], 'costs', ['ill', 'well']))"
    text = f"GammaCrossEntropy(gamma=0.5) + 0.5*ExpectedCost(costs) + Entropy() / 2 + {named}"
    code = spec.paste(text, lambda name: str(tmp_path / f"{name}.npy"))
    space = {"logits": torch.zeros(3, 2), "target": torch.tensor([0, 1, 1])}
    exec(code, space)
    assert space["loss"] == spec.parse(text, {"costs": COSTS})
    assert "from equipoise.losses import ExpectedCost, GammaCrossEntropy" in code
    assert "from equipoise.penalties import Entropy" in code
