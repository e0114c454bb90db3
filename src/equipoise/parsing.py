"""Conversion of losses and schedules from and to Python expressions, parsed with `ast`, never evaluated."""

import ast
import operator
import reprlib
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from inspect import signature
from types import MappingProxyType
from typing import Any, final

import numpy as np
import torch

from equipoise.costs import ClassMatrix
from equipoise.losses import LOSSES, WEIGHTS, Loss
from equipoise.naming import nearest as nearest
from equipoise.penalties import PENALTIES
from equipoise.schedules import SCHEDULES, Schedule

_NO_NAMES: Mapping[str, Any] = MappingProxyType({})
_QUOTE = reprlib.Repr()
_QUOTE.maxstring = 90
_REASON = 300  # characters kept of an error that another error quotes
_DEEPEST = 100  # nested operations of a text, below Python's recursion limit
_EXACT = 2**53  # above this, not every integer is a float
_WRONG = {  # whether left and right are losses
    "+": ((True, False), (False, True)),
    "-": ((True, False), (False, True)),
    "*": ((True, True),),
    "/": ((True, True), (False, True)),
}
_OPERATORS: dict[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", lambda left, right: left + (-1 * right)),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
}


def from_text(
    text: str,
    names: Mapping[str, Any] = _NO_NAMES,
    *,
    name: str = "objective",
    makers: Mapping[str, Callable[..., Any]] = _NO_NAMES,
) -> Loss:
    """Return the loss of a Python expression, without evaluating the text.

    Args:
        text: Such as ``GammaCrossEntropy(gamma=0.1) + 0.5 * LogitRange(width=8)``: names from the tables,
            options, numbers, lists, ``+``, ``-``, ``*`` and ``/``.
        names: Values of names that are not called, such as a matrix of costs.
        name: Name of the text in errors.
        makers: Functions that a text may call, besides those of the tables.

    Raises:
        ValueError: If the text has anything else; the message names the nearest known name or option.

    Example:
        >>> from_text("GammaCrossEntropy(gamma=0.5)").gamma
        0.5
    """
    kind = replace(_LOSS, table={**_LOSS.table, **makers}) if makers else _LOSS
    return _Reader(name, kind, names).read(text)


def schedule_from_text(text: str, *, name: str = "schedule") -> Schedule:
    """Return the schedule of a Python expression, without evaluating the text.

    Args:
        text: Such as ``Linear(0.0, 0.5, steps=1000)``.
        name: Name of the text in errors.

    Raises:
        ValueError: If the text has anything else; the message names the nearest known name or option.

    Example:
        >>> schedule_from_text("Linear(0, 1, steps=4)")(1)
        0.25
    """
    return _Reader(name, _SCHEDULE, _NO_NAMES).read(text)


def to_text(made: Loss | Schedule, *, name: str = "objective") -> str:
    """Return the expression from which `from_text` or `schedule_from_text` makes an equal loss or schedule.

    Args:
        made: A loss or a schedule.
        name: Name of the loss or schedule in errors.

    Raises:
        ValueError: If it contains a class or function that is not in the tables.

    Example:
        >>> from equipoise.losses import Focal
        >>> to_text(0.5 * Focal())
        '0.5 * Focal(gamma=2.0)'
    """
    with np.printoptions(legacy="1.25"):  # numpy's numbers print as Python's
        text = repr(made)
    try:
        again = from_text(text).terms() if isinstance(made, Loss) else schedule_from_text(text)
        same = again == (made.terms() if isinstance(made, Loss) else made)  # 1 * Focal() prints as Focal()
    except ValueError:
        same = False
    if not same:
        raise ValueError(
            f"{name} must consist of classes in the tables to have a text, got {short(text)}; keep the "
            "Python code"
        )
    return text


def normalize(text: str) -> str:
    """Return the expression in normal form: with Python's usual blanks, and without needless brackets.

    Raises:
        ValueError: If the text is not an expression.

    Example:
        >>> normalize("CrossEntropy( )+.1*Entropy()")
        'CrossEntropy() + 0.1 * Entropy()'
    """
    return ast.unparse(_tree(text, "objective", _LOSS.example))


def names(text: str) -> list[str]:
    """Return all names in an expression, of losses and of other values.

    Raises:
        ValueError: If the text is not an expression.

    Example:
        >>> names("ExpectedCost(costs)")
        ['ExpectedCost', 'costs']
    """
    tree = _tree(text, "objective", _LOSS.example)
    return [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]


@dataclass(frozen=True)
class _Kind:
    """Grammar of a text: class of the result, table of names, operands of signs, an example for errors."""

    made: type
    words: str
    table: Mapping[str, Callable[..., Any]]
    beside: str
    example: str


_LOSS = _Kind(
    Loss,
    "a loss",
    {entry.name: entry.make for entry in (*LOSSES, *PENALTIES)}
    | {made.__name__: made for made in (*WEIGHTS, ClassMatrix)},
    "losses and numbers",
    "CrossEntropy() + 0.1 * Entropy()",
)
_SCHEDULE = _Kind(
    Schedule,
    "a schedule",
    {made.__name__: made for made in SCHEDULES},
    "numbers alone",
    "Linear(0.0, 0.5, steps=1000)",
)


