"""`Store` of finished trials, in memory or on disk, with atomic writes and checksums."""

import hashlib
import io
import json
import os
import re
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Store", "digest", "write_atomically"]

DAY = 24 * 60 * 60.0


def digest(value: Any) -> str:
    """Return the digest of bytes, or of JSON values."""
    raw = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(raw).hexdigest()


def _machine() -> str:
    """Return a name of this boot of the machine, or of this container, in which process ids are unique."""
    known = [socket.gethostname(), str(uuid.getnode())]
    with suppress(OSError):
        known += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return digest(known)[:8]


_MACHINE = _machine()
_UNFINISHED = re.compile(r"\.(?P<machine>[0-9a-f]{8})\.(?P<process>\d+)\.[0-9a-f]{32}\.tmp$")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Convert errors of writing to an OSError in one line, with path, reason and the way to resume."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        said = OSError(
            f"{path} must be writable, got {why}; finished trainings are kept, the same call resumes"
        )
        said.errno = error.errno
        raise said from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file atomically: if it fails, the old file is unchanged."""
    fresh = path.with_name(f"{path.name}.{_MACHINE}.{os.getpid()}.{uuid.uuid4().hex}.tmp")
    try:
        with _writing(path):
            fresh.write_bytes(content)
            os.replace(fresh, path)
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


class Store:
    """The finished trials of a folder, a JSON and an NPZ file each; in memory if the folder is None.

    The JSON has the digest of the NPZ and is written last, so two processes that finish the same trial at the
    same time leave a consistent pair.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._memory: dict[str, tuple[str, dict[str, NDArray[Any]]]] = {}

    def prepare(self) -> None:
        """Check that the folder can be written, and remove temporary files of killed processes."""
        if self.folder is None:
            return
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        probe = self.folder / f"{uuid.uuid4().hex}.probe"
        write_atomically(probe, b"")
        probe.unlink(missing_ok=True)
        for leftover in self.folder.glob("*.tmp"):
            with suppress(OSError):  # removed by another process, or owned by another user
                if _abandoned(leftover):
                    leftover.unlink()

    def write(self, key: str, record: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store a finished trial."""
        if self.folder is None:
            self._memory[key] = json.dumps(dict(record)), dict(arrays)
            return
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
        content = buffer.getvalue()
        body = {"key": key, "predictions": digest(content), "record": dict(record)}
        text = json.dumps(body | {"digest": digest(body)}, indent=1, sort_keys=True)
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / _name(key, body["predictions"]), content)
        write_atomically(self.folder / f"{key}.json", text.encode())

    def read(self, key: str) -> dict[str, Any] | None:
        """Return the record of a finished trial; None if it is missing or damaged."""
        if self.folder is None:
            return json.loads(self._memory[key][0]) if key in self._memory else None
        found = _intact(self.folder, key)
        return None if found is None else found[0]["record"]

    def arrays(self, key: str) -> dict[str, NDArray[Any]]:
        """Return the arrays of a finished trial, after a check of their digest."""
        if self.folder is None:
            return dict(self._memory[key][1])
        found = _intact(self.folder, key)
        if found is None:
            raise OSError(
                f"a finished training must be readable, got a damaged {self.folder / key}.json or .npz; "
                "the same call runs it again"
            )
        with np.load(io.BytesIO(found[1]), allow_pickle=False) as kept:
            return dict(kept)

    def path(self, key: str) -> Path | None:
        """Return the file of the arrays of a trial; None in memory, or if the trial is missing or damaged."""
        if self.folder is None or (found := _intact(self.folder, key)) is None:
            return None
        return self.folder / _name(key, found[0]["predictions"])


def _intact(folder: Path, key: str) -> tuple[dict[str, Any], bytes] | None:
    """Return the JSON of a trial and the bytes of its arrays, or None."""
    try:
        body = json.loads((folder / f"{key}.json").read_bytes())
        if body.pop("digest") != digest(body) or body["key"] != key:
            return None
        content = (folder / _name(key, body["predictions"])).read_bytes()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return (body, content) if digest(content) == body["predictions"] else None


def _name(key: str, predictions: str) -> str:
    return f"{key}-{predictions[:8]}.npz"


def _abandoned(leftover: Path) -> bool:
    """Return whether a temporary file is from a dead process of this machine, or older than a day."""
    made = _UNFINISHED.search(leftover.name)
    if made is None or time.time() - leftover.stat().st_mtime > DAY:
        return made is not None
    try:
        if made["machine"] == _MACHINE and sys.platform != "win32":  # on Windows, signal 0 would interrupt
            os.kill(int(made["process"]), 0)
    except ProcessLookupError:
        return True
    except OverflowError:
        pass
    return False  # the process may be alive: keep the file for a day
