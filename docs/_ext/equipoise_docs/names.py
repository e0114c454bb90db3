"""Public modules and names of the package, and where each is documented."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import equipoise
from equipoise.losses import LOSSES
from equipoise.maps import MAPS
from equipoise.penalties import PENALTIES
from equipoise.schedules import SCHEDULES

# Modules that have an `__all__` and are not for users.
INTERNAL = ("equipoise.cli", "equipoise.naming", "equipoise.training.stops")
FAMILIES: dict[str, tuple[Any, ...]] = {
    "losses": tuple(entry.make for entry in LOSSES),
    "penalties": tuple(entry.make for entry in PENALTIES),
    "maps": tuple(entry.make for entry in MAPS),
    "schedules": SCHEDULES,
}


@dataclass(frozen=True)
class Name:
    """A public name.

    Args:
        module: Module that exports it, such as "equipoise.losses".
        name: The name in that module.
        value: The object.
    """

    module: str
    name: str
    value: Any

    @property
    def full(self) -> str:
        """Return the dotted name."""
        return f"{self.module}.{self.name}"

    @property
    def kind(self) -> str:
        """Return the type of the object, as Sphinx names it: "class", "function" or "data"."""
        if inspect.isclass(self.value):
            return "class"
        return "function" if inspect.isroutine(self.value) else "data"

    @property
    def family(self) -> str | None:
        """Return "losses", "penalties", "maps" or "schedules" if the class is in the table of one."""
        return next(
            (family for family, made in FAMILIES.items() if any(self.value is each for each in made)), None
        )

    @property
    def page(self) -> str:
        """Return the name of the page that describes it, without a suffix."""
        if self.family:
            return f"reference/{self.family}/{self.name}"
        return f"reference/api/{self.full if self.kind != 'data' else self.module}"


@cache
def modules() -> dict[str, ModuleType]:
    """Return the public modules by name: those with an `__all__` that no other public module re-exports."""
    found = {"equipoise": equipoise}
    for each in pkgutil.walk_packages(equipoise.__path__, "equipoise."):
        parent = each.name.rpartition(".")[0]
        hidden = any(part.startswith("_") for part in each.name.split("."))
        if hidden or each.name in INTERNAL or (parent in found and parent != "equipoise"):
            continue
        module = importlib.import_module(each.name)
        if hasattr(module, "__all__"):
            found[each.name] = module
    return found


def names_of(module: str) -> Iterator[Name]:
    """Yield the public names of a module but those of modules."""
    for name in modules()[module].__all__:
        value = getattr(modules()[module], name)
        if not inspect.ismodule(value):
            yield Name(module, name, value)


@cache
def public_names() -> tuple[Name, ...]:
    """Return all public names, each once, where users import it."""
    return tuple(each for module in modules() for each in names_of(module))


@cache
def by_text() -> dict[str, Name | str]:
    """Return what an inline code refers to: a name, or the name of a module.

    A name is found by its full name, by its last parts, and by itself if only one module has it, or if it is
    that of a loss, penalty, map or schedule.
    """
    found: dict[str, Name | str] = {}
    ambiguous: set[str] = set()
    for each in public_names():
        parts = each.full.split(".")
        for start in range(len(parts)):
            text = ".".join(parts[start:])
            other = found.get(text)
            if isinstance(other, Name) and other.family:
                continue  # a loss before a statistic of the same name
            if other is not None and not each.family:
                ambiguous.add(text)
            found[text] = each
    for module in modules():
        found |= {module: module, module.removeprefix("equipoise."): module}
    return {text: each for text, each in found.items() if text not in ambiguous}
