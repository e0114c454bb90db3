"""Run the pages that draw; write their pictures and what they print: python docs/pictures.py [PAGE ...]."""

import contextlib
import io
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from cycler import cycler

mpl.use("Agg")
from matplotlib import pyplot as plt

DOCS = Path(__file__).parent
PAGES = ("one_function_three_names", "spurious_minima", "temperature_and_noise", "threshold_primitive")
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```\n.*?^```\n)?", flags=re.DOTALL | re.MULTILINE)
INK = "#8a8a8a"  # read on a light and on a dark page, as the colours are
COLOURS = ("#3d8fd1", "#e0813a", "#3fa35f")
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "equipoise",
    "font.size": 9,
    "savefig.transparent": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLOURS),
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


def run(page: str, name: str, images: Path) -> tuple[str, dict[str, Any]]:
    """Run the blocks of a page, and save each new figure as name_1.svg, name_2.svg and so on.

    Args:
        page: The Markdown. A block that draws must not close its figures.
        name: Name of the page.
        images: Folder for the pictures.

    Returns:
        The Markdown with what each block prints, and the names that the blocks define.
    """
    space: dict[str, Any] = {}

    def rerun(found: re.Match[str]) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(found[1], name, "exec"), space)
        shown = f"\n```\n{printed.getvalue().rstrip()}\n```\n" if printed.getvalue() else ""
        return f"```python\n{found[1]}```\n{shown}"

    with mpl.rc_context(STYLE):
        plt.close("all")
        page = BLOCK.sub(rerun, page)
        for number in plt.get_fignums():
            plt.figure(number).savefig(images / f"{name}_{number}.svg", metadata={"Date": None})
        plt.close("all")
    return page, space


if __name__ == "__main__":
    for each in sys.argv[1:] or PAGES:
        path = DOCS / f"{each}.md"
        path.write_text(run(path.read_text(), each, DOCS / "images")[0])
