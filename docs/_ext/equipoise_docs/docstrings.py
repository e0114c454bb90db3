"""Docstrings in Markdown."""

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

SECTIONS = (
    *("Args", "Attributes", "Shapes", "Returns", "Yields", "Raises", "Warns"),
    *("Numerics", "Example", "Source"),
)
LISTS = ("Args", "Attributes", "Raises", "Warns")
TITLES = {"Args": "Arguments"}


@dataclass(frozen=True)
class Docstring:
    """A docstring in parts, each in Markdown.

    Args:
        summary: The first paragraph.
        body: The paragraphs before the first section.
        formula: The display formulas of these paragraphs.
        sections: Text of each section, in the order of the docstring.
    """

    summary: str
    body: str
    formula: tuple[str, ...] = ()
    sections: dict[str, str] = field(default_factory=dict)


def read(value: Any) -> Docstring:
    """Return the docstring of a class, function or module in parts.

    Raises:
        ValueError: If there is none.
    """
    text = inspect.getdoc(value)
    if not text:
        raise ValueError(f"{value!r} must have a docstring, as it has a page")
    pieces = re.split(rf"^({'|'.join(SECTIONS)}):\n", text, flags=re.MULTILINE)
    summary, _, body = pieces[0].partition("\n\n")
    sections = {
        title: _listed(textwrap.dedent(content)) if title in LISTS else markdown(textwrap.dedent(content))
        for title, content in zip(pieces[1::2], pieces[2::2], strict=True)
    }
    formula = tuple(block for block in _blocks(body) if block.startswith("$$"))
    return Docstring(_inline(" ".join(summary.split())), markdown(body), formula, sections)


def markdown(text: str) -> str:
    """Return a text of a docstring in Markdown."""
    return "\n\n".join(_blocks(text))


def _blocks(text: str) -> Iterator[str]:
    """Yield the paragraphs, formulas and examples of a text."""
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        if not block.strip():
            continue
        lines = block.split("\n")
        while lines:
            if lines[0].lstrip().startswith(".. math::"):
                formula = [lines.pop(0).partition("::")[2]]
                while lines and lines[0].startswith(" "):
                    formula.append(lines.pop(0))
                yield "$$\n" + "\n".join(line.strip() for line in formula if line.strip()) + "\n$$"
            elif lines[0].lstrip().startswith(">>>"):
                yield "```pycon\n" + "\n".join(lines) + "\n```"
                lines = []
            else:
                said = [lines.pop(0)]
                while lines and not lines[0].lstrip().startswith((".. math::", ">>>")):
                    said.append(lines.pop(0))
                yield _inline(" ".join(line.strip() for line in said))


def _listed(text: str) -> str:
    """Return "name: text" entries as a list; a section without such entries as paragraphs."""
    entries = re.split(r"^(?=\S)", text.strip("\n"), flags=re.MULTILINE)
    items = []
    for entry in filter(str.strip, entries):
        name, colon, words = entry.partition(": ")
        if not colon or not re.fullmatch(r"[*\w., `|]+", name):
            items.append(_inline(" ".join(entry.split())))
            continue
        first, *more = _blocks(textwrap.dedent(words.replace("\n", "\n    ")) if "\n" in words else words)
        items.append("\n\n".join([f"- `{name}`: {first}", *(textwrap.indent(each, "  ") for each in more)]))
    return "\n".join(items)


def _inline(text: str) -> str:
    """Return text with formulas and code as Markdown writes them."""
    text = re.sub(r":math:`([^`]+)`", r"$\1$", text)
    text = re.sub(r":\w+:`([^`]+)`", r"`\1`", text)
    return re.sub(r"``([^`]+)``", r"`\1`", text)


def signature(name: str, value: Any) -> str:
    """Return the call of a class or function with its arguments, as Python code."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return name
    if inspect.isclass(value):
        found = found.replace(return_annotation=inspect.Signature.empty)
    parts = [_shown(str(each)) for each in _with_marks(found)]
    result = "" if found.return_annotation is found.empty else _annotation(found.return_annotation)
    end = f" -> {result}" if result else ""
    line = f"{name}({', '.join(parts)}){end}"
    if len(line) <= 88:
        return line
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){end}"


def _with_marks(found: inspect.Signature) -> list[Any]:
    """Return the parameters with the marks "/" and "*" where the kind of the parameters changes."""
    kinds, parts = inspect.Parameter, []
    every = [each for each in found.parameters.values() if each.name not in ("self", "cls")]
    for place, each in enumerate(every):
        before = every[place - 1].kind if place else None
        if before is kinds.POSITIONAL_ONLY and each.kind is not kinds.POSITIONAL_ONLY:
            parts.append("/")
        if each.kind is kinds.KEYWORD_ONLY and before not in (kinds.KEYWORD_ONLY, kinds.VAR_POSITIONAL):
            parts.append("*")
        parts.append(each.replace(default=_Code(each.default)) if inspect.isroutine(each.default) else each)
    if every and every[-1].kind is kinds.POSITIONAL_ONLY:
        parts.append("/")
    return parts


class _Code:
    """A function as the default of an argument, which prints as its name."""

    def __init__(self, function: Any) -> None:
        self.name = function.__name__ if function.__name__.isidentifier() else "..."

    def __repr__(self) -> str:
        return self.name


def _annotation(value: Any) -> str:
    return _shown(value if isinstance(value, str) else inspect.formatannotation(value))


def _shown(text: str) -> str:
    """Return an annotation without the modules of its names."""
    text = re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z_a-z])", "", text)
    text = text.replace("~", "")  # before a type variable
    text = re.sub(r"<class '(\w+)'>", r"\1", text)
    return text.replace("NoneType", "None")
