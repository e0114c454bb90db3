"""Pictures that are read on a light and on a dark page."""

from io import StringIO
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from equipoise_docs.pages import script

_GUIDES: Any = script("pictures")  # draws those of the guides
INK: str = _GUIDES.INK
COLOURS = (*_GUIDES.COLOURS, "#a66bc4", "#cb4a54")


def style() -> Any:
    """Return a context with the settings of matplotlib for the site."""
    paths = {"svg.fonttype": "path", "axes.titlecolor": INK, "axes.titlesize": 10, "font.size": 10}
    return mpl.rc_context(_GUIDES.STYLE | paths | {"axes.prop_cycle": mpl.cycler(color=COLOURS)})


def svg(figure: Figure) -> str:
    """Return a figure as SVG, the same in each build."""
    with StringIO() as file:
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        return file.getvalue()
