"""What each rank runs: one process of several, started by the tests beside it.

    python ranks.py RANK RANKS FOLDER

A case is a function of this rank. A case that fails says so in FOLDER/RANK.json, and the others go on.
"""

import json
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import cases
import frameworks
import options
import torch
import torch.distributed as dist
import traffic
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

Case = Callable[[], None]


def run(cases: dict[str, Case]) -> dict[str, str | None]:
    """Return what went wrong with each case, or None."""
    found: dict[str, str | None] = {}
    for name, case in cases.items():
        torch.manual_seed(0)
        try:
            case()
            found[name] = None
        except Exception:
            found[name] = traceback.format_exc()
    return found


def planted() -> None:
    raise AssertionError("planted")


def cases_of(ranks: int) -> dict[str, Case]:
    """Return the cases for so many ranks."""
    mesh = init_device_mesh("cpu", (ranks,))
    made: dict[str, Case] = {"planted": planted}
    if ranks == 2:
        made |= cases.of_any_size(mesh, 11, 1) | cases.of_one_size(mesh)
        return made | options.of(mesh) | traffic.of(mesh) | frameworks.of(mesh)
    grid = init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "classes"))
    made |= cases.of_any_size(mesh, 13, 3) | options.on_a_grid(grid) | frameworks.on_a_grid(grid)
    uneven = DeviceMesh("cpu", [0, 1, 2])  # eight classes do not divide by three
    return made | (cases.of_one_size(uneven) if dist.get_rank() < 3 else {})


def main() -> None:
    rank, ranks, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meet'}",
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=60),
    )
    (folder / f"{rank}.json").write_text(json.dumps(run(cases_of(ranks))))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
