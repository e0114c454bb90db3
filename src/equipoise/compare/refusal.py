"""Texts of errors about arguments."""

__all__ = ["printable", "refusal"]


def printable(name: str) -> str:
    """Return a name in one line."""
    return name if name.isprintable() else repr(name)


def refusal(option: str, rule: str, got: object, way: str, error: type[Exception] = ValueError) -> Exception:
    """Return the error of an argument: "<option> must <rule>, got <value>; <way out>"."""
    return error(f"{option} must {rule}, got {got}; {way}")
