import errno
import json
import os
import resource
import socket
import subprocess
import sys
import textwrap
import time
from functools import partial

import numpy as np
import pytest

from equipoise.compare import store as module
from equipoise.compare.store import Store, digest, write_atomically

RECORD = {"measures": {"accuracy": 0.5}, "seed": 0}
ONES = {"probabilities": np.ones((2, 2))}


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path)
    made.write("one", RECORD, ONES)
    return made


def record_of(store, key):
    return store.folder / f"{key}.json"


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_what_is_written_is_read(tmp_path, where):
    """A stored record and its arrays are read back."""
    store = Store(tmp_path / "made" / "when needed" if where == "disk" else None)
    store.prepare()
    assert store.read("one") is None
    assert store.path("one") is None
    store.write("one", RECORD | {"places": (1, 2)}, ONES)
    assert store.read("one") == RECORD | {"places": [1, 2]}
    np.testing.assert_array_equal(store.arrays("one")["probabilities"], 1)
    assert store.read("two") is None
    assert (store.path("one") is None) == (where == "memory")


def test_a_record_in_memory_is_not_the_one_given():
    """A record in memory is a copy."""
    store, given = Store(None), {"list": [1]}
    store.write("one", given, {})
    given["list"].append(2)
    store.read("one")["list"].append(3)
    assert store.read("one") == {"list": [1]}


def test_the_path_is_that_of_the_arrays(store):
    """`path` is the file of the arrays."""
    with np.load(store.path("one"), allow_pickle=False) as kept:
        np.testing.assert_array_equal(kept["probabilities"], 1)


