"""Kill a real run in the middle, start it again, and read that only the missing units were run."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from equipoise.cli import main
from equipoise.compare.store import _MACHINE, Store, digest
from support import processes

pytestmark = pytest.mark.slow

OBJECTIVES = ("--objective", "GammaCrossEntropy(gamma=0.5)", "--objective", "Brier()")
TRAINING = ("--folds", "2", "--repeats", "3", "--noise", "0.2", "--width", "16", "--batch-size", "8")
UNITS, FOLDS = 9, 2
TRIALS = UNITS * FOLDS


def command(blobs, out, jobs=1):
    words = ["compare", str(blobs), *OBJECTIVES, *TRAINING, "--out", str(out), "--jobs", str(jobs), "--json"]
    return [sys.executable, "-W", "error::ResourceWarning", "-m", "equipoise", *words]


def records(out: Path) -> list[Path]:
    """Those of the candidates: those of the models beside have none of their own trainings."""
    paths = sorted((out / "trials").glob("*.json"))
    return [path for path in paths if b'"score"' in path.read_bytes()]


def state(paths):
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def predictions(out):
    store = Store(out / "trials")
    return [path for record in records(out) if (path := store.path(record.stem))]


def start(blobs, out, environment, jobs=1):
    return processes.start(command(blobs, out, jobs), environment)


def wait_for_some(process, out, count):
    """Wait until some units are finished, and fail if the run ends before."""
    deadline = time.monotonic() + 120
    while len(records(out)) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture(scope="module")
def whole(blobs, tmp_path_factory):
    """What one uninterrupted job leaves and prints."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return out, in_process(blobs, out)


def in_process(blobs, out):
    printed = io.StringIO()
    words = command(blobs, out)
    with contextlib.redirect_stdout(printed):
        assert main(words[words.index("compare") :]) == 0
    return json.loads(printed.getvalue())


def numbers(said):
    return {key: value for key, value in said.items() if key not in ("trials", "files")}


def test_kill_and_resume_with_two_jobs_gives_what_one_uninterrupted_job_gives(
    whole, blobs, environment, tmp_path
):
    out = tmp_path / "out"
    process = start(blobs, out, environment, jobs=2)
    wait_for_some(process, out, 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    kept = [path for path in records(out) if Store(out / "trials").read(path.stem)]
    assert 3 <= len(kept) < UNITS - 1
    before = state(kept) | state([Store(out / "trials").path(path.stem) for path in kept])
    assert not (out / "report.html").exists()
    torn = out / "trials" / f"torn.json.{_MACHINE}.{process.pid}.{'0' * 32}.tmp"
    torn.write_text("{")

    again = subprocess.run(
        command(blobs, out, jobs=2), env=environment, capture_output=True, text=True, check=True
    )
    summary = json.loads(again.stdout)
    assert summary["trials"] == {"all": TRIALS, "reused": FOLDS * len(kept)}
    assert before.items() <= (state(records(out)) | state(predictions(out))).items()
    assert not torn.exists()
    reference, expected = whole
    assert numbers(summary) == numbers(expected)
    assert (out / "results.csv").read_bytes() == (reference / "results.csv").read_bytes()
    assert len(records(out)) == len(predictions(out)) == UNITS


def test_interrupt_says_that_finished_trials_are_kept(blobs, environment, tmp_path):
    out = tmp_path / "out"
    process = start(blobs, out, environment, jobs=2)
    wait_for_some(process, out, 2)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (
        stderr == f"equipoise: interrupted; finished trainings are kept in {out}, the same command resumes\n"
    )
    assert stdout == ""
    assert all(Store(out / "trials").read(path.stem) for path in records(out))


def test_two_runs_in_one_folder_at_once_are_both_right(whole, blobs, environment, tmp_path):
    out = tmp_path / "out"
    both = [start(blobs, out, environment) for _ in range(2)]
    reference, expected = whole
    for process in both:
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
        assert numbers(json.loads(stdout)) == numbers(expected)
    assert len(records(out)) == len(predictions(out)) == UNITS
    assert not [*(out / "trials").glob("*.tmp")]
    assert (out / "results.csv").read_text().count("\n") == (reference / "results.csv").read_text().count(
        "\n"
    )


def copied(whole, tmp_path):
    reference, _ = whole
    out = tmp_path / "out"
    (out / "trials").mkdir(parents=True)
    for path in (reference / "trials").iterdir():
        (out / "trials" / path.name).write_bytes(path.read_bytes())
    return out


def test_a_damaged_unit_is_run_again(whole, blobs, tmp_path):
    out = copied(whole, tmp_path)
    torn, altered = records(out)[:2]
    torn.write_bytes(torn.read_bytes()[:100])
    altered.write_bytes(altered.read_bytes().replace(b'"accuracy": 0.', b'"accuracy": 1.'))
    predictions(out)[2].unlink()
    summary = in_process(blobs, out)
    assert summary["trials"] == {"all": TRIALS, "reused": TRIALS - 3 * FOLDS}
    assert numbers(summary) == numbers(whole[1])


def test_control_a_unit_that_is_whole_is_believed(whole, blobs, tmp_path):
    out = copied(whole, tmp_path)
    path = records(out)[0]
    body = json.loads(path.read_text())
    body.pop("digest")
    body["record"]["records"][0]["measures"]["accuracy"] = 0.123456
    path.write_text(json.dumps(body | {"digest": digest(body)}))
    summary = in_process(blobs, out)
    assert summary["trials"] == {"all": TRIALS, "reused": TRIALS}
    assert numbers(summary) != numbers(whole[1])
    assert "0.123456" in (out / "results.csv").read_text()
