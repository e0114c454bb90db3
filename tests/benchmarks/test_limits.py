"""The benchmark applies its table of limits: planted times, and planted flags of processors."""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def _module(name: str) -> ModuleType:
    return import_module(f"benchmarks.{name}")


AMX = frozenset({"avx512f", "amx_tile", "amx_bf16"})


@pytest.mark.parametrize(
    ("text", "amx", "kind"),
    [
        ("model name\t: some\nflags\t\t: fpu avx512f amx_bf16 amx_tile amx_int8\n", True, "with AMX"),
        ("flags\t: fpu avx512f avx512_bf16\n", False, "without AMX"),
        ("flags\t: fpu amx_tile amx_int8\n", False, "without AMX"),  # no bfloat16
        ("flags\t: amx_bf16 amx_tile\n\nflags\t: fpu\n", False, "unknown; the limits without AMX apply"),
        ("Features\t: fp asimd bf16\n", False, "without AMX"),  # Arm
        ("vmx flags\t: amx_tile amx_bf16\nflags\t: fpu\n", False, "without AMX"),
        (None, False, "unknown; the limits without AMX apply"),
    ],
)
def test_the_kind_of_processor_is_read_from_its_flags(
    tmp_path: Path, text: str | None, amx: bool, kind: str
) -> None:
    """Whether a processor has AMX is read from its flags in cpuinfo."""
    processor = _module("processor")
    cpuinfo = tmp_path / "cpuinfo"
    if text is not None:
        cpuinfo.write_text(text)
    flags = processor.read_flags(cpuinfo)
    assert processor.has_amx(flags) == amx
    assert processor.kind(flags) == kind


