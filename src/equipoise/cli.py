"""The command line: `equipoise compare` trains candidates and says which is better than cross entropy."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]

REFUSED, INTERRUPTED = 2, 130

_EXAMPLES = """examples:
  equipoise compare --noise 0.4
  equipoise compare survey.csv --target vote --objective "GammaCrossEntropy(gamma=0.5)"
  equipoise compare embeddings.npz --model linear --objective "CrossEntropy() - 0.1 * Entropy()"
  equipoise compare animals.csv --target animal --costs costs.csv --objective "ExpectedCost(costs)"
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(REFUSED, f"equipoise: error: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Words after the program's name; None for those it was started with.

    Returns:
        The exit code: 0, 2 for input that cannot be used, 130 when interrupted.
    """
    arguments = _parser().parse_args(argv)
    try:
        return _compare(arguments)
    except KeyboardInterrupt:
        print(
            f"equipoise: interrupted; finished trials are kept in {arguments.out}, the same command resumes",
            file=sys.stderr,
        )
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="equipoise",
        allow_abbrev=False,
        description="Set how sure a classifier is, and see what it is worth.",
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    compare = commands.add_parser(
        "compare",
        allow_abbrev=False,
        help="train candidates beside plain cross entropy and say which is better",
        description="Train each candidate beside plain cross entropy, on the same splits and initial "
        "weights, and say which is better, by how much and how sure.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = compare.add_argument
    add(
        "data",
        nargs="?",
        metavar="DATA",
        help="CSV, TSV, Parquet or NPZ (X, y); default: scikit-learn's digits",
    )
    add("--target", metavar="COLUMN", help="column with the classes")
    add("--drop", action="append", default=[], metavar="COLUMN", help="leave a column out; repeatable")
    add(
        "--objective",
        action="append",
        default=[],
        metavar="SPEC",
        help="candidate, as the Python that makes it; repeatable; default: one setting of each family",
    )
    add(
        "--noise",
        default="0",
        metavar="SHARE",
        help="share of labels to flip, or a transition matrix file; default: 0",
    )
    add("--costs", metavar="FILE", help="cost matrix [true, predicted], or groups 'a, b | c, d'")
    add(
        "--similarity",
        metavar="FILE",
        help="similarity matrix [true, class], rows summing to one, or groups 'a, b | c, d'",
    )
    add("--folds", type=int, default=10, metavar="N", help="parts for cross-validation; default: 10")
    add("--repeats", type=int, default=1, metavar="N", help="times to divide the rows anew; default: 1")
    add("--test", metavar="FILE", help="file with the test rows, instead of folds")
    add("--time", metavar="COLUMN", help="column of times: the latest fifth of the rows is the test part")
    add("--group", metavar="COLUMN", help="column of groups, each wholly in one part")
    add("--clean", metavar="COLUMN", help="column with better labels, which test rows are held against")
    add(
        "--worthwhile",
        nargs="+",
        default=[],
        metavar="MEASURE=SIZE",
        help="smallest differences worth having; default: accuracy=0.005 calibrated_nll=0.01",
    )
    add("--out", default="comparison", metavar="DIR", help="folder for the report; default: comparison")
    add("--jobs", type=int, metavar="N", help="processes; default: one per core")
    add("--json", action="store_true", help="print only JSON")
    group = compare.add_argument_group("training, the same for every candidate")
    group.add_argument("--model", default="mlp", metavar="NAME", help="mlp or linear; default: mlp")
    group.add_argument(
        "--width", type=int, default=128, metavar="N", help="hidden units of the mlp; default: 128"
    )
    group.add_argument("--epochs", type=int, default=100, metavar="N", help="at most; default: 100")
    group.add_argument("--batch-size", type=int, default=128, metavar="N", help="default: 128")
    group.add_argument(
        "--lr", type=float, default=3e-3, metavar="RATE", help="learning rate of AdamW; default: 0.003"
    )
    group.add_argument("--weight-decay", type=float, default=1e-4, metavar="RATE", help="default: 0.0001")
    group.add_argument(
        "--stop",
        default="calibrated",
        metavar="RULE",
        help="what chooses the epoch on validation rows: calibrated, own, accuracy, nll or none; "
        "default: calibrated",
    )
    group.add_argument(
        "--patience", type=int, default=20, metavar="N", help="epochs without a better one; default: 20"
    )
    group.add_argument("--class-weight", metavar="RULE", help="balanced, for classes that count alike")
    group.add_argument(
        "--tune",
        type=int,
        default=0,
        metavar="N",
        help="settings to try for each candidate, cross entropy too, chosen on validation rows; default: 0",
    )
    return parser


class _Version(argparse.Action):
    """Print the version, which is only looked up when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *ignored: object) -> NoReturn:
        from equipoise import __version__

        del ignored
        print(f"equipoise {__version__}")
        parser.exit(0)


def _compare(arguments: argparse.Namespace) -> int:
    try:
        from equipoise import compare

        settings = _settings(arguments)
        plan = compare.check(settings)
    except (ValueError, ImportError, OSError) as error:
        return _refuse(error)
    from equipoise.compare import console, outputs, runner, verdict

    for warning in plan.warnings:
        print(f"equipoise: warning: {warning}", file=sys.stderr)
    if not arguments.json:
        console.announce(plan)
    try:
        with console.progress(quiet=arguments.json) as watch:
            result = runner.execute(plan, watch)
        judged = verdict.judge(result)
        files = compare.write(result, judged)
    except (FloatingPointError, OSError) as error:
        return _refuse(error)
    if arguments.json:
        print(json.dumps(outputs.summary(result, judged, files), indent=2, allow_nan=False))
    else:
        console.show(result, judged, files["report"])
    return 0


def _settings(arguments: argparse.Namespace):
    from dataclasses import fields

    from equipoise.compare import Settings, Training
    from equipoise.compare.settings import worthwhile

    given = vars(arguments)
    training = {each.name: given[each.name] for each in fields(Training)}
    named = {each.name: given[each.name] for each in fields(Settings) if each.name in given}
    lists = {"drop": tuple(arguments.drop), "worthwhile": worthwhile(arguments.worthwhile)}
    objectives = tuple(arguments.objective)
    return Settings(**(named | lists), objectives=objectives, training=Training(**training))


def _refuse(error: Exception) -> int:
    """Say in one line what is wrong with the input."""
    line = " ".join(str(error).split()) or type(error).__name__
    print(f"equipoise: error: {line}", file=sys.stderr)
    return REFUSED


if __name__ == "__main__":
    sys.exit(main())
