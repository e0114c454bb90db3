"""Pages of losses, penalties, maps and schedules, made from the tables, the docstrings and the library."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from equipoise.losses import LOSSES, Entry
from equipoise.maps import MAPS, MapEntry
from equipoise.penalties import PENALTIES
from equipoise.statistics.trace import Trace, trace
from equipoise_docs import api, docstrings, names, plots, relatives
from equipoise_docs.family import family_picture
from equipoise_docs.names import Name
from equipoise_docs.pages import Page, joined, script, table

SPEED = Path(__file__).parents[2] / "speed.md"
INTROS = {
    "losses": "A loss needs a target. p = softmax(z), y is the target, n the number of classes.",
    "penalties": "A penalty is a function of the logits alone; add a multiple of it to a loss.",
    "maps": "A map takes the place of softmax: it returns probabilities and log-probabilities of logits.",
    "schedules": "A schedule is the value of an option at each step of training; `Objective` applies it.",
}


def objective_pages() -> Iterator[Page]:
    """Yield a list for each family, a page for each of its members, and the picture of all."""
    entries: dict[Any, Entry | MapEntry] = {entry.make: entry for entry in (*LOSSES, *PENALTIES, *MAPS)}
    for family, members in names.FAMILIES.items():
        lines = []
        for made in members:
            each = Name(f"equipoise.{family}", made.__name__, made)
            about = docstrings.read(made)
            lines.append((f"[`{each.name}`]({family}/{each.name}.md)", about.summary))
            yield _page(each, about, entries.get(made))
        head = ("name", "what it is")
        yield Page(
            f"reference/{family}",
            joined(f"# {family.title()}: reference", INTROS[family], table(head, lines)),
        )
    yield _family_page()


def _page(each: Name, about: docstrings.Docstring, entry: Entry | MapEntry | None) -> Page:
    described, _ = api.reference(each)
    _, methods = api.members(each)
    pictures = {f"{each.name}-{what}.svg": svg for what, svg in plots.drawn(each.name).items()}
    facts = _facts(entry)
    text = joined(
        f"# {each.name}",
        about.summary,
        f"```python\n{docstrings.signature(each.name, each.value)}\n```",
        f"Import it from `{each.module}`.",
        "## Formula and effect" if about.formula else "## Effect",
        about.body,
        "## Picture",
        "\n".join(f"![{_alternative(each, name)}]({name})" for name in pictures),
        _conditions(each),
        *facts.get("Traits", ()),
        *api.sections(about, "##", ("Numerics", "Example")),
        *api.sections(about, "##", ("Args", "Attributes", "Shapes", "Raises", "Warns")),
        *facts.get("Cost", ()),
        "## Relatives",
        _relatives(each.name),
        "## Source" if "Source" in about.sections or getattr(entry, "source", "") else "",
        about.sections.get("Source") or _sentence(getattr(entry, "source", "")),
        methods,
    )
    return Page(each.page, text, described, pictures)


def _facts(entry: Entry | MapEntry | None) -> dict[str, list[str]]:
    """Return the parts of a page that are computed from a row of a table: "Traits" and "Cost"."""
    if isinstance(entry, MapEntry):
        return {"Traits": ["## Traits", map_traits(entry)]}
    if entry is None:
        return {}
    return {
        "Traits": ["## Traits", traits(entry)],
        "Cost": ["## Statistics it reads", statistics(entry), "## Cost", cost(entry)],
    }


def _made(entry: Entry) -> list[tuple[str, Any]]:
    """Return the settings that are drawn, as text and as losses."""
    return [(text, relatives.made(text, plots.CLASSES)) for text in plots.settings(entry.name)]


def traits(entry: Entry) -> str:
    """Return what the table says of a loss, setting by setting, and what it means."""
    made = _made(entry)
    lines = [
        (f"`{plots.label(text)}`", *("yes" if of(loss) else "no" for of in (entry.proper, entry.bounded)))
        for text, loss in made
    ]
    meaning = []
    if entry.reads_target:
        meaning.append(
            "**Proper**: the true probabilities minimise the expected loss, so the model's probabilities "
            "estimate them. A loss that is not proper makes them sharper or flatter."
        )
    meaning.append(
        "**Bounded**: the value of a row has an upper limit, so a single row, such as one with a wrong "
        "label, has a limited part in the mean."
    )
    said = [
        "It needs a target."
        if entry.reads_target
        else "It needs no target: add it to any loss, or to the loss of a whole model for its gate.",
        "Its gradient differs from the derivative of its value on purpose: do not choose an epoch by its "
        "value."
        if entry.reweighted
        else "Its gradient is the derivative of its value.",
    ]
    heads = ("setting", "proper", "bounded") if entry.reads_target else ("setting", "bounded")
    shown = lines if entry.reads_target else [(line[0], line[2]) for line in lines]
    return joined(table(heads, shown), " ".join(said), *meaning)


def map_traits(entry: MapEntry) -> str:
    """Return what the table says of a map, and what it means."""
    _, promised, smallest, held, gradient = script("tables").map_line(entry)
    lines = [
        ("no probability is below", promised if promised != "-" else "no limit above 0"),
        (f"of `{entry.example!r}` with 8 classes", smallest if smallest != "-" else "0"),
        ("how exactly", held),
        ("gradient", gradient),
        (
            "gradient and value",
            "the gradient is not the derivative of the value, on purpose"
            if entry.straight_through
            else "the gradient is the derivative of the value",
        ),
        ("what it reads", "all logits of a row"),
    ]
    return table(("trait", "value"), lines)


def traces(entry: Entry) -> list[Trace]:
    """Return the traces of the settings that are drawn; none for a penalty of a batch."""
    return [
        trace(loss, plots.classes_of(loss), torch.float32) for _, loss in _made(entry) if loss._is_row_loss()
    ]


def statistics(entry: Entry) -> str:
    """Return which numbers of a row a loss reads, from its recording."""
    found = traces(entry)
    if not found:
        return "It reads the probabilities of all rows of a batch, so `loss.linear` cannot compute it."
    read = {type(each): each for one in found for each in one.statistics}
    lines = [
        (
            f"[`{type(each).__name__}`](../api/equipoise.statistics.{type(each).__name__}.md)",
            docstrings.read(type(each)).summary,
        )
        for each in read.values()
    ]
    full = any(each.reads_full_logits for each in found)
    words = (
        "It reads complete rows of logits. `loss.linear` computes it in blocks of rows."
        if full
        else "These are numbers of a row that can be merged over blocks of classes, so `loss.linear` "
        "computes it without the logits in memory, and `loss(logits, target)` takes classes sharded over "
        "ranks."
    )
    return joined(table(("statistic", "what it is"), lines) if lines else "", words)


def cost(entry: Entry) -> str:
    """Return what a loss costs: the program of the kernel, and the measured time."""
    programs = [each.program for each in traces(entry) if each.program is not None]
    sizes = sorted({len(each.instructions) for each in programs})
    span = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else "".join(map(str, sizes))
    said = (
        f"The compiled CPU kernel reads the logits once each way, and runs a program of {span} elementwise "
        "instructions per row on the sums."
        if sizes
        else "It is computed by operations of torch, not by a compiled kernel."
    )
    heads, measured = speed_of(entry.name)
    shown = (
        "Measured time of forward and backward, one thread, float32, over that of the same formula in torch "
        "(below 1 is faster; conditions in [speed](../../speed.md)):"
    )
    return joined(said, *([shown, table(heads, [measured])] if measured else []))


def speed_of(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the heads and the row of a loss in the first table of the page on speed, or nothing."""
    lines = [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in SPEED.read_text().splitlines()
        if line.startswith("|")
    ]
    heads: tuple[str, ...] = ()
    rows: dict[str, tuple[str, ...]] = {}
    for line in lines:
        if re.fullmatch(r"\d+ x \d+", line[-1]) and line[0] == "":
            heads = heads or line[1:]
        elif heads and len(line) == len(heads) + 1 and not line[1].startswith("-"):
            rows.setdefault(_plain(line[0]), line[1:])
    return heads, rows.get(_plain(name), ())


