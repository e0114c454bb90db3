"""Pictures that are read on a light and on a dark page."""

from io import StringIO

import matplotlib as mpl
from matplotlib.figure import Figure

INK = "#7a7f87"  # contrast 4.0 against white, 4.5 against the page in the dark
COLOURS = ("#3d85c6", "#d9772b", "#2f9e6e", "#a66bc4", "#cb4a54")
_STYLE = {
    "svg.hashsalt": "equipoise",
    "svg.fonttype": "path",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "axes.prop_cycle": mpl.cycler(color=COLOURS),
    "legend.frameon": False,
    "savefig.transparent": True,
}


def style() -> mpl.RcParams:
    """Return a context with the settings of matplotlib for the site."""
    return mpl.rc_context(_STYLE)


def svg(figure: Figure) -> str:
    """Return a figure as SVG, the same in each build."""
    with StringIO() as file:
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        return file.getvalue()
