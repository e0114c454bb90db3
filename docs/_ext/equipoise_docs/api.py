"""Pages of the reference of public names, made from docstrings and signatures."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

from equipoise_docs import docstrings, names
from equipoise_docs.names import Name
from equipoise_docs.pages import Described, Page, joined, table

SHOWN_DATA = 160  # characters of the value of a constant


def api_pages() -> Iterator[Page]:
    """Yield the list of modules, a page for each module, and one for each class and function."""
    lines = []
    for module, value in names.modules().items():
        about = docstrings.read(value)
        count = len([each for each in value.__all__ if not inspect.ismodule(getattr(value, each))])
        lines.append((f"[`{module}`](api/{module}.md)", about.summary, str(count)))
        yield _module_page(module)
    text = "Every public module, with the number of its public names. A name has a page of its own."
    yield Page(
        "reference/api", joined("# Python API", text, table(("module", "what is in it", "names"), lines))
    )
    for each in names.public_names():
        if each.kind != "data" and not each.family:
            described, text = reference(each)
            yield Page(each.page, joined(f"# {each.name}", text), described)


def _module_page(module: str) -> Page:
    value = names.modules()[module]
    about = docstrings.read(value)
    described = [Described(module, "module", module)]
    lines, data = [], []
    for name in value.__all__:
        of = getattr(value, name)
        if inspect.ismodule(of):
            lines.append((f"[`{name}`]({of.__name__}.md)", docstrings.read(of).summary))
            continue
        each = Name(module, name, of)
        if each.kind != "data":
            up = "../" if each.family else ""
            place = each.page.removeprefix("reference/" if up else "reference/api/")
            lines.append((f"[`{name}`]({up}{place}.md)", docstrings.read(of).summary))
            continue
        described.append(Described(each.full, "data", name))
        data.append(f"### `{name}`\n\n`{each.full}`, {_value(of)}.")
    return Page(
        f"reference/api/{module}",
        joined(
            f"# {module}",
            about.summary,
            about.body,
            *(f"## {title}\n\n{text}" for title, text in about.sections.items()),
            table(("name", "what it is"), lines),
            "## Constants" if data else "",
            *data,
        ),
        tuple(described),
    )


def _value(value: Any) -> str:
    """Return a constant in words."""
    if isinstance(value, tuple) and value and all(not isinstance(each, str | int) for each in value):
        shown = [getattr(each, "name", None) or getattr(each, "__name__", repr(each)) for each in value]
        return f"a table of {len(value)}: " + ", ".join(f"`{each}`" for each in shown)
    text = re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", repr(value))
    return f"`{text if len(text) <= SHOWN_DATA else text[:SHOWN_DATA] + '...'}`"


def reference(each: Name) -> tuple[tuple[Described, ...], str]:
    """Return what a page of a class or function describes, and its text without the title."""
    about = docstrings.read(each.value)
    described = [Described(each.full, each.kind, each.name)]
    parts = [
        about.summary,
        f"```python\n{docstrings.signature(each.name, each.value)}\n```",
        f"Import it from `{each.module}`.",
        about.body,
        *sections(about, "##"),
    ]
    if each.kind == "class":
        more, text = members(each)
        described += more
        parts.append(text)
    return tuple(described), joined(*parts)


def sections(about: docstrings.Docstring, level: str, only: tuple[str, ...] | None = None) -> list[str]:
    """Return the sections of a docstring with headings: all, or these in their order."""
    return [
        f"{level} {docstrings.TITLES.get(title, title)}\n\n{about.sections[title]}"
        for title in (about.sections if only is None else only)
        if title in about.sections
    ]


def members(each: Name) -> tuple[list[Described], str]:
    """Return the methods and properties of a class: those of itself and of bases that have no page."""
    public = {name.value: name for name in names.public_names() if name.kind == "class"}
    found: dict[str, Any] = {}
    bases: list[str] = []
    inherited: set[str] = set()
    for base in each.value.__mro__:
        if base is not each.value and base in public:
            bases.append(f"`{public[base].name}`")
            inherited |= {*vars(base)}
        elif base.__module__.startswith("equipoise") and not bases:
            found = {**vars(base), **found}
        elif base is not object and not bases and base.__module__ not in ("abc", "typing", "builtins"):
            bases.append(f"`{base.__module__.partition('.')[0]}`'s `{base.__name__}`")
    parts, described = [], []
    for name, value in found.items():
        call = name == "__call__" and name not in inherited
        if name in inherited or (name.startswith("_") and not call) or not _documented(value):
            continue
        of = inspect.unwrap(value.fget if isinstance(value, property) else getattr(value, "__func__", value))
        if not getattr(of, "__module__", "").startswith("equipoise"):
            continue  # added to the class by another library
        about = docstrings.read(of)
        kind = "property" if isinstance(value, property) else "method"
        head = f"{each.name}.{name}"
        shown = name if kind == "property" else docstrings.signature(name, of)
        parts += [
            f"### `{head}`",
            f"```python\n{shown}\n```",
            about.summary,
            about.body,
            *(
                f"**{docstrings.TITLES.get(title, title)}**\n\n{text}"
                for title, text in about.sections.items()
            ),
        ]
        described.append(Described(f"{each.full}.{name}", kind, head))
    title = "## Methods and properties" if parts or bases else ""
    also = f"{'Also has' if parts else 'Has'} the methods of {_and(bases)}." if bases else ""
    return described, joined(title, *parts, also) if title else ""


def _documented(value: Any) -> bool:
    routine = inspect.isroutine(value) or isinstance(value, property | classmethod | staticmethod)
    return routine and bool(inspect.getdoc(value))


def _and(words: list[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
