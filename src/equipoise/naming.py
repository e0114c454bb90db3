"""Suggestions for unknown names in errors."""

import sys
from collections.abc import Iterable, Mapping
from functools import partial
from types import MappingProxyType, ModuleType
from typing import NoReturn

MOST_NAMES = 40  # listed in an error
_NONE: Mapping[str, str] = MappingProxyType({})
ALIASES: Mapping[str, str] = MappingProxyType(  # keys in lower case without underscores
    {
        "boundedlogits": "ClippedLogits",
        "categorical": "MapCategorical",
        "confidencepenalty": "Entropy",
        "constant": "Linear",
        "costmatrix": "ClassMatrix",
        "crossentropyloss": "CrossEntropy",
        "decisions": "costs",
        "earthmoversdistance": "RankedProbabilityScore",
        "emd": "RankedProbabilityScore",
        "expectedrisk": "conditional_risk",
        "floorfromgamma": "convert",
        "floorfromnoise": "convert",
        "focalloss": "Focal",
        "gamma": "label_noise",
        "gammace": "GammaCrossEntropy",
        "gammafromfloor": "convert",
        "gammafromnoise": "convert",
        "gce": "GeneralizedCrossEntropy",
        "labelsmoothing": "CrossEntropy",
        "logreadout": "floored_log_probs",
        "matrix": "ClassMatrix",
        "nested": "index_tree",
        "noisefromfloor": "convert",
        "noisefromgamma": "convert",
        "normalized": "LogitNorm",
        "polyloss": "Poly",
        "readout": "floored_probs",
        "rps": "RankedProbabilityScore",
        "sce": "SymmetricCrossEntropy",
        "sharpened": "Softmax",
        "squaredcdf": "RankedProbabilityScore",
        "tailr": "GammaCrossEntropy",
        "targets": "costs",
    }
)


def nearest(name: str, known: Iterable[str], elsewhere: Mapping[str, str] = _NONE) -> str:
    """Return the last part of an error about an unknown name: the nearest known name, or the first forty.

    Args:
        name: The unknown name.
        known: The known names.
        elsewhere: Further names and how to write them; suggested, but not listed.

    Example:
        >>> nearest("gama", ["gamma", "min_weight"])
        'did you mean gamma?'
    """
    import difflib

    listed = [each if each.isprintable() else repr(each) for each in known]
    meant = ALIASES.get(name.lower().replace("_", ""), name)
    name = meant if meant in listed or meant in elsewhere else name
    shown = {each.lower(): path for each, path in elsewhere.items()} | {each.lower(): each for each in listed}
    close = difflib.get_close_matches(name.lower(), shown, n=1, cutoff=0.5)
    more = f" and {len(listed) - MOST_NAMES} more" if len(listed) > MOST_NAMES else ""
    some = f"choose from {', '.join(listed[:MOST_NAMES])}{more}" if listed else "there are none"
    return f"did you mean {shown[close[0]]}?" if close else some


def answer_names(path: str) -> None:
    """Make a public module suggest the nearest name in its AttributeError; called at the end of the module.

    With a `__getattr__` in the module's code, type checkers would accept any name.

    Args:
        path: Dotted path of the module.
    """
    sys.modules[path].__getattr__ = partial(refuse, path)


def refuse(path: str, name: str) -> NoReturn:
    """Raise AttributeError for an unknown name of the package or a module, with the nearest known name."""
    from importlib.util import find_spec

    said = f"module {path!r} has no attribute {name!r}"
    root = path.partition(".")[0]
    package = sys.modules[root]
    if name.startswith("_"):
        raise AttributeError(said)
    if path == root and find_spec(f"{root}.{name}"):
        raise AttributeError(f"{said}; import {root}.{name} first")
    elsewhere: dict[str, str] = {}
    meant = ALIASES.get(name.lower().replace("_", ""), name)
    for module in [getattr(package, each) for each in package.__all__]:
        for each in module.__all__ if isinstance(module, ModuleType) else ():
            if path == root or each.lower() == meant.lower():
                elsewhere.setdefault(each, f"{module.__name__}.{each}")
    raise AttributeError(f"{said}; {nearest(name, sys.modules[path].__all__, elsewhere)}")


__all__ = ["answer_names", "nearest", "refuse"]
