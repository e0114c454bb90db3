"""Several processes under gloo, each of which runs the cases of `ranks.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import equipoise
from equipoise.losses import LOSSES, GammaCrossEntropy, RowLoss
from equipoise.penalties import PENALTIES
from support.definitions import settings_of

pytestmark = pytest.mark.slow

SOURCE = Path(str(equipoise.__file__)).parents[1]


def run(ranks: int, folder: Path) -> dict[str, str | None]:
    """Return what went wrong with each case on some rank, or None."""
    paths = [str(SOURCE), str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
    }
    script = str(Path(__file__).with_name("ranks.py"))
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", script, str(rank), str(ranks), str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        said = [process.communicate(timeout=120)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * ranks, said
    found: dict[str, str | None] = {}
    for rank in range(ranks):
        for name, wrong in json.loads((folder / f"{rank}.json").read_text()).items():
            found[name] = found.get(name) or wrong
    return found


@pytest.mark.parametrize("ranks", [2, 4])
def test_all_cases_on_all_ranks(ranks: int, tmp_path: Path) -> None:
    """All cases hold on all ranks, for every loss and penalty."""
    found = run(ranks, tmp_path)
    for entry in LOSSES + PENALTIES:
        cases = {name.partition(",")[0] for name in found if f": {entry.name}(" in name}
        assert cases == ({"dense", "fused"} if isinstance(settings_of(entry)[0], RowLoss) else {"dense"}), (
            entry.name
        )
    assert "planted" in str(found.pop("planted"))  # a case that fails is found
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_importing_equipoise_imports_no_dtensor() -> None:
    """Importing and using equipoise does not import DTensor."""
    program = (
        "import sys, torch, equipoise\n"
        "equipoise.losses.CrossEntropy()(torch.zeros(2, 3), torch.zeros(2).long())\n"
        "print(*({'torch.distributed.tensor', 'torch._dynamo'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_ordinary_logits_compile_in_one_graph_beside_a_dtensor() -> None:
    """Ordinary logits compile in one graph after DTensor is imported."""
    import torch.distributed.tensor

    loss = torch.compile(GammaCrossEntropy(0.1), backend="aot_eager", fullgraph=True)
    logits, target = torch.randn(4, 5), torch.arange(4)
    torch.testing.assert_close(loss(logits, target), GammaCrossEntropy(0.1)(logits, target))
