"""Docstrings as Markdown, with nothing of their own markup left."""

import inspect
import re

import pytest
from equipoise_docs import docstrings, names
from equipoise_docs.mathml import to_mathml
from sphinx.errors import ExtensionError

from equipoise.losses import GammaCrossEntropy, Loss


def example(first: int, *, second: str = "x") -> None:
    r"""Return nothing,
    in ``two`` lines.

    A formula in a line, :math:`\gamma^2`, and one of its own,

    .. math:: a +
       b,

    and words after it.
    More words.

    Args:
        first: A number; the default
            is none.
        second: A word.

    Raises:
        ValueError: If it is not.

    Example:
        >>> example(1)
        >>> 1 + 1
        2
    """
    del first, second


def test_parts_of_a_docstring() -> None:
    """A docstring is split into summary, formulas, body and sections, each in Markdown."""
    found = docstrings.read(example)
    assert found.summary == "Return nothing, in `two` lines."
    assert found.formula == ("$$\na +\nb,\n$$",)
    assert found.body == (
        "A formula in a line, $\\gamma^2$, and one of its own,\n\n$$\na +\nb,\n$$\n\n"
        "and words after it. More words."
    )
    assert list(found.sections) == ["Args", "Raises", "Example"]
    assert found.sections["Args"] == "- `first`: A number; the default is none.\n- `second`: A word."
    assert found.sections["Raises"] == "- `ValueError`: If it is not."
    assert found.sections["Example"] == "```pycon\n>>> example(1)\n>>> 1 + 1\n2\n```"


def test_a_name_without_a_docstring_is_refused() -> None:
    """A public name without a docstring cannot have a page."""

    def bare() -> None: ...

    with pytest.raises(ValueError, match=r"bare.* must have a docstring, as it has a page"):
        docstrings.read(bare)


def test_signatures() -> None:
    """Signatures have names without modules, and a line for each argument if they are long."""
    assert docstrings.signature("example", example) == "example(first: int, *, second: str = 'x') -> None"
    shown = docstrings.signature("GammaCrossEntropy", GammaCrossEntropy)
    assert shown == "GammaCrossEntropy(gamma: float | Tensor = 0.1, min_weight: float | Tensor = 0.0)"
    long = docstrings.signature("linear", Loss.linear)
    assert long.startswith("linear(\n    hidden: Tensor,\n")
    assert "    *,\n" in long


MARKUP = re.compile(r"\.\. \w+::|:[a-z]+:`|``[^`\n]+``(?!`)|<object object|0x[0-9a-f]{6}")


def left_over(text: str) -> list[str]:
    """Return markup of docstrings in Markdown, outside examples."""
    return MARKUP.findall(re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def test_no_markup_is_left() -> None:
    """Nothing of the markup of docstrings is in the Markdown of a public name, and no section is lost."""
    for each in (name for name in names.public_names() if name.kind != "data"):
        found = docstrings.read(each.value)
        whole = "\n\n".join([found.summary, found.body, *found.sections.values()])
        assert left_over(whole) == [], each.full
        assert left_over(docstrings.signature(each.name, each.value)) == [], each.full
        raw = inspect.getdoc(each.value) or ""
        assert re.findall(r"^([A-Z]\w+):$", raw, re.MULTILINE) == list(found.sections), each.full


def test_control_markup_is_found() -> None:
    """Markup outside blocks of code is found."""
    assert len(left_over("a :math:`x`, ``y`` and\n\n.. math:: z\n\nof <object object at 0x7f0000>")) == 5
    assert left_over("```python\n``x``\n```\n") == []


def test_formulas_are_mathml() -> None:
    """A formula becomes MathML; an unknown command is refused."""
    assert "<mfrac>" in to_mathml(r"\frac{a}{b}", inline=False)
    assert "display" in to_mathml(r"\frac{a}{b}", inline=False)
    assert to_mathml(r"v_0, \dots, v_L", inline=True) == to_mathml(r"v_0, \ldots, v_L", inline=True)
    with pytest.raises(ExtensionError, match=r"the formula .* cannot be shown"):
        to_mathml(r"\unheardof{x}", inline=True)
