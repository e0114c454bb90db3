"""Studies: the arguments of a comparison as TOML, written next to its report, and read by the command."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipoise.compare.settings import Settings
from equipoise.naming import nearest

if TYPE_CHECKING:
    from equipoise.compare.objectives import Candidate
    from equipoise.compare.plan import Plan

__all__ = ["dumps", "load"]

_WORDS = {str: "text", int: "an integer", float: "a number", dict: "a table", list: "a list"}
_MATRIX = (str, list)
# Types of values that are not given by the defaults of settings.
_KINDS = {each.name: (type(each.default),) for each in fields(Settings)} | {
    "model_name": (str,),
    "class_weight": (str,),
    "worthwhile": (dict,),
    "objectives": (list, dict),
    "noise": (float, *_MATRIX),
    "costs": _MATRIX,
    "similarity": _MATRIX,
    "out": (str,),
    "data": (dict,),
}


def dumps(plan: "Plan") -> str:
    """Return the study of a comparison; its comments name options that must be added to it."""
    import tomli_w

    path = Path("study.toml") if plan.out is None else plan.out / "study.toml"
    notes = [f"A study of equipoise. To run it again: equipoise compare {str(path)!a}"]
    settings = {field.name: getattr(plan.settings, field.name) for field in fields(Settings)}
    if plan.settings.own_model:
        settings |= {"model": None, "model_name": plan.settings.title}
        notes.append("The model is a function: add --model module:function.")
    source = plan.conditions.dataset.source
    if source is None:
        notes.append("The data came from Python: add --data module:function, which returns them.")
    else:
        given = {name: value for name, value in source.items() if value is not None}
        source = {name: list(value) if name == "drop" else str(value) for name, value in given.items()}
    texts = {candidate.name: _text(candidate, plan) for candidate in plan.candidates[1:]}
    notes += [
        f"This can be compared in Python only: {name!a}" for name, text in texts.items() if text is None
    ]
    texts = {name: text or name for name, text in texts.items()}
    lines = [f"# {note}" for note in notes]
    study: dict[str, Any] = {"objectives": list(texts) if list(texts) == list(texts.values()) else texts}
    for name, given in plan.given.items():
        if isinstance(given, str | Path | int | float):
            study[name] = str(given) if isinstance(given, Path) else given
        else:  # tomli_w would write a line per number
            matrix = plan.conditions.noise if name == "noise" else plan.matrices[name]
            lines.append(f"{name} = {json.dumps(matrix.tolist())}")
    study |= {"out": None if plan.out is None else str(plan.out)} | settings
    study |= {"worthwhile": dict(plan.settings.worthwhile), "data": source}
    written = tomli_w.dumps({name: value for name, value in study.items() if value is not None})
    return "\n".join([*lines, written]).encode("utf-8", "backslashreplace").decode()  # paths may be bytes


def load(path: str) -> dict[str, Any]:
    """Return the arguments of `compare` in a study; "data" has those of `read`, or None for Python data.

    Raises:
        ValueError: If the file is not TOML, or has an unknown key or a value of a wrong type.
        OSError: If the file cannot be read.
    """
    from equipoise.compare.files import read

    try:
        study = tomllib.loads(Path(path).read_bytes().decode())
    except FileNotFoundError:
        raise ValueError(f"data must be a file, got {path!r}, which is not there; check the path") from None
    except (ValueError, RecursionError) as error:  # ValueError also of integers too long for Python
        raise ValueError(f"data must be a study in TOML, got {path!r}: {error}; correct the file") from None
    _require(study, _KINDS, path)
    names = list(signature(read).parameters)[1:]
    _require(study.get("data", {}), dict.fromkeys(["data", *names], (str,)) | {"drop": (list,)}, path)
    return {"data": None} | study


def _text(candidate: "Candidate", plan: "Plan") -> str | None:
    """Return a text from which the candidate can be read: its name or its loss as text; or None."""
    from equipoise.compare.objectives import read_objective

    for text in (candidate.name, candidate.text):
        try:
            if read_objective(text, plan.matrices).same(candidate):
                return text
        except (TypeError, ValueError):
            continue
    return None


def _require(table: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]], path: str) -> None:
    """Raise if a key is unknown or a value has a wrong type."""
    for key, value in table.items():
        if key not in kinds:
            raise ValueError(f"{path} must have the keys of a study, got {key!r}; {nearest(key, kinds)}")
        allowed = (*kinds[key], int) if float in kinds[key] else kinds[key]
        if isinstance(value, bool) or not isinstance(value, allowed):
            words = " or ".join(_WORDS[kind] for kind in kinds[key])
            raise ValueError(f"{key} must be {words}, got {value!r} in {path}; correct the value there")