def _plain(name: str) -> str:
    """Return a name in lower case without blanks, marks and "cross entropy", in British spelling."""
    letters = re.sub(r"[^a-z]", "", name.partition("(")[0].lower())
    return letters.replace("ized", "ised").removesuffix("crossentropy")


def _relatives(name: str) -> str:
    found = relatives.relatives_of(name)
    if not found:
        return "No setting of it is another loss, penalty or map of the package."
    listed = "\n".join(f"- {each}" for each in found)
    said = "Each of these statements is computed when this page is made."
    return joined(said, listed, "[All in one picture](../family.md)")


def _alternative(each: Name, picture: str) -> str:
    if each.family == "schedules":
        return f"{each.name}: value over steps"
    value = "probability" if each.family == "maps" else "value"
    what = "derivative by the logit" if picture.endswith("-gradient.svg") else value
    return f"{each.name}: {what} over the softmax probability"


def _conditions(each: Name) -> str:
    """Return how the picture was made."""
    if each.family == "schedules":
        return ""
    of = relatives.made(plots.settings(each.name)[0], plots.CLASSES)
    count = plots.classes_of(of)
    first = "one class" if each.family in ("maps", "penalties") else "the target"
    words = f"{count} classes: {first}, which is class 0, and others, equally likely and with logit 0."
    matrices = [text for text in plots.settings(each.name) if plots.label(text) != text]
    words += f" Drawn for {', '.join(f'`{text}`' for text in matrices)}." if matrices else ""
    return words + (f" The mean of {plots.DRAWS} draws." if each.name == "GumbelSoftmax" else "")


def _sentence(words: str) -> str:
    return words and words[:1].upper() + words[1:] + "."


def _family_page() -> Page:
    statements = "\n".join(f"- {each}" for each in relatives.RELATIVES)
    return Page(
        "reference/family",
        joined(
            "# The family in one picture",
            "Losses, penalties, maps and schedules, and which setting or limit of one is another one.",
            "![Losses, penalties and maps, joined by arrows where a setting or limit of one is "
            "another](family.svg)",
            "An arrow leads from a loss, penalty or map to the one that it equals, or tends to, at some "
            "setting; a dashed line joins those with a common gradient, value or bound. Each statement is "
            "computed when this page is made:",
            statements,
        ),
        (),
        {"family.svg": family_picture()},
    )
