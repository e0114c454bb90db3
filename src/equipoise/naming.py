"""What a wrong name was meant to be."""

import difflib
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from inspect import ismodule
from types import MappingProxyType
from typing import Any

MOST_NAMES = 40  # in a list of what there is
_NONE: Mapping[str, str] = MappingProxyType({})


def nearest(name: str, known: Iterable[str], elsewhere: Mapping[str, str] = _NONE) -> str:
    """Return the way out for a name that is not known: the nearest one, or the first forty.

    Args:
        name: The name.
        known: The names there are.
        elsewhere: Further names that may be meant, and what to call them; they are not listed.

    Example:
        >>> nearest("gama", ["gamma", "min_weight"])
        'did you mean gamma?'
    """
    listed = [each if each.isprintable() else repr(each) for each in known]
    shown = {each.lower(): path for each, path in elsewhere.items()} | {each.lower(): each for each in listed}
    close = difflib.get_close_matches(name.lower(), shown, n=1, cutoff=0.5)
    more = f" and {len(listed) - MOST_NAMES} more" if len(listed) > MOST_NAMES else ""
    some = f"there is {', '.join(listed[:MOST_NAMES]) or 'none'}{more}"
    return f"did you mean {shown[close[0]]}?" if close else some


def answer_names(path: str) -> None:
    """Let a public module say what was meant by a name that it lacks.

    A `__getattr__` in the code of a module would do the same, but type checkers would then take any name.

    Args:
        path: Of the module; the package also imports its public modules when they are asked for.
    """
    sys.modules[path].__getattr__ = partial(_look_up, path)


def _look_up(path: str, name: str) -> Any:
    said = f"module {path!r} has no attribute {name!r}"
    root = path.partition(".")[0]
    package = sys.modules[root]
    if path == root and name in package.__all__:
        return import_module(f"{root}.{name}")
    if name.startswith("_"):
        raise AttributeError(said)
    if path == root and find_spec(f"{root}.{name}"):
        raise AttributeError(f"{said}; import {root}.{name} first")
    elsewhere: dict[str, str] = {}
    for module in filter(ismodule, (getattr(package, each) for each in package.__all__)):
        for each in module.__all__:
            if path == root or each.lower() == name.lower():
                elsewhere.setdefault(each, f"{module.__name__}.{each}")
    raise AttributeError(f"{said}; {nearest(name, sys.modules[path].__all__, elsewhere)}")


__all__ = ["answer_names", "nearest"]
