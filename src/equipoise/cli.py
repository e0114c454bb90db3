"""The command line: `compare` and `paired` call the functions of the same names, `explore` writes a page."""

import argparse
import importlib
import inspect
import io
import json
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

__all__ = ["main"]

REFUSED, INTERRUPTED, UNREAD = 2, 130, 141  # the last two as shells count SIGINT and SIGPIPE
LONGEST = 1000  # characters of a line on stderr
_OURS = (
    __file__,
    importlib.__file__,
    *(f"<frozen importlib.{part}>" for part in ("_bootstrap", "_bootstrap_external")),
)
OF_DATA = ("X", "y", "test", "clean", "groups", "time", "sample_weight", "costs", "similarity")

_EXAMPLES = """examples:
  equipoise compare --noise 0.4
  equipoise compare survey.csv --target vote --objective "GammaCrossEntropy(gamma=0.5)"
  equipoise compare embeddings.npz --model linear --objective "CrossEntropy() - 0.1 * Entropy()"
  equipoise compare animals.csv --target animal --costs costs.csv --objective "ExpectedCost(costs)"
  equipoise compare --data mine:rows --model mine:network
  equipoise compare comparison/study.toml --repeats 3
"""
# Options, as their help shows them: N is an integer, SIZE a number, everything else text.
_READ = """
--target COLUMN        column with the classes
--drop COLUMN          leave a column out; repeatable
--test FILE            file with the test rows, instead of folds
--clean COLUMN         column with better labels, which test rows are held against
--group COLUMN         column of groups, each wholly in one part
--time COLUMN          column of times: the latest fifth of the rows is the test part
"""
_COMPARE = """
--objective SPEC       candidate, as the Python that makes it; repeatable; default: one of each family
--noise SHARE          share of labels to flip, or the file of a transition matrix
--costs COSTS          costs [true, predicted]: a file, or groups 'a, b | c, d'
--similarity ALIKE     similarity [true, class], rows summing to one: a file, or groups 'a, b | c, d'
--folds N              parts for cross-validation
--repeats N            times to divide the rows anew
--worthwhile MEASURE=SIZE  smallest differences that matter; default: accuracy=0.005 calibrated_nll=0.01
--random-state N       decides splits, noise, initial weights and batches
--out DIR              folder for the report; default: comparison
--jobs N               processes; default: one per core
--dask ADDRESS         train on the Dask cluster with this scheduler
--quiet                print nothing before the result
--json                 print only JSON
"""
_TRAINING = """
--model NAME           mlp, linear, or module:function from (features, classes) to an nn.Module
--model-name NAME      stands for a model of your own in the names of kept trainings; default: as --model
--width N              hidden units of the mlp
--epochs N             passes over the training rows at most
--batch-size N         rows per step
--lr SIZE              learning rate of AdamW
--weight-decay SIZE    weight decay of AdamW
--stop RULE            what chooses the epoch on validation rows: calibrated, own, accuracy, nll or none
--patience N           epochs without a better one
--class-weight RULE    balanced, for classes that count alike
--tune N               settings to try for each candidate, cross entropy too, chosen on validation rows
--device NAME          where to train, as torch names it
"""
_PAIRED = """
--baseline NAME        candidate that the others are compared with; needed
--test-size SIZE       test rows of a run, or their share; without sizes runs are taken as independent
--train-size SIZE      rows that a run is trained and validated on, or their share
--higher MEASURE       measures that are better when higher, where their names do not say it
--lower MEASURE        measures that are better when lower
--worthwhile MEASURE=SIZE  smallest differences that matter
--json                 print only JSON
"""
_EXPLORE = "--out FILE  where to write the page; default: explorer.html\n--no-browser  do not open it"


