"""Write the tables that are made from the code into the pages: python docs/tables.py."""

import inspect
from pathlib import Path

from equipoise.maps import MAPS, MapEntry

PAGE = Path(__file__).parent / "maps.md"
START, END = "<!-- made by docs/tables.py -->\n", "<!-- end -->\n"


def maps_table() -> str:
    """Return the table of maps: what each guarantees, how exactly, and what its gradient does."""
    heads = ("map", "no probability is below", "for 8 classes", "held", "gradient")
    lines = [heads, ("---",) * len(heads), *map(map_line, MAPS)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def map_line(entry: MapEntry) -> tuple[str, ...]:
    """Return an example of a map, its limit in words and for 8 classes, how exact it is, its gradient."""
    example = entry.example
    smallest = example.min_prob(8)
    words = (inspect.getdoc(entry.make.min_prob) or "").removeprefix("Return ").split(":")[0].rstrip(".")  # pyright: ignore[reportFunctionMemberAccess]
    promised = "-" if not smallest else words.removeprefix("the ")
    if not smallest:
        held = "nothing is guaranteed"
    elif entry.keeps_to_the_bit:
        held = "to the bit, and reached"
    else:
        held = "to rounding, and reached" if entry.attained else "a bound, not reached"
    return f"`{example!r}`", promised, f"{smallest:.3g}" if smallest else "-", held, entry.gradient


def written(page: str) -> str:
    """Return the page with the table made anew."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return before + START + "\n" + maps_table() + "\n" + END + after


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
