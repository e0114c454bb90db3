"""Where the source can raise an error, and which of these places no call reaches."""

import ast
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any


def raises(folder: Path, outside: Collection[str] = ()) -> set[tuple[str, int, int]]:
    """Return file, first and last line of each `raise` in a folder, without the parts `outside`."""
    return {
        (path.relative_to(folder).as_posix(), node.lineno, node.end_lineno or node.lineno)
        for path in folder.rglob("*.py")
        if path.relative_to(folder).parts[0] not in outside
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise) and not _is_silent(node)
    }


def _is_silent(node: ast.Raise) -> bool:
    """Return whether no user reads what is raised here: the package catches it, or it is raised again."""
    raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    return raised is None or ast.unparse(raised) == "NotRecordableError"


def never_raised(folder: Path, calls: list[Callable[[], Any]], *, outside: Collection[str] = ()) -> set[str]:
    """Return where an error can be raised but none of the calls does, nor does what caused its error."""
    left = raises(folder, outside)
    for call in calls:
        try:
            call()
        except Exception as caught:
            error: BaseException | None = caught
            while error is not None:
                frame = traceback.extract_tb(error.__traceback__)[-1]
                path = Path(frame.filename)
                if path.is_relative_to(folder):
                    name, line = path.relative_to(folder).as_posix(), frame.lineno or 0
                    left -= {site for site in left if site[0] == name and site[1] <= line <= site[2]}
                error = error.__cause__
    return {f"{name}:{first}" for name, first, _ in left}
