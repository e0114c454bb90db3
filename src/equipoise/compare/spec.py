"""Text to objective: the Python that makes a loss, read with `ast` and the tables, never evaluated."""

import ast
import dataclasses
import difflib
import operator
import reprlib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from numpy.typing import NDArray

from equipoise.losses import LOSSES, WEIGHTS
from equipoise.penalties import PENALTIES

__all__ = ["MATRICES", "nearest", "normalise", "paste", "parse"]

MATRICES = ("costs", "similarity")
_NO_MATRICES: Mapping[str, NDArray[Any]] = MappingProxyType({})
_PENALTIES: dict[str, Callable[..., Any]] = {entry.name: entry.make for entry in PENALTIES}
_LOSSES: dict[str, Callable[..., Any]] = {entry.name: entry.make for entry in LOSSES}
_WEIGHTS: dict[str, Callable[..., Any]] = {weight.__name__: weight for weight in WEIGHTS}
_QUOTE = reprlib.Repr()
_QUOTE.maxstring = 90
_TABLE = _LOSSES | _PENALTIES | _WEIGHTS
_OPERATORS: dict[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", lambda left, right: left + (-1 * right)),
    ast.Mult: ("*", operator.mul),
}


def parse(text: str, matrices: Mapping[str, NDArray[Any]] = _NO_MATRICES) -> Any:
    """Make the objective that a text spells, without evaluating the text.

    Args:
        text: Such as ``GammaCrossEntropy(gamma=0.1) + 0.5 * LogitRange(width=8)``: names from the tables,
            options, numbers, lists, ``+``, ``-`` and ``*``.
        matrices: What the bare names ``costs`` and ``similarity`` stand for, (C, C) each.

    Returns:
        The loss.

    Raises:
        ValueError: If the text is anything else; the message names the nearest right name or option.

    Example:
        >>> parse("GammaCrossEntropy(gamma=0.5)").gamma
        0.5
    """
    value = _value(_tree(text), matrices)
    if not _is_loss(value):
        raise ValueError(f"objective must be a loss, got {_short(text)}; write for example CrossEntropy()")
    return value


def normalise(text: str) -> str:
    """The same text with one spelling of blanks and brackets.

    Example:
        >>> normalise("CrossEntropy( )+.1*Entropy()")
        'CrossEntropy() + 0.1 * Entropy()'
    """
    return ast.unparse(_tree(text))


def paste(text: str, matrix_file: Callable[[str], str]) -> str:
    """Code to paste that makes the objective and uses it.

    Args:
        text: The objective.
        matrix_file: Where the matrix of a name is kept.
    """
    names = [node.id for node in ast.walk(_tree(text)) if isinstance(node, ast.Name)]
    used = [name for name in MATRICES if name in names]
    lines = ["import numpy as np", "import torch", ""] if used else []
    for module, table in (("losses", _LOSSES | _WEIGHTS), ("penalties", _PENALTIES)):
        imported = sorted({name for name in names if name in table})
        if imported:
            lines.append(f"from equipoise.{module} import {', '.join(imported)}")
    lines += ["", *(f"{name} = torch.from_numpy(np.load({matrix_file(name)!r}))" for name in used)]
    return "\n".join([*lines, f"loss = {normalise(text)}", "loss(logits, target)"])


def nearest(name: str, known: Iterable[str]) -> str:
    """The way out for a name that is not known: the nearest one, or all of them."""
    names = list(known)
    lowered = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    return f"did you mean {lowered[close[0]]}?" if close else f"there is {', '.join(names) or 'none'}"


def _tree(text: str) -> ast.expr:
    """The text's expression tree."""
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__
        raise ValueError(
            f"objective must be Python such as GammaCrossEntropy(gamma=0.5), got {_short(text)}; {reason}"
        ) from None


def _value(node: ast.expr, matrices: Mapping[str, NDArray[Any]]) -> Any:
    """The number, list, matrix, weight or loss that a node stands for."""
    match node:
        case ast.Constant(value=bool() | int() | float() | None as value):
            return value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item, matrices) for item in items]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -1 * _scalable(_value(operand, matrices), operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _scalable(_value(operand, matrices), operand)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
            return _combine(node, _value(left, matrices), _value(right, matrices))
        case ast.Call(func=ast.Name(id=name)):
            return _make(name, node, matrices)
        case ast.Name(id=name):
            return _named(name, matrices)
        case _:
            raise ValueError(
                f"objective must use only names, options, numbers, lists, +, - and *, got {_short(node)}; "
                "write for example CrossEntropy() + 0.1 * Entropy()"
            )


def _named(name: str, matrices: Mapping[str, NDArray[Any]]) -> torch.Tensor:
    """The matrix that a bare name stands for."""
    if name in matrices:
        return torch.as_tensor(matrices[name])
    if name in MATRICES:
        raise ValueError(
            f"objective must have the matrix it names, got {name!r} without it; add --{name} FILE"
        )
    if name in _TABLE:
        raise ValueError(f"objective must call what it names, got {name!r}; write {name}()")
    raise ValueError(f"objective must use a known name, got {name!r}; {nearest(name, (*_TABLE, *MATRICES))}")


def _make(name: str, call: ast.Call, matrices: Mapping[str, NDArray[Any]]) -> Any:
    """The loss, penalty or weight that a call makes."""
    if name not in _TABLE:
        raise ValueError(f"objective must use a known name, got {name!r}; {nearest(name, _TABLE)}")
    options = [field.name for field in dataclasses.fields(_TABLE[name]) if field.init]  # pyright: ignore[reportArgumentType]
    if len(call.args) > len(options):
        raise ValueError(
            f"{name} must have at most {len(options)} options, got {len(call.args)}; {_listed(options)}"
        )
    for keyword in call.keywords:
        if keyword.arg not in options:
            given = keyword.arg or "**"
            raise ValueError(
                f"{name} must be given an option it has, got {given!r}; {nearest(given, options)}"
            )
    positional = [_value(argument, matrices) for argument in call.args]
    named = {str(keyword.arg): _value(keyword.value, matrices) for keyword in call.keywords}
    try:
        return _TABLE[name](*positional, **named)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {str(error).splitlines()[0]}") from error


def _listed(options: list[str]) -> str:
    return f"it has {', '.join(options)}" if options else "it has none"


def _combine(node: ast.BinOp, left: Any, right: Any) -> Any:
    """Two numbers, two losses, or a number times a loss."""
    sign, apply = _OPERATORS[type(node.op)]
    _scalable(left, node.left)
    _scalable(right, node.right)
    losses = _is_loss(left) + _is_loss(right)
    if losses == (1 if sign != "*" else 2):
        raise ValueError(
            f"objective must add losses to losses and multiply them by numbers, got {_short(node)}; "
            "write for example CrossEntropy() + 0.1 * Entropy()"
        )
    return apply(left, right)


def _scalable(value: Any, node: ast.expr) -> Any:
    """The value, if it is a number or a loss."""
    if _is_loss(value) or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise ValueError(
        f"objective must combine losses and numbers, got {_short(node)} beside a sign; "
        "write for example 0.1 * Entropy()"
    )


def _is_loss(value: Any) -> bool:
    return callable(value) and not isinstance(value, WEIGHTS)


def _short(shown: str | ast.expr) -> str:
    """What was given, quoted and cut to a length that fits a line."""
    return _QUOTE.repr(shown if isinstance(shown, str) else ast.unparse(shown))
