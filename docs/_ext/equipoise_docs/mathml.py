"""Formulas as MathML, which browsers draw without a script, a font or a network."""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.math import get_node_equation_number

ALIASES = {"dots": r"\ldots", "bigl": r"\left", "bigr": r"\right"}  # that docutils does not know


def to_mathml(formula: str, *, inline: bool) -> str:
    """Return a formula of LaTeX as MathML.

    Raises:
        ExtensionError: If it has a command that the converter of docutils does not know.
    """
    for command, other in ALIASES.items():
        formula = re.sub(rf"\\{command}(?![A-Za-z])", lambda _, other=other: other, formula)
    try:
        return tex2mathml(formula, as_block=not inline)
    except MathError as error:
        raise ExtensionError(f"the formula {formula!r} cannot be shown: {error}") from error


def _inline(self: Any, node: nodes.math) -> None:
    self.body.append(to_mathml(node.astext(), inline=True))
    raise nodes.SkipNode


def _display(self: Any, node: nodes.math_block) -> None:
    self.body.append(self.starttag(node, "div", CLASS="math"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})</span>')
    self.body.append(to_mathml(node.astext(), inline=False) + "</div>")
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Add the renderer "mathml" to Sphinx."""
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