@final
@dataclass(frozen=True)
class _Reader:
    """Parser of a text, which is called `name` in errors."""

    name: str
    kind: _Kind
    names: Mapping[str, Any]

    def read(self, text: str) -> Any:
        """Return the loss or schedule of the text."""
        value = self._value(_tree(text, self.name, self.kind.example))
        if not isinstance(value, self.kind.made):
            raise ValueError(
                f"{self.name} must be {self.kind.words}, got {short(text)}; "
                f"write for example {self.kind.example}"
            )
        return value

    def _value(self, node: ast.expr) -> Any:
        """Return the value of a node: a number, list, named value, weight, loss or schedule."""
        match node:
            case ast.Constant(value=int() | float() | str() | None as value) if not isinstance(value, bool):
                return _as_float(value)
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return [self._value(item) for item in items]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -1 * self._beside(self._value(operand), operand)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self._beside(self._value(operand), operand)
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
                return self._combined(node, self._value(left), self._value(right))
            case ast.Call(func=ast.Name(id=made)):
                return self._made(made, node)
            case ast.Name(id=given):
                return self._named(given)
            case _:
                raise ValueError(
                    f"{self.name} must use only names, options, numbers, texts, lists, +, -, * and /, "
                    f"got {short(node)}; write for example {self.kind.example}"
                )

    def _named(self, given: str) -> Any:
        """Return the value of a name that is not called."""
        if given in self.names:
            return torch.tensor(np.array(self.names[given]))
        if given in self.kind.table:
            raise ValueError(f"{self.name} must call the classes in it, got {given!r}; write {given}()")
        meant = bool(self.names) or given[0].isupper()
        way = (
            nearest(given, (*self.kind.table, *self.names))
            if meant
            else "write numbers out, [[0, 1], [1, 0]]"
        )
        raise ValueError(f"{self.name} must use a known name, got {short(given)}; {way}")

    def _made(self, made: str, call: ast.Call) -> Any:
        """Return the result of a call."""
        table = self.kind.table
        if made not in table:
            raise ValueError(f"{self.name} must use a known name, got {short(made)}; {nearest(made, table)}")
        call_as = signature(table[made])
        options = list(call_as.parameters)
        if len(call.args) > len(options):
            listed = f"it has {', '.join(options)}" if options else "it has none"
            raise ValueError(
                f"{made} must have at most {len(options)} options, got {len(call.args)}; {listed}"
            )
        for keyword in call.keywords:
            if keyword.arg not in options:
                given = keyword.arg or "**"
                raise ValueError(
                    f"{made} must have only its own options, got {short(given)}; {nearest(given, options)}"
                )
        given = [*options[: len(call.args)], *(str(keyword.arg) for keyword in call.keywords)]
        repeated = next((option for option in options if given.count(option) > 1), None)
        if repeated is not None:
            raise ValueError(
                f"{made} must be given each option once, got {repeated!r} {given.count(repeated)} times; "
                "keep one of them"
            )
        positional = [self._value(argument) for argument in call.args]
        named = {str(keyword.arg): self._value(keyword.value) for keyword in call.keywords}
        try:
            bound = call_as.bind(*positional, **named)
            return table[made](*bound.args, **bound.kwargs)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{made}: {_reason(error)}") from error

    def _combined(self, node: ast.BinOp, left: Any, right: Any) -> Any:
        """Return the result of an operation on two numbers, two losses, or a number and a loss."""
        sign, apply = _OPERATORS[type(node.op)]
        self._beside(left, node.left)
        self._beside(right, node.right)
        losses = isinstance(left, Loss), isinstance(right, Loss)
        if losses in _WRONG[sign]:
            raise ValueError(
                f"{self.name} must add losses to losses and multiply them by numbers, got {short(node)}; "
                f"write for example {self.kind.example}"
            )
        try:
            value = _as_float(apply(left, right))
        except (ArithmeticError, ValueError) as error:
            raise ValueError(
                f"{self.name} must have finite numbers, got {short(node)}; {_reason(error)}"
            ) from error
        if isinstance(value, float) and not abs(value) < float("inf"):
            raise ValueError(f"{self.name} must have finite numbers, got {short(node)}; it is {value}")
        return value

    def _beside(self, value: Any, node: ast.expr) -> Any:
        """Return the value of an operand; raise unless it is a number or a loss."""
        if isinstance(value, Loss) or (isinstance(value, int | float) and not isinstance(value, bool)):
            return value
        raise ValueError(
            f"{self.name} must combine {self.kind.beside}, got {short(node)} beside a sign; "
            f"write for example {self.kind.example}"
        )


def _tree(text: str, name: str, example: str) -> ast.expr:
    """Return the expression tree of a text; raise if it is too deep or has too large numbers."""
    try:
        with warnings.catch_warnings(action="ignore"):  # SyntaxWarning; errors are raised below
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else _reason(error)
        raise ValueError(f"{name} must be Python such as {example}, got {short(text)}; {reason}") from None
    level, depth = [tree], 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise ValueError(
                f"{name} must be at most {_DEEPEST} operations deep, got {short(text)}; make it in Python"
            )
        if any(isinstance(node, ast.Constant) and _is_too_large(node.value) for node in level):
            raise ValueError(
                f"{name} must have finite numbers, got {short(text)}; a number has at most 308 digits"
            )
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    return tree


def _is_too_large(value: object) -> bool:
    return isinstance(value, int) and abs(value) > sys.float_info.max


def _as_float(value: Any) -> Any:
    """Return the value, with integers outside int64 converted to float."""
    return float(value) if isinstance(value, int) and abs(value) > _EXACT else value


def _reason(error: BaseException) -> str:
    """Return the message of an error in one line, cut in the middle if it is long."""
    said = next(iter(str(error).splitlines()), type(error).__name__)
    return said if len(said) <= _REASON else f"{said[: _REASON // 2]} ... {said[-_REASON // 2 :]}"


def short(shown: str | ast.expr) -> str:
    """Return a given text or value, quoted and shortened to fit a line."""
    return _QUOTE.repr(shown if isinstance(shown, str) else ast.unparse(shown))


__all__ = ["from_text", "names", "nearest", "normalize", "schedule_from_text", "short", "to_text"]
