"""Comparison of objectives with a well-tuned cross entropy, on your data and model.

`compare` trains and evaluates; `paired` evaluates runs of other programs; `read` reads data from a file. They
need the libraries of the extra `compare`, which are imported when a function is called.
"""

from typing import TYPE_CHECKING, Any

from equipoise.compare.comparison import Comparison, compare

if TYPE_CHECKING:
    from equipoise.compare.files import read
    from equipoise.compare.runs import Paired, paired

__all__ = ["Comparison", "Paired", "compare", "paired", "read"]

_LAZY = {"Paired": "runs", "paired": "runs", "read": "files"}


def __getattr__(name: str) -> Any:
    """Import a function that needs the extra, on first use."""
    from importlib import import_module

    if name not in _LAZY:
        raise AttributeError(
            f"module 'equipoise.compare' has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    return getattr(import_module(f"equipoise.compare.{_LAZY[name]}"), name)
