"""Comparisons of the linear layer with the loss on a GPU, and of fused kernels of other libraries."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from benchmarks import peers
from benchmarks.comparisons import Comparison, Outcome
from benchmarks.contenders import Contender, Products, linear
from benchmarks.cpu import GAMMA, NONE, OURS
from benchmarks.limits import Limit
from benchmarks.problems import Problem, Shape
from benchmarks.report import Section, Verdict
from equipoise.losses import CrossEntropy
from equipoise.penalties import Entropy, LogitRange, ZLoss

GIB = 2**30
FOUR_TERMS = linear(
    CrossEntropy(label_smoothing=0.1) + 0.01 * Entropy() + 1e-4 * ZLoss() + 0.1 * LogitRange(width=8.0),
    "four terms",
)
FROZEN = replace(OURS, name="ours: frozen weight", mode="frozen")
FORWARD = replace(OURS, name="ours: no gradient", mode="forward")
PRODUCTS = tuple(Products(count) for count in (1, 2, 3, 4))
ALL = (OURS, GAMMA, FOUR_TERMS, FROZEN, FORWARD, NONE)
UNCHUNKED = peers.compiled_name(peers.EAGER)
MEMORY_LIMITS = {OURS.name: 2.1, FROZEN.name: 0.6, NONE.name: 1.5, FORWARD.name: 0.4}


def comparison(shape: Shape, device: str = "cuda") -> Comparison:
    """Return the comparison in bfloat16."""
    runners = [
        *PRODUCTS,
        *ALL,
        peers.EAGER,
        peers.compiled(peers.EAGER),
        peers.compiled(peers.EAGER, chunker=True),
        peers.EAGER_GAMMA,
        peers.compiled(peers.EAGER_GAMMA),
        peers.TORCH,
        *peers.kernels(),
    ]
    return Comparison(
        "Linear and loss on a GPU",
        shape,
        torch.bfloat16,
        runners,
        PRODUCTS[2],
        _judge,
        search=lambda best: best,
        device=device,
    )


def _judge(end: Outcome) -> list[Verdict]:
    one, two, three, four = (products.name for products in PRODUCTS)
    ours = OURS.name
    found = end.compare("time over the three bare products", ours, three, 1.15)
    found += end.compare("gamma cross entropy, likewise", GAMMA.name, three, 1.15)
    found += end.compare("frozen weight over two products", FROZEN.name, two, 1.12)
    found += end.compare("reduction none over four products", NONE.name, four, 1.11)
    found += end.compare("no gradient over one product", FORWARD.name, one, 1.15)
    found += end.compare("four terms over one", FOUR_TERMS.name, ours, 1.05)
    for name, limit in (("Liger, defaults", 1.45), (peers.TORCH.name, 1.8), ("cce_exact", 2.0)):
        found += end.compare(f"{name} over ours", name, ours, limit, at_least=True)
    for name, limit in (
        ("Liger, chunk_mem_const 16", 1.05),
        ("quack, scaled exp off", 1.08),
        ("quack, scaled exp on", 1.20),
        ("cce", 1.0),
        (UNCHUNKED, 1.05),
    ):
        found += end.compare(f"ours over {name}", ours, name, limit)
    found += [end.precision(name, 1.1) for name in (ours, GAMMA.name)]
    return found


def memory(shape: Shape) -> Section:
    """Measure the peak memory of each contender, including its gradients."""
    problem = Problem.make(shape, torch.bfloat16, "cuda")
    everyone = (*ALL, peers.EAGER, peers.compiled(peers.EAGER), peers.TORCH, *peers.kernels())
    contenders = [one for one in everyone if isinstance(one, Contender)]
    sizes = {one.name: _peak(one, problem) / GIB for one in contenders}
    verdicts = [
        Verdict(f"{name}: GiB at most (5 % allowed)", sizes[name], Limit(1.05 * limit))
        for name, limit in MEMORY_LIMITS.items()
    ]
    share = sizes[OURS.name] / sizes[UNCHUNKED]
    verdicts.append(Verdict(f"ours over {UNCHUNKED}", share, Limit(0.25)))
    lines: Sequence[tuple[str, ...]] = [(name, f"{size:.2f}") for name, size in sizes.items()]
    title = f"Memory with the gradients, {shape}, bfloat16"
    return Section(title, ("", "GiB"), list(lines), verdicts, dict(sizes))


def _peak(contender: Contender, problem: Problem) -> int:
    contender.step(problem)  # compiles the kernels and selects their configuration
    problem.forget()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    contender.step(problem)
    peak = torch.cuda.max_memory_allocated() - before
    problem.forget()
    return peak
