"""Compare objectives with plain cross entropy done well, on one's own data and model.

`compare` trains and judges; `paired` judges runs made elsewhere; `read` makes data of a file. The libraries
that they need are the extra `compare`; they are imported when a function is called.
"""

from typing import TYPE_CHECKING, Any

from equipoise.compare.comparison import Comparison, compare

if TYPE_CHECKING:
    from equipoise.compare.files import read
    from equipoise.compare.runs import Paired, paired

__all__ = ["Comparison", "Paired", "compare", "paired", "read"]

_LAZY = {"Paired": "runs", "paired": "runs", "read": "files"}


def __getattr__(name: str) -> Any:
    """Import what needs the extra when it is first used."""
    from importlib import import_module

    if name not in _LAZY:
        raise AttributeError(
            f"module 'equipoise.compare' has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    return getattr(import_module(f"equipoise.compare.{_LAZY[name]}"), name)