def _comparisons(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[Any]:
    """Return the comparisons of the default run, or of one with these arguments."""
    run = _module("run")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # nothing is run here
    return run._comparisons(run.PARTS, run._parser().parse_args(arguments))


def _planted(comparison: Any, ratio: float, *, amx: bool = False, without: str = "") -> list[Any]:
    """Return the verdicts where all that is ours takes so many times as long as anything else."""
    check, contenders, measure = (_module(name) for name in ("check", "contenders", "measure"))
    runners = [one for one in comparison.runners if not isinstance(one, contenders.Absent)]
    ours = {one.name: getattr(one, "ours", False) for one in runners}
    seconds = {name: ratio if mine else 1.0 for name, mine in ours.items() if name != without}
    timings = measure.Timings({name: {0: taken, 1: taken} for name, taken in seconds.items()})
    findings = tuple(check.Finding(name, mine, True, check.Error(0.0, 0.0)) for name, mine in ours.items())
    return comparison.verdicts(timings, check.Gate(findings), runners, amx=amx)


@pytest.mark.parametrize("amx", [False, True])
def test_every_limit_of_the_table_is_applied(monkeypatch: pytest.MonkeyPatch, amx: bool) -> None:
    """Each row of the table of limits is applied by some comparison."""
    limits, comparisons = _module("limits"), _module("comparisons")
    applied: set[tuple[str, str, str]] = set()

    def recorded(what: str, shape: str, dtype: str, *, amx: bool) -> Any:
        found = limits.find_limit(what, shape, dtype, amx=amx)
        if found is not None:
            applied.add((what, shape, dtype))
        return found

    monkeypatch.setattr(comparisons, "find_limit", recorded)
    for one in _comparisons(monkeypatch):
        _planted(one, 1.0, amx=amx)
    others = (limits.MEMORY, limits.LINES, limits.FILE_LINES)  # no ratios of times
    assert applied == {cell for cell in limits.cells(amx=amx) if cell[0] not in others}
    assert ((limits.LINEAR, "B", "float32") in applied) is not amx


def test_a_planted_ratio_meets_the_goal_or_the_limit_or_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted ratio below the goal, below the limit or above it gets the matching verdict."""
    comparisons = {one.title + str(one.shape) + str(one.threads): one for one in _comparisons(monkeypatch)}
    tiny = comparisons["Small batches32 x 101"]
    names = (
        "CrossEntropy() over F.cross_entropy",
        "Brier over the same by hand",
        "entropy over the same by hand",
    )
    for ratio, expected in (
        (0.4, ["goal met", "goal met", "goal met"]),
        (0.7, ["goal met", "limit met", "goal met"]),
        (0.71, ["goal met", "missed", "goal met"]),
        (0.95, ["goal met", "missed", "limit met"]),
        (1.5, ["limit met", "missed", "missed"]),
        (1.75, ["missed", "missed", "missed"]),
    ):
        found = {one.requirement: one.status for one in _planted(tiny, ratio)}
        assert [found[name] for name in names] == expected, ratio
    sums = [one for one in _planted(tiny, 0.61) if "0.1" in one.requirement]
    assert [one.status for one in sums] == ["missed", "missed"]
    compiled = comparisons["Compiled small batches128 x 101"]
    found = [one.status for one in _planted(compiled, 1.11) if one.limit]
    assert set(found) == {"missed"}
    assert {one.status for one in _planted(compiled, 1.09) if one.limit} == {"limit met"}
    # A contender that could not run leaves its limit open, and the report says so.
    without = _planted(tiny, 0.4, without="ours: Brier")
    assert [one.requirement for one in without if one.status == "not measured"] == [names[1]]
    report = _module("report")
    text = report.summary([report.Section("Small", (), [], without)])
    assert "1 not measured" in text
    assert "**not measured**" in text


def test_a_ratio_that_varies_is_not_counted_as_met() -> None:
    """A ratio whose repeats vary too much is unsteady, not met."""
    limits, measure, report = (_module(name) for name in ("limits", "measure", "report"))
    limit = limits.Limit(0.7, 0.5)
    for ratios, expected in (([0.3, 0.4, 0.41, 0.5], "goal met"), ([0.01, 0.1, 0.4, 0.5], "unsteady")):
        verdict = report.Verdict.of("small", measure.Spread.of(ratios), limit)
        assert verdict.status == expected
    assert "1 unsteady" in report.summary([report.Section("Small", (), [], [verdict])])


def test_limits_are_those_of_the_kind_of_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processors with and without AMX have different limits."""
    (linear,) = [
        one
        for one in _comparisons(monkeypatch, "--shapes", "C", "--dtypes", "bfloat16")
        if one.title == "Linear and loss"
    ]
    requirement = "time over the three bare products"
    for amx, ratio, expected in (
        (False, 1.05, "goal met"),
        (False, 1.13, "limit met"),
        (False, 1.5, "missed"),
        (True, 1.5, "goal met"),
        (True, 1.9, "limit met"),
        (True, 1.91, "missed"),
    ):
        found = [one for one in _planted(linear, ratio, amx=amx) if one.requirement == requirement]
        assert [one.status for one in found] == [expected]
    with pytest.raises(KeyError, match="row of the table"):
        _module("limits").find_limit("time over the tree bare products")


def test_the_run_applies_the_limits_of_this_processor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The run looks up the limits of the processor on which it runs."""
    run, report = _module("run"), _module("report")
    seen: list[bool] = []

    def timed(comparison: Any, gate: Any, settings: Any) -> Any:
        seen.append(settings.amx)
        return report.Section(comparison.title, (), [])

    monkeypatch.setattr(_module("comparisons").Comparison, "run", timed)
    arguments = ["--small", "--part", "small", "--shapes", "32x10", "--threads", "1", "--out", str(tmp_path)]
    for flags, amx, kind in ((AMX, True, "with AMX"), (AMX - {"amx_tile"}, False, "without AMX")):
        for module in (run, report):
            monkeypatch.setattr(module, "read_flags", lambda flags=flags: flags)
        assert run.main(arguments) == 0
        assert set(seen) == {amx}
        assert f"| kind | {kind} |" in capsys.readouterr().out
        seen.clear()


def test_lines_of_the_engine_are_counted(tmp_path: Path) -> None:
    """The lines of the engine are counted, and build products are not."""
    lines = _module("lines")
    (tmp_path / "statistics").mkdir()
    (tmp_path / "statistics" / "base.py").write_text("a\n" * 401)
    (tmp_path / "statistics" / "step.so").write_text("a\n" * 1000)
    (tmp_path / "distributed.py").write_text("a\n" * 10)
    (tmp_path / "cli.py").write_text("a\n" * 5000)
    total, longest = lines.count(tmp_path).verdicts
    assert (total.measured, total.status) == (411, "goal met")
    assert (longest.measured, longest.status) == (401, "missed")
