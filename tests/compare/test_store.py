import json
import os

import numpy as np
import pytest

from equipoise.compare.store import Store, digest, write_atomically

RECORD = {"measures": {"accuracy": 0.5}, "seed": 0}


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path)
    made.write("one", RECORD, {"probabilities": np.ones((2, 2))})
    return made


def test_what_is_written_is_read(store):
    assert store.read("one") == RECORD
    assert store.read("two") is None
    with np.load(store.predictions("one")) as kept:
        np.testing.assert_array_equal(kept["probabilities"], 1)


@pytest.mark.parametrize("part", ["record", "predictions"])
@pytest.mark.parametrize("fault", ["torn", "empty", "altered", "missing", "swapped"])
def test_a_damaged_trial_is_not_believed(store, part, fault):
    path = getattr(store, part)("one")
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
            store.write("two", RECORD | {"seed": 1}, {"probabilities": np.zeros((2, 2))})
            os.replace(getattr(store, part)("two"), path)
    assert store.read("one") is None


@pytest.mark.parametrize("content", ["[]", "null", "3", '{"digest": 1}', "{"])
def test_other_json_is_not_believed(store, content):
    store.record("one").write_text(content)
    assert store.read("one") is None


def test_control_a_record_altered_with_its_digest_is_believed(store):
    body = json.loads(store.record("one").read_text())
    body.pop("digest")
    body["record"]["measures"]["accuracy"] = 0.9
    store.record("one").write_text(json.dumps(body | {"digest": digest(body)}))
    assert store.read("one")["measures"]["accuracy"] == 0.9


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "kept.txt"
    write_atomically(path, b"old")

    def fail(*ignored):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_a_killed_run_are_removed(store):
    (store.folder / "three.json.1.tmp").write_bytes(b"half")
    store.tidy()
    assert {path.name for path in store.folder.iterdir()} == {"one.json", "one.npz"}
