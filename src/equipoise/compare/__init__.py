"""Train candidates beside plain cross entropy and say which is better, by how much, and how sure that is.

The libraries that this needs are the extra `compare`; they are imported when a comparison is run.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from equipoise.compare.settings import Settings, Training

if TYPE_CHECKING:
    from collections.abc import Callable

    from equipoise.compare.plan import Plan
    from equipoise.compare.results import Result
    from equipoise.compare.verdict import Verdict

__all__ = ["Settings", "Training", "check", "run", "write"]

_NEEDED = {
    "sklearn": "scikit-learn",
    "scipy": "scipy",
    "pandas": "pandas",
    "torchmetrics": "torchmetrics",
    "joblib": "joblib",
    "matplotlib": "matplotlib",
    "jinja2": "jinja2",
    "rich": "rich",
    "optuna": "optuna",
}


def check(settings: Settings) -> "Plan":
    """Read and check all input, writing nothing.

    Raises:
        ImportError: If a library of the extra is missing.
        ValueError: If any of the input is bad; the message is one line.
    """
    for module, name in _NEEDED.items():
        try:
            found = find_spec(module) is not None
        except (ImportError, ValueError):
            found = False
        if not found:
            raise ImportError(f"equipoise compare needs {name}; pip install 'equipoise[compare]'")
    from equipoise.compare.plan import prepare

    return prepare(settings)


def run(settings: Settings, watch: "Callable[[int, int], None] | None" = None) -> "Result":
    """Compare the candidates and leave the report, the results and the trainings in the folder.

    Args:
        settings: What to compare, on what, and how.
        watch: Called with the number of finished trainings and of all, whenever some finish.

    Returns:
        Every value and difference; `equipoise.compare.verdict.judge` says what they mean.

    Raises:
        ImportError: If a library of the extra is missing.
        ValueError: If any of the input is bad; nothing has been written then.
        FloatingPointError: If plain cross entropy itself diverges, or a row is too far from the others.
    """
    plan = check(settings)
    from equipoise.compare.runner import execute
    from equipoise.compare.verdict import judge

    result = execute(plan, watch)
    write(result, judge(result))
    return result


def write(result: "Result", verdict: "Verdict") -> dict[str, str]:
    """Write the report and the table of results, and return where they are."""
    from equipoise.compare.outputs import write_matrices, write_table
    from equipoise.compare.report import write_report

    out = Path(result.plan.out)
    write_table(result, out / "results.csv")
    write_matrices(result.plan)
    write_report(result, verdict, out / "report.html")
    return {
        "report": str(out / "report.html"),
        "results": str(out / "results.csv"),
        "trials": str(out / "trials"),
    }