@pytest.mark.parametrize("part", ["record", "predictions"])
@pytest.mark.parametrize("fault", ["torn", "empty", "altered", "missing", "swapped", "a folder"])
def test_a_damaged_trial_is_not_believed_and_another_is(store, part, fault):
    """A damaged record or array file is not read, and others are."""
    store.write("two", RECORD | {"seed": 1}, {"probabilities": np.zeros((2, 2))})
    path, other = ((record_of(store, key) if part == "record" else store.path(key)) for key in ("one", "two"))
    content = path.read_bytes()
    match fault:
        case "torn":
            path.write_bytes(content[: len(content) // 2])
        case "empty":
            path.write_bytes(b"")
        case "altered":
            path.write_bytes(content.replace(b"0.5", b"0.9") if part == "record" else content[:-1] + b"!")
        case "missing":
            path.unlink()
        case "swapped":
            path.write_bytes(other.read_bytes())
        case "a folder":
            path.unlink()
            path.mkdir()
    assert store.read("one") is None
    assert store.path("one") is None
    with pytest.raises(OSError, match=r"must be readable, got a damaged .*one.*the same call runs it again"):
        store.arrays("one")
    assert store.read("two") == RECORD | {"seed": 1}


@pytest.mark.parametrize(
    "content",
    [b"[]", b"null", b"3", b'{"digest": 1}', b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": 1' + b"0" * 9999],
)
def test_other_json_is_not_believed(store, content):
    """JSON that is no record is not read."""
    record_of(store, "one").write_bytes(content)
    assert store.read("one") is None


def test_control_a_record_altered_with_its_digest_is_believed(store):
    """A record altered together with its digest is read."""
    body = json.loads(record_of(store, "one").read_text())
    body.pop("digest")
    body["record"]["measures"]["accuracy"] = 0.9
    record_of(store, "one").write_text(json.dumps(body | {"digest": digest(body)}))
    assert store.read("one")["measures"]["accuracy"] == 0.9


def test_arrays_that_would_run_code_are_not_loaded(store):
    """Pickled arrays are not loaded."""
    store.write("one", RECORD, {"code": np.array([print], dtype=object)})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        store.arrays("one")


def test_two_that_write_the_same_trial_in_turns_leave_a_whole_one(store, tmp_path, monkeypatch):
    """Of another machine the numbers may differ; its files are put between the two of this one."""
    there = Store(tmp_path)

    def between(path, content):
        write_atomically(path, content)
        if path.suffix == ".npz":
            monkeypatch.setattr(module, "write_atomically", write_atomically)
            there.write("one", {"from": "there"}, {"probabilities": np.zeros(3)})

    monkeypatch.setattr(module, "write_atomically", between)
    store.write("one", {"from": "here"}, {"probabilities": np.ones(3)})
    assert store.read("one") == {"from": "here"}
    assert store.arrays("one")["probabilities"].sum() == 3


@pytest.mark.parametrize("where", ["write_bytes", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, where):
    """A failed write leaves the old file and no other file."""
    path = tmp_path / "kept.txt"
    write_atomically(path, b"old")

    def fail(*ignored):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os if where == "replace" else type(path), where, fail)
    with pytest.raises(OSError, match="must be writable, got No space left on device;") as caught:
        write_atomically(path, b"new")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def says(error, path):
    (line,) = str(error).splitlines()
    assert str(path) in line
    assert "must be writable, got " in line
    assert line.endswith("; finished trainings are kept, the same call resumes")
    return line


def limited(folder):
    """Write trials until a file may not be as large, in a process of its own; what it raised."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    fill(folder)


def fill(folder):
    store = Store(folder)
    store.prepare()
    generator = np.random.default_rng(0)
    for number in range(1000):
        size = 10 ** (1 + number)
        store.write(str(number), {"number": number}, {"noise": generator.random(min(size, 50_000))})


def in_a_process(tmp_path, environment, call, folder):
    code = f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        import test_store
        try:
            test_store.{call}(Path({str(folder)!r}))
        except OSError as error:
            print(error.errno)
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    number, *said = done.stdout.splitlines()
    return int(number), "\n".join(said)


@pytest.mark.slow
def test_where_files_may_not_grow_what_is_finished_stays(tmp_path, environment):
    """If the size of files is limited, finished records are kept."""
    folder = tmp_path / "trials"
    number, said = in_a_process(tmp_path, environment, "limited", folder)
    assert number == errno.EFBIG
    assert "File too large" in says(said, folder / "3-")
    assert [Store(folder).read(str(number)) for number in range(4)] == [
        {"number": 0}, {"number": 1}, {"number": 2}, None,
    ]  # fmt: skip
    assert len(names(folder)) == 6


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="only root can mount a small disk")
def test_on_a_full_disk_what_is_finished_stays(tmp_path, environment):
    """On a full disk, finished records are kept."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        number, said = in_a_process(tmp_path, environment, "fill", disk / "trials")
        assert number == errno.ENOSPC
        assert "No space left on device" in says(said, disk / "trials")
        store = Store(disk / "trials")
        finished = [each for each in range(1000) if store.read(str(each))]
        assert 3 < len(finished) < 20
        assert not list(store.folder.glob("*.tmp"))
        store.path("3").unlink()
        store.write("7" * 5, {}, {})  # where there is room again, it goes on
        assert store.read("7" * 5) == {}
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_deleted_in_the_middle_is_made_again(store):
    """A folder deleted during a run is made again."""
    for path in store.folder.iterdir():
        path.unlink()
    store.folder.rmdir()
    assert store.read("one") is None
    store.write("two", RECORD, ONES)
    assert store.read("two") == RECORD


@pytest.mark.parametrize("call", ["prepare", "write"])
@pytest.mark.parametrize("at", ["file", "file/trials"])
def test_a_file_in_place_of_the_folder(tmp_path, call, at):
    """A file in place of the folder is refused."""
    (tmp_path / "file").write_text("somebody's own")
    store = Store(tmp_path / at)
    assert store.read("one") is None
    with pytest.raises(OSError, match="must be writable") as caught:
        store.prepare() if call == "prepare" else store.write("one", RECORD, ONES)
    says(caught.value, tmp_path / at)
    assert (tmp_path / "file").read_text() == "somebody's own"


@pytest.mark.parametrize("call", ["prepare", "write"])
def test_a_read_only_folder_is_read_and_not_written(store, monkeypatch, call):
    """A read-only folder can be read, and writing raises."""
    if os.geteuid() == 0:  # whom permissions do not stop

        def refuse(*ignored):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(type(store.folder), "write_bytes", refuse)
    else:
        store.folder.chmod(0o500)
    try:
        with pytest.raises(OSError, match="must be writable, got Permission denied"):
            store.prepare() if call == "prepare" else store.write("two", RECORD, ONES)
        assert store.read("one") == RECORD
    finally:
        store.folder.chmod(0o700)


def test_prepare_leaves_nothing(store):
    """Preparing a store that exists writes no file in it."""
    before = names(store.folder)
    store.prepare()
    assert names(store.folder) == before


def gone():
    """Number of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def leftover(store, machine=None, process=None, days=0.0):
    name = f"three.json.{machine or module._MACHINE}.{process or gone()}.{'0' * 32}.tmp"
    path = store.folder / name
    path.write_bytes(b"half")
    then = time.time() - days * 24 * 3600
    os.utime(path, (then, then))
    return path


@pytest.mark.parametrize(
    ("options", "removed"),
    [
        ({}, True),
        ({"process": os.getpid()}, False),
        ({"process": 1}, False),
        ({"process": 10**30}, False),
        ({"machine": "00000000"}, False),
        ({"machine": "00000000", "days": 0.9}, False),
        ({"machine": "00000000", "days": 1.1}, True),
        ({"process": os.getpid(), "days": 1.1}, True),  # its number was given to another
    ],
)
def test_leftovers_are_removed_where_their_process_is_surely_gone(store, options, removed):
    """Temporary files are removed only if their process is gone."""
    path = leftover(store, **options)
    store.prepare()
    assert path.exists() != removed
    assert {"one.json", store.path("one").name} <= names(store.folder)


def test_where_no_process_can_be_asked_for_a_leftover_has_a_day(store, monkeypatch):
    """On Windows `os.kill(process, 0)` would interrupt it."""
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "kill", None)
    young, old = leftover(store), leftover(store, machine="00000000", days=1.1)
    store.prepare()
    assert (young.exists(), old.exists()) == (True, False)


def test_files_of_others_stay_however_old(store):
    """Files of others are never removed."""
    paths = [store.folder / name for name in ("thesis.tmp", "thesis.json.12.tmp", "report.html", "probe")]
    for path in paths:
        path.write_text("somebody's own")
        os.utime(path, (0, 0))
    store.prepare()
    assert all(path.exists() for path in paths)


def test_another_machine_has_another_name(monkeypatch):
    """The name of a machine depends on its host name."""
    here = module._machine()
    assert here == module._MACHINE == module._machine()
    monkeypatch.setattr(socket, "gethostname", lambda: "there")
    assert module._machine() != here


def write_many(folder, start, tidy):
    store = Store(folder)
    for number in range(start, start + 150):
        if tidy == "all":
            for path in folder.glob("*.tmp"):
                path.unlink(missing_ok=True)
        else:
            store.prepare()
        store.write(str(number), {"number": number}, {"noise": np.arange(5000.0)})


@pytest.mark.slow
@pytest.mark.parametrize("tidy", ["ours", "all"])
def test_processes_that_tidy_while_others_write_lose_nothing(tmp_path, environment, tidy):
    """With a control: where all unfinished files are removed, as was once done, writes fail."""
    code = f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        import test_store
        test_store.write_many(Path(sys.argv[1]), int(sys.argv[2]), {tidy!r})
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    run = partial(subprocess.Popen, env=environment, stderr=subprocess.PIPE, text=True)
    writers = [run([*command, str(start)]) for start in (0, 100, 200)]  # some trials are written by two
    errors = [writer.communicate()[1] for writer in writers]
    if tidy == "all":
        assert any("must be writable, got No such file" in error for error in errors)
    else:
        assert errors == ["", "", ""]
        store = Store(tmp_path)
        assert all(store.read(str(number)) == {"number": number} for number in range(350))
        assert len(names(tmp_path)) == 700
