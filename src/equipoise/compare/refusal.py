"""Texts of errors about arguments."""

from typing import NamedTuple

__all__ = ["Names", "printable", "refusal"]


class Names(NamedTuple):
    """Names of the arguments in errors."""

    data: str
    features: str
    target: str
    groups: str


def printable(name: str) -> str:
    """Return a name in one line."""
    return name if name.isprintable() else repr(name)


def refusal(option: str, rule: str, got: object, way: str, error: type[Exception] = ValueError) -> Exception:
    """Return the error of an argument: "<option> must <rule>, got <value>; <way out>"."""
    return error(f"{option} must {rule}, got {got}; {way}")
