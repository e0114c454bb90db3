"""The Lightning example runs, and what it prints is there, at a small size."""

from types import ModuleType

import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("lightning", reason="lightning is not installed")


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:DeprecationWarning")
def test_the_lines(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """The example prints the metrics of the first and the last epoch, and gamma has risen between."""
    found = example.main(["--epochs", "40"])
    header, first, *_, last, plain, rising = capsys.readouterr().out.splitlines()
    assert header.split() == ["objective/entropy", "objective/gamma", "objective/target_prob"]
    (_, gamma, prob), (_, later, sure) = (map(float, line.split()) for line in (first, last))
    assert gamma == 0
    assert 0.6 < later < 0.8
    assert sure > prob
    assert plain.startswith("cross entropy: ")
    assert rising == f"gamma rises: {found['gamma rises']:.1%} of true labels"
    assert found["gamma rises"] > found["cross entropy"] + 0.02