class _Parser(argparse.ArgumentParser):
    """A parser with errors of one line, whose options accept every value that is not itself an option."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Parse words, options joined to their values: argparse takes "-1*Focal()" for an option."""
        words = list(sys.argv[1:] if args is None else args)
        options = self._option_string_actions
        joined: list[str] = []
        while words and words[0] != "--":
            word = words.pop(0)
            if word in options and options[word].nargs is None:
                if not words or words[0] in (*options, "--"):
                    self.error(f"{word} must have a value, got none")
                word = f"{word}={words.pop(0)}"
            joined.append(word)
        return super().parse_known_args(joined + words, namespace)

    def error(self, message: str) -> NoReturn:
        """Print the error about the options in one line, and exit."""
        message = re.sub(r"^argument (\S+): (?=must )", r"\1 ", message)
        self.exit(REFUSED, f"equipoise: error: {_line(message)}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments after the program's name; None for sys.argv[1:].

    Returns:
        The exit code: 0, 2 for invalid input, 130 if interrupted, 141 if the output is closed.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for terminals without UTF-8
    try:
        return _run(argv)
    finally:
        try:
            print(end="", flush=True)
        except OSError:  # closed, or a full disk: Python would flush again at its end
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(argv: Sequence[str] | None) -> int:
    options: Mapping[str, str] = {}
    try:
        given = vars(_parser().parse_args(argv))
        run, options = given.pop("run"), given.pop("options")
        code = run(given)
        print(end="", flush=True)
        return code
    except KeyboardInterrupt as stop:
        print("equipoise: interrupted", *stop.args, sep="; ", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return UNREAD
    except (ValueError, TypeError, ImportError, OSError, FloatingPointError) as error:
        return _refuse(error, options)


def _parser() -> argparse.ArgumentParser:
    from equipoise import __version__
    from equipoise.compare import compare

    parser = _Parser(
        prog="equipoise",
        allow_abbrev=False,
        description="Set how sure a classifier is, and see what it is worth.",
    )
    parser.add_argument("--version", action="version", version=f"equipoise {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    command = commands.add_parser(
        "compare",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        help="train candidates beside plain cross entropy and say which is better",
        description="Train each candidate beside plain cross entropy, on the same splits and initial "
        "weights, and say which is better, by how much and how sure.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "data", nargs="?", metavar="DATA", help="CSV, TSV, Parquet, NPZ or study; default: digits"
    )
    command.add_argument(
        "--data", dest="source", metavar="MODULE:FUNCTION", help="function that returns the data"
    )
    defaults = {name: each.default for name, each in inspect.signature(compare).parameters.items()}
    options = (
        {"source": "--data", "groups": "--group"} | _add(command, _READ) | _add(command, _COMPARE, defaults)
    )
    training = command.add_argument_group("training, the same for every candidate")
    command.set_defaults(run=_compare, options=options | _add(training, _TRAINING, defaults))
    command = commands.add_parser(
        "paired",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        help="compare runs made elsewhere with those of a baseline",
        description="Compare runs made elsewhere with those of a baseline, paired by seed.",
    )
    command.add_argument(
        "scores", metavar="RUNS", help="CSV, TSV, Parquet or JSON lines: candidate, seed, measures"
    )
    command.set_defaults(run=_paired, options=_add(command, _PAIRED))
    command = commands.add_parser(
        "explore",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        help="write a page with losses, penalties and maps to try by sliders, and open it",
        description="Write a page with losses, penalties and maps to try by sliders, and open it.",
    )
    command.set_defaults(run=_explore, options=_add(command, _EXPLORE))
    return parser


def _add(group: Any, table: str, defaults: Mapping[str, Any] = MappingProxyType({})) -> dict[str, str]:
    """Add options, with the defaults of a function; return the option of each of its arguments."""
    options = {}
    for line in table.strip().splitlines():
        words, text = re.split("  +", line, maxsplit=1)
        option, _, metavar = words.partition(" ")
        name = {"--objective": "objectives"}.get(option, option[2:].replace("-", "_"))
        options[name] = option
        if defaults.get(name) is not None:
            text += f"; default: {defaults[name]}"
        more: dict[str, Any] = {"action": "append" if "repeatable" in text else "store"}
        if metavar.startswith("MEASURE"):
            more = {"action": "extend", "nargs": "+"}
        if text.endswith("needed"):
            more["required"] = True
        kinds = (
            {"metavar": metavar, "type": _KINDS.get(metavar, str)} if metavar else {"action": "store_true"}
        )
        group.add_argument(option, dest=name, help=text, **(more | kinds))
    return options


def _as(kind: Callable[[str], Any], rule: str) -> Callable[[str], Any]:
    """Return a converter of text whose error has the rule and the value."""

    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:  # also of integers too long for Python
            raise argparse.ArgumentTypeError(f"must be {rule}, got {_line(repr(text), 60)}") from None

    return read


def _named_number(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    return name, float(number)


_KINDS = {
    "N": _as(int, "an integer"),
    "SIZE": _as(float, "a number"),
    "MEASURE=SIZE": _as(_named_number, "a measure and a number such as accuracy=0.005"),
}


def _compare(given: dict[str, Any]) -> int:
    cluster, as_json = given.pop("dask", None), given.pop("json", False)
    progress = not (given.pop("quiet", False) or as_json)
    arguments = _arguments(given)
    from equipoise.compare import compare, console, runner  # imports torch

    try:
        with runner.on_dask(cluster) if cluster else nullcontext(), _warnings():
            found = compare(**arguments, progress=progress)
    except KeyboardInterrupt:
        kept = f"finished trainings are kept in {arguments['out']}, the same command resumes"
        raise KeyboardInterrupt(kept) from None
    if as_json:
        print(json.dumps(found.to_dict(), indent=2, allow_nan=False))
    else:
        console.show(found.result, found.judged, found.files["report"])
    return 0


def _arguments(given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `compare`: options override the study; files are read, functions imported."""
    from equipoise.compare import early, folder, read, study

    path = given.pop("data", None)
    source = given.pop("source", None)
    reading = {name: given.pop(name) for name in re.findall(r"--(\w+)", _READ) if name in given}
    again = path is not None and path.lower().endswith(".toml")
    asked: dict[str, Any] = study.load(str(path)) if again else {"data": {"data": path}}
    read_then = asked.pop("data")
    given = {"objectives": None, "out": "comparison"} | asked | given
    if again and "model" not in given and "model_name" in given:
        raise ValueError(f"model must be given with {path}, got none; it was {given['model_name']}")
    if "worthwhile" in given:
        given["worthwhile"] = dict(given["worthwhile"])
    own_model = ":" in given.get("model", "")
    early.check({name: each for name, each in given.items() if not (own_model and name == "model")})
    folder.require(Path(given["out"]))
    if own_model:
        given = {"model_name": given["model"]} | given | {"model": _load("model", given["model"])}
    if source is None:
        if read_then is None:
            raise ValueError(
                f"source must be given with {path}, got none; its data came from Python: add --data"
            )
        reading = read_then | reading
        return given | {"X": read(reading.pop("data", None), **reading)}
    if reading or (path is not None and not again):
        also = next((f"--{name}" for name in reading), path)
        raise ValueError(
            f"source must be the only data, got {also} as well; return everything from the function"
        )
    return given | _returned(source)


def _returned(source: str) -> dict[str, Any]:
    """Return the arguments of `compare` that a function of the user returns."""
    call = _load("source", source)
    with _theirs("source"):
        found = call()
    if isinstance(found, tuple) and len(found) == 2:
        found = dict(zip("Xy", found, strict=True))
    elif not isinstance(found, Mapping):
        found = {"X": found}
    wrong = [name for name in found if name not in OF_DATA]
    if wrong or "X" not in found or isinstance(found["X"], tuple):
        got = f"a key {wrong[0]!r}" if wrong else "no X" if "X" not in found else f"{len(found['X'])} values"
        raise ValueError(
            f"source must return (X, y), a data set or a mapping of {', '.join(OF_DATA)}, got {got}"
        )
    return dict(found)


def _load(name: str, text: str) -> Callable[..., Any]:
    """Import a function, from the current directory too."""
    module, _, path = text.partition(":")
    if not module or not path:
        raise ValueError(f"{name} must be module:function, got {text!r}; name both")
    if not {"", os.getcwd()}.intersection(sys.path):
        sys.path.insert(0, os.getcwd())  # as with `python -m`
    with _theirs(name):
        found = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{name} must be module:function, got {text!r}, which is no function; name one")
    return found


@contextmanager
def _theirs(name: str) -> Iterator[None]:
    """Convert exceptions of the user's code to an error in one line, with file and line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename not in _OURS]
        place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        got = f"{type(error).__name__}: {error}{place}"
        raise ValueError(f"{name} must be module:function that runs, got {got}; correct it") from error


@contextmanager
def _warnings() -> Iterator[None]:
    """Print each warning in one line."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always", module=re.escape(__name__))  # the warnings of `compare`
        warnings.showwarning = lambda message, *_: print(
            f"equipoise: warning: {_line(str(message))}", file=sys.stderr
        )
        yield


def _paired(given: dict[str, Any]) -> int:
    from equipoise.compare.early import test_ratio
    from equipoise.compare.score_files import read_scores

    as_json = given.pop("json", False)
    ways = dict.fromkeys(given.pop("higher", ()), True) | dict.fromkeys(given.pop("lower", ()), False)
    test_ratio(given.get("test_size"), given.get("train_size"))
    scores = read_scores(given.pop("scores"))
    from equipoise.compare import paired  # imports torch

    found = paired(scores, **given, higher_is_better=ways or None)
    if as_json:
        print(json.dumps(found.to_dict(), indent=2, allow_nan=False))
    else:
        print(found.table().to_string(index=False), found.verdict, sep="\n")
    return 0


def _explore(given: dict[str, Any]) -> int:
    from equipoise import explorer

    path = explorer.write(Path(given.get("out", "explorer.html")))
    print(path, flush=True)
    if "no_browser" not in given and not explorer.show(path, os.environ):
        print("equipoise: no browser found; open the file in one", file=sys.stderr)
    return 0


def _refuse(error: Exception, options: Mapping[str, str] = MappingProxyType({})) -> int:
    """Print an error in one line, with the option instead of the argument's name; return the exit code."""
    text = str(error) or type(error).__name__
    message = re.sub(r"^\w+(?= must )", lambda name: options.get(name[0], name[0]), text)
    print(f"equipoise: error: {_line(message)}", file=sys.stderr)
    return REFUSED


def _line(text: str, most: int = LONGEST) -> str:
    """Return a text in one line, shortened if necessary."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most * 2 // 3]}...{line[-most // 3 :]}"
