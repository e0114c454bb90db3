"""What a wrong name was meant to be."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
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


def suggest_names(package: ModuleType) -> None:
    """Make a package and its public modules say what was meant by a name that they lack.

    A `__getattr__` in the code of a module would do the same, but type checkers would then take any name.
    """
    root = package.__name__
    modules = {root: package}
    for name in package.__all__:
        if isinstance(vars(package)[name], ModuleType):
            modules[f"{root}.{name}"] = vars(package)[name]
    public: dict[str, list[str]] = {path: module.__all__ for path, module in modules.items()}
    everything = {each: f"{path}.{each}" for path in reversed(public) for each in public[path]}

    def refuser(path: str) -> Callable[[str], Any]:
        def refuse(name: str) -> Any:
            said = f"module {path!r} has no attribute {name!r}"
            if name.startswith("_"):
                raise AttributeError(said)
            if path == root and find_spec(f"{path}.{name}"):
                raise AttributeError(f"{said}; import {path}.{name} first")
            same = {each: there for each, there in everything.items() if each.lower() == name.lower()}
            raise AttributeError(
                f"{said}; {nearest(name, public[path], everything if path == root else same)}"
            )

        return refuse

    for path, module in modules.items():
        module.__getattr__ = refuser(path)


__all__ = ["nearest", "suggest_names"]
