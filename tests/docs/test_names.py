"""Every public name has a page, and one without is found."""

import inspect
import zlib
from pathlib import Path

import pytest
from equipoise_docs import links, names

import equipoise


def inventory(path: Path, wanted: list[tuple[str, str]]) -> Path:
    """Write an inventory of Sphinx with these names and kinds."""
    lines = "".join(f"{name} py:{kind} 1 page.html#{name} -\n" for name, kind in wanted)
    head = b"# Sphinx inventory version 2\n# Project: x\n# Version: 1\n"
    text = head + b"# The remainder of this file is compressed using zlib.\n" + zlib.compress(lines.encode())
    path.write_bytes(text)
    return path


def described() -> list[tuple[str, str]]:
    """Return what the pages of the reference describe."""
    from equipoise_docs import made_pages

    return [(each.full, each.kind) for page in made_pages().values() for each in page.described]


@pytest.mark.slow
def test_every_name_is_described_once_and_a_lacking_one_is_found(tmp_path: Path) -> None:
    """The pages describe every public name once; without one of them the check names it."""
    found = described()
    assert len({name for name, _ in found}) == len(found)
    assert links.missing(inventory(tmp_path / "objects.inv", found)) == []
    for planted in (
        "equipoise.losses.Focal",
        "equipoise.maps.MAPS",
        "equipoise.costs",
        "equipoise.compare.compare",
    ):
        less = [each for each in found if each[0] != planted]
        assert links.missing(inventory(tmp_path / "objects.inv", less)) == [planted]


def test_a_new_name_without_a_page_is_found(tmp_path: Path) -> None:
    """A name that is expected and not in the inventory is found."""
    full = inventory(tmp_path / "objects.inv", [("equipoise.losses.Focal", "class")])
    assert links.missing(full, ("equipoise.losses.Focal", "equipoise.losses.New")) == ["equipoise.losses.New"]


def test_public_modules() -> None:
    """The modules that users import are public; those that they do not are not."""
    found = names.modules()
    assert {
        f"equipoise.{name}" for name in equipoise.__all__ if inspect.ismodule(getattr(equipoise, name))
    } <= {*found}
    assert {"equipoise.compare", "equipoise.integrations.transformers", "equipoise.statistics"} <= {*found}
    assert not {"equipoise.cli", "equipoise._batch", "equipoise.compare.verdict"} & {*found}


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("GammaCrossEntropy", "equipoise.losses.GammaCrossEntropy"),
        ("GammaCrossEntropy(gamma=0.1)", "equipoise.losses.GammaCrossEntropy"),
        ("equipoise.losses.GammaCrossEntropy", "equipoise.losses.GammaCrossEntropy"),
        ("0.5 * Entropy()", "equipoise.penalties.Entropy"),
        ("statistics.Entropy", "equipoise.statistics.Entropy"),
        ("costs.decide(probs, costs)", "equipoise.costs.decide"),
        ("Loss.__call__", "equipoise.losses.Loss"),
        ("equipoise.costs", "equipoise.costs"),
        ("gamma", None),
        ("read", None),
        ("F.cross_entropy", None),
        ("model(x)", None),
        ("equipoise compare", None),
        ("MissingCrossEntropy", None),
    ],
)
def test_code_is_linked_to_the_page_of_a_name(text: str, full: str | None) -> None:
    """A code that is a public name, or a call of one, leads to its page; another code to none."""
    found = links.found_name(text)
    assert (found.full if isinstance(found, names.Name) else found) == full
