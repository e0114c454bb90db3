"""The picture of all losses, penalties, maps and schedules, drawn from the table of relatives."""

from collections.abc import Iterator
from html import escape
from math import hypot

from equipoise_docs.names import FAMILIES
from equipoise_docs.relatives import EQUALS, LIMIT, RELATIVES, TWICE, Relation, objectives_in
from equipoise_docs.style import INK

WIDTH, BOX, LETTER = 840, 26, 7.3  # and the height of a box, and the width of a letter
COLOURS = {"losses": "#2b6cab", "penalties": "#9a4f14", "maps": "#1c7350", "schedules": "#74479a"}
PLACES: dict[str, tuple[float, float]] = {
    "PairwiseCrossEntropy": (105, 70),
    "SoftmaxMargin": (105, 115),
    "HierarchicalCrossEntropy": (105, 160),
    "SimilarityCrossEntropy": (105, 205),
    "Focal": (105, 250),
    "Poly": (105, 320),
    "CrossEntropy": (320, 185),
    "SymmetricCrossEntropy": (335, 320),
    "FlooredCrossEntropy": (705, 70),
    "GammaCrossEntropy": (520, 165),
    "Reweighted": (705, 220),
    "GeneralizedCrossEntropy": (520, 265),
    "ExpectedCost": (705, 295),
    "RankedProbabilityScore": (705, 375),
    "Brier": (520, 375),
    "Entropy": (215, 470),
    "Balance": (85, 470),
    "Gini": (520, 470),
    "Decisiveness": (705, 470),
    "LogitRange": (85, 530),
    "ZLoss": (215, 530),
    "ClippedLogits": (85, 625),
    "SoftCapped": (85, 700),
    "LogitNorm": (85, 775),
    "Softmax": (395, 700),
    "Resoftmax": (395, 625),
    "Floored": (705, 625),
    "Projected": (705, 675),
    "Clipped": (705, 725),
    "Entmax": (270, 790),
    "Sparsemax": (270, 850),
    "StraightThrough": (395, 850),
    "GumbelSoftmax": (560, 790),
    "Linear": (215, 945),
    "Cosine": (395, 945),
}
BANDS = {"losses": 30, "penalties": 425, "maps": 580, "schedules": 900}  # where each family begins
CURVED = {("FlooredCrossEntropy", "Floored")}  # along the right side, around what lies between


def edges() -> dict[tuple[str, str], bool]:
    """Return the pairs of the table of relatives, and whether the first is the second at some setting."""
    found: dict[tuple[str, str], bool] = {}
    for each in RELATIVES:
        for pair in _pairs(each):
            found[pair] = found.get(pair, False) or each.kind in (EQUALS, LIMIT, TWICE)
    return {pair: arrow for pair, arrow in found.items() if arrow or not found.get(pair[::-1])}


def _pairs(each: Relation) -> Iterator[tuple[str, str]]:
    left, right = (objectives_in(text) for text in (each.left, each.right.partition(" after ")[0]))
    yield left[0], right[0]


def places() -> dict[str, tuple[float, float]]:
    """Return the centre of each box; those without a place are put in a last row."""
    names = [made.__name__ for family in FAMILIES.values() for made in family]
    new = [name for name in names if name not in PLACES]
    bottom = max(y for _, y in PLACES.values()) + 55
    more = {name: (110.0 + 205 * (place % 4), bottom + 40 * (place // 4)) for place, name in enumerate(new)}
    return {name: PLACES.get(name) or more[name] for name in names}


def family_picture() -> str:
    """Return the picture as SVG."""
    at = places()
    family_of = {made.__name__: family for family, members in FAMILIES.items() for made in members}
    height = max(y for _, y in at.values()) + 35
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" '
        f'width="{WIDTH}" height="{height:g}" font-family="system-ui, sans-serif" role="img">',
        "<title>Losses, penalties, maps and schedules, and which is which other one at some setting</title>",
        f'<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        f'orient="auto"><path d="M0 0 8 4 0 8Z" fill="{INK}"/></marker></defs>',
    ]
    for family, top in BANDS.items():
        parts.append(
            f'<text x="10" y="{top}" font-size="15" font-weight="600" fill="{INK}">{family.title()}</text>'
        )
        if top > min(BANDS.values()):
            parts.append(
                f'<path d="M10 {top - 22}H{WIDTH - 10}" stroke="{INK}" stroke-opacity=".35" fill="none"/>'
            )
    for (one, other), arrow in edges().items():
        parts.append(_edge(at[one], _half(one), at[other], _half(other), arrow, (one, other) in CURVED))
    for name, (x, y) in at.items():
        half = _half(name)
        parts.append(
            f'<rect x="{x - half:g}" y="{y - BOX / 2:g}" width="{2 * half:g}" height="{BOX}" rx="6" '
            f'fill="{COLOURS[family_of[name]]}"/>'
            f'<text x="{x:g}" y="{y + 4.5:g}" font-size="12.5" fill="#fff" text-anchor="middle">'
            f"{escape(name)}</text>"
        )
    return "\n".join([*parts, "</svg>\n"])


def _half(name: str) -> float:
    """Return half the width of a box."""
    return len(name) * LETTER / 2 + 8


def _edge(
    one: tuple[float, float],
    half_one: float,
    other: tuple[float, float],
    half_other: float,
    arrow: bool,
    curved: bool,
) -> str:
    looks = f'fill="none" stroke="{INK}" stroke-width="1.6" ' + (
        'marker-end="url(#end)"' if arrow else 'stroke-dasharray="5 4"'
    )
    if curved:
        (x1, y1), (x2, y2) = one, other
        side = WIDTH - 2
        return (
            f'<path d="M{x1 + half_one:g} {y1:g}C{side} {y1 + 20:g} {side} {y2 - 60:g} '
            f'{x2 + half_other:g} {y2:g}" {looks}/>'
        )
    start, end = _leaving(one, other, half_one), _leaving(other, one, half_other)
    return f'<path d="M{start[0]:.1f} {start[1]:.1f}L{end[0]:.1f} {end[1]:.1f}" {looks}/>'


def _leaving(centre: tuple[float, float], to: tuple[float, float], half: float) -> tuple[float, float]:
    """Return where the line from the centre of a box to a point leaves the box, 3 pixels outside."""
    dx, dy = to[0] - centre[0], to[1] - centre[1]
    share = min(half / abs(dx) if dx else 9e9, BOX / 2 / abs(dy) if dy else 9e9)
    share += 3 / hypot(dx, dy)
    return centre[0] + share * dx, centre[1] + share * dy
