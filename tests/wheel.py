"""Checks an installed wheel.

    python tests/wheel.py [cpp | torch]

The word names the code that must compute losses: the compiled kernels, or plain torch.
"""

import sys
import threading
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

import equipoise
from equipoise import linear
from equipoise.kernels import cpu, openmp
from equipoise.losses import CrossEntropy, Focal


def main() -> None:
    """Compute losses and gradients, and compare them with torch's in float64."""
    backend = sys.argv[1] if len(sys.argv) > 1 else "cpp"
    root, here = Path(__file__).resolve().parents[1], Path(str(equipoise.__file__)).resolve()
    assert root / "src" not in here.parents, f"{here} is in the source, not installed"
    torch.manual_seed(0)
    torch.set_num_threads(2)
    logits, target = 4 * torch.randn(600, 300), torch.randint(300, (600,))
    exact = logits.double().requires_grad_()
    cross_entropy(exact, target).backward()
    ours = logits.clone().requires_grad_()
    loss = CrossEntropy()(ours, target)
    loss.backward()
    assert ours.grad is not None
    assert exact.grad is not None
    assert torch.isclose(loss.double(), cross_entropy(exact, target), rtol=1e-6)
    assert torch.allclose(ours.grad.double(), exact.grad, rtol=1e-5, atol=1e-9)
    hidden, weight = torch.randn(64, 16), torch.randn(100, 16)
    explained = str(linear.explain(Focal(), hidden, weight, target[:64] % 100))
    assert f"backend   {backend}" in explained, f"losses must be computed by {backend}, got\n{explained}"
    seen: set[int] = set()
    if backend == "cpp":
        assert openmp.of_torch() is not None, "torch's OpenMP library was not found"
        start = threading.Barrier(2)

        def work(_: int) -> None:
            start.wait(60)  # two threads at once, or an error
            seen.add(threading.get_native_id())

        cpu.run_in_threads(2, work)
        assert len(seen) == 2
    print(f"equipoise {equipoise.__version__}, torch {torch.__version__}: {backend}, {len(seen)} threads")


if __name__ == "__main__":
    main()
