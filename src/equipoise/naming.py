"""What a wrong name was meant to be."""

import difflib
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from inspect import ismodule
from types import MappingProxyType, ModuleType
from typing import Any

_NONE: Mapping[str, str] = MappingProxyType({})


def nearest(name: str, known: Iterable[str], elsewhere: Mapping[str, str] = _NONE) -> str:
    """Return the way out for a name that is not known: the nearest one, or all of them.

    Args:
        name: The name.
        known: The names there are.
        elsewhere: Further names that may be meant, and what to call them; they are not listed.

    Example:
        >>> nearest("gama", ["gamma", "min_weight"])
        'did you mean gamma?'
    """
    listed = list(known)
    shown = {each.lower(): path for each, path in elsewhere.items()} | {each.lower(): each for each in listed}
    close = difflib.get_close_matches(name.lower(), shown, n=1, cutoff=0.5)
    return f"did you mean {shown[close[0]]}?" if close else f"there is {', '.join(listed) or 'none'}"


def look_up(package: ModuleType, path: str, name: str) -> Any:
    """Return a public module that is imported when it is asked for, or say what was meant by a wrong name.

    Args:
        package: The package.
        path: Of the module that lacks the name: the package itself, or one of its public modules.
        name: The name.
    """
    root, said = package.__name__, f"module {path!r} has no attribute {name!r}"
    if path == root and name in package.__all__:
        return _answering(package, f"{root}.{name}")
    if name.startswith("_"):
        raise AttributeError(said)
    if path == root and find_spec(f"{root}.{name}"):
        raise AttributeError(f"{said}; import {root}.{name} first")
    known, elsewhere = list(vars(sys.modules[path])["__all__"]), {}
    for module in filter(ismodule, (getattr(package, each) for each in package.__all__)):
        for each in module.__all__:
            if path == root or each.lower() == name.lower():
                elsewhere.setdefault(each, f"{module.__name__}.{each}")
    raise AttributeError(f"{said}; {nearest(name, known, elsewhere)}")


def answer_names(package: ModuleType) -> None:
    """Let `look_up` answer for the names that a package and its public modules lack.

    A `__getattr__` in the code of a module would do the same, but type checkers would then take any name.
    """
    for name in package.__all__:
        if ismodule(vars(package).get(name)):
            _answering(package, f"{package.__name__}.{name}")
    _answering(package, package.__name__)


def _answering(package: ModuleType, path: str) -> ModuleType:
    module = import_module(path)
    module.__getattr__ = partial(look_up, package, path)
    return module


__all__ = ["answer_names", "look_up", "nearest"]
