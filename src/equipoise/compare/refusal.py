"""Errors of arguments, in words."""

__all__ = ["printable", "refusal"]


def printable(name: str) -> str:
    """A name, in one line."""
    return name if name.isprintable() else repr(name)


def refusal(option: str, rule: str, got: object, way: str, error: type[Exception] = ValueError) -> Exception:
    """The error of an argument that breaks a rule, with the way out."""
    return error(f"{option} must {rule}, got {got}; {way}")
